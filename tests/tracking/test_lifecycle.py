"""One run from start to end: where it goes, what it keeps, and how it says that it has ended."""

import errno
import importlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing, nullcontext
from multiprocessing.connection import Connection
from types import SimpleNamespace

import git
import mlflow
import pytest
from conftest import PROJECT, empty_store, use_store
from mlflow.entities import Run
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects import load_project

from embedlab.cli.parser import run_main
from embedlab.errors import DivergedError, OptionError, TrackingError
from embedlab.progress import EpochRecord
from embedlab.tracking import database as database_module
from embedlab.tracking import lifecycle, tracked_run
from embedlab.tracking.database import initialise_store
from embedlab.tracking.lifecycle import (
    EXPERIMENT,
    RANDOM_RUN_NAME,
    TrackedRun,
    start_child_run,
    start_run,
)
from embedlab.tracking.store import check_artifact_location, explain_store_errors
from entrypoints import build_matrix, recommend

pytestmark = pytest.mark.slow


@pytest.fixture
def client(store, monkeypatch) -> mlflow.MlflowClient:
    """The store as a new process finds it: no experiment chosen, no run made."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return store


@pytest.fixture
def make_run(client, monkeypatch):
    """Make a run as `mlflow run` does, before the entry point starts."""

    def make(experiment: str = "made elsewhere", name: str | None = None, **params: str) -> Run:
        found = client.get_experiment_by_name(experiment)
        id_ = found.experiment_id if found else client.create_experiment(experiment)
        run = client.create_run(id_, run_name=name)
        for key, value in params.items():
            client.log_param(run.info.run_id, key, value)
        mlflow.set_experiment(experiment_id=id_)
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        return run

    return make


@pytest.fixture
def usual_signals():
    """Signals as a process at a terminal handles them; a shell's background job ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield usual
    for signum, handler in before.items():
        signal.signal(signum, handler)


def short_run(client: mlflow.MlflowClient, **params: object) -> Run:
    """What the store keeps of a run that does nothing."""
    with start_run("fit_embedding", "fit adam", params) as run:
        pass
    return client.get_run(run.id)


