"""The client of a run during outages: its data are kept, and sent later in order and once."""

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from fake_server import costs, epoch, run_fake_server, shorten_waits, unsent_folders
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from embedlab.tracking.offline import client as buffered_client
from embedlab.tracking.offline.client import BufferedClient

pytestmark = pytest.mark.slow
server = pytest.fixture(run_fake_server)
impatient = pytest.fixture(shorten_waits)

UNAVAILABLE = "is unavailable (connection refused). The run goes on; what it logs is kept in "


def test_metrics_of_an_outage_are_sent_later_in_order_and_once(server, impatient, caplog):
    client = BufferedClient(server.run_id)
    client.log_batch(server.run_id, metrics=epoch(0))
    server.stop()
    for number in (1, 2):
        client.log_batch(server.run_id, metrics=epoch(number))
    client.set_tag(server.run_id, "seen", True)
    (kept,) = unsent_folders()
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
    """A thousand epochs in the first pause cost one attempt, and the time to write lines."""
    client = BufferedClient(server.run_id)
    server.status = 503
    started = time.monotonic()
    for number in range(1000):
        client.log_batch(server.run_id, metrics=epoch(number))
    took = time.monotonic() - started
    # About 0.2 s; after FIRST_PROBE_PAUSE the next attempt would be due.
    assert took < buffered_client.FIRST_PROBE_PAUSE
    assert server.n_requests == 2  # the attempt and its retry
    server.status = 200
    client.after_spool(lambda: None)
    assert server.metrics == costs(*range(1000))
    client.log_batch(server.run_id, metrics=epoch(1000))  # sent at once, without a pause
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
    assert unsent_folders() == []


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
    assert unsent_folders() == []
