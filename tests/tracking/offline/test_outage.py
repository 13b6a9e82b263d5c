"""Whole runs during an outage of the store: how they end, and what is sent later."""

import re
import threading
import time
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import fresh_store
from fake_server import refuse_connection, run_fake_server, shorten_waits, unsent_folders

from embedlab.errors import StoreUnavailableError, TrackingError
from embedlab.progress import EpochRecord
from embedlab.tracking.lifecycle import start_child_run, start_run
from embedlab.tracking.offline.spool import send_earlier_spools
from embedlab.workflows.movies.model import log_movie_model

pytestmark = pytest.mark.slow
server = pytest.fixture(run_fake_server)
impatient = pytest.fixture(shorten_waits)


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
    """The run in the store after the next entry point has started."""
    store.is_unavailable = False
    send_earlier_spools()
    assert unsent_folders() == []
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
    assert unsent_folders() == []
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
