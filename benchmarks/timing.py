"""Shared by the benchmarks: timing, separate processes, and tables of medians, also as JSON."""

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import TypeVar

from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "mlflow")
T = TypeVar("T")


def times(call: Callable[[], object], n: int, warm_up: int = 1) -> list[float]:
    """Seconds of each of `n` calls, after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
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
        table = Table(title=self.title, title_justify="left")
        table.add_column("measured", overflow="fold")
        for heading in ("median", "min", "max", "unit", "n", "ratio"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            numbers = [
                f"{row[key]:,.3g}" if row[key] < 100 else f"{row[key]:,.0f}"
                for key in ("median", "min", "max")
            ]
            ratio = f"{row['ratio']:,.3g}×" if "ratio" in row else ""
            table.add_row(row["name"], *numbers, row["unit"], str(row["n"]), ratio)
        Console(width=110).print(table)
        print(json.dumps({"title": self.title, "machine": machine(), "rows": self.rows}))
