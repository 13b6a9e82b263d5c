"""Runs and files whose process has died: how they are found, and which others are kept."""

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from embedlab.datasets.cache import cache_folder, find_unfinished, working_folder
from embedlab.errors import TrackingError
from embedlab.process import started_at, this_host
from embedlab.tracking.lifecycle import start_child_run, start_run
from embedlab.tracking.stale import find_stale, mark_stale_runs
from entrypoints import clean_runs

pytestmark = pytest.mark.slow

HOUR = 3600
NOBODY = 2**22 + 1  # above every process number of Linux
ENDED = {"host": this_host(), "pid": str(NOBODY), "process_started": "0"}
ELSEWHERE = {"host": "elsewhere", "pid": "1", "process_started": "0"}


@pytest.fixture
def client(store, monkeypatch, request) -> mlflow.MlflowClient:
    """The store as a new process finds it, with an experiment for each test."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return store


@pytest.fixture
def experiment(client) -> str:
    return client.create_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])


def ms_ago(hours: float) -> int:
    return int((time.time() - hours * HOUR) * 1000)


def running(client, experiment: str, tags: dict[str, str], hours: float = 0.0) -> str:
    """A run that is RUNNING and began `hours` ago; returns its id."""
    run = client.create_run(experiment, ms_ago(hours), {"entry_point": "finetune", **tags})
    return run.info.run_id


def status_and_reason(client, run_id: str) -> tuple[str, str | None]:
    run = client.get_run(run_id)
    return run.info.status, run.data.tags.get("stop_reason")


# -- runs --------------------------------------------------------------------------------------


def owner(run: Run) -> tuple[str, int, float]:
    tags = run.data.tags
    return tags["host"], int(tags["pid"]), float(tags["process_started"])


@pytest.mark.parametrize("is_adopted", [False, True], ids=["new", "adopted"])
def test_a_run_and_its_children_have_tags_of_their_process(
    client, experiment, monkeypatch, is_adopted
):
    if is_adopted:
        mlflow.set_experiment(experiment_id=experiment)
        monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run(experiment).info.run_id)
    with start_run("fit_embedding", "fit", {}) as run, start_child_run("child", {}, {}) as child:
        for run_id in (run.id, child.id):
            assert owner(client.get_run(run_id)) == (this_host(), os.getpid(), started_at())


def fit_for_long(begun: Connection) -> None:
    """Fit in a process of its own; send the ids of the run and of its child run."""
    mlflow.set_tracking_uri("sqlite:///mlflow.db")  # another spelling, so a connection of its own
    with start_run("fit_embedding", "long", {}) as run, start_child_run("child", {}, {}) as child:
        begun.send((run.id, child.id))
        time.sleep(100)


def test_the_next_start_marks_what_was_killed_and_nothing_that_lives(client):
    fork = multiprocessing.get_context("fork")
    processes, ids = [], []
    try:
        for _ in range(2):
            receiver, begun = fork.Pipe(duplex=False)
            processes.append(fork.Process(target=fit_for_long, args=(begun,)))
            processes[-1].start()
            assert receiver.poll(60)
            ids.append(receiver.recv())
        killed, alive = processes
        killed.kill()
        killed.join()
        before = time.time() * 1000
        with start_run("fit_embedding", "next", {}) as run:
            assert [status_and_reason(client, i) for i in ids[0]] == [("KILLED", "died")] * 2
            assert [status_and_reason(client, i) for i in ids[1]] == [("RUNNING", None)] * 2
        for run_id in ids[0]:
            kept = client.get_run(run_id)
            sentence = f"its process {killed.pid} on {this_host()} ended without closing the run"
            assert kept.data.tags["error"] == sentence
            assert kept.info.start_time <= kept.info.end_time <= before  # its last activity
        alive.terminate()
        alive.join(60)
        assert [status_and_reason(client, i) for i in ids[1]] == [("KILLED", "sigterm")] * 2
        assert status_and_reason(client, run.id) == ("FINISHED", "finished")
    finally:
        for process in processes:
            process.kill()


def test_a_start_leaves_other_hosts_experiments_and_projects_alone(client, experiment):
    other_experiment = client.create_experiment("another")
    left = [
        running(client, experiment, ELSEWHERE, hours=1000),
        running(client, experiment, {}, hours=1000),  # made by `mlflow run`, adopted by no process
        running(client, other_experiment, ENDED),
        client.create_run(experiment, tags={"host": this_host()}).info.run_id,  # another project's
    ]
    with start_run("fit_embedding", "fit", {}):
        pass
    assert [status_and_reason(client, run_id) for run_id in left] == [("RUNNING", None)] * len(left)


def test_a_start_does_not_fail_by_what_it_cannot_mark(client, experiment, caplog):
    odd = running(client, experiment, {**ENDED, "pid": "none"})
    with start_run("fit_embedding", "fit", {}) as run:
        pass
    assert status_and_reason(client, run.id) == ("FINISHED", "finished")
    assert status_and_reason(client, odd) == ("RUNNING", None)
    assert "runs that died could not be marked" in caplog.text


def test_starts_at_the_same_time_mark_dead_runs_without_error(client, experiment, caplog):
    died = [running(client, experiment, ENDED) for _ in range(4)]
    threads = [threading.Thread(target=mark_stale_runs, args=[experiment]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status_and_reason(client, run_id) for run_id in died] == [("KILLED", "died")] * 4
    assert caplog.text == ""


def test_a_run_that_has_ended_since_it_was_listed_is_not_marked(client, experiment):
    run_id = running(client, experiment, ENDED)
    (stale,) = find_stale(experiment)
    client.set_terminated(run_id)
    stale.mark()
    assert status_and_reason(client, run_id) == ("FINISHED", None)


def test_silence_counts_only_if_the_process_cannot_be_seen(client, experiment):
    here = {"host": this_host(), "pid": str(os.getpid()), "process_started": str(started_at())}
    running(client, experiment, here, hours=1000)
    silent = running(client, experiment, ELSEWHERE, hours=30)
    begun = client.create_run(experiment, ms_ago(30), {"mlflow.project.entryPoint": "main"})
    foreign = client.create_run(experiment, ms_ago(30), {"mlflow.project.entryPoint": "theirs"})
    client.log_metric(foreign.info.run_id, "loss", 1.0, timestamp=ms_ago(29))
    heard = running(client, experiment, ELSEWHERE, hours=30)
    client.log_metric(heard, "val/loss", 1.0, timestamp=ms_ago(3))

    assert find_stale(experiment) == []
    reasons = {item.run.info.run_id: item.reason for item in find_stale(experiment, 24)}
    assert reasons == {
        silent: "no activity for 30.0 hours from its process on elsewhere",
        begun.info.run_id: "no activity for 30.0 hours and no process has taken it up",
    }
    last_activity = {item.run.info.run_id: item.last_activity for item in find_stale(experiment, 2)}
    assert set(last_activity) == {silent, begun.info.run_id, heard}
    assert last_activity[heard] == pytest.approx(ms_ago(3), abs=60_000)  # within a minute


# -- files -------------------------------------------------------------------------------------


def leave(name: str, hours: float) -> Path:
    """Make a folder with a file in the cache, both untouched for `hours`."""
    folder = cache_folder() / name
    folder.mkdir(parents=True)
    (folder / "half").write_text("ha")
    for path in (folder / "half", folder):
        os.utime(path, (time.time() - hours * HOUR,) * 2)
    return folder


def test_a_working_folder_names_its_process():
    with working_folder(cache_folder()) as work:
        assert f"{os.getpid()}@{this_host()}" in work.name
        for path in (work / "file", work):
            path.touch()
            os.utime(path, (time.time() - 1000 * HOUR,) * 2)
        # This process started later, so the owner of the folder counts as ended.
        assert [item.path for item in find_unfinished(0)] == [work]
        os.utime(work)
        assert find_unfinished(0) == []


def test_one_hour_is_in_the_singular():
    leave(".building-c", 1.1)
    assert [item.reason for item in find_unfinished(1)] == ["not touched for 1 hour"]


def test_files_that_nobody_will_finish_are_found_by_owner_and_age():
    ended, other = f"{NOBODY}@{this_host()}", "1@elsewhere"
    expected = {
        leave(f"features/.building-{ended}-a", 1.1): f"its process {NOBODY} has ended",
        leave(f".building-{other}-b", 25): "not touched by elsewhere for 25 hours",
        leave(".building-c", 25): "not touched for 25 hours",
        leave("weights/resnet18.pth.0.partial", 25): "not touched for 25 hours",
    }
    leave(f".building-{ended}-d", 0.9)
    leave(f".building-{other}-e", 23)
    leave("weights/resnet50.pth.0.partial", 0.5)
    leave("features/whole", 1000)
    assert {item.path: item.reason for item in find_unfinished(24)} == expected
    # A folder that may be in use is never removed.
    assert len(find_unfinished(0)) == len(expected) + 1


# -- the entry point ---------------------------------------------------------------------------


def test_clean_runs_lists_and_marks_and_removes(client, experiment, capsys):
    died, silent = running(client, experiment, ENDED), running(client, experiment, ELSEWHERE, 30)
    file = leave(".building-c", 25)

    clean_runs.main(["--dry-run", "true"])
    printed = "".join(capsys.readouterr().out.split())
    assert died in printed
    assert "RunstomarkKILLED:2,filestoremove:1" in printed
    assert [status_and_reason(client, run_id) for run_id in (died, silent)] == [
        ("RUNNING", None)
    ] * 2
    assert file.exists()

    clean_runs.main([])
    assert "Runs marked KILLED: 2, files removed: 1" in capsys.readouterr().out
    assert [status_and_reason(client, run_id) for run_id in (died, silent)] == [
        ("KILLED", "died")
    ] * 2
    assert not file.exists()
    newest = client.search_runs([experiment], "attributes.status = 'FINISHED'")[0]
    table = mlflow.load_table("tables/stale.json", run_ids=[newest.info.run_id])
    assert set(table["which"]) == {died, silent, str(file)}
    assert {"what", "which", "reason"} <= set(table.columns)
    assert table.set_index("which")["what"][died] == "finetune"
    assert table.set_index("which")["what"][str(file)] == "cache"
    assert newest.data.metrics["stale/runs"] == 2

    clean_runs.main([])
    assert capsys.readouterr().out == "Runs marked KILLED: 0, files removed: 0\n"


def test_clean_runs_of_another_experiment(client, experiment, capsys):
    other = client.create_experiment("cleaned from elsewhere")
    died = [running(client, place, ENDED) for place in (other, experiment)]
    clean_runs.main(["--experiment", "cleaned from elsewhere"])
    assert [status_and_reason(client, run_id) for run_id in died] == [
        ("KILLED", "died"),
        ("RUNNING", None),
    ]
    sentence = r"experiment: expected one of .*cleaned from elsewhere.* in sqlite:.*, got 'nowhere'"
    with pytest.raises(TrackingError, match=sentence):
        clean_runs.main(["--experiment", "nowhere"])
