"""Imports point down: every module is in a layer, and imports from below it."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import PROJECT

SOURCE = "src"
HEAVY = ("torch", "torchvision", "scipy", "pandas", "mlflow", "matplotlib")
# The layers, from the top: a package may import those below it, never those above.
LAYERS = (
    ("entrypoints",),
    ("embedlab.cli",),
    ("embedlab.workflows.movies", "embedlab.workflows.images"),
    ("embedlab.workflows",),
    ("embedlab.tracking",),
    ("embedlab.movies", "embedlab.vision"),
    ("embedlab.distributed",),
    ("embedlab.datasets",),
    ("embedlab.device", "embedlab.plotting", "embedlab.process", "embedlab.progress"),
    ("embedlab.pages", "embedlab.projection"),
    ("embedlab.errors", "embedlab.formatting"),
    ("embedlab_serving",),
)
# The modules that parsers and launchers of workers import before anything heavy.
LIGHT = (
    "entrypoints",
    "embedlab.cli.arguments",
    "embedlab.cli.parser",
    "embedlab.cli.types",
    "embedlab.datasets.image_source",
    "embedlab.datasets.movielens",
    "embedlab.errors",
    "embedlab.progress",
    "embedlab.formatting",
    "embedlab.distributed.env",
    "embedlab.distributed.launch",
    "embedlab.movies.options",
    "embedlab.movies.sweep.grid",
    "embedlab.movies.sweep.ray_backend",
    "embedlab.tracking.registry.promotion",
    "embedlab.vision.options",
    "embedlab.vision.training.recipes",
    "embedlab.workflows.model_facts",
    "embedlab_serving.titles",
    "embedlab_serving.neighbours",
    "embedlab_serving.decode",
)
# Neither tracking nor the other family imports these.
FAMILIES = (
    "embedlab.movies", "embedlab.vision",
    "embedlab.workflows.movies", "embedlab.workflows.images",
)  # fmt: skip
MLFLOW = ("embedlab.workflows", "embedlab.tracking", "embedlab_serving")
MAX_MODULES = 11  # in a folder
MAX_LINES = 125  # of an entry point


def source_files() -> dict[str, Path]:
    """Modules by dotted name."""
    files = {}
    for base, top in ((PROJECT / SOURCE, "embedlab*"), (PROJECT, "entrypoints")):
        for path in base.glob(f"{top}/**/*.py"):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = path
    return files


def imported_modules(name: str, text: str, is_package: bool) -> set[tuple[str, bool]]:
    """Every module that the text names in an import, with its absolute name, and whether it is
    imported with the file rather than when a function is called."""
    package = name.split(".") if is_package else name.split(".")[:-1]
    tree = ast.parse(text)
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    modules = set()
    for node in ast.walk(tree):
        names = set()
        match node:
            case ast.Import(names=aliases):
                names = {alias.name for alias in aliases}
            case ast.ImportFrom(module=module, names=aliases, level=level):
                start = package[: len(package) - level + 1] if level else []
                base = ".".join([*start, *([module] if module else [])])
                names = {base, *(f"{base}.{alias.name}" for alias in aliases)}
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[first, *_]):
                if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                    names = {first.value}
        modules |= {(name, id(node) not in late) for name in names}
    return modules


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer_of(module: str) -> int | None:
    """The number of a module's layer, from the top; None for a module of another project."""
    matches = [
        i
        for i, packages in enumerate(LAYERS)
        if any(is_in(module, package) for package in packages)
    ]
    return matches[0] if matches else None


