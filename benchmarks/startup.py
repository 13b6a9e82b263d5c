"""Start-up of each entry point: `--help` against a bare Python, whole processes from outside.

python -m benchmarks.startup
"""

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.report import Report, times

PROJECT = Path(__file__).resolve().parents[1]


def main() -> None:
    report = Report("Start-up, whole processes")
    commands = {"python -c pass": ["-c", "pass"]}
    for file in sorted((PROJECT / "entrypoints").glob("[!_]*.py")):
        module = f"entrypoints.{file.stem}"
        commands[f"python -m {module} --help"] = ["-m", module, "--help"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(9):
        for name, command in commands.items():
            start = partial(
                subprocess.run,
                [sys.executable, *command],
                cwd=PROJECT,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds[name] += times(start, 1, warm_up=0)
    bare = statistics.median(seconds["python -c pass"])
    for name, values in seconds.items():
        report.add(name, values, "s", statistics.median(values) / bare)
    report.show()


if __name__ == "__main__":
    main()
