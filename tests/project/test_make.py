"""The commands of the make targets and of the CI script, mostly by dry runs in a copy."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONGEST, PROJECT

PYTHON = ".venv/bin/python"
INSTALL = f"{PYTHON} -m pip install -r requirements.lock"
PYTEST = f"{PYTHON} -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder"
LINTERS = [f".venv/bin/{tool}" for tool in ("ruff check .", "ruff format --check .", "mypy")]
INSTALL_DEV = f"{PYTHON} -m pip install -r requirements-dev.txt"
# The tests may run under `make test ARGS=...`, which passes these variables on.
OF_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "PORT", "STORE", "PYTHON"}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Makefile and requirements, with newer stamps, as if everything were installed."""
    tmp_path = tmp_path / "My Projects"
    tmp_path.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements.lock", "requirements-dev.txt"):
        shutil.copy(PROJECT / name, tmp_path)
        os.utime(tmp_path / name, (1000, 1000))
    (tmp_path / ".venv").mkdir()
    for stamp in (".run", ".test"):
        (tmp_path / ".venv" / stamp).touch()
        os.utime(tmp_path / ".venv" / stamp, (2000, 2000))
    return tmp_path


def dry_run(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """The commands that make would run; a command over two lines is one."""
    kept = {k: v for k, v in os.environ.items() if k not in OF_MAKE and "MLFLOW" not in k}
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", *arguments],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    return shown.stdout.replace("\\\n", "").splitlines()


def test_run_makes_the_tables_and_is_one_mlflow_run_of_the_project(checkout):
    """MLflow would make them, too, but if killed then, it leaves a store that never opens."""
    command = "MLFLOW_LOGGING_LEVEL=WARNING .venv/bin/mlflow run . --env-manager local"
    command += " --experiment-name embedlab"
    tables, run = dry_run(checkout, "run")
    assert "initialise_store()" in tables
    assert run.rstrip() == command
    assert dry_run(checkout, "run", "ARGS=-P epochs=3")[1:] == [f"{command} -P epochs=3"]


def test_test_runs_linters_types_and_all_tests(checkout):
    shown = dry_run(checkout, "test", "ARGS=tests/project/test_make.py")
    assert shown == [*LINTERS, f"{PYTEST} tests/project/test_make.py"]


def test_test_fast_leaves_out_what_is_slow_or_needs_real_data(checkout):
    *linters, pytest = dry_run(checkout, "test-fast")
    assert linters == LINTERS
    assert pytest.rstrip() == f'{PYTEST} -m "not slow and not real"'


@pytest.mark.parametrize("python", ["", "false"])  # none at all, and one that is too old
def test_without_a_python_one_sentence_says_which(checkout, python):
    shutil.rmtree(checkout / ".venv")
    ended = subprocess.run(
        ["make", "--no-print-directory", "run", f"PYTHON={python}"],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert ended.returncode != 0
    assert ended.stderr.startswith("embedlab needs Python 3.11 or newer with its venv")
    assert not (checkout / ".venv").exists()


def test_help_lists_every_target(checkout):
    shown = dry_run(checkout, "help")
    ran = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in ran.stdout.splitlines() if line.startswith("make ")}
    targets = {
        "help",
        "run",
        "test",
        "test-fast",
        "lint",
        "ui",
        "bench",
        "bench-peers",
        "screenshots",
        "lock",
    }
    assert shown and listed == targets


def test_ui_makes_the_tables_before_it_starts_on_the_same_store(checkout):
    tables, ui = [shlex.split(line) for line in dry_run(checkout, "ui")]
    assert tables[:4] == ["PYTHONPATH=src", "MLFLOW_TRACKING_URI=$STORE", PYTHON, "-c"]
    assert "initialise_store()" in tables[4]
    options = ["--backend-store-uri", "$STORE", "--port", "5000"]
    assert ui == ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", ".venv/bin/mlflow", "ui", *options]


def own_tools(checkout: Path, *names: str) -> None:
    """Replace programs of the environment by scripts that note their name and arguments."""
    (checkout / ".venv" / "bin").mkdir()
    for name in names:
        tool = checkout / ".venv" / "bin" / name
        words = f"own {name} $MLFLOW_TRACKING_URI $*" if name == "python" else f"own {name} $*"
        tool.write_text(f'#!/bin/sh\necho "{words}" >> notes\n', encoding="utf-8")
        tool.chmod(0o755)


@pytest.mark.parametrize("store", [None, "postgresql://me:se%2Fcret@db.example.org/runs"])
def test_ui_takes_another_store_and_port_and_prints_no_password(checkout, store):
    own_tools(checkout, "python", "mlflow")
    kept = {k: v for k, v in os.environ.items() if k not in OF_MAKE and "MLFLOW" not in k}
    settings = {"MLFLOW_TRACKING_URI": store} if store else {}
    ran = subprocess.run(
        ["make", "ui", "PORT=5999"],
        cwd=checkout,
        env=kept | settings,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, "cret" in ran.stdout) == (0, False)
    tables, ui = (checkout / "notes").read_text(encoding="utf-8").splitlines()
    store = store or f"sqlite:///{checkout}/mlflow.db"
    assert tables.startswith(f"own python {store} -c ")
    assert ui == f"own mlflow ui --backend-store-uri {store} --port 5999"


def test_a_store_that_cannot_be_opened_is_one_sentence(checkout):
    (checkout / "src").symlink_to(PROJECT / "src")
    own_tools(checkout, "python")
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    (checkout / PYTHON).write_text(python, encoding="utf-8")
    ran = subprocess.run(
        ["make", "-s", "store", f"STORE=sqlite:///{checkout}/Makefile/mlflow.db"],
        cwd=checkout,
        env={k: v for k, v in os.environ.items() if k not in OF_MAKE},
        capture_output=True,
        text=True,
    )
    first, *others = ran.stderr.splitlines()
    assert first.startswith("embedlab: MLflow cannot open its store sqlite:")
    assert len(others) == 1  # make's own


def test_bench_runs_the_benchmarks(checkout):
    assert dry_run(checkout, "bench", "ARGS=--quick") == [
        f"{PYTHON} -m benchmarks.movies --quick",
        f"{PYTHON} -m benchmarks.vision",
        f"{PYTHON} -m benchmarks.startup",
    ]


def test_bench_peers_installs_implicit_alone(checkout):
    install, compare = dry_run(checkout, "bench-peers", "ARGS=--n 1")
    pip = f"{PYTHON} -m pip install -r /dev/stdin"
    assert install == f"grep ^implicit= requirements-extra.txt | {pip}"
    assert compare == f"{PYTHON} -m benchmarks.peers --n 1"
    lines = (PROJECT / "requirements-extra.txt").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("implicit=")]) == 1


