"""Terminal output of entry points: progress with a time estimate, and tables."""

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pandas as pd
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from embedlab.distributed.env import is_main_process
from embedlab.formatting import duration, score_as_text
from embedlab.progress import EpochRecord, OnEpoch, OnProgress

SECONDS_BETWEEN_LINES = 10.0
REPORTS_BEFORE_ESTIMATE = 8
LONG_SECONDS = 3600.0
FILE_WIDTH = 120
NUMBER_WIDTH = 9  # characters of the longest number, such as 0.0003125

# Titles and names are shown literally: "[rec]" is not markup, ":skull:" not an emoji.
PlainConsole = partial(Console, markup=False, emoji=False)

console = PlainConsole(highlight=False, soft_wrap=True, quiet=not is_main_process())


@contextmanager
def work_progress(
    label: str, on_estimate: Callable[[float], None] | None = None
) -> Iterator[OnProgress]:
    """Show the progress of work that states its total size with every report.

    A terminal gets a transient bar with the time left; anything else (a log, MLflow's pipe) gets a
    line at most every ten seconds.

    on_estimate  called once, after the first few reports, with the seconds that are left.
    """
    n_reports, last_line = 0, time.monotonic()
    # The speed is averaged over all reports but the first, which includes a warm-up.
    with Progress(
        *Progress.get_default_columns(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        get_time=time.monotonic,
        speed_estimate_period=float("inf"),
    ) as progress:
        task_id = progress.add_task(label, total=None, detail="")
        (task,) = progress.tasks

        def on_progress(done: float, total: float | None, detail: str = "", /) -> None:
            nonlocal n_reports, last_line
            progress.update(task_id, completed=done, total=total, detail=detail)
            n_reports += 1
            now, left = time.monotonic(), task.time_remaining
            if n_reports == REPORTS_BEFORE_ESTIMATE and on_estimate and left:
                on_estimate(left)
            is_due = progress.disable and now - last_line >= SECONDS_BETWEEN_LINES
            if is_due and (left or total is None):
                last_line = now
                state = f"{done / total:.0%}, about {duration(left)} left" if total and left else ""
                console.print(f"{label}: {', '.join(filter(None, [state, detail]))}")

        yield on_progress


@contextmanager
def epoch_progress(label: str, n_epochs: int | None, metric: str) -> Iterator[OnEpoch]:
    """Show the progress of a fit of `n_epochs`, with the latest value of `metric`.

    n_epochs  None for a solver that stops on convergence; each round then also shows the change.
    """
    values: list[float] = []
    with work_progress(label) as on_progress:

        def on_epoch(record: EpochRecord) -> None:
            values.append(record.metrics[metric])
            if n_epochs is not None:
                detail = f"epoch {record.epoch}/{n_epochs}, {metric} {values[-1]:.4g}"
            else:
                *_, before, now = 0.0, *values
                change = f" ({now / before - 1:+.1e})" if before else ""
                detail = f"round {record.epoch}, {metric} {values[-1]:.6g}{change}"
            on_progress(record.epoch, n_epochs, detail)

        yield on_epoch


def time_estimate(label: str, cheaper: Iterable[tuple[str, float]]) -> Callable[[float], None]:
    """A callback that prints how long `label` takes and, from an hour on, cheaper parameters.

    cheaper  parameters, each with the fraction of the estimated time that they need.
    """

    def on_estimate(seconds: float) -> None:
        console.print(f"{label}: about {duration(seconds)}")
        if seconds >= LONG_SECONDS:
            for parameters, share in cheaper:
                console.print(f"  with -P {parameters} about {duration(share * seconds)}")

    return on_estimate


class EpochTable:
    """Prints a line for every epoch as soon as it has finished, below a line of headings."""

    def __init__(self, metrics: Sequence[str]):
        self._columns = {name: max(len(name), NUMBER_WIDTH) for name in metrics}
        self._has_headings = False

    def add(self, record: EpochRecord, is_best: bool) -> None:
        """Print the metrics that the epoch has, followed by `best so far` if `is_best`."""
        if not self._has_headings:
            headings = [name.rjust(width) for name, width in self._columns.items()]
            console.print("  ".join(["epoch", *headings, "  time"]))
            self._has_headings = True
        values = ((record.metrics.get(name), width) for name, width in self._columns.items())
        cells = [("" if value is None else f"{value:.4g}").rjust(width) for value, width in values]
        seconds = "" if record.seconds is None else duration(record.seconds)
        mark = "  best so far" if is_best else ""
        console.print("  ".join([f"{record.epoch:5}", *cells, seconds.rjust(6)]) + mark)


def recommendation_table(answer: pd.DataFrame, score: str) -> Table:
    """One row per recommendation: rank, score, title, genres; the table's title names the query."""
    queries = answer["query"].tolist()
    title = f"Recommended for {queries[0]}" if queries else "No other movies to recommend"
    table = Table(title=title, title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column(score, justify="right")
    table.add_column("title", overflow="fold")
    table.add_column("genres", overflow="fold", style="dim")
    for row in answer.itertuples():
        score_text = score_as_text(row.score) if score == "dot" else f"{row.score:.3f}"
        table.add_row(str(row.rank), score_text, row.title, row.genres.replace("|", ", "))
    return table


def plain_table(title: str, frame: pd.DataFrame, key: str) -> Table:
    """The whole frame as a table; the column `key` is not wrapped, so that it can be copied."""
    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(column, overflow="fold", no_wrap=column == key)
    for row in frame.itertuples(index=False):
        table.add_row(*map(str, row))
    return table


def as_text(table: Table) -> str:
    """The table as plain text, for a file."""
    file = io.StringIO()
    PlainConsole(width=FILE_WIDTH, file=file, force_terminal=False).print(table)
    return file.getvalue()
