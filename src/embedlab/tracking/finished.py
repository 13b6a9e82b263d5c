"""Reading finished runs: a run by its id, the newest runs, their artifacts and their epochs."""

import atexit
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from embedlab.errors import TrackingError
from embedlab.progress import EpochRecord
from embedlab.tracking.store import safe_first_line, store_address
from embedlab.tracking.tracked_run import EPOCH_SECONDS


def finished_run(run_id: str, entry_points: Sequence[str]) -> Run:
    """The finished run with this id, of one of these entry points. Raises TrackingError if none."""
    expected = f"finished runs of {' or '.join(entry_points)}"
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(
            f"runs: there is no run {run_id!r} in {store_address()} ({safe_first_line(error)}): "
            f"give ids of {expected}, joined by commas."
        ) from None
    if run.data.tags.get("entry_point") not in entry_points or run.info.status != "FINISHED":
        raise TrackingError(
            f"runs: {run_id} is a {run.info.status} run of "
            f"{run.data.tags.get('entry_point', 'another project')}; expected {expected}."
        )
    return run


def newest_finished(experiment_id: str, filter_string: str) -> list[Run]:
    """The finished runs of an experiment that match `filter_string`, newest first."""
    return mlflow.MlflowClient().search_runs(
        [experiment_id],
        f"{filter_string} AND attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        max_results=1000,
    )


def has_artifact(run_id: str, path: str) -> bool:
    """Whether the run, which may be an older version's, has this artifact."""
    files = mlflow.MlflowClient().list_artifacts(run_id, os.path.dirname(path) or None)
    return path in {file.path for file in files}


def download_artifact(uri: str) -> Path:
    """Download what MLflow stores at `uri`; the local copy is removed when this process ends.

    Raises MlflowException or OSError if there is nothing at `uri`.
    """
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=mkdtemp(dir=_downloads())))


@cache
def _downloads() -> str:
    """A folder that is removed when this process ends: MLflow leaves its own behind."""
    folder = mkdtemp(prefix="embedlab-")
    # Not a TemporaryDirectory: a fork would remove it, too, when Python frees the fork's objects.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def read_history(run_id: str, metrics: Sequence[str]) -> list[EpochRecord]:
    """The epochs of a run that have one of these metrics, as `TrackedRun.log_epoch` logged them."""
    client = mlflow.MlflowClient()
    by_epoch = defaultdict[int, dict[str, float]](dict)
    for name in metrics:
        for point in client.get_metric_history(run_id, name):
            by_epoch[point.step][name] = point.value
    seconds = {p.step: p.value for p in client.get_metric_history(run_id, EPOCH_SECONDS)}
    return [EpochRecord(epoch, by_epoch[epoch], seconds.get(epoch)) for epoch in sorted(by_epoch)]
