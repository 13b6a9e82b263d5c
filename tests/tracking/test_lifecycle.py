"""A run from start to end: its experiment, what it keeps, and how its end is recorded."""

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import mlflow
import pytest
from conftest import PROJECT, use_store
from mlflow.entities import Run
from mlflow.exceptions import ExecutionException, MlflowException
from small_runs import fresh_client, maker_of_runs, series, short_run

from embedlab.cli.parser import run_main
from embedlab.errors import (
    DataError,
    DivergedError,
    MainProcessKilledError,
    OptionError,
    TrackingError,
)
from embedlab.progress import EpochRecord
from embedlab.tracking import lifecycle, tracked_run
from embedlab.tracking.lifecycle import (
    EXPERIMENT,
    RANDOM_RUN_NAME,
    TrackedRun,
    start_child_run,
    start_run,
)
from entrypoints import build_matrix, recommend

pytestmark = pytest.mark.slow
client = pytest.fixture(fresh_client)
make_run = pytest.fixture(maker_of_runs)


@pytest.fixture
def usual_signals():
    """Handle signals as a process at a terminal; a shell's background job ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield usual
    for signum, handler in before.items():
        signal.signal(signum, handler)


def experiment_of(client: mlflow.MlflowClient, run: Run) -> str:
    return client.get_experiment(run.info.experiment_id).name


def test_a_name_is_cut_to_what_every_database_holds(client):
    with start_run("recommend", f"recommend {'x' * 400}", {}) as run:
        assert run.name == f"recommend {'x' * 240}"


# -- the experiment of a run -------------------------------------------------------------------


def test_a_new_run_goes_to_the_experiment_of_the_project(client):
    kept = short_run(client, lr=0.1)
    assert experiment_of(client, kept) == EXPERIMENT == "embedlab"
    assert kept.info.run_name == "fit adam"
    assert kept.data.params == {"lr": "0.1"}
    assert kept.data.tags["entry_point"] == "fit_embedding"
    assert kept.data.metrics["memory/peak_mib"] > 10  # Python alone needs as much


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


# -- system metrics and the code's version ------------------------------------------------------


def test_system_metrics_are_there_from_the_first_seconds(client, monkeypatch):
    monkeypatch.setattr(lifecycle, "SYSTEM_METRICS_SECONDS", 0.1)
    deadline = time.monotonic() + 6  # MLflow's own interval is 10 seconds
    with start_run("fit_embedding", "fit", {}) as run:
        while time.monotonic() < deadline:
            if "system/cpu_utilization_percentage" in client.get_run(run.id).data.metrics:
                return
            time.sleep(0.1)
    pytest.fail("no system metrics after 6 seconds")


def code_version(client: mlflow.MlflowClient) -> tuple[str, str]:
    tags = short_run(client).data.tags
    return tags["git.commit"], tags["git.dirty"]


def git(folder: Path, *arguments: str) -> str:
    """The output of a git command in `folder`."""
    author = "-c", "user.name=Someone", "-c", "user.email=someone@example.org"
    return subprocess.check_output(["git", *author, *arguments], cwd=folder, text=True)


def test_the_commit_and_whether_files_differ_from_it(client, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setattr(lifecycle, "PROJECT_ROOT", project)
    git(tmp_path, "init")  # of another program
    git(tmp_path, "commit", "--allow-empty", "--message", "not ours")
    assert code_version(client) == ("unknown", "unknown")  # a copy without its history
    git(project, "init")
    assert code_version(client) == ("unknown", "unknown")  # no commit yet
    git(project, "commit", "--allow-empty", "--message", "first")
    commit = git(project, "rev-parse", "HEAD").strip()
    assert code_version(client) == (commit, "false")
    (project / "new.py").touch()
    assert code_version(client) == (commit, "true")


def test_without_the_git_program_the_version_is_unknown(client, monkeypatch):
    monkeypatch.setenv("PATH", "")
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
                "be written. With a database, call `mlflow run` from a folder that can be written: "
                "a new experiment keeps its files there.",
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
    """A first Ctrl-C has interrupted the body and this is the second, or this is the first and a
    second follows."""
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
@pytest.mark.parametrize(
    ("signum", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_complete_run_has_finished_even_if_a_signal_ends_its_wait_for_the_store(
    client, monkeypatch, signum, raised
):
    with pytest.raises(raised), start_run("fit_embedding", "fit", {}) as run:
        monkeypatch.setattr(TrackedRun, "wait_for_store", lambda run: signal.raise_signal(signum))
        run.log_metrics({"final/cost": 1.0})
    kept = client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FINISHED", "finished")
    assert kept.data.metrics["final/cost"] == 1.0


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
    """MLflow has made the run by then, and no other code would close it."""
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
        finally:  # for example, while the curve of a stopped fit is drawn
            signal.raise_signal(signal.SIGTERM)
            closed.append(True)
    assert closed == [True]
    kept = client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("KILLED", "ctrl-c")


def test_a_run_in_another_thread_than_the_main_one(client):
    """Only the main thread may handle signals; a notebook or server may use another one."""
    kept = []
    thread = threading.Thread(target=lambda: kept.append(short_run(client)))
    thread.start()
    thread.join()
    assert kept[0].info.status == "FINISHED"


def fit_for_long(begun: Connection) -> None:
    """Fit as an entry point, in a process of its own; send the run's id through `begun`."""

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


# -- a run of `mlflow run` that no entry point has adopted -------------------------------------


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


def test_a_store_that_fails_does_not_hide_that_rank_0_was_killed(client, monkeypatch, capsys):
    def main(_):
        raise MainProcessKilledError("rank 0 was killed")

    monkeypatch.setattr(mlflow, "set_experiment", refuse)
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "embedlab: rank 0 was killed\n"


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
    """`mlflow ui` makes such an experiment in an empty folder; every artifact would fail."""
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


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///{}/a-file/mlflow.db", "sqlite:///{}/a-file", "{}/mlruns"],
    ids=["no folder", "no database", "files"],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(client, tmp_path, uri):
    """The cause is an error of the operating system, of the database or of MLflow."""
    (tmp_path / "a-file").write_text("neither a folder nor a database " * 100)
    uri = uri.format(tmp_path)
    sentence = rf"MLflow cannot open its store {re.escape(uri)} \(\w+: .+\): set MLFLOW_.*\."
    with (
        use_store(uri),
        pytest.raises(TrackingError, match=f"^{sentence}$"),
        start_run("fit_embedding", "fit", {}),
    ):
        pytest.fail("the run has begun")


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


@pytest.mark.parametrize("kind", [MlflowException, ValueError, DataError])
def test_the_tag_error_of_a_run_holds_no_password(client, kind):
    with pytest.raises(Exception), start_run("recommend", "fails", {}) as run:  # noqa: B017
        raise kind("at http://me:secret@host")
    assert "http://me:***@host" in client.get_run(run.id).data.tags["error"]
