"""One entry point, one MLflow run: adopted from `mlflow run`, or created where there is none.

`start_run` is the only way a run begins and ends here. However the code inside ends, the run's
status and its tag `stop_reason` say so, and every epoch recorded until then is kept. A tracking
server that is away stops no fit; only what cannot be done without it waits for it.
"""

import logging
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import mlflow
from mlflow.data import dataset_source_registry
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param, RunTag
from mlflow.environment_variables import (
    MLFLOW_EXPERIMENT_ID,
    MLFLOW_EXPERIMENT_NAME,
    MLFLOW_RUN_ID,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

from embedlab.distributed.env import is_main_process
from embedlab.errors import EmbedlabError, OptionError, ServerAwayError
from embedlab.progress import Step
from embedlab.tracking.offline.client import BufferedClient
from embedlab.tracking.offline.retry import retry_until_available, seconds_to_wait, short_requests
from embedlab.tracking.offline.spool import MAX_BATCH_METRICS, flush_spool
from embedlab.tracking.signals import (
    EXIT_TERMINATED,
    defer_signals,
    defer_signals_to_main_process,
    ignore_signals,
    raise_first_signal,
)
from embedlab.tracking.stale import mark_dead_runs, owner_tags
from embedlab.tracking.store import (
    check_store,
    explain_store_errors,
    first_line,
    initialise_store,
    store_address,
    without_password,
)
from embedlab.wording import value_as_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

PROJECT_ROOT = Path(__file__).resolve().parents[3]
EXPERIMENT = "embedlab"
SECONDS_BETWEEN_WRITES = 2.0
MODEL_UPLOAD_SECONDS = 120  # of a request that stores a model; MLflow's own value
SYSTEM_METRICS_SECONDS = 2  # MLflow's own 10 would leave the short runs without any
DIGEST_CHARACTERS = 36  # as many as MLflow stores of a data set's digest
RANDOM_RUN_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")

T = TypeVar("T")

# MLflow announces each table, thread and batch of its own work, and every request that it repeats.
for noisy in ("mlflow.tracking.fluent", "alembic"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
for told_by_us in ("mlflow.store.db", "mlflow.system_metrics", "urllib3.connectionpool"):
    logging.getLogger(told_by_us).setLevel(logging.CRITICAL)


class TrackedRun:
    """What an entry point may do with its run."""

    def __init__(self, run: mlflow.entities.Run):
        self.id: str = run.info.run_id
        self.name: str = run.info.run_name or ""
        self.experiment_id: str = run.info.experiment_id
        self.origin: dict[str, str] = {}  # entry_point, git.commit and git.dirty
        self._client = BufferedClient(self.id)
        self._logged_params = dict(run.data.params)
        self._waiting: list[Metric] = []
        self._last_write = time.monotonic()

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log resolved parameters beside those that `mlflow run` has logged already.

        MLflow refuses a second value for a parameter, so one that is there in another spelling
        ('1e-3' for 0.001, 'auto' for what it stood for) is logged as `resolved/<name>`.
        """
        fresh = {}
        for name, value in params.items():
            if value is None:  # does not apply, as a learning rate to the exact solver
                continue
            text = value_as_text(value)
            is_respelled = self._logged_params.get(name, text) != text
            key = f"resolved/{name}" if is_respelled else name
            if key not in self._logged_params:
                fresh[key] = text
        entities = [Param(key, value) for key, value in fresh.items()]
        self._client.log_batch(self.id, params=entities)
        self._logged_params |= fresh

    def log_resolved(self, params: Mapping[str, object]) -> None:
        """Log what runs are compared by as `resolved/<name>`, however it was spelt, or left out."""
        self.log_params({f"resolved/{name}": value for name, value in params.items()})

    def params(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the parameters that apply, as they were resolved."""
        logged = self._logged_params
        found = {name: logged.get(f"resolved/{name}", logged.get(name)) for name in names}
        return {name: text for name, text in found.items() if text not in (None, "auto")}

    def set_tags(self, tags: Mapping[str, object]) -> None:
        entities = [RunTag(key, str(value)) for key, value in tags.items()]
        self._client.log_batch(self.id, tags=entities)

    def record(self, step: Step) -> None:
        """Keep a finished epoch; written together with others every few seconds."""
        metrics = dict(step.metrics)
        if step.seconds is not None:
            metrics["time/epoch_seconds"] = step.seconds
        self.log_metrics(metrics, step.epoch)

    def log_metrics(self, metrics: Mapping[str, float], epoch: int = 0) -> None:
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(v), now, epoch) for key, v in metrics.items()]
        is_due = time.monotonic() - self._last_write >= SECONDS_BETWEEN_WRITES
        if is_due or len(self._waiting) >= MAX_BATCH_METRICS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        while self._waiting:
            self._client.log_batch(self.id, metrics=self._waiting[:MAX_BATCH_METRICS])
            del self._waiting[:MAX_BATCH_METRICS]
        self._last_write = time.monotonic()

    def wait_for_store(self) -> None:
        """Before what cannot be kept and sent later. Raises ServerAwayError if that is in vain."""
        self._client.retry_until_available(lambda: None)

    def retry_until_available(self, do: Callable[[], T]) -> T:
        """What `do` returns; where the store goes away meanwhile, it is waited for and done again.

        Raises ServerAwayError if that is in vain.
        """
        with short_requests(MODEL_UPLOAD_SECONDS):
            return self._client.retry_until_available(do)

    def end(self, status: str, tags: Mapping[str, str]) -> None:
        """Write what is left, and that the run has ended."""
        self._client.retry_now()
        try:
            self.set_tags(tags)  # first, so that a metric that MLflow refuses does not prevent it
            self.log_metrics({"memory/peak_mib": _peak_memory_mib()})
            self.flush()
        finally:
            self._client.end_run(status)

    def log_figure(self, figure: "Figure", path: str) -> None:
        self._client.log_figure(self.id, figure, path)

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """A table that the MLflow UI shows as one; `path` ends in `.json`."""
        self.wait_for_store()  # MLflow looks first whether there is one
        self._client.log_table(self.id, table, path)

    def log_text(self, text: str, path: str) -> None:
        self._client.log_text(self.id, text, path)

    def log_image(self, pixels: "np.ndarray", key: str, epoch: int) -> None:
        """Pixels (height, width, 3) uint8 of one epoch: the UI steps through them by epoch."""
        self._client.log_image(self.id, pixels, key=key, step=epoch)

    def log_folder(self, folder: Path, path: str) -> None:
        """Log every file of a local folder as artifacts under `path`."""
        self._client.log_artifacts(self.id, str(folder), path)

    @contextmanager
    def artifact_folder(self, path: str) -> Iterator[Path]:
        """A temporary folder; what is written into it becomes artifacts under `path`."""
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
            self.log_folder(Path(temporary), path)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Say what data went in: our own sha256 over all of it, not MLflow's over 10,000 rows.

        A source `runs:/<id>/<path>` is also linked by the tag `source_run_id`: MLflow knows a data
        set by name and digest, and in an experiment keeps only the source that came with it first.
        """
        if RunsArtifactRepository.is_runs_uri(source):
            run_id, _ = RunsArtifactRepository.parse_runs_uri(source)
            self.set_tags({"source_run_id": run_id})
            source = RunsArtifactRepository.get_underlying_uri(source)
        if source.startswith("mlflow-artifacts:"):  # which MLflow does not take for a data set
            source = MlflowArtifactsRepository.resolve_uri(source, store_address())
        with warnings.catch_warnings():
            # MLflow registers its local source twice and warns that a path could be either.
            warnings.filterwarnings("ignore", message="The specified dataset source can be")
            resolved = dataset_source_registry.resolve_dataset_source(source)
        dataset = MetaDataset(resolved, name=name, digest=digest[:DIGEST_CHARACTERS])
        mlflow.log_input(dataset, context=context)


class NullRun:
    """The run as the other processes see it, where several work on one: whatever is logged, the
    first process logs."""

    id = "of the first process"

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not hasattr(TrackedRun, name):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def refuse_contradictions(
    source: str, own: Mapping[str, object], given: Mapping[str, object]
) -> None:
    """Raises OptionError where a parameter that was given is not the one that `source` brings."""
    for name, value in given.items():
        if name in own and own[name] != value:
            raise OptionError(
                f"{name}: expected {value_as_text(own[name])}, which {source} brings with it, got "
                f"{value_as_text(value)}: leave {name} out, or leave {source} out"
            )


@contextmanager
def start_run(
    entry_point: str, run_name: str, params: Mapping[str, object], marks_dead: bool = True
) -> Iterator[TrackedRun]:
    """The run of `entry_point`, with its resolved parameters, code version and system metrics.

    Under `mlflow run` it is the run that was made there (MLFLOW_RUN_ID), in its experiment.
    Otherwise a new one, in the experiment of MLFLOW_EXPERIMENT_NAME, or `embedlab`. Runs there
    whose process has died without closing them are marked, unless `marks_dead` is false.
    Of several processes the first has the run; the others, a `NullRun`.
    Raises TrackingError where the store cannot be used.
    """
    if not is_main_process():
        with defer_signals_to_main_process():
            yield NullRun()
        return
    with raise_first_signal():
        _connect_to_store()
        flush_spool()
        with ExitStack() as ends:
            with defer_signals(), explain_store_errors(), short_requests():
                run = _adopt_or_create(run_name, {"entry_point": entry_point, **owner_tags()})
                ends.enter_context(_finalize_run(run))
            check_store(run.experiment_id)
            if marks_dead:
                mark_dead_runs(run.experiment_id)
            run.log_params(params)
            run.origin = {"entry_point": entry_point, **_code_version()}
            run.set_tags(run.origin)
            if RANDOM_RUN_NAME.fullmatch(run.name):
                run.set_tags({"mlflow.runName": run_name})
            yield run


@contextmanager
def start_child_run(
    run_name: str, params: Mapping[str, object], tags: Mapping[str, object]
) -> Iterator[TrackedRun]:
    """A run under the one that `start_run` has begun, in the same process."""
    retry_until_available(store_address(), initialise_store)
    with ExitStack() as ends:
        with defer_signals(), explain_store_errors(), short_requests():
            run = TrackedRun(
                mlflow.start_run(
                    run_name=run_name, nested=True, tags=owner_tags(), log_system_metrics=False
                )
            )
            ends.enter_context(_finalize_run(run, is_last=False))
        run.log_params(params)
        run.set_tags({**tags, **_code_version()})
        yield run


@contextmanager
def _finalize_run(run: TrackedRun, is_last: bool = True) -> Iterator[None]:
    """However the code inside ends, the run's status and `stop_reason` say so; what comes then
    must not leave it half closed. `is_last` is false of a run inside another."""
    finished, is_done = ("FINISHED", {"stop_reason": "finished"}), False
    undisturbed = ignore_signals if is_last else defer_signals
    with ExitStack() as ending:
        try:
            with explain_store_errors():
                yield
                run.flush()  # while what stops it still counts as how the run stopped
                is_done = True
                run.wait_for_store()
            ending.enter_context(undisturbed())
        except BaseException as error:
            ending.enter_context(undisturbed())
            is_only_unsent = is_done and isinstance(error, ServerAwayError)
            with explain_store_errors():
                run.end(*(finished if is_only_unsent else _stop_reason(error)))
            raise
        else:
            with explain_store_errors():
                run.end(*finished)


def end_refused_run(error: EmbedlabError) -> None:
    """Close the run of MLFLOW_RUN_ID, which `mlflow run` made for an entry point that refuses to
    begin, and let it say why. Never raises: `error` is what the user has to read."""
    try:
        with short_requests():
            initialise_store()
            status, tags = _stop_reason(error)
            entities = [RunTag(key, text) for key, text in tags.items()]
            mlflow.MlflowClient().log_batch(MLFLOW_RUN_ID.get(), tags=entities)
            mlflow.MlflowClient().set_terminated(MLFLOW_RUN_ID.get(), status)
    except Exception as failed:  # MLflow's, the database's, its driver's
        logging.getLogger(__name__).info("the run was not told: %s", first_line(failed))


def _connect_to_store() -> None:
    """Raises TrackingError where it is not there; the run that `mlflow run` has just made there is
    worth waiting for."""
    seconds_to_wait()  # a bad value is refused before any work
    if store_address() != mlflow.get_tracking_uri():  # MLflow would print it at a run's end
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    if MLFLOW_RUN_ID.get():
        retry_until_available(store_address(), initialise_store)
    else:
        initialise_store()


def _adopt_or_create(run_name: str, tags: dict[str, str]) -> TrackedRun:
    is_adopted = bool(MLFLOW_RUN_ID.get())
    # Inside `mlflow run` the experiment is chosen, and choosing it again is an error.
    if not is_adopted and not MLFLOW_EXPERIMENT_ID.get():
        experiment = mlflow.set_experiment(MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT)
        # Where another process made it at the same moment, MLflow did not choose it.
        mlflow.set_experiment(experiment_id=experiment.experiment_id)
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
    name = None if is_adopted else run_name
    return TrackedRun(mlflow.start_run(run_name=name, tags=tags, log_system_metrics=True))


def mark_dead_runs_here() -> None:
    """Mark runs whose process has died in the experiment where `start_run` would make one."""
    experiment_id = MLFLOW_EXPERIMENT_ID.get()
    if not experiment_id:
        name = MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT
        experiment_id = mlflow.set_experiment(name).experiment_id
    mark_dead_runs(experiment_id)


def _stop_reason(error: BaseException) -> tuple[str, dict[str, str]]:
    """MLflow's status and the tags for what ended the run."""
    match error:
        case KeyboardInterrupt():
            return "KILLED", {"stop_reason": "ctrl-c"}
        case SystemExit(code=code) if code == EXIT_TERMINATED:
            return "KILLED", {"stop_reason": "sigterm"}
        case EmbedlabError():
            return "FAILED", {"stop_reason": error.stop_reason, "error": _as_tag(str(error))}
        case _:
            text = _as_tag(f"{type(error).__name__}: {error}")
            return "FAILED", {"stop_reason": "exception", "error": text}


def _as_tag(text: str) -> str:
    """Without passwords, and in letters that a store takes: names of files may hold others."""
    return without_password(text).encode(errors="backslashreplace").decode()[:5000]


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _code_version() -> dict[str, str]:
    """Commit and dirty flag of the project's own checkout, `unknown` where it is none."""
    unknown = {"git.commit": "unknown", "git.dirty": "unknown"}
    try:
        import git  # fails where there is no git program
    except ImportError:
        return unknown
    try:
        repository = git.Repo(PROJECT_ROOT)
        is_dirty = repository.is_dirty(untracked_files=True)
        return {"git.commit": repository.head.commit.hexsha, "git.dirty": str(is_dirty).lower()}
    except (git.GitError, ValueError):
        return unknown
