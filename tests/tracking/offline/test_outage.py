"""A tracking store during an outage: what is kept, what is sent later, and what fails at once.

A small server in this process answers as MLflow's does, or refuses, fails, or says nothing.
"""

import json
import logging
import os
import re
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import sqlalchemy
from conftest import fresh_store, use_store
from filelock import FileLock
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from embedlab.errors import DataError, OptionError, StoreUnavailableError, TrackingError
from embedlab.progress import EpochRecord
from embedlab.tracking.lifecycle import start_child_run, start_run
from embedlab.tracking.offline import client as buffered_client
from embedlab.tracking.offline import retry
from embedlab.tracking.offline.client import BufferedClient
from embedlab.tracking.offline.retry import (
    outage_reason,
    retry_until_available,
    short_requests,
    wait_limit,
)
from embedlab.tracking.offline.spool import Spool, send_earlier_spools
from embedlab.workflows.models import log_movie_model

pytestmark = pytest.mark.slow

UNAVAILABLE = "is unavailable (connection refused). The run goes on; what it logs is kept in "


class FakeServer:
    """A server of one run: it takes batches and files, or answers `status`; stopped, it refuses.

    status  200, another to answer instead, or None to say nothing until `stop`.
    """

    def __init__(self):
        self.run_id = uuid.uuid4().hex  # MLflow remembers the artifact address of a run
        self.status: int | None = 200
        self.metrics: list[tuple[str, int, float]] = []
        self.tags: dict[str, str] = {}
        self.params: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.ended: tuple[str, int] | None = None
        self.refused: str | None = None  # paths with that end get a 400
        self.n_requests = 0
        self._silence_is_over = threading.Event()
        self._connections: list[socket.socket] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._silence_is_over.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:  # as the end of a process closes them
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, body: bytes) -> dict:
        if "/mlflow-artifacts/" in path:
            self.files[path.partition(f"{self.run_id}/artifacts/")[2]] = body
            return {}
        if "/runs/get" in path:
            info = {
                "run_id": self.run_id,
                "experiment_id": "0",
                "status": "RUNNING",
                "artifact_uri": f"mlflow-artifacts:/0/{self.run_id}/artifacts",
            }
            return {"run": {"info": info, "data": {}}}
        sent = json.loads(body)
        if path.endswith("/runs/log-batch"):
            self.metrics += [
                (m["key"], int(m.get("step", 0)), float(m["value"]))
                for m in sent.get("metrics", ())
            ]
            self.params |= {item["key"]: item["value"] for item in sent.get("params", ())}
            self.tags |= {item["key"]: item["value"] for item in sent.get("tags", ())}
        elif path.endswith("/runs/update"):
            self.ended = sent["status"], int(sent["end_time"])
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                fake._connections.append(self.request)
                super().setup()

            def answer(self) -> None:
                fake.n_requests += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fake.status is None:
                    fake._silence_is_over.wait()
                    self.close_connection = True
                    return
                is_refused = fake.refused and self.path.endswith(fake.refused)
                status = 400 if is_refused else fake.status
                text = fake.answer(self.path, body) if status == 200 else {"message": "not now"}
                self.send_response(status)
                answer = json.dumps(text).encode()
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = answer

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def server():
    logging.getLogger("urllib3.connectionpool").setLevel(logging.CRITICAL)  # as a run does
    fake = FakeServer()
    with use_store(fake.uri):
        yield fake
    fake.stop()


@pytest.fixture
def impatient(monkeypatch):
    """A run tries again at once, and gives up soon."""
    monkeypatch.setattr(buffered_client, "FIRST_PROBE_PAUSE", 0.0)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "0.1")


def epoch(number: int) -> list[Metric]:
    return [Metric("train/cost", 9.0 - number, 1_700_000_000_000 + number, number)]


def costs(*epochs: int) -> list[tuple[str, int, float]]:
    return [("train/cost", number, 9.0 - number) for number in epochs]


def unsent_folders(cache: str) -> list[Path]:
    return sorted(Path(cache, "unsent").glob("*"))


# -- what an outage is -------------------------------------------------------------------------


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
    assert time.monotonic() - started < 4  # twice a second of silence, on a busy machine
    if status == "stopped":
        server.start()


@contextmanager
def impatient_sqlite() -> Iterator[None]:
    """SQLite waits 50 ms for another writer to end, in place of MLflow's 20 s."""

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