def series(client: mlflow.MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(epoch, value) of every point, in the order of the epochs."""
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


def experiment_of(client: mlflow.MlflowClient, run: Run) -> str:
    return client.get_experiment(run.info.experiment_id).name


def test_a_name_is_cut_to_what_every_database_holds(client):
    with start_run("recommend", f"recommend {'x' * 400}", {}) as run:
        assert run.name == f"recommend {'x' * 240}"


# -- where a run goes --------------------------------------------------------------------------


def test_a_new_run_goes_to_the_experiment_of_the_project(client):
    kept = short_run(client, lr=0.1)
    assert experiment_of(client, kept) == EXPERIMENT == "embedlab"
    assert kept.info.run_name == "fit adam"
    assert kept.data.params == {"lr": "0.1"}
    assert kept.data.tags["entry_point"] == "fit_embedding"
    assert kept.data.metrics["memory/peak_mib"] > 10  # Python alone takes as much


def test_a_new_run_goes_to_the_experiment_that_the_user_names(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my own")
    assert experiment_of(client, short_run(client)) == "my own"


def test_a_new_run_goes_to_the_experiment_whose_number_the_user_gives(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment("by number"))
    assert experiment_of(client, short_run(client)) == "by number"


def test_a_run_of_mlflow_run_is_adopted_where_it_is(client, make_run):
    made = make_run("made elsewhere")
    kept = short_run(client)
    assert kept.info.run_id == made.info.run_id
    assert experiment_of(client, kept) == "made elsewhere"
    assert kept.info.status == "FINISHED"
    assert short_run(client).info.run_id != made.info.run_id  # adopted once, not twice


def test_mlflows_random_name_is_replaced(client, make_run):
    made = make_run(name=None)
    assert RANDOM_RUN_NAME.fullmatch(made.info.run_name)
    assert short_run(client).info.run_name == "fit adam"


@pytest.mark.parametrize(
    "name", ["overnight", "run-2", "my-first-try-7", "Good-Run-12", "bold-cat-12 again"]
)
def test_a_name_that_somebody_chose_is_kept(client, make_run, name):
    make_run(name=name)
    assert short_run(client).info.run_name == name


# -- what a run keeps --------------------------------------------------------------------------


def test_parameters_in_another_spelling_are_kept_beside_the_first(client, make_run):
    make_run(lr="1e-3", dim="5", title="'Toy Story'")
    with start_run("recommend", "recommend", {"lr": 0.001, "dim": 5, "title": "Toy Story"}) as run:
        run.log_params({"lr": 0.001, "dim": 5, "device": "auto"})  # once more, and a new one
        run.log_params({"device": "cpu"})
        run.log_params({"device": "cuda"})  # MLflow allows no second value: the first one stays
    assert client.get_run(run.id).data.params == {
        "lr": "1e-3",
        "resolved/lr": "0.001",
        "dim": "5",
        "title": "'Toy Story'",
        "resolved/title": "Toy Story",
        "device": "auto",
        "resolved/device": "cpu",
    }


# Texts that `mlflow run` puts into quotes for the shell, and logs with them. The others of that
# kind are the empty defaults.
QUOTED = {
    "title": "Apollo 13|Toy Story",
    "titles": "Apollo 13|Toy Story",
    "reason": 'it\'s "better" than $HOME',
    "learning_rates": "adam:3,1/sgd:2e-5",
    "model_name": "my movies",
    "experiment": "my experiment",
    "version": "1",
}
SPEC = load_project(str(PROJECT))
ENTRY_POINTS = [SPEC.get_entry_point(path.stem) for path in PROJECT.glob("entrypoints/[!_]*.py")]


class Begun(Exception):
    """Raised in place of a run, with its parameters."""


@pytest.mark.parametrize("entry_point", ENTRY_POINTS, ids=lambda entry_point: entry_point.name)
def test_a_value_that_mlflow_logs_in_quotes_is_shown_as_it_was_used(
    client, make_run, monkeypatch, entry_point
):
    given = {name: text for name, text in QUOTED.items() if name in entry_point.parameters}
    logged, _ = entry_point.compute_parameters(given, None)
    used = {p.name: given.get(p.name, p.default) for p in entry_point.parameters.values()}
    quoted = {name for name, text in logged.items() if text != str(used[name])}
    _, _, _, *arguments = shlex.split(entry_point.compute_command(given, None))

    def begun(*arguments, **_):
        raise Begun(arguments[2])

    with monkeypatch.context() as patched, pytest.raises(Begun) as begins:
        patched.setattr(lifecycle, "start_run", begun)
        importlib.import_module(f"entrypoints.{entry_point.name}").main(arguments)
    made = make_run()
    for name, text in logged.items():
        client.log_param(made.info.run_id, name, text)
    with start_run(entry_point.name, "shown", begins.value.args[0]) as run:
        assert run.resolved_params(quoted) == {name: used[name] for name in quoted}
    kept = client.get_run(run.id).data.params
    assert {name: kept[f"resolved/{name}"] for name in quoted} == run.resolved_params(quoted)


def test_parameters_are_spelt_as_in_mlproject_and_left_out_where_they_do_not_apply(client):
    kept = short_run(client, optimizer="exact", register=True, lr=None)
    assert kept.data.params == {"optimizer": "exact", "register": "true"}


def run_with(artifacts: str, **tags: str) -> TrackedRun:
    info = SimpleNamespace(run_id="r", run_name="a", experiment_id="1", artifact_uri=artifacts)
    return TrackedRun(SimpleNamespace(info=info, data=SimpleNamespace(params={}, tags=tags)))


def test_a_step_of_main_leaves_it_to_main_to_say_how_to_open_the_ui():
    assert "/runs/r?" in run_with("/a").ui_instructions("#/charts")
    assert run_with("/a", **{"mlflow.parentRunId": "main"}).ui_instructions("#/charts") == ""


@pytest.mark.parametrize("artifacts", ["/a b#1/artifacts", "file:///a%20b%231/artifacts"])
def test_an_artifact_in_a_folder_of_any_name_is_a_file(client, artifacts):
    assert run_with(artifacts).artifact_location("page.html") == "/a b#1/artifacts/page.html"


def test_an_artifact_of_a_local_store_is_a_file(client):
    with start_run("recommend", "a name", {}) as run:
        run.log_text("text", "a folder/page.html")
        place = run.artifact_location("a folder/page.html")
    with open(place, encoding="utf-8") as file:
        assert file.read() == "text"


@pytest.mark.parametrize(
    ("store_uri", "artifacts", "address"),
    [
        ("http://ann:secret@host:5000", "mlflow-artifacts:/1/r/artifacts", "http://host:5000"),
        (None, "s3://bucket/1/r/artifacts", "http://127.0.0.1:5000"),  # the test's own database
    ],
)
def test_an_artifact_elsewhere_is_a_page_of_the_ui(client, store_uri, artifacts, address):
    # No server is asked. With a relative database, runs of processes forked later were lost.
    with use_store(store_uri) if store_uri else nullcontext():
        place = run_with(artifacts).artifact_location("page.html")
    page = "#/experiments/1/runs/r/artifacts/page.html?workflowType=machine_learning"
    assert place == f"{address}/{page}"


def test_epochs_are_written_in_batches_and_all_are_there(client, monkeypatch):
    monkeypatch.setattr(tracked_run, "SECONDS_BETWEEN_WRITES", 1000)
    monkeypatch.setattr(tracked_run, "MAX_BATCH_METRICS", 3)
    batches, log_batch = [], mlflow.MlflowClient.log_batch

    def counting(self, run_id, metrics=(), **others):
        batches.append(len(metrics))
        return log_batch(self, run_id, metrics, **others)

    with start_run("fit_embedding", "fit", {}) as run:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counting)
        for epoch in range(5):
            run.log_epoch(EpochRecord(epoch, {"train/cost": 10.0 - epoch}, seconds=epoch / 2))
        run.log_epoch(EpochRecord(5, {"train/cost": 5.0}))
    # An epoch has two metrics, the last one has one; at the end there is memory/peak_mib.
    assert [size for size in batches if size] == [4, 4, 3, 1]
    assert series(client, run.id, "train/cost") == [(epoch, 10.0 - epoch) for epoch in range(6)]
    assert series(client, run.id, "time/epoch_seconds") == [
        (epoch, epoch / 2) for epoch in range(5)
    ]


def test_epochs_are_seen_while_the_run_goes_on_every_two_seconds(client, monkeypatch):
    now = 0.0
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now)
    monkeypatch.setattr(tracked_run, "time", clock)
    seen = []
    with start_run("fit_embedding", "fit", {}) as run:
        for epoch, now in enumerate((1.5, 2.5, 4.0, 5.0)):  # noqa: B007 (the clock reads it)
            run.log_epoch(EpochRecord(epoch, {"train/cost": 9.0}))
            seen.append(len(series(client, run.id, "train/cost")))
    assert seen == [0, 2, 2, 4]


@pytest.mark.parametrize(
    ("source", "kept_source"),
    [
        ("https://files.grouplens.org/a.zip", {"url": "https://files.grouplens.org/a.zip"}),
        ("/data/ml-25m.zip", {"uri": "/data/ml-25m.zip"}),
        ("built-in sample", {"uri": "built-in sample"}),
    ],
)
def test_a_data_set_is_kept_with_our_digest_and_its_source(client, source, kept_source):
    # MLflow knows a data set by name and digest, and keeps the source that came with it first.
    name = f"ratings from {source}"
    with start_run("build_matrix", "build", {}) as run:
        run.log_dataset(name, "0123456789abcdef" * 4, source, "training")
    kept = client.get_run(run.id)
    (item,) = kept.inputs.dataset_inputs
    assert item.dataset.name == name
    assert item.dataset.digest == "0123456789abcdef0123456789abcdef0123"  # 36 characters
    assert json.loads(item.dataset.source) == kept_source
    assert [(tag.key, tag.value) for tag in item.tags] == [("mlflow.data.context", "training")]
    assert "source_run_id" not in kept.data.tags


def test_a_data_set_that_another_run_made_is_linked_to_it(client):
    maker = short_run(client)
    with start_run("fit_embedding", "fit", {}) as run:
        run.log_dataset("likes", "0" * 64, f"runs:/{maker.info.run_id}/matrix", "training")
    kept = client.get_run(run.id)
    (item,) = kept.inputs.dataset_inputs
    assert json.loads(item.dataset.source) == {"uri": f"{maker.info.artifact_uri}/matrix"}
    assert kept.data.tags["source_run_id"] == maker.info.run_id


def test_system_metrics_are_there_from_the_first_seconds(client, monkeypatch):
    monkeypatch.setattr(lifecycle, "SYSTEM_METRICS_SECONDS", 0.1)
    deadline = time.monotonic() + 6  # MLflow's own interval is 10 seconds
    with start_run("fit_embedding", "fit", {}) as run:
        while time.monotonic() < deadline:
            if "system/cpu_utilization_percentage" in client.get_run(run.id).data.metrics:
                return
            time.sleep(0.1)
    pytest.fail("no system metrics after 6 seconds")


# -- the code's version ------------------------------------------------------------------------


def code_version(client: mlflow.MlflowClient) -> tuple[str, str]:
    tags = short_run(client).data.tags
    return tags["git.commit"], tags["git.dirty"]


def test_the_commit_and_whether_files_differ_from_it(client, tmp_path, monkeypatch):
    monkeypatch.setattr(lifecycle, "PROJECT_ROOT", tmp_path)
    assert code_version(client) == ("unknown", "unknown")  # a copy without its history
    with git.Repo.init(tmp_path) as repository:
        assert code_version(client) == ("unknown", "unknown")  # no commit yet
        someone = git.Actor("Someone", "someone@example.org")
        commit = repository.index.commit("first", author=someone, committer=someone).hexsha
    assert code_version(client) == (commit, "false")
    (tmp_path / "new.py").touch()
    assert code_version(client) == (commit, "true")


def test_without_the_git_program_the_version_is_unknown(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "git", None)  # GitPython fails to import, as without git
    assert code_version(client) == ("unknown", "unknown")


# -- how a run ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised", "status", "tags"),
    [
        (None, None, "FINISHED", {"stop_reason": "finished"}),
        (
            OptionError("dim: expected 1"),
            OptionError,
            "FAILED",
            {"stop_reason": "error", "error": "dim: expected 1"},
        ),
        (
            DivergedError("try less"),
            DivergedError,
            "FAILED",
            {"stop_reason": "diverged", "error": "try less"},
        ),
        (
            MlflowException("no such model\nand more"),
            TrackingError,
            "FAILED",
            {"stop_reason": "error", "error": "MLflow at {uri} reports: no such model"},
        ),
        (
            ValueError("a bug"),
            ValueError,
            "FAILED",
            {"stop_reason": "exception", "error": "ValueError: a bug"},
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "curves.png"),
            TrackingError,
            "FAILED",
            {
                "stop_reason": "error",
                "error": "a file 'curves.png' of the run cannot be written (No space left on "
                "device): make room, or set MLFLOW_TRACKING_URI, now {uri}, to a store that can "
                "be written.",
            },
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            OSError,
            "FAILED",
            {"stop_reason": "exception", "error": "OSError: [Errno 5] Input/output error"},
        ),
        (
            SystemExit(3),
            SystemExit,
            "FAILED",
            {"stop_reason": "exception", "error": "SystemExit: 3"},
        ),
        (KeyboardInterrupt(), KeyboardInterrupt, "KILLED", {"stop_reason": "ctrl-c"}),
        (SystemExit(143), SystemExit, "KILLED", {"stop_reason": "sigterm"}),
    ],
    ids=lambda value: repr(value) if isinstance(value, BaseException) else "",
)
def test_a_run_tells_how_it_ended_and_keeps_its_epochs(
    client, usual_signals, error, raised, status, tags
):
    ended = None
    try:
        with start_run("fit_embedding", "fit", {}) as run:
            run.log_epoch(EpochRecord(0, {"train/cost": 2.0}))
            run.log_epoch(EpochRecord(1, {"train/cost": 1.0}))
            if error is not None:
                raise error
    except BaseException as caught:
        ended = type(caught)
    assert ended is raised
    kept = client.get_run(run.id)
    assert kept.info.status == status
    expected = {key: text.format(uri=mlflow.get_tracking_uri()) for key, text in tags.items()}
    assert {k: v for k, v in kept.data.tags.items() if k in ("stop_reason", "error")} == expected
    assert series(client, run.id, "train/cost") == [(0, 2.0), (1, 1.0)]
    assert mlflow.active_run() is None
    assert {signum: signal.getsignal(signum) for signum in usual_signals} == usual_signals


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("is_in_the_body", [True, False], ids=["in the body", "after it"])
def test_ctrl_c_while_epochs_are_written_leaves_no_run_half_closed(
    client, monkeypatch, is_in_the_body
):
    """Either the body was interrupted and this is the second Ctrl-C, or this is the first one, and
    a second follows."""
    flush = TrackedRun.flush

    def interrupted(run):
        signal.raise_signal(signal.SIGINT)
        flush(run)

    with pytest.raises(KeyboardInterrupt), start_run("fit_embedding", "fit", {}) as run:
        run.log_epoch(EpochRecord(0, {"train/cost": 2.0}))
        monkeypatch.setattr(TrackedRun, "flush", interrupted)
        if is_in_the_body:
            raise KeyboardInterrupt
    kept = client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("KILLED", "ctrl-c")
    assert series(client, run.id, "train/cost") == [(0, 2.0)]


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_comes_too_late_once_the_run_says_that_it_has_finished(
    client, monkeypatch, signum
):
    set_tags = TrackedRun.set_tags

    def interrupted(run, tags):
        signal.raise_signal(signum)
        set_tags(run, tags)

    with start_run("fit_embedding", "fit", {}) as run:
        monkeypatch.setattr(TrackedRun, "set_tags", interrupted)
    kept = client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FINISHED", "finished")


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(
    ("signum", "raised", "reason"),
    [(signal.SIGINT, KeyboardInterrupt, "ctrl-c"), (signal.SIGTERM, SystemExit, "sigterm")],
)
def test_a_signal_while_a_run_or_its_child_begins_closes_both(
    client, monkeypatch, signum, raised, reason
):
    """MLflow has made the run by then, and nobody else would close it."""
    start, begun = mlflow.start_run, []

    def interrupted(**options):
        begun.append(start(**options).info.run_id)
        if len(begun) == n_begun:
            signal.raise_signal(signum)
        return mlflow.active_run()

    monkeypatch.setattr(mlflow, "start_run", interrupted)
    for n_begun in (1, 2):
        begun.clear()
        with pytest.raises(raised), start_run("fit_embedding", "fit", {}):
            assert n_begun == 2
            with start_child_run("child", {}, {}):
                pytest.fail("the child has begun")
        assert len(begun) == n_begun
        for run_id in begun:
            kept = client.get_run(run_id)
            assert (kept.info.status, kept.data.tags["stop_reason"]) == ("KILLED", reason)
        assert mlflow.active_run() is None


@pytest.mark.usefixtures("usual_signals")
def test_a_second_signal_does_not_disturb_what_the_first_one_closes(client):
    closed = []
    with pytest.raises(KeyboardInterrupt), start_run("fit_embedding", "fit", {}) as run:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:  # as a curve that is drawn of a fit that was stopped
            signal.raise_signal(signal.SIGTERM)
            closed.append(True)
    assert closed == [True]
    kept = client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("KILLED", "ctrl-c")


def test_a_run_in_another_thread_than_the_main_one(client):
    """Only the main thread may handle signals; a notebook's or a server's need not be it."""
    kept = []
    thread = threading.Thread(target=lambda: kept.append(short_run(client)))
    thread.start()
    thread.join()
    assert kept[0].info.status == "FINISHED"


def fit_for_long(begun: Connection) -> None:
    """In a process of its own, as an entry point; sends its run's id."""

    def main(_):
        with start_run("fit_embedding", "long", {}) as run:
            for epoch in range(3):
                run.log_epoch(EpochRecord(epoch, {"train/cost": 3.0 - epoch}))
            begun.send(run.id)
            time.sleep(100)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    mlflow.set_tracking_uri("sqlite:///mlflow.db")  # another spelling, so a connection of its own
    run_main(main)


@pytest.mark.parametrize(
    ("signum", "code", "reason"),
    [(signal.SIGTERM, 143, "sigterm"), (signal.SIGINT, 130, "ctrl-c")],
)
def test_a_process_that_is_told_to_stop_closes_its_run(client, capfd, signum, code, reason):
    fork = multiprocessing.get_context("fork")
    receiver, begun = fork.Pipe(duplex=False)
    process = fork.Process(target=fit_for_long, args=(begun,))
    process.start()
    try:
        assert receiver.poll(60)
        run_id = receiver.recv()
        os.kill(process.pid, signum)
        process.join(60)
    finally:
        process.kill()
    assert process.exitcode == code
    assert "Traceback" not in capfd.readouterr().err
    kept = client.get_run(run_id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("KILLED", reason)
    assert series(client, run_id, "train/cost") == [(0, 3.0), (1, 2.0), (2, 1.0)]


# -- a run that `mlflow run` made, and no entry point took up ----------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--k", "0"], "k: expected a whole number from 1 to 1000, got '0' (see "),
        (["--titel", "Alien"], "there is no parameter titel: did you mean title? (see "),
        (["--titel", os.fsdecode(b"caf\xe9")], "there is no parameter titel: did you mean title?"),
    ],
)
def test_a_run_whose_parameters_are_refused_says_why(client, make_run, capsys, arguments, error):
    made = make_run()
    with pytest.raises(SystemExit) as ended:
        run_main(lambda _: recommend.main(arguments))
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"embedlab: {error}")
    kept = client.get_run(made.info.run_id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FAILED", "error")
    assert kept.data.tags["error"].startswith(error)


def test_a_run_whose_data_are_not_there_says_why(client, make_run):
    made = make_run()
    with pytest.raises(SystemExit):
        run_main(lambda _: build_matrix.main(["--ratings", "nowhere"]))
    assert (
        client.get_run(made.info.run_id).data.tags["error"].startswith("ratings: expected one of")
    )


def test_a_run_that_has_begun_keeps_its_own_reason(client, make_run):
    made = make_run()

    def main(_):
        with start_run("recommend", "recommend", {}):
            raise OptionError("k: no")

    with pytest.raises(SystemExit):
        run_main(main)
    assert client.get_run(made.info.run_id).data.tags["error"] == "k: no"


def test_a_store_that_fails_does_not_hide_the_error_of_a_refused_parameter(
    make_run, monkeypatch, capsys
):
    make_run()
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse)
    with pytest.raises(SystemExit) as ended:
        run_main(lambda _: recommend.main(["--k", "0"]))
    assert ended.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_mlflow_run_with_a_misspelt_parameter(client, capfd):
    with pytest.raises(ExecutionException):
        mlflow.projects.run(
            str(PROJECT),
            "recommend",
            parameters={"titel": "x"},
            experiment_name="misspelt",
            env_manager="local",
        )
    sentence = "there is no parameter titel: did you mean title?"
    printed = capfd.readouterr().err
    assert f"embedlab: {sentence}" in printed
    assert "Traceback" not in printed
    (run,) = client.search_runs([client.get_experiment_by_name("misspelt").experiment_id])
    assert (run.info.status, run.data.tags["stop_reason"]) == ("FAILED", "error")
    assert run.data.tags["error"].startswith(sentence)