def arrows_up(name: str, path: Path, planted: str = "") -> set[str]:
    """The imports of the module, and of the planted line, that the rules forbid."""
    arrows = set()
    layer, text = layer_of(name), path.read_text(encoding="utf-8") + f"\n{planted}\n"
    for target, is_eager in imported_modules(name, text, path.stem == "__init__"):
        other = layer_of(target)
        own_package = next((r for r in LAYERS[layer] if is_in(name, r)), name) if layer else name
        is_up = other is not None and layer is not None and other < layer
        is_sideways = any(is_in(target, package) for package in FAMILIES) and (
            is_in(name, "embedlab.tracking") or (other == layer and not is_in(target, own_package))
        )
        is_heavy = is_eager and any(is_in(target, heavy) for heavy in HEAVY)
        if (
            is_up
            or is_sideways
            or (is_heavy and any(is_in(name, light) for light in LIGHT))
            or (is_in(target, "mlflow") and not any(is_in(name, package) for package in MLFLOW))
            or (is_in(target, "argparse") and not is_in(name, "embedlab.cli"))
        ):
            arrows.add(target)
    return arrows


def test_every_module_is_in_a_layer():
    modules = source_files()
    assert {name for name in modules if layer_of(name) is None} == {"embedlab"}
    for layer in LAYERS:
        assert all(any(is_in(name, package) for name in modules) for package in layer), layer


def test_no_import_points_up():
    arrows = {name: arrows_up(name, path) for name, path in source_files().items()}
    assert {name: targets for name, targets in arrows.items() if targets} == {}


def test_no_folder_is_crowded():
    files = [path for name, path in source_files().items() if not is_in(name, "entrypoints")]
    folders = Counter(path.parent for path in files)  # entrypoints is a list of commands
    crowded = {folder.name: n for folder, n in folders.items() if n > MAX_MODULES + 1}  # __init__
    assert crowded == {}


@pytest.mark.parametrize(
    ("module", "line", "target"),
    [
        ("embedlab.movies.solvers.fit", "import mlflow", "mlflow"),
        ("embedlab.movies.data.likes", "def f():\n    import mlflow.entities", "mlflow.entities"),
        ("embedlab.movies.solvers.fit", "from embedlab import tracking", "embedlab.tracking"),
        (
            "embedlab.movies.solvers.fit",
            "import embedlab.tracking.store",
            "embedlab.tracking.store",
        ),
        ("embedlab.movies.options", "import argparse", "argparse"),
        ("embedlab.movies.plots", "import embedlab.vision.options", "embedlab.vision.options"),
        ("embedlab.vision.features", "from embedlab import movies", "embedlab.movies"),
        ("embedlab.datasets.cache", "from embedlab import vision", "embedlab.vision"),
        (
            "embedlab.datasets.cache",
            "import importlib\nimportlib.import_module('mlflow')",
            "mlflow",
        ),
        ("embedlab.distributed.launch", "def f():\n    import mlflow", "mlflow"),
        ("embedlab.distributed.launch", "from embedlab import tracking", "embedlab.tracking"),
        ("embedlab.tracking.lifecycle", "from embedlab import workflows", "embedlab.workflows"),
        ("embedlab.tracking.lifecycle", "from embedlab import movies", "embedlab.movies"),
        ("embedlab.workflows.movies.sweep", "from embedlab import cli", "embedlab.cli"),
        (
            "embedlab.workflows.movies.sweep",
            "import embedlab.workflows.images.data",
            "embedlab.workflows.images.data",
        ),
        (
            "embedlab.workflows.report",
            "import embedlab.workflows.movies.data",
            "embedlab.workflows.movies.data",
        ),
        ("embedlab.device", "import embedlab.datasets.cache", "embedlab.datasets.cache"),
        ("embedlab_serving.titles", "import scipy.sparse as sp", "scipy.sparse"),
        ("embedlab_serving.titles", "import embedlab.errors", "embedlab.errors"),
        ("entrypoints.recommend", "def f():\n    import mlflow", "mlflow"),
        ("entrypoints.main", "import numpy as np\nimport torch", "torch"),
    ],
)
def test_a_planted_arrow_is_found(module, line, target):
    assert arrows_up(module, source_files()[module], line) == {target}


def test_what_the_served_model_runs_is_light_through_all_it_imports():
    code = (
        "import sys, embedlab_serving.titles, embedlab_serving.neighbours\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT / "src", capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, ""), ended.stderr


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "entrypoints").glob("*.py")), ids=lambda path: path.stem
)
def test_an_entry_point_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES
