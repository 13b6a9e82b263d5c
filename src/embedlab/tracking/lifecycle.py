"""The lifecycle of a run: one entry point, one MLflow run, adopted from `mlflow run` or created.

A run begins and ends in `start_run` or, as a child, in `start_child_run`. The run's status and its
tag `stop_reason` record how the code inside ended, and every epoch logged until then is kept.
"""

import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import mlflow
from mlflow import environment_variables as mlflow_env
from mlflow.entities import RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from embedlab.distributed.env import is_main_process
from embedlab.errors import EmbedlabError, StoreUnavailableError
from embedlab.tracking import signals, store
from embedlab.tracking.database import initialise_store, ping_store
from embedlab.tracking.offline.retry import retry_until_available, short_requests, wait_limit
from embedlab.tracking.offline.spool import send_earlier_spools
from embedlab.tracking.project import PROJECT_ROOT
from embedlab.tracking.stale import mark_stale_runs, owner_tags
from embedlab.tracking.tracked_run import NullRun, TrackedRun

EXPERIMENT = "embedlab"
SYSTEM_METRICS_SECONDS = 2  # with MLflow's default, 10, short runs would have no system metrics
MAX_RUN_NAME = 250  # characters, the width of MLflow's column; SQLite does not enforce it
# What may end the wait for the store at the end of a run.
WAIT_CUT_SHORT = (StoreUnavailableError, KeyboardInterrupt, SystemExit)
RANDOM_RUN_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")  # as MLflow draws them


@contextmanager
def start_run(
    entry_point: str, run_name: str, params: Mapping[str, object], marks_stale: bool = True
) -> Iterator[TrackedRun]:
    """Yield the run of `entry_point`, with its parameters, code version and system metrics.

    Under `mlflow run`, it is the run that was made there (MLFLOW_RUN_ID), in that run's experiment.
    Otherwise it is a new run, in the experiment of MLFLOW_EXPERIMENT_NAME, or `embedlab`. Runs of
    that experiment whose process has died are marked, unless `marks_stale` is false.
    With several processes, the main process has the run; the others get a `NullRun`.
    Raises TrackingError if the store cannot be used.
    """
    if not is_main_process():
        with signals.defer_signals_to_main_process():
            yield NullRun()
        return
    run_name = run_name[:MAX_RUN_NAME]
    with signals.raise_first_signal():
        _connect_to_store()
        send_earlier_spools()
        # An adopted run keeps its name, which the user may have given to `mlflow run`.
        name = None if mlflow_env.MLFLOW_RUN_ID.get() else run_name
        origin = {"entry_point": entry_point, **_code_version()}
        with _lifecycle(name, {**origin, **owner_tags()}) as run:
            store.check_artifact_location(run.experiment_id)
            if marks_stale:
                mark_stale_runs(run.experiment_id)
            run.log_params(params)
            run.origin = origin
            if RANDOM_RUN_NAME.fullmatch(run.name):
                run.set_tags({MLFLOW_RUN_NAME: run_name})
            yield run