# -- a fit whose server goes and comes ---------------------------------------------------------


def test_metrics_of_an_outage_are_sent_later_in_order_and_once(server, impatient, caplog):
    client = BufferedClient(server.run_id)
    client.log_batch(server.run_id, metrics=epoch(0))
    server.stop()
    for number in (1, 2):
        client.log_batch(server.run_id, metrics=epoch(number))
    client.set_tag(server.run_id, "seen", True)
    (kept,) = unsent_folders(os.environ["EMBEDLAB_CACHE"])
    assert kept.name == server.run_id
    assert (kept / "log.jsonl").read_text().splitlines()[1:] == [
        f'{{"store": "{server.uri}"}}',
        '{"metric": ["train/cost", 8.0, 1700000000001, 1]}',
        '{"metric": ["train/cost", 7.0, 1700000000002, 2]}',
        '{"tag": ["seen", "True"]}',
    ]
    server.start()
    client.log_batch(server.run_id, metrics=epoch(3))
    assert server.metrics == costs(0, 1, 2, 3)
    assert server.tags == {"seen": "True"}
    assert not kept.exists()
    unavailable, available = caplog.messages
    assert (
        unavailable
        == f"MLflow at {server.uri} {UNAVAILABLE}{kept} until MLflow is available again."
    )
    assert available == f"MLflow at {server.uri} is available again: 2 metrics and 0 files sent."


def test_neither_log_lines_nor_the_spool_hold_a_password(server, impatient, caplog):
    mlflow.set_tracking_uri(server.uri.replace("//", "//me:secret@"))
    client = BufferedClient(server.run_id)
    server.stop()
    client.log_batch(server.run_id, metrics=epoch(0))
    kept = [file.read_text() for file in Path(os.environ["EMBEDLAB_CACHE"]).rglob("*.json*")]
    assert len(kept) == 1
    assert "me:***@" in caplog.text
    assert "secret" not in "".join([caplog.text, *kept])
    server.start()
    client.after_spool(lambda: None)
    assert server.metrics == costs(0)


def test_a_second_outage_is_logged_and_spooled_like_the_first(server, impatient, caplog):
    client = BufferedClient(server.run_id)
    for number in range(4):
        server.stop() if number % 2 else None
        client.log_batch(server.run_id, metrics=epoch(number))
        server.start() if number % 2 else None
    client.after_spool(lambda: None)
    assert server.metrics == costs(0, 1, 2, 3)
    assert [re.search("is (unavailable|available)", text)[1] for text in caplog.messages] == [
        "unavailable",
        "available",
        "unavailable",
        "available",
    ]


def test_an_outage_costs_a_fit_next_to_nothing(server, caplog):
    """A thousand epochs in the first pause: one attempt, and no more than writing lines."""
    client = BufferedClient(server.run_id)
    server.status = 503
    started = time.monotonic()
    for number in range(1000):
        client.log_batch(server.run_id, metrics=epoch(number))
    took = time.monotonic() - started
    # About 0.2 s; else the next attempt would be due.
    assert took < buffered_client.FIRST_PROBE_PAUSE
    assert server.n_requests == 2  # the attempt and its retry
    server.status = 200
    client.after_spool(lambda: None)
    assert server.metrics == costs(*range(1000))
    client.log_batch(server.run_id, metrics=epoch(1000))  # at once, whenever the next attempt was
    assert server.metrics == costs(*range(1001))


def test_pauses_between_attempts_grow_to_a_minute(server, monkeypatch):
    client, now, asked = BufferedClient(server.run_id), 1000.0, []
    monkeypatch.setattr(buffered_client, "time", SimpleNamespace(monotonic=lambda: now))
    server.status = 503
    for second in range(200):
        before = server.n_requests
        client.log_batch(server.run_id, metrics=epoch(second))
        asked += [second] * (server.n_requests - before)
        now += 1
    assert asked == [0, 0, 5, 15, 35, 75, 135, 195]  # pauses of 5, 10, 20, 40, 60 and 60 seconds


