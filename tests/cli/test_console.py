"""Output of an entry point: progress with the time left, and tables that show titles literally."""

import io
import re

import pandas as pd
import pytest

from embedlab.cli import console as console_module
from embedlab.cli.console import as_text, console, recommendation_table, work_progress
from embedlab.progress import EpochRecord


class Clock:
    """A `time.monotonic` that moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def test_a_log_gets_a_line_at_most_every_ten_seconds(clock, capsys):
    with work_progress("decode") as on_progress:
        for done in range(1, 61):
            clock.now += 1
            on_progress(done, 60, f"image {done}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "decode: 17%, about 50 s left, image 10"
    assert lines[-1] == "decode: 83%, about 10 s left, image 50"
    assert len(lines) == 5  # the end gets none: the next output shows it


def test_the_estimate_leaves_out_the_first_report(clock, capsys):
    """The first batch warms up: here it takes a hundred times as long."""
    estimates = []
    with work_progress("train", estimates.append) as on_progress:
        clock.now += 100
        for done in range(1, 20):
            on_progress(done, 1000)
            clock.now += 1
    assert estimates == [992]  # seconds for the rest


def test_the_estimate_of_a_resumed_training_is_of_what_is_left(clock, capsys):
    estimates = []
    with work_progress("train", estimates.append) as on_progress:
        for done in range(900, 920):
            on_progress(done, 1000)
            clock.now += 1
    assert estimates == [93.0]


def test_an_estimate_of_an_hour_names_what_is_cheaper(capsys):
    on_estimate = console_module.time_estimate("train", [("epochs=4", 0.5)])
    on_estimate(600)
    on_estimate(7200)
    assert capsys.readouterr().out.splitlines() == [
        "train: about 10 min",
        "train: about 2.0 h",
        "  with -P epochs=4 about 60 min",
    ]


def test_epochs_are_shown_with_their_metric(clock, capsys):
    with console_module.epoch_progress("fit", 50, "train/cost") as on_epoch:
        for epoch in range(51):
            on_epoch(EpochRecord(epoch, {"train/cost": 1 / 3}))
            clock.now += 1
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "fit: 20%, about 40 s left, epoch 10/50, train/cost 0.3333"


def test_a_terminal_gets_a_bar(monkeypatch):
    shown = io.StringIO()
    terminal = console_module.PlainConsole(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(console_module, "console", terminal)
    with work_progress("fit") as on_progress:
        for done in range(1, 5):
            on_progress(done, 4, "almost")
    assert "fit" in shown.getvalue() and "100%" in shown.getvalue() and "almost" in shown.getvalue()


def test_a_solver_of_unknown_length_shows_rounds_and_the_change(clock, capsys):
    with console_module.epoch_progress("fit", None, "train/cost") as on_epoch:
        for round_ in range(3):
            on_epoch(EpochRecord(round_, {"train/cost": 800.0 / 2**round_}))
            clock.now += 10
    assert capsys.readouterr().out.splitlines() == [
        "fit: round 1, train/cost 400 (-5.0e-01)",
        "fit: round 2, train/cost 200 (-5.0e-01)",
    ]


def test_finished_epochs_are_lines_of_a_table(capsys):
    table = console_module.EpochTable(["train/loss", "val/accuracy"])
    table.add(EpochRecord(0, {"val/accuracy": 0.25}), is_best=True)
    table.add(EpochRecord(10, {"val/accuracy": 0.5, "train/loss": 1.23456}, 400), is_best=False)
    assert capsys.readouterr().out.splitlines() == [
        "epoch  train/loss  val/accuracy    time",
        "    0                      0.25          best so far",
        "   10       1.235           0.5   7 min",
    ]


def titles_printed(text: str) -> list[str]:
    """The title column of a printed table."""
    rows = [line.split("│") for line in text.splitlines() if re.match(r"│ +\d+ │", line)]
    return [row[3].strip() for row in rows]


def test_titles_are_shown_as_they_are(capsys):
    """Brackets are not markup and colons not emojis: MovieLens has the title [REC] (2007)."""
    title, query = "[untitled] :bug: 1 [/b] (1999)", "[rec] :skull: (2007)"
    answer = pd.DataFrame(
        {"query": [query], "rank": [1], "title": [title], "genres": ["A|B"], "score": [0.25]}
    )
    table = recommendation_table(answer, "cosine")
    console.print(table)
    for text in (capsys.readouterr().out, as_text(table)):
        assert text.startswith(f"Recommended for {query}")
        assert titles_printed(text) == [title]
        assert "│ 0.250 │" in text.replace("  ", " ")
        assert "A, B" in text


def test_a_query_without_other_movies_says_so():
    answer = pd.DataFrame(columns=["query", "rank", "title", "genres", "score"])
    assert as_text(recommendation_table(answer, "dot")).startswith("No other movies to recommend")
