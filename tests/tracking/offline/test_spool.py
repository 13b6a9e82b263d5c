"""The spool of what could not be logged: who sends it, when, and what is set aside."""

from pathlib import Path

import mlflow
import pytest
from fake_server import costs, epoch, run_fake_server, shorten_waits, unsent_folders
from filelock import FileLock

from embedlab.errors import DataError, TrackingError
from embedlab.tracking.offline.client import BufferedClient
from embedlab.tracking.offline.spool import Spool, send_earlier_spools

pytestmark = pytest.mark.slow
server = pytest.fixture(run_fake_server)
impatient = pytest.fixture(shorten_waits)


def test_a_spool_that_mlflow_refuses_is_set_aside(server, impatient):
    client = BufferedClient(server.run_id)
    server.stop()
    client.log_batch(server.run_id, metrics=epoch(0))
    server.start()
    server.refused = "/runs/log-batch"
    (kept,) = unsent_folders()
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
    client.log_batch(server.run_id, metrics=epoch(2))  # the run can still log how it ends
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


def left_behind(server, *numbers: int) -> Path:
    """The spool of a process that was killed while the server was unavailable."""
    killed = Spool(server.run_id)
    for number in numbers:
        killed.add(epoch(number), (), ())
    killed.release()  # as the kernel does after a kill
    (kept,) = unsent_folders()
    return kept


def test_the_next_start_sends_the_spool_of_a_killed_process_without_its_half_line(server, caplog):
    kept = left_behind(server, 0, 1)
    with open(kept / "log.jsonl", "a") as log:
        log.write('\n{"metric": ["train/cost", 0.')
    caplog.clear()
    send_earlier_spools()
    assert server.metrics == costs(0, 1)
    assert server.ended is None  # the end is unknown; `clean_runs` finds such runs
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
    """MLflow refuses a spool, for example, if its run has been deleted."""
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