def test_files_and_images_of_an_outage_are_sent_later_under_their_names(
    server, impatient, tmp_path
):
    client = BufferedClient(server.run_id)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.bin").write_bytes(b"a" * 10)
    (tmp_path / "b.bin").write_bytes(b"b")
    server.stop()
    client.log_artifacts(server.run_id, tmp_path, "folder")
    client.log_artifact(server.run_id, tmp_path / "b.bin")
    client.log_text(server.run_id, "words", "texts/said.txt")
    client.log_image(server.run_id, np.zeros((4, 4, 3), np.uint8), key="grid", step=7)
    server.start()
    client.after_spool(lambda: None)
    images = {name for name in server.files if name.startswith("images/grid+step+7+")}
    assert {Path(name).suffix for name in images} == {".png", ".webp"}
    assert {name: server.files[name] for name in set(server.files) - images} == {
        "folder/deep/er/a.bin": b"a" * 10,
        "folder/b.bin": b"b",
        "b.bin": b"b",
        "texts/said.txt": b"words",
    }
    assert server.tags == {"mlflow.loggedImages": "True"}
    assert unsent_folders(os.environ["EMBEDLAB_CACHE"]) == []


def test_files_have_the_same_artifact_paths_without_an_outage(server, tmp_path):
    client = BufferedClient(server.run_id)
    (tmp_path / "deep").mkdir()
    for name in ("a.bin", "deep/b.bin"):
        (tmp_path / name).write_text(name)
    client.log_artifacts(server.run_id, tmp_path)
    client.log_artifacts(server.run_id, tmp_path, "below")
    assert set(server.files) == {"a.bin", "deep/b.bin", "below/a.bin", "below/deep/b.bin"}


def test_nan_infinity_and_subnormal_metrics_survive_the_spool(server, impatient):
    client = BufferedClient(server.run_id)
    server.stop()
    values = [float("nan"), float("inf"), -0.0, 1e-320, 0.1 + 0.2]
    client.log_batch(
        server.run_id, metrics=[Metric("m", value, 1, i) for i, value in enumerate(values)]
    )
    server.start()
    client.after_spool(lambda: None)
    assert repr([value for _, _, value in server.metrics]) == repr(values)


def test_what_mlflow_refuses_fails_at_once_and_is_not_spooled(server):
    server.status = 400
    with pytest.raises(MlflowException, match="not now"):
        BufferedClient(server.run_id).log_batch(server.run_id, metrics=epoch(0))
    assert server.n_requests == 1
    assert unsent_folders(os.environ["EMBEDLAB_CACHE"]) == []


def test_a_spool_that_mlflow_refuses_is_set_aside(server, impatient):
    client = BufferedClient(server.run_id)
    server.stop()
    client.log_batch(server.run_id, metrics=epoch(0))
    server.start()
    server.refused = "/runs/log-batch"
    (kept,) = unsent_folders(os.environ["EMBEDLAB_CACHE"])
    aside = kept.with_suffix(".refused")
    sentence = (
        f"MLflow at {server.uri} refuses what run {server.run_id} had kept while it was "
        f"unavailable (INTERNAL_ERROR: not now); that is now in {aside}."
    )
    with pytest.raises(TrackingError) as refused:
        client.log_batch(server.run_id, metrics=epoch(1))
    assert str(refused.value) == sentence
    assert "train/cost" in (aside / "log.jsonl").read_text()
    server.refused = None
    client.log_batch(server.run_id, metrics=epoch(2))  # the run can still say how it ended
    send_earlier_spools()
    assert server.metrics == costs(2)
    server.stop()
    client.log_batch(server.run_id, metrics=epoch(3))
    server.start()
    server.refused = "/runs/log-batch"
    with pytest.raises(TrackingError, match=r"that is now in \S+\.refused\.$"):
        client.log_batch(server.run_id, metrics=epoch(4))
    assert len(list(kept.parent.glob("*.refused"))) == 2