@pytest.mark.parametrize("target", ["run", "ui", "test"])
def test_installs_first_what_the_lock_names_where_the_stamp_is_older_or_missing(checkout, target):
    os.utime(checkout / "requirements.lock", (3000, 3000))
    check, venv, install, touch, *_ = dry_run(checkout, target)
    assert "embedlab needs Python 3.11 or newer" in check
    assert venv.startswith(f"test -x {PYTHON} || ")
    assert install == INSTALL
    assert touch == "touch .venv/.run"
    (checkout / ".venv" / ".run").unlink()
    assert dry_run(checkout, target)[2] == INSTALL


def test_test_installs_the_test_tools_on_top(checkout):
    os.utime(checkout / "requirements-dev.txt", (3000, 3000))
    assert dry_run(checkout, "test")[:2] == [INSTALL_DEV, "touch .venv/.test"]


def test_lock_is_made_by_uv_for_every_system(checkout):
    (command,) = dry_run(checkout, "lock")
    words = command.split()
    assert words[:4] == [".venv/bin/uv", "pip", "compile", "requirements.txt"]
    assert {"--universal", "--generate-hashes"} <= set(words)
    assert words[-2:] == ["-o", "requirements.lock"]


def test_tools_come_from_the_project_s_own_environment(checkout):
    own_tools(checkout, "ruff", "mypy", "python")
    kept = {k: v for k, v in os.environ.items() if k not in OF_MAKE and "MLFLOW" not in k}
    subprocess.run(["make", "-s", "test"], cwd=checkout, env=kept, check=True)
    expected = [linter.replace(".venv/bin/", "own ") for linter in LINTERS]
    expected.append(PYTEST.replace(PYTHON, "own python "))
    notes = (checkout / "notes").read_text(encoding="utf-8")
    assert [line.rstrip() for line in notes.splitlines()] == expected


def test_the_files_that_begin_first_exist():
    assert set(LONGEST) <= {path.stem for path in (PROJECT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("code", [0, 7])
def test_ci_runs_make_test_and_nothing_else(tmp_path, code):
    """The PATH has only bash, dirname, and a make that notes how it is called."""
    script, notes = PROJECT / ".ci" / "run", tmp_path / "notes"
    assert os.access(script, os.X_OK)
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$PWD: $*" >> {notes}\nexit {code}\n', encoding="utf-8")
    make.chmod(0o755)
    ended = subprocess.run([script], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True)
    assert (ended.returncode, ended.stderr) == (code, b"")
    assert notes.read_text(encoding="utf-8") == f"{PROJECT}: test\n"