# -- stores that cannot be used ----------------------------------------------------------------


@pytest.mark.parametrize("is_adopted", [False, True], ids=["new", "adopted"])
def test_an_experiment_behind_a_server_is_refused(client, make_run, monkeypatch, is_adopted):
    """As `mlflow ui` leaves it behind in a fresh folder; every artifact would fail later."""
    name = f"served {is_adopted}"
    id_ = client.create_experiment(name, artifact_location="mlflow-artifacts:/0")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    if is_adopted:
        make_run(name)
    sentence = r"this experiment was made by `mlflow ui`.*add --experiment-name embedlab.*\."
    with (
        pytest.raises(TrackingError, match=f"^{sentence}$") as refused,
        start_run("fit_embedding", "fit", {}),
    ):
        pytest.fail("the run has begun")
    (kept,) = client.search_runs([id_])
    assert kept.info.status == "FAILED"
    assert kept.data.tags["stop_reason"] == "error"
    assert kept.data.tags["error"] == str(refused.value)
    assert mlflow.active_run() is None


def test_a_run_that_is_not_in_the_store(client, monkeypatch):
    """A relative MLFLOW_TRACKING_URI names another store in another folder."""
    missing = "0" * 32
    monkeypatch.setenv("MLFLOW_RUN_ID", missing)
    sentence = f"MLflow at {mlflow.get_tracking_uri()} reports: Run with id={missing} not found"
    with (
        pytest.raises(TrackingError, match=f"^{re.escape(sentence)}$"),
        start_run("fit_embedding", "fit", {}),
    ):
        pytest.fail("the run has begun")
    assert mlflow.active_run() is None


