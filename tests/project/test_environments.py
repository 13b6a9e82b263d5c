"""MLflow reuses environments with the same requirements, but runs the code of the given folder.

The tests use copies of the project whose environments are almost empty: a bad argument is refused
before any missing package is imported. The sentence shows which code ran, and where.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT, long

pytestmark = pytest.mark.slow

SENTENCE = 'raise OptionError(f"'
NO_INDEX = (  # what uv and pip say where no package index can be reached
    "Failed to fetch",
    "error sending request",
    "Network is unreachable",
    "Could not find a version",
    "Failed to establish a new connection",
)


def copy_of_project(folder: Path, python: str) -> Path:
    for name in ("entrypoints", "src"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "MLproject", folder)
    conda = (PROJECT / "conda.yaml").read_text(encoding="utf-8")
    assert "python=3.11\n" in conda
    conda = conda.replace("python=3.11\n", f"python={python}\n")
    (folder / "conda.yaml").write_text(conda, encoding="utf-8")
    (folder / "requirements.lock").write_text("# nothing\n", encoding="utf-8")
    return folder


def edit_sentence(project: Path, mark: str) -> None:
    """Edit the refusal so that it contains `mark` and the environment that it runs in."""
    path = project / "src" / "embedlab" / "cli" / "parser.py"
    code = path.read_text(encoding="utf-8")
    assert code.count(SENTENCE) == 1
    path.write_text(code.replace(SENTENCE, f"{SENTENCE}{mark} in {{sys.prefix}}: "), "utf-8")


def refusal(project: Path, manager: str, folder: Path) -> str:
    """The line by which an entry point, in an environment of `manager`, refuses an argument."""
    arguments = [str(project), "-e", "build_matrix", "-P", "device=nope"]
    temporary = folder / "temporary"  # MLflow leaves a folder there for every run
    temporary.mkdir(exist_ok=True)
    ended = subprocess.run(
        ["mlflow", "run", *arguments, "--env-manager", manager],
        cwd=folder,
        env=os.environ | {"MLFLOW_ENV_ROOT": str(folder / "envs"), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    output = ended.stdout + ended.stderr
    if "Running command" not in output and any(text in output for text in NO_INDEX):
        pytest.skip(f"{manager} cannot reach a package index: {output.strip().splitlines()[-1]}")
    said = [line for line in output.splitlines() if line.startswith("embedlab: ")]
    assert (ended.returncode, len(said)) == (1, 1), output
    assert "Traceback" not in output
    return said[0]


def environments(folder: Path) -> list[tuple[str, int]]:
    """The name of every environment, and when it was made."""
    return [
        (path.name, (path / "pyvenv.cfg").stat().st_mtime_ns)
        for path in sorted((folder / "envs").iterdir())
    ]


def python_for(manager: str) -> str:
    """An installed version to ask for, since pyenv would compile the newest 3.11."""
    if shutil.which("uv" if manager == "uv" else "pyenv") is None:
        pytest.skip(f"{manager}: its program is not on the PATH")
    if manager == "uv":
        return "3.11"
    version = platform.python_version()
    listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True)
    if version not in listed.stdout.split():
        pytest.skip(f"virtualenv: pyenv has no Python {version}, and would compile it")
    return version


@pytest.mark.parametrize("manager", ["uv", pytest.param("virtualenv", marks=long)])
def test_a_kept_environment_runs_the_code_of_the_folder(tmp_path, manager):
    python = python_for(manager)
    project = copy_of_project(tmp_path / "project", python)
    clone = copy_of_project(tmp_path / "clone", python)

    first = refusal(project, manager, tmp_path)
    assert first.startswith("embedlab: device: expected one of auto, cpu, cuda; got 'nope'")
    made = environments(tmp_path)
    assert len(made) == 1

    edit_sentence(clone, "cloned")
    prefix = tmp_path / "envs" / made[0][0]
    assert f"cloned in {prefix}: device: expected" in refusal(clone, manager, tmp_path)
    assert environments(tmp_path) == made  # reused, not made again
