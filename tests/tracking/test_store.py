"""The tracking store: its address without the password, its pages, its errors in a sentence."""

from types import SimpleNamespace

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from embedlab.errors import TrackingError
from embedlab.tracking.store import (
    check_artifact_location,
    explain_store_errors,
    safe_first_line,
    ui_instructions,
    without_password,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db:5432/runs", "postgresql://me:***@db:5432/runs"),
        ("postgresql+psycopg://me:se/cr:et@db/runs", "postgresql+psycopg://me:***@db/runs"),
        ("postgresql://me:se@cret@db/runs", "postgresql://me:***@db/runs"),
        ("postgresql:///runs?user=me&password=secret&host=db", None),
        ("mysql+pymysql://me:secret@db/runs?ssl_key=k", "mysql+pymysql://me:***@db/runs?ssl_key=k"),
        ("API request to http://me:secret@host:5000/api failed", None),
        ("'https://:secret@host/api'", "'https://:***@host/api'"),
        ("http://me@host:5000/#/models/rec@champion", "http://me@host:5000/#/models/rec@champion"),
        ("http://host:5000/#/models/rec@champion", "http://host:5000/#/models/rec@champion"),
        ("postgresql:///mlflow?host=/var/run", "postgresql:///mlflow?host=/var/run"),
        ("sqlite:////home/me@work/a:b@c.db", "sqlite:////home/me@work/a:b@c.db"),
        ("runs:/0123/model, models:/rec@champion", "runs:/0123/model, models:/rec@champion"),
    ],
)
def test_a_password_is_masked_and_nothing_else(text, shown):
    assert without_password(text) == (shown or text.replace("secret", "***"))


@pytest.mark.parametrize(
    ("uri", "first"),
    [
        ("sqlite:////runs.db", "Start  mlflow ui --backend-store-uri sqlite:////runs.db"),
        (
            "postgresql://me:secret@db/runs",
            'Start  mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"',
        ),
        ("http://host:5000/", "Open   http://host:5000/#/experiments/1/runs/a?"),
        ("https://me:secret@host", "Open   https://host/#/experiments/1/runs/a?"),  # it asks
    ],
)
def test_the_command_that_opens_the_runs_can_be_used_and_holds_no_password(monkeypatch, uri, first):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    shown = ui_instructions("1", "a", "#/experiments/1")
    assert shown.startswith(first)
    assert "secret" not in shown


def test_what_mlflow_says_of_an_address_is_masked():
    error = MlflowException("API request to http://me:secret@host/api failed with exception x")
    assert safe_first_line(error) == "API request to http://me:***@host/api failed with exception x"


def test_an_experiment_behind_a_server_is_accepted_from_runs_that_use_the_server(monkeypatch):
    behind = SimpleNamespace(artifact_location="mlflow-artifacts:/0")
    monkeypatch.setattr(mlflow, "get_experiment", lambda _: behind)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:5000")
    check_artifact_location("0")


def test_a_password_in_the_address_of_the_store_is_not_shown(monkeypatch):
    """The text becomes a tag, which everybody who can read the run can read."""
    address = "postgresql://me:se%2Fcret@db.example.org:5432/runs"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: address)
    with pytest.raises(TrackingError) as error, explain_store_errors():
        raise MlflowException("the disk is full\nand more")
    assert str(error.value) == (
        "MLflow at postgresql://me:***@db.example.org:5432/runs reports: the disk is full"
    )