def test_an_experiment_behind_a_server_is_accepted_from_runs_that_use_the_server(monkeypatch):
    behind = SimpleNamespace(artifact_location="mlflow-artifacts:/0")
    monkeypatch.setattr(mlflow, "get_experiment", lambda _: behind)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:5000")
    check_artifact_location("0")


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///{}/a-file/mlflow.db", "sqlite:///{}/a-file", "{}/mlruns"],
    ids=["no folder", "no database", "files"],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(client, tmp_path, uri):
    """What goes wrong then is the operating system's own error, the database's, or MLflow's."""
    (tmp_path / "a-file").write_text("neither a folder nor a database " * 100)
    uri = uri.format(tmp_path)
    sentence = rf"MLflow cannot open its store {re.escape(uri)} \(\w+: .+\): set MLFLOW_.*\."
    with (
        use_store(uri),
        pytest.raises(TrackingError, match=f"^{sentence}$"),
        start_run("fit_embedding", "fit", {}),
    ):
        pytest.fail("the run has begun")


@pytest.fixture
def another_store(tmp_path):
    """The file of an sqlite store that is not there yet, which is MLflow's for the test."""
    with use_store(f"sqlite:///{tmp_path}/mlflow.db"):
        yield tmp_path / "mlflow.db"


def test_a_first_start_makes_the_store_beside_its_place_and_removes_what_a_kill_left(
    another_store, monkeypatch
):
    for left_by_a_kill in (".new", ".new-journal"):
        another_store.with_name(f"mlflow.db{left_by_a_kill}").write_text("half")
    replace, was_there = os.replace, []

    def appear(new, path):  # a kill until now leaves no store
        was_there.append(another_store.exists())
        replace(new, path)

    monkeypatch.setattr(database_module.os, "replace", appear)
    initialise_store()
    assert was_there == [False]
    assert [item.name for item in mlflow.search_experiments()] == ["Default"]
    left = {path.name for path in another_store.parent.iterdir()}
    assert left <= {"mlflow.db", "mlflow.db.lock"}