@contextmanager
def start_child_run(
    run_name: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> Iterator[TrackedRun]:
    """Yield a child run of the one that `start_run` has begun, in the same process."""
    retry_until_available(ping_store)
    begin_tags = {**tags, **_code_version(), **owner_tags()}
    with _lifecycle(run_name, begin_tags, is_child=True) as run:
        run.log_params(params)
        yield run


@contextmanager
def _lifecycle(
    run_name: str | None, begin_tags: dict[str, str], is_child: bool = False
) -> Iterator[TrackedRun]:
    """Begin a run and terminate it, with the status and `stop_reason` of whatever is raised inside.

    The parent of a child run still gets the signals that arrive while the child ends.
    """
    status, tags = "FINISHED", {"stop_reason": "finished"}
    is_complete = False
    with ExitStack() as deferred:

        def disregard_signals() -> None:
            if is_child:
                deferred.enter_context(signals.defer_signals())
            else:
                signals.ignore_signals()

        deferred.enter_context(signals.defer_signals())
        with store.explain_store_errors(), short_requests():
            run = TrackedRun(
                mlflow.start_run(
                    run_name=run_name,
                    tags=begin_tags,
                    nested=is_child,
                    log_system_metrics=not is_child,
                )
            )
        try:
            deferred.close()  # a signal that has arrived since is raised here, and ends the run
            with store.explain_store_errors():
                yield run
                run.flush()
                is_complete = True  # from here on, no signal or outage is why the run has stopped
                run.wait_for_store()
            disregard_signals()
        except BaseException as error:
            disregard_signals()
            if not (is_complete and isinstance(error, WAIT_CUT_SHORT)):
                status, tags = _stop_reason(error)
            raise
        finally:
            with store.explain_store_errors():
                run.end(status, tags)


def end_refused_run(error: EmbedlabError) -> None:
    """Close the run that `mlflow run` made for an entry point that refuses its parameters.

    The run, MLFLOW_RUN_ID, records the reason. Never raises.
    """

    def end() -> None:
        status, tags = _stop_reason(error)
        run_id, client = mlflow_env.MLFLOW_RUN_ID.get(), mlflow.MlflowClient()
        client.log_batch(run_id, tags=[RunTag(key, text) for key, text in tags.items()])
        client.set_terminated(run_id, status)

    _log_failure(end)


def end_stopped_steps(parent: mlflow.entities.Run) -> None:
    """Close the child runs of `parent` that are RUNNING, after SIGTERM has ended their processes.

    MLflow has made such a run, and its process was stopped before it adopted it. Never raises.
    """

    def end() -> None:
        client, info = mlflow.MlflowClient(), parent.info
        children = f"tags.{MLFLOW_PARENT_RUN_ID} = '{info.run_id}'"
        running = f"{children} AND attributes.status = 'RUNNING'"
        for run in client.search_runs([info.experiment_id], running):
            client.set_tag(run.info.run_id, "stop_reason", "sigterm")
            client.set_terminated(run.info.run_id, "KILLED")

    _log_failure(end)


def mark_stale_runs_here() -> None:
    """Mark runs whose process has died in the experiment where `start_run` would make a run.

    Never raises.
    """
    _log_failure(lambda: mark_stale_runs(_activate_experiment()))


def _log_failure(do: Callable[[], None]) -> None:
    """Open the store and call `do`; a failure is only logged, as another error is to be read."""
    try:
        with short_requests():
            initialise_store()
            do()
    except Exception as error:  # MLflow's, the database's, its driver's
        text = store.safe_first_line(error)
        logging.getLogger(__name__).info("the run was not closed: %s", text)


def _connect_to_store() -> None:
    """Connect to the store, and choose the experiment of a new run.

    Raises TrackingError if the store cannot be used or is unavailable. If `mlflow run` has already
    made the run there, waits for the store first.
    """
    wait_limit()  # a bad value is refused before any work
    if store.store_address() != mlflow.get_tracking_uri():  # MLflow would print the password
        mlflow_env.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
    if mlflow_env.MLFLOW_RUN_ID.get():  # it has an experiment, and setting one is an error
        retry_until_available(initialise_store)
        return
    initialise_store()
    with store.explain_store_errors(), short_requests():
        _activate_experiment()


def _activate_experiment() -> str:
    """Activate the experiment of a new run, created if it is missing; returns its id."""
    if experiment_id := mlflow_env.MLFLOW_EXPERIMENT_ID.get():
        return mlflow.set_experiment(experiment_id=experiment_id).experiment_id
    name = mlflow_env.MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT
    return mlflow.set_experiment(name).experiment_id


def _stop_reason(error: BaseException) -> tuple[str, dict[str, str]]:
    """MLflow's status and the tags for what ended the run."""
    match error:
        case KeyboardInterrupt():
            return "KILLED", {"stop_reason": "ctrl-c"}
        case SystemExit(code=code) if code == signals.EXIT_TERMINATED:
            return "KILLED", {"stop_reason": "sigterm"}
        case EmbedlabError():
            return "FAILED", {"stop_reason": error.stop_reason, "error": _as_tag(str(error))}
        case _:
            text = _as_tag(f"{type(error).__name__}: {error}")
            return "FAILED", {"stop_reason": "exception", "error": text}


def _as_tag(text: str) -> str:
    """The text without passwords, truncated, in characters that every database accepts."""
    return store.without_password(text).encode(errors="backslashreplace").decode()[:5000]


def _code_version() -> dict[str, str]:
    """Commit and dirty flag of the project's own checkout, `unknown` outside of a repository."""
    # Prints `# branch.oid <sha>`, other lines with #, and one for each changed or untracked file.
    git_status = ("git", "status", "--porcelain=v2", "--branch", "--untracked-files=normal")
    only_here = {"GIT_CEILING_DIRECTORIES": str(PROJECT_ROOT.parent)}
    try:
        output = subprocess.check_output(
            git_status, cwd=PROJECT_ROOT, env=os.environ | only_here, stderr=subprocess.DEVNULL
        )
        heading, *lines = output.decode(errors="replace").splitlines()
        commit = heading.split()[2]
        int(commit, 16)  # ValueError before the first commit
    except (OSError, subprocess.CalledProcessError, ValueError):  # no git, no repository
        return {"git.commit": "unknown", "git.dirty": "unknown"}
    is_dirty = any(not line.startswith("#") for line in lines)
    return {"git.commit": commit, "git.dirty": str(is_dirty).lower()}
