"""What an entry point shows on the terminal: progress with a time estimate, and tables."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from embedlab.distributed.launch import is_main_process
from embedlab.progress import OnStep, Step

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_PROGRESS_LINES = 30.0
REPORTS_BEFORE_ESTIMATE = 8
LONG_SECONDS = 3600.0
FILE_WIDTH = 120

# Titles and names are shown as they are: "[rec]" is no markup, ":skull:" no image.
PLAIN_TEXT = {"markup": False, "emoji": False}

console = Console(highlight=False, soft_wrap=True, quiet=not is_main_process(), **PLAIN_TEXT)


@contextmanager
def epoch_progress(label: str, n_epochs: int, metric: str) -> Iterator[OnStep]:
    """A bar with the time left on a terminal; elsewhere a line every ten seconds."""
    if console.is_terminal:
        with _bar(label, n_epochs, metric) as on_step:
            yield on_step
    else:
        yield _lines(label, n_epochs, metric)


@contextmanager
def _bar(label: str, n_epochs: int, metric: str) -> Iterator[OnStep]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=n_epochs, shown="")

        def on_step(step: Step) -> None:
            shown = f"{metric} {step.metrics[metric]:.4g}"
            progress.update(task, completed=step.epoch, shown=shown)

        yield on_step


def _lines(label: str, n_epochs: int, metric: str) -> OnStep:
    started = last_line = time.monotonic()

    def on_step(step: Step) -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line >= SECONDS_BETWEEN_LINES and 0 < step.epoch < n_epochs:
            last_line = now
            left = (now - started) / step.epoch * (n_epochs - step.epoch)
            console.print(
                f"{label}: epoch {step.epoch}/{n_epochs}, {metric} {step.metrics[metric]:.4g}, "
                f"about {left:,.0f} s left"
            )

    return on_step


OnProgress = Callable[[float, float, str], None]  # (done, of all, what to show)


@contextmanager
def work_progress(
    label: str, on_estimate: Callable[[float], None] | None = None
) -> Iterator[OnProgress]:
    """Progress of work whose size comes with every report: a bar, or a line now and then.

    on_estimate  called once, after the first few reports, with the seconds from the first to all.
    """
    estimate = _Estimate(on_estimate)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(label, total=None, shown="")

            def on_progress(done: float, total: float, shown: str = "") -> None:
                progress.update(task, completed=done, total=total, shown=shown)
                estimate.update(done, total)

            yield on_progress
    else:
        last_line = time.monotonic()

        def on_progress(done: float, total: float, shown: str = "") -> None:
            nonlocal last_line
            estimate.update(done, total)
            now = time.monotonic()
            left = estimate.seconds_left(done, total)
            if now - last_line >= SECONDS_BETWEEN_PROGRESS_LINES and done < total and left:
                last_line = now
                text = f"{label}: {done / total:.0%}, about {duration(left)} left"
                console.print(text + (f", {shown}" if shown else ""))

        yield on_progress


def time_estimate(label: str, cheaper: Iterable[tuple[str, float]]) -> Callable[[float], None]:
    """Says how long `label` takes; if that is an hour or more, also what would be cheaper.

    cheaper  parameters, and the share of the time that they would take.
    """

    def on_estimate(seconds: float) -> None:
        console.print(f"{label}: about {duration(seconds)}")
        if seconds >= LONG_SECONDS:
            for parameters, share in cheaper:
                console.print(f"  with -P {parameters} about {duration(share * seconds)}")

    return on_estimate


class _Estimate:
    """How long all of the work takes, from its own speed since the first report."""

    def __init__(self, on_estimate: Callable[[float], None] | None):
        self._on_estimate = on_estimate
        self._n_reports = 0
        self._start: tuple[float, float] | None = None  # (time, done)

    def update(self, done: float, total: float) -> None:
        self._n_reports += 1
        if self._start is None:  # the first batch warms up, and is not counted
            self._start = time.monotonic(), done
        elif self._n_reports == REPORTS_BEFORE_ESTIMATE and self._on_estimate is not None:
            self._on_estimate(self._seconds(total - self._start[1], done))

    def seconds_left(self, done: float, total: float) -> float | None:
        if self._start is None or done <= self._start[1]:
            return None
        return self._seconds(total - done, done)

    def _seconds(self, work: float, done: float) -> float:
        started, done_then = self._start
        return (time.monotonic() - started) * work / (done - done_then)


def print_step(step: Step) -> None:
    """A line for a finished epoch."""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in step.metrics.items())
    seconds = "" if step.seconds is None else f", {duration(step.seconds)}"
    console.print(f"epoch {step.epoch}: {metrics}{seconds}")


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def recommendation_table(answer: pd.DataFrame, score: str) -> Table:
    """A row a recommendation: rank, score, title, genres; a title for the query."""
    asked = answer["query"].iloc[0] if len(answer) else "it: nothing, there is no other movie"
    table = Table(title=f"Recommended for {asked}", title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column(score, justify="right")
    table.add_column("title", overflow="fold")
    table.add_column("genres", overflow="fold", style="dim")
    for row in answer.itertuples():
        shown = f"{row.score:.1f}" if score == "dot" else f"{row.score:.3f}"
        table.add_row(str(row.rank), shown, row.title, row.genres.replace("|", ", "))
    return table


def plain_table(title: str, frame: pd.DataFrame, key: str) -> Table:
    """Every row and column of a frame; texts of the column `key` in one piece, to be copied."""
    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(column, overflow="fold", no_wrap=column == key)
    for row in frame.itertuples(index=False):
        table.add_row(*map(str, row))
    return table


def as_text(table: Table) -> str:
    """The table as plain text, for a file."""
    plain = Console(width=FILE_WIDTH, record=True, file=_NullFile(), **PLAIN_TEXT)
    plain.print(table)
    return plain.export_text()


class _NullFile:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