def test_a_store_that_mlflow_was_killed_in_the_middle_of_making_is_named(another_store):
    """As a first `mlflow run` leaves it: tables of an older version, no experiment yet."""
    empty_store(another_store)
    with closing(sqlite3.connect(another_store)) as connection, connection:
        connection.execute("DELETE FROM experiments")
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
    uri = mlflow.get_tracking_uri()
    sentence = f"the store {uri} was left half made by a first `mlflow run` that was killed.*delete"
    with pytest.raises(TrackingError, match=sentence):
        initialise_store()


def refuse(*_, **__):
    raise MlflowException("the disk is full\nand more")


def test_a_store_that_fails_while_the_last_epochs_are_written(client, monkeypatch):
    with (
        pytest.raises(TrackingError, match=r"^MLflow at \S+ reports: the disk is full$"),
        start_run("fit_embedding", "fit", {}) as run,
    ):
        run.log_epoch(EpochRecord(0, {"train/cost": 2.0}))
        monkeypatch.setattr(tracked_run, "SECONDS_BETWEEN_WRITES", 0)  # as after a long epoch
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse)
    assert client.get_run(run.id).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_a_store_that_fails_when_the_run_ends(client, monkeypatch):
    end_run = mlflow.end_run

    def failing(status):
        end_run(status)
        refuse()

    with (
        pytest.raises(TrackingError, match=r"^MLflow at \S+ reports: the disk is full$"),
        start_run("fit_embedding", "fit", {}),
    ):
        monkeypatch.setattr(mlflow, "end_run", failing)


def test_a_metric_that_mlflow_refuses_fails_the_run_with_its_name(client):
    with (
        pytest.raises(TrackingError, match="ndcg@10"),
        start_run("fit_embedding", "fit", {}) as run,
    ):
        run.log_metrics({"ndcg@10": 0.5})
    kept = client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FAILED", "error")
    assert "ndcg@10" in kept.data.tags["error"]


def test_a_password_in_the_address_of_the_store_is_not_shown(monkeypatch):
    """The text becomes a tag, which everybody reads who may read the run."""
    address = "postgresql://me:se%2Fcret@db.example.org:5432/runs"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: address)
    with pytest.raises(TrackingError) as error, explain_store_errors():
        refuse()
    assert str(error.value) == (
        "MLflow at postgresql://me:***@db.example.org:5432/runs reports: the disk is full"
    )
