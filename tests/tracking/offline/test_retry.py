"""Outages: which errors count as one, and how long a run retries."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import mlflow
import pytest
import sqlalchemy
from conftest import fresh_store
from fake_server import refuse_connection, run_fake_server
from mlflow.exceptions import MlflowException

from embedlab.errors import OptionError, StoreUnavailableError
from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.offline import retry
from embedlab.tracking.offline.retry import (
    outage_reason,
    retry_until_available,
    short_requests,
    wait_limit,
)

pytestmark = pytest.mark.slow
server = pytest.fixture(run_fake_server)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, "it answers 500"),
        (502, "it answers 502"),
        (503, "it answers 503"),
        (429, "it answers 429"),
        (None, "no answer in time"),
        ("stopped", "connection refused"),
        ("without the TLS that is asked for", None),
        (400, None),
        (401, None),
        (403, None),
        (404, None),
    ],
)
def test_only_errors_that_a_retry_can_mend_are_outages(server, status, reason):
    if status == "stopped":
        server.stop()
    elif isinstance(status, str):
        mlflow.set_tracking_uri(server.uri.replace("http:", "https:"))
    else:
        server.status = status
    started = time.monotonic()
    with pytest.raises(MlflowException) as caught, short_requests(1, retries=1):
        mlflow.MlflowClient().get_run(server.run_id)
    assert outage_reason(caught.value) == reason
    assert time.monotonic() - started < 4  # twice a time-out of 1 s, on a busy machine
    if status == "stopped":
        server.start()


@contextmanager
def impatient_sqlite() -> Iterator[None]:
    """Let SQLite wait 50 ms for another writer, instead of MLflow's 20 s."""

    def shorten(_, cursor: sqlite3.Cursor, *__: object) -> None:
        cursor.execute("PRAGMA busy_timeout = 50")

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", shorten)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", shorten)


def test_a_locked_database_is_an_outage_and_a_broken_one_is_not(tmp_path):
    with fresh_store(tmp_path) as client, impatient_sqlite():
        run_id = client.create_run("0").info.run_id
        other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MlflowException) as locked:
            client.log_metric(run_id, "a", 1)
        other.execute("ROLLBACK")
        other.execute("ALTER TABLE metrics RENAME TO lost")
        other.close()
        with pytest.raises(MlflowException) as broken:
            client.log_metric(run_id, "a", 1)
    assert outage_reason(locked.value) == "its database is locked"
    assert outage_reason(broken.value) is None


def test_short_requests_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with short_requests(3, retries=0):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert dict(os.environ) == before


def test_waiting_logs_a_line_every_half_minute_and_ends_at_the_limit(monkeypatch, caplog):
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(retry, "time", clock)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://a")
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "75")
    sentence = r"^MLflow at http://a was unavailable for 75 s \(connection refused\)$"
    with pytest.raises(StoreUnavailableError, match=sentence):
        retry_until_available(refuse_connection)
    assert now == 75
    assert caplog.messages == [
        f"Waiting for MLflow at http://a: connection refused; {s} of at most 75 s "
        "(EMBEDLAB_WAIT_FOR_SERVER)."
        for s in (0, 33, 63)
    ]


def test_waiting_ends_when_the_store_is_back_and_on_any_other_error(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    answers = iter([refuse_connection, refuse_connection, lambda: "here"])
    assert retry_until_available(lambda: next(answers)()) == "here"
    with pytest.raises(ZeroDivisionError):
        retry_until_available(lambda: 1 / 0)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_a_bad_time_to_wait_is_refused_before_any_work(monkeypatch, value):
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", value)
    sentence = f"EMBEDLAB_WAIT_FOR_SERVER: expected seconds, a number from 0 up, got '{value}'"
    with pytest.raises(OptionError, match=f"^{sentence}$"), start_run("fit_embedding", "fit", {}):
        pytest.fail("the run has begun")


def test_the_default_time_to_wait_is_ten_minutes(monkeypatch):
    monkeypatch.delenv("EMBEDLAB_WAIT_FOR_SERVER", raising=False)
    assert wait_limit() == 600
