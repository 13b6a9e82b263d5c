"""The entry point recommend, run in this process, and the check of its error sentence."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from unittest.mock import patch

import pandas as pd
from served_models import TOY_STORY

from embedlab.errors import EmbedlabError, TrackingError
from embedlab.tracking import lifecycle
from entrypoints import recommend


class Unlogged:
    """A stand-in for the tracked run of `recommend`, which keeps what is logged."""

    def log_table(self, table: pd.DataFrame, path: str) -> None:
        self.table = table

    def log_text(self, text: str, path: str) -> None:
        self.text = text

    def describe(self, markdown: str) -> None:
        self.description = markdown


def recommend_typer(monkeypatch, capsys) -> Callable[[object], pd.DataFrame | EmbedlabError]:
    """A fixture: a function that runs `recommend` in this process. It returns the table, or the
    error whose text would be printed."""

    @contextmanager
    def begin(*_: object):
        yield run

    run = Unlogged()
    monkeypatch.setattr(lifecycle, "start_run", begin)

    def type_recommend(model: object) -> pd.DataFrame | EmbedlabError:
        try:
            with patch.object(sys, "path", list(sys.path)):  # as in a process of its own
                recommend.main(["--title", TOY_STORY, "--model", str(model), "--k", "3"])
            return run.table
        except EmbedlabError as error:
            return error
        finally:
            assert "Traceback" not in capsys.readouterr().err

    return type_recommend


def assert_is_a_sentence(error: object, *parts: str) -> None:
    assert isinstance(error, TrackingError), error
    text = str(error)
    assert text.startswith("model: ") and text.endswith("."), text
    assert "\n" not in text and len(text) < 1_000
    for part in parts:
        assert part in text, text
