"""Start-up: `--help` of each entry point against a bare Python, `recommend` against MLflow alone.

python -m benchmarks.startup

Whole processes are timed from outside, taking turns.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import Report, seconds_of_calls, take_turns

PROJECT = Path(__file__).resolve().parents[1]
ROUNDS = 9
MODEL = "models:/movie-embedding@champion"
# What `recommend` does, without this project.
MLFLOW_ALONE = f"""
import mlflow, pandas
with mlflow.start_run():
    model = mlflow.pyfunc.load_model("{MODEL}", suppress_warnings=True)
    answer = model.predict(pandas.DataFrame({{"title": ["Toy Story"]}}))
    mlflow.log_table(answer, "answer.json")
"""


def python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def compare(title: str, commands: Mapping[str, tuple[str, ...]]) -> None:
    """Print each command's time, and its ratio to the time of the first command."""
    sides = {
        name: partial(seconds_of_calls, partial(python, *arguments))
        for name, arguments in commands.items()
    }
    seconds = take_turns(sides, ROUNDS)
    first = statistics.median(next(iter(seconds.values())))
    report = Report(title)
    for name, values in seconds.items():
        report.add(name, values, "s", statistics.median(values) / first)
    report.show()


def main() -> None:
    names = [file.stem for file in sorted((PROJECT / "entrypoints").glob("[!_]*.py"))]
    modules = [f"entrypoints.{name}" for name in names]
    helps = {f"python -m {module} --help": ("-m", module, "--help") for module in modules}
    os.environ["PYTHONPATH"] = str(PROJECT)
    compare("Start-up, whole processes", {"python -c pass": ("-c", "pass"), **helps})
    with TemporaryDirectory() as folder, chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        options = ("--ratings", "sample", "--optimizer", "exact", "--dim", "20")
        fit = ("-m", "entrypoints.fit_embedding", *options, "--register", "true")
        python(*fit)
        recommend = ("-m", "entrypoints.recommend", "--title", "Toy Story")
        both = {"MLflow alone": ("-c", MLFLOW_ALONE), "python -m entrypoints.recommend": recommend}
        compare("A recommendation, whole processes", both)


if __name__ == "__main__":
    main()
