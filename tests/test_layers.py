"""Imports point one way: entry points -> tracking -> vision and movies; datasets beside them."""

import ast
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from conftest import PROJECT

PACKAGE = "src/embedlab"
UPPER = ("entrypoints", "argparse", "embedlab.command_line", "embedlab.console")
FAMILY = (*UPPER, "mlflow", "embedlab.tracking")
HEAVY = ("torch", "torchvision", "scipy", "pandas", "mlflow", "matplotlib")

# Files, and what none of them may import, itself or a module inside it. `*` crosses folders.
RULES = [
    (f"{PACKAGE}/movies/*.py", (*FAMILY, "embedlab.vision")),
    (f"{PACKAGE}/vision/*.py", (*FAMILY, "embedlab.movies")),
    (f"{PACKAGE}/datasets/*.py", (*FAMILY, "embedlab.movies", "embedlab.vision")),
    (f"{PACKAGE}/tracking/*.py", UPPER),
    (f"{PACKAGE}/*.py", ("entrypoints",)),
    ("entrypoints/*.py", ("mlflow", "numpy", "scipy", "torch", "torchvision", "pandas")),
    # What the served model runs, and what the parsers read before anything heavy.
    (f"{PACKAGE}/movies/titles.py", HEAVY),
    (f"{PACKAGE}/movies/neighbours.py", HEAVY),
    (f"{PACKAGE}/command_line.py", HEAVY),
    (f"{PACKAGE}/errors.py", HEAVY),
    (f"{PACKAGE}/vision/options.py", (*HEAVY, "numpy")),
    (f"{PACKAGE}/vision/decode.py", HEAVY),
]

ONLY_DOOR = f"{PACKAGE}/tracking/*.py"
MOST_LINES = 125


def source_files(root: Path) -> dict[str, Path]:
    paths = [path for folder in (PACKAGE, "entrypoints") for path in (root / folder).rglob("*.py")]
    return {path.relative_to(root).as_posix(): path for path in paths}


def imported_modules(name: str, path: Path) -> set[str]:
    """Every module that the file names in an import, anywhere in it, with absolute names."""
    package = name.removeprefix("src/").split("/")[:-1]
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=aliases):
                modules |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=module, names=aliases, level=level):
                start = package[: len(package) - level + 1] if level else []
                base = ".".join([*start, *([module] if module else [])])
                modules |= {base, *(f"{base}.{alias.name}" for alias in aliases)}
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[first, *_]):
                if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                    modules.add(first.value)
    return modules


def arrows_back(root: Path) -> set[tuple[str, str]]:
    """(file, what it may not import) for every rule that is broken under `root`."""
    found = set()
    for name, path in source_files(root).items():
        modules = imported_modules(name, path)
        forbidden = {f for pattern, names in RULES if fnmatch(name, pattern) for f in names}
        if not fnmatch(name, ONLY_DOOR):
            forbidden.add("mlflow")
        for target in forbidden:
            if any(module == target or module.startswith(f"{target}.") for module in modules):
                found.add((name, target))
    return found


def test_no_import_points_back():
    assert arrows_back(PROJECT) == set()


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in RULES])
def test_every_rule_has_files_to_watch(pattern):
    assert any(fnmatch(name, pattern) for name in source_files(PROJECT))


@pytest.mark.parametrize(
    ("file", "line", "target"),
    [
        ("movies/solve.py", "import mlflow", "mlflow"),
        ("movies/likes.py", "def f():\n    from mlflow.entities import Run", "mlflow"),
        ("movies/solve.py", "from embedlab import tracking", "embedlab.tracking"),
        ("movies/solve.py", "from ..tracking.runs import start_run", "embedlab.tracking"),
        ("movies/titles.py", "from .. import console", "embedlab.console"),
        ("movies/fit.py", "from argparse import ArgumentTypeError", "argparse"),
        ("movies/neighbours.py", "import scipy.sparse as sp", "scipy"),
        ("movies/figures.py", "import embedlab.vision.figures", "embedlab.vision"),
        ("vision/features.py", "from embedlab.movies import figures", "embedlab.movies"),
        ("datasets/cache.py", "from embedlab.movies.likes import Likes", "embedlab.movies"),
        ("datasets/cache.py", "import importlib\nimportlib.import_module('mlflow')", "mlflow"),
        ("tracking/runs.py", "from entrypoints.main import main", "entrypoints"),
        ("device.py", "import mlflow.pytorch", "mlflow"),
        ("../../entrypoints/recommend.py", "import mlflow", "mlflow"),
        ("../../entrypoints/main.py", "def f():\n    import numpy as np", "numpy"),
    ],
)
def test_a_planted_arrow_is_found(tmp_path, file, line, target):
    for folder in (PACKAGE, "entrypoints"):
        shutil.copytree(
            PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    path = (tmp_path / PACKAGE / file).resolve()
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as planted:
        planted.write(f"\n{line}\n")
    assert arrows_back(tmp_path) == {(path.relative_to(tmp_path.resolve()).as_posix(), target)}


def test_what_the_served_model_runs_is_light_through_all_it_imports():
    code = (
        "import sys, embedlab.movies.titles, embedlab.movies.neighbours\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT / "src", capture_output=True, text=True
    )
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stderr


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "entrypoints").glob("*.py")), ids=lambda path: path.stem
)
def test_an_entry_point_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES
