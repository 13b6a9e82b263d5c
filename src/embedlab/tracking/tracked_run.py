"""`TrackedRun`: what an entry point may log into its run.

A fit goes on while the tracking store is unavailable; only writes that cannot be spooled wait for
the store.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
from mlflow.data import dataset_source_registry
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param, RunTag
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from embedlab.formatting import value_as_text
from embedlab.process import peak_memory
from embedlab.progress import EpochRecord
from embedlab.tracking.offline.client import BufferedClient
from embedlab.tracking.offline.retry import short_requests
from embedlab.tracking.offline.spool import MAX_BATCH_METRICS
from embedlab.tracking.store import run_page, store_address, ui_address, ui_instructions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

SECONDS_BETWEEN_WRITES = 2.0
MODEL_UPLOAD_TIMEOUT = 120  # seconds of a request that stores a model; MLflow's default
EPOCH_SECONDS = "time/epoch_seconds"
DIGEST_CHARACTERS = 36  # as many as MLflow stores of a data set's digest

T = TypeVar("T")


def resolved_param(logged: Mapping[str, str], name: str) -> str | None:
    """The value that a run used, among the parameters that it logged; None if it has none.

    That is `resolved/<name>`, or else `<name>`, where `auto` counts as no value. (`recipe=auto` is
    a value; runs log it as `resolved/recipe`.)
    """
    value = logged.get(name)
    return logged.get(f"resolved/{name}", None if value == "auto" else value)


class TrackedRun:
    """The run of an entry point.

    Metrics, parameters, tags and files are buffered while the store is unavailable (see
    `offline.client`); tables and models wait for it.
    """

    def __init__(self, run: mlflow.entities.Run):
        self.id: str = run.info.run_id
        self.name: str = run.info.run_name or ""
        self.experiment_id: str = run.info.experiment_id
        self.is_child = MLFLOW_PARENT_RUN_ID in run.data.tags
        self._artifact_uri: str = run.info.artifact_uri
        self.origin: dict[str, str] = {}  # entry_point, git.commit and git.dirty
        self._client = BufferedClient(self.id)
        self._logged_params = dict(run.data.params)
        self._unwritten: list[Metric] = []
        self._last_write = time.monotonic()

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters, except those that are None: they do not apply.

        MLflow refuses a second value for a parameter, so one that was logged in another spelling
        ('1e-3' for 0.001, 'auto' for what it stood for) gets the key `resolved/<name>`.
        """
        fresh = {}
        for name, value in params.items():
            if value is None:  # as the learning rate of the exact solver
                continue
            text = value_as_text(value)
            is_respelled = self._logged_params.get(name, text) != text
            key = f"resolved/{name}" if is_respelled else name
            if key not in self._logged_params:
                fresh[key] = text
        self._client.log_batch(self.id, params=[Param(*item) for item in fresh.items()])
        self._logged_params |= fresh

    def log_params_as_resolved(self, params: Mapping[str, object]) -> None:
        """Log each as `resolved/<name>`, even if unchanged: runs are compared by this one name."""
        self.log_params({f"resolved/{name}": value for name, value in params.items()})

    def resolved_params(self, names: Sequence[str]) -> dict[str, str]:
        """The resolved values of these parameters, without those that do not apply."""
        values = {name: resolved_param(self._logged_params, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags, each value as text; a tag that the run has is replaced."""
        self._client.log_batch(self.id, tags=[RunTag(key, str(v)) for key, v in tags.items()])

    def describe(self, markdown: str) -> None:
        """Set the run's description, which the MLflow UI shows first: what the run has found."""
        self.set_tags({MLFLOW_RUN_NOTE: markdown})

    def log_epoch(self, record: EpochRecord) -> None:
        """Log a finished epoch: its metrics and `time/epoch_seconds`."""
        metrics = dict(record.metrics)
        if record.seconds is not None:
            metrics[EPOCH_SECONDS] = record.seconds
        self.log_metrics(metrics, record.epoch)

    def log_metrics(self, metrics: Mapping[str, float], epoch: int = 0) -> None:
        """Log metrics at a step; they are written together with others every two seconds."""
        now = int(time.time() * 1000)
        self._unwritten += [Metric(key, float(v), now, epoch) for key, v in metrics.items()]
        is_due = time.monotonic() - self._last_write >= SECONDS_BETWEEN_WRITES
        if is_due or len(self._unwritten) >= MAX_BATCH_METRICS:
            self.flush()

    def flush(self) -> None:
        """Write all metrics that were logged."""
        if self._unwritten:
            self._client.log_batch(self.id, metrics=self._unwritten)
        self._unwritten = []
        self._last_write = time.monotonic()

    def wait_for_store(self) -> None:
        """Wait until the store is available, before an action that cannot be spooled.

        Raises StoreUnavailableError after the limit.
        """
        self._client.after_spool(lambda: None)

    def call_online(self, do: Callable[[], T]) -> T:
        """Call `do` until the store is available, and return its result.

        Raises StoreUnavailableError after the limit, EMBEDLAB_WAIT_FOR_SERVER.
        """
        with short_requests(MODEL_UPLOAD_TIMEOUT):
            return self._client.after_spool(do)

    def end(self, status: str, tags: Mapping[str, str]) -> None:
        """Terminate the run with MLflow's status, tags, and its peak memory in MiB."""
        self._client.retry_now()
        try:
            self.set_tags(tags)  # first, so that a metric that MLflow refuses cannot prevent this
            self.log_metrics({"memory/peak_mib": peak_memory() / 2**20})
            self.flush()
        finally:
            self._client.end_run(status)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Log a figure as an image file; the ending of `path` chooses the format."""
        self._client.log_figure(self.id, figure, path)

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """Log a table that the MLflow UI shows as a table; `path` ends in `.json`."""
        self.wait_for_store()  # MLflow first checks whether the table exists
        self._client.log_table(self.id, table, path)

    def log_text(self, text: str, path: str) -> None:
        """Log a text file, UTF-8."""
        self._client.log_text(self.id, text, path)

    def log_image(self, pixels: "np.ndarray", key: str, epoch: int) -> None:
        """Log pixels (height, width, 3) uint8 of one epoch: the UI steps through the epochs."""
        self._client.log_image(self.id, pixels, key=key, step=epoch)

    def artifact_location(self, path: str) -> str:
        """The location of an artifact: its file, or its page in the server's UI."""
        uri = f"{self._artifact_uri}/{path}"
        scheme = urlparse(uri).scheme
        if scheme in ("", "file"):  # a path has no scheme, and may have a # in it
            return url2pathname(urlparse(uri).path) if scheme else uri
        return f"{ui_address()}/{run_page(self.experiment_id, self.id, path)}"

    def ui_instructions(self, *pages: str | None) -> str:
        """Lines to print: how to open the run and other pages, `#/…`, in the MLflow UI.

        "" for a step of `main`, which prints its own lines at its end.
        """
        if self.is_child:
            return ""
        return ui_instructions(self.experiment_id, self.id, *filter(None, pages))

    def log_folder(self, folder: Path, path: str) -> None:
        """Log every file of a local folder as artifacts under `path`."""
        self._client.log_artifacts(self.id, str(folder), path)

    @contextmanager
    def artifact_folder(self, path: str) -> Iterator[Path]:
        """Yield a temporary folder whose files become artifacts under `path`."""
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
            self.log_folder(Path(temporary), path)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log the lineage of a data set; `digest` is the sha256 of all of it.

        A source `runs:/<id>/<path>` is also linked by the tag `source_run_id`: MLflow identifies a
        data set by name and digest, and keeps only the first source in an experiment.
        """
        if RunsArtifactRepository.is_runs_uri(source):
            run_id, _ = RunsArtifactRepository.parse_runs_uri(source)
            self.set_tags({"source_run_id": run_id})
            source = RunsArtifactRepository.get_underlying_uri(source)
        if source.startswith("mlflow-artifacts:"):  # MLflow refuses it as the source of a data set
            source = MlflowArtifactsRepository.resolve_uri(source, store_address())
        with warnings.catch_warnings():
            # MLflow registers its local source twice and warns that a path could be either.
            warnings.filterwarnings("ignore", message="The specified dataset source can be")
            resolved = dataset_source_registry.resolve_dataset_source(source)
        # Its `profile` is abstract by mistake: MLflow documents this call.
        dataset = MetaDataset(  # type: ignore[abstract]
            resolved, name=name, digest=digest[:DIGEST_CHARACTERS]
        )
        self.call_online(lambda: mlflow.log_input(dataset, context=context))

    def log_inputs_of(self, run_id: str) -> None:
        """Log the data sets of another run as this one's, too."""
        client = mlflow.MlflowClient()

        def copy() -> None:
            inputs = client.get_run(run_id).inputs
            client.log_inputs(self.id, datasets=inputs.dataset_inputs if inputs else [])

        self.call_online(copy)


class NullRun(TrackedRun):
    """The run of all ranks except 0: what they log is discarded, because rank 0 logs it."""

    def __init__(self) -> None:
        self.id = "no-run"  # names a folder of checkpoints that this rank never writes

    def _discard(self, *args: object, **kwargs: object) -> None:
        """Log nothing."""

    log_params = set_tags = log_metrics = log_dataset = _discard
    log_figure = log_table = log_text = log_image = _discard