def test_a_spool_that_cannot_be_written_raises(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMBEDLAB_CACHE", str(tmp_path / "file"))
    server.stop()
    with pytest.raises(DataError, match="cannot be written"):
        BufferedClient(server.run_id).log_batch(server.run_id, metrics=epoch(0))
    server.start()


# -- what nobody sent before the process ended -------------------------------------------------


def left_behind(server, *numbers: int) -> Path:
    """The folder of a process that was killed while the server was unavailable."""
    killed = Spool(server.run_id)
    for number in numbers:
        killed.add(epoch(number), (), ())
    killed.release()  # as the kernel does
    (kept,) = unsent_folders(os.environ["EMBEDLAB_CACHE"])
    return kept


def test_the_next_start_sends_the_spool_of_a_killed_process_without_its_half_line(server, caplog):
    kept = left_behind(server, 0, 1)
    with open(kept / "log.jsonl", "a") as log:
        log.write('\n{"metric": ["train/cost", 0.')
    caplog.clear()
    send_earlier_spools()
    assert server.metrics == costs(0, 1)
    assert server.ended is None  # nobody knows how; `clean_runs` finds such runs
    assert caplog.messages == [
        f"Sent what run {server.run_id} could not log: 2 metrics and 0 files."
    ]
    assert not kept.exists()


def test_half_a_line_of_a_full_disk_hides_nothing_that_came_after_it(server):
    kept = left_behind(server, 0)
    with open(kept / "log.jsonl", "a") as log:
        log.write('\n{"metric": ["train/cost", 0.')
    full = Spool(server.run_id)
    full.add(epoch(1), (), ())
    full.release()
    send_earlier_spools()
    assert server.metrics == costs(0, 1)
    assert not kept.exists()


def test_the_next_start_leaves_spools_of_another_store_or_a_living_process(server):
    kept = left_behind(server, 0)
    mlflow.set_tracking_uri(f"{server.uri}/another")
    send_earlier_spools()
    mlflow.set_tracking_uri(server.uri)
    with FileLock(kept / "lock"):
        send_earlier_spools()
    assert server.metrics == []
    send_earlier_spools()
    assert server.metrics == costs(0)


def test_the_next_start_goes_on_while_the_server_is_unavailable_again(server, monkeypatch, caplog):
    kept = left_behind(server, 0)
    server.status = 503
    send_earlier_spools()
    assert (kept / "log.jsonl").exists()
    server.status = 200
    send_earlier_spools()
    assert server.metrics == costs(0)


def test_the_next_start_sets_a_refused_spool_aside_and_says_so_once(server, caplog):
    """As of a run that somebody has deleted."""
    left_behind(server, 0)
    server.refused = "/runs/log-batch"
    caplog.clear()
    send_earlier_spools()
    send_earlier_spools()
    (said,) = caplog.messages
    assert "refuses what run" in said
    assert server.metrics == []


def test_a_password_in_the_address_is_not_spooled(monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://me:secret@example.org")
    kept = Spool("0" * 32)
    kept.add_status("FINISHED")
    assert "secret" not in (kept.folder / "log.jsonl").read_text()
    kept.release()
    assert kept.claim()
    kept.release()


# -- a run that waits --------------------------------------------------------------------------


def refuse_connection() -> None:
    try:
        raise requests.ConnectionError("[Errno 111] Connection refused")
    except requests.ConnectionError:
        raise MlflowException("API request failed")  # noqa: B904 (as MLflow does)


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


# -- whole runs --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, impatient, monkeypatch):
    """A database that is unavailable while `store.is_unavailable`, and its client."""
    state = SimpleNamespace(is_unavailable=False)

    def guarded(method):
        def call(*args, **kwargs):
            return refuse_connection() if state.is_unavailable else method(*args, **kwargs)

        return call

    with fresh_store(tmp_path) as state.client:
        for name in ("log_batch", "log_artifact", "get_run", "set_terminated", "create_run"):
            method = getattr(mlflow.MlflowClient, name)
            monkeypatch.setattr(mlflow.MlflowClient, name, guarded(method))
        yield state
        assert mlflow.active_run() is None


def kept_run(store, run_id: str) -> mlflow.entities.Run:
    """The run, as the store has it when the next entry point has started."""
    store.is_unavailable = False
    send_earlier_spools()
    assert unsent_folders(os.environ["EMBEDLAB_CACHE"]) == []
    return store.client.get_run(run_id)


def history(store, run_id: str) -> list[tuple[int, float]]:
    points = store.client.get_metric_history(run_id, "train/cost")
    return [(point.step, point.value) for point in points]


ONE_MOVIE = pd.DataFrame(
    {"movie_id": [1], "title": ["A (1999)"], "genres": ["Drama"], "likes": [1]}
)
SENTENCE = (
    r"MLflow at sqlite://\S+ was unavailable for 0\.1 s \(connection refused\); what this run "
    r"could not log is kept in \S+/unsent/\w{32}, and the next entry point that starts on this "
    r"machine with this store sends it\."
)


def test_a_complete_run_is_finished_once_its_spool_is_sent(store, monkeypatch):
    with (
        pytest.raises(StoreUnavailableError, match=f"^{SENTENCE}$"),
        start_run("fit_embedding", "fit", {}) as run,
    ):
        store.is_unavailable = True
        for number in range(3):
            run.log_epoch(EpochRecord(number, {"train/cost": 3.0 - number}))
        run.log_text("all", "said.txt")
        run.set_tags({"colour": "red"})
    kept = kept_run(store, run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FINISHED", "finished")
    assert kept.data.tags["colour"] == "red"
    assert kept.data.metrics["memory/peak_mib"] > 10
    assert history(store, run.id) == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert store.client.list_artifacts(run.id)[0].path == "said.txt"


def test_a_run_that_could_not_log_its_model_has_failed_and_keeps_the_embedding(store):
    with (
        pytest.raises(StoreUnavailableError, match=f"^{SENTENCE}$"),
        start_run("fit_embedding", "fit", {}) as run,
    ):
        store.is_unavailable = True
        log_movie_model(run, np.ones((1, 2), np.float32), ONE_MOVIE, {})
    kept = kept_run(store, run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FAILED", "error")
    assert kept.data.tags["error"].startswith("MLflow at sqlite:")
    names = {item.path for item in store.client.list_artifacts(run.id, "embedding")}
    assert "embedding/vectors.npy" in names


def test_a_model_whose_writing_is_cut_off_is_written_again(store, monkeypatch):
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "100")
    finalize = mlflow.MlflowClient.finalize_logged_model
    with start_run("fit_embedding", "fit", {}) as run:

        def cut_off(*_, **__):
            monkeypatch.setattr(mlflow.MlflowClient, "finalize_logged_model", finalize)
            refuse_connection()

        monkeypatch.setattr(mlflow.MlflowClient, "finalize_logged_model", cut_off)
        uri = log_movie_model(run, np.ones((1, 2), np.float32), ONE_MOVIE, {})
    assert mlflow.pyfunc.load_model(uri).metadata.run_id == run.id
    kept = store.client.get_run(run.id)
    assert kept.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(KeyboardInterrupt(), "KILLED", "ctrl-c"), (ValueError("a bug"), "FAILED", "exception")],
    ids=["ctrl-c", "a bug"],
)
def test_a_run_that_stops_while_the_store_is_unavailable_does_not_wait(
    store, caplog, monkeypatch, error, status, reason
):
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "100")
    started = time.monotonic()
    with pytest.raises(type(error)), start_run("fit_embedding", "fit", {}) as run:
        store.is_unavailable = True
        run.log_epoch(EpochRecord(0, {"train/cost": 2.0}))
        raise error
    assert time.monotonic() - started < 20
    assert re.search("what this run could not log is kept in .* sends it", caplog.messages[-1])
    kept = kept_run(store, run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == (status, reason)
    assert history(store, run.id) == [(0, 2.0)]


def test_a_run_whose_store_comes_back_ends_like_any_other(store, monkeypatch, caplog):
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "100")
    with start_run("fit_embedding", "fit", {}) as run:
        store.is_unavailable = True
        run.log_epoch(EpochRecord(0, {"train/cost": 2.0}))
        run.flush()
        threading.Timer(0.3, lambda: setattr(store, "is_unavailable", False)).start()
    kept = store.client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FINISHED", "finished")
    assert history(store, run.id) == [(0, 2.0)]
    assert unsent_folders(os.environ["EMBEDLAB_CACHE"]) == []
    assert [text.partition(" at ")[0] for text in caplog.messages] == [
        "MLflow",
        "Waiting for MLflow",
        "MLflow",
    ]


def test_a_complete_child_is_finished_once_its_spool_is_sent(store):
    with (
        pytest.raises(StoreUnavailableError),
        start_run("compare_optimizers", "compare", {}) as parent,
        start_child_run("adam lr=1", {}, {"fit_key": "k"}) as child,
    ):
        store.is_unavailable = True
        child.log_epoch(EpochRecord(0, {"train/cost": 2.0}))
    assert kept_run(store, child.id).info.status == "FINISHED"
    assert history(store, child.id) == [(0, 2.0)]
    assert store.client.get_run(parent.id).info.status == "FAILED"


def test_a_store_that_is_unavailable_at_the_start_fails_at_once(server):
    server.stop()
    sentence = (
        f"MLflow cannot open its store {server.uri} (connection refused): set MLFLOW_TRACKING"
    )
    with (
        pytest.raises(TrackingError, match=re.escape(sentence)),
        start_run("fit_embedding", "fit", {}),
    ):
        pytest.fail("the run has begun")
    server.start()
