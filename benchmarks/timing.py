"""Shared by the benchmarks: timing, separate processes, and tables of results, also as JSON."""

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import TypeVar

from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "mlflow")
T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def seconds_of_calls(call: Callable[[], object], n: int = 1, warm_up: int = 0) -> list[float]:
    """Seconds of each of `n` calls, after `warm_up` calls that do not count."""
    return [timed(call)[1] for _ in range(warm_up + n)][warm_up:]


def take_turns(sides: Mapping[str, Callable[[], list[float]]], rounds: int) -> dict[str, list]:
    """Measure each side in every round, so that a slow spell of the machine affects all sides.

    Returns the seconds that each side returned, in all rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            seconds[name] += measure()
    return seconds


def in_a_process(function: Callable[..., T], *args: object) -> T:
    """Call a module-level function in a new process, with its own memory; return its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args).result()


def machine() -> dict[str, object]:
    """The machine and the package versions that a table was measured with."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def print_table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    n_names: int = 1,
    width: int = 140,
) -> None:
    """Print a table whose first `n_names` columns are names, and the others numbers."""
    table = Table(title=title, title_justify="left")
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="left" if column < n_names else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)


class Report:
    """Rows of measurements; printed once, at the end."""

    def __init__(self, title: str):
        self.title = title
        self.rows: list[dict] = []

    def add(self, name: str, values: list[float], unit: str, ratio: float | None = None) -> float:
        """Add a row and return its median. `ratio` is relative to the row that `name` mentions."""
        median = statistics.median(values)
        row = {
            "name": name,
            "unit": unit,
            "median": median,
            "min": min(values),
            "max": max(values),
            "n": len(values),
        }
        self.rows.append(row if ratio is None else row | {"ratio": ratio})
        return median

    def show(self) -> None:
        rows = []
        for row in self.rows:
            numbers = [
                f"{row[key]:,.3g}" if row[key] < 100 else f"{row[key]:,.0f}"
                for key in ("median", "min", "max")
            ]
            ratio = f"{row['ratio']:,.3g}×" if "ratio" in row else ""
            rows.append([row["name"], *numbers, row["unit"], str(row["n"]), ratio])
        print_table(self.title, ("measured", "median", "min", "max", "unit", "n", "ratio"), rows)
        print(json.dumps({"title": self.title, "machine": machine(), "rows": self.rows}))
