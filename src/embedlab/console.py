"""What an entry point shows on the terminal: progress with a time estimate, and tables."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from embedlab.step import OnStep, Step

SECONDS_BETWEEN_LINES = 10.0
WIDTH_OF_A_FILE = 120

# Titles and names are shown as they are: "[rec]" is no markup, ":skull:" no picture.
AS_IT_IS = {"markup": False, "emoji": False}

console = Console(highlight=False, soft_wrap=True, **AS_IT_IS)


@contextmanager
def epochs_shown(label: str, n_epochs: int, metric: str) -> Iterator[OnStep]:
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


def as_text(table: Table) -> str:
    """The table as plain text, for a file."""
    plain = Console(width=WIDTH_OF_A_FILE, record=True, file=_Nowhere(), **AS_IT_IS)
    plain.print(table)
    return plain.export_text()


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
