"""Finished image runs: find them, and read back what they logged."""

import io
import math
from dataclasses import dataclass

import mlflow
import numpy as np
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from embedlab.errors import TrackingError
from embedlab.progress import Step
from embedlab.tracking.store import first_line, store_address
from embedlab.vision.evaluation.comparison import ComparedRun
from embedlab.vision.evaluation.metrics import Predictions
from embedlab.wording import counted
from embedlab.workflows.image_runs import ENTRY_POINTS, PREDICTIONS

CURVES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


@dataclass(frozen=True)
class FinishedRun:
    """A run that was read back; `dataset` is the parameter that says where its images are."""

    id: str
    contender: ComparedRun
    steps: list[Step]
    dataset: str
    pictures_digest: str


def find_runs(experiment_id: str, ids: tuple[str, ...]) -> list[FinishedRun]:
    """Those runs; with none named, the best of each kind that share their data.

    The best is that with the highest validation accuracy, of equal ones the lowest validation loss;
    of several data sets, the one on which the newest run was made.
    Raises TrackingError where there are too few, or their data differ.
    """
    client = mlflow.MlflowClient()
    runs = [_run(client, run_id) for run_id in ids] if ids else _best(client, experiment_id)
    digests = {run.data.tags.get("data_digest") for run in runs}
    if len(digests) > 1:
        raise TrackingError(
            "runs: expected runs on the same validation and test images, got "
            + ", ".join(f"{r.info.run_name} ({_digest(r)[:8]})" for r in runs)
            + ": use the same dataset, split_seed, val_limit and test_limit."
        )
    return _read(client, runs)


def check_images(runs: list[FinishedRun], digest: str) -> None:
    """Raises TrackingError where the images are no longer those that the runs were made on."""
    if {run.pictures_digest for run in runs} != {digest}:
        raise TrackingError(
            f"runs: the images of dataset={runs[0].dataset} are not those that the runs were "
            "made on (their digest differs): put the old ones back, or make the runs again."
        )


def _run(client: mlflow.MlflowClient, run_id: str) -> Run:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(
            f"runs: there is no run {run_id!r} in {store_address()} ({first_line(error)}): give "
            "ids of finished extract_features or finetune runs, joined by commas."
        ) from None
    if run.data.tags.get("entry_point") not in ENTRY_POINTS or run.info.status != "FINISHED":
        raise TrackingError(
            f"runs: {run_id} is a {run.data.tags.get('entry_point', 'foreign')} run that is "
            f"{run.info.status}; expected finished runs of {' or '.join(ENTRY_POINTS)}."
        )
    return run


def _best(client: mlflow.MlflowClient, experiment_id: str) -> list[Run]:
    found = client.search_runs(
        [experiment_id],
        "tags.pictures_digest IS NOT NULL AND attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        max_results=1000,
    )
    for digest in dict.fromkeys(map(_digest, found)):
        kinds = [
            [
                run
                for run in found
                if _digest(run) == digest and run.data.tags["entry_point"] == kind
            ]
            for kind in ENTRY_POINTS
        ]
        if all(kinds):
            return [max(runs, key=_val_score) for runs in kinds]
    raise TrackingError(
        "runs: expected a finished run of each of extract_features and finetune on the same "
        f"images in experiment {experiment_id} of {store_address()}, found "
        f"{counted(len(found), 'finished run')} without such a pair: make one of the other kind "
        "with the same dataset, split_seed, val_limit and test_limit, or name runs."
    )


def _val_score(run: Run) -> tuple[float, float]:
    metrics = run.data.metrics  # without the loss in runs of an earlier version
    return metrics["best/val_accuracy"], -metrics.get("best/val_loss", math.inf)


def _digest(run: Run) -> str:
    return run.data.tags.get("data_digest", "unknown")


def _read(client: mlflow.MlflowClient, runs: list[Run]) -> list[FinishedRun]:
    names = [run.info.run_name for run in runs]
    read = []
    for run, name in zip(runs, names, strict=True):
        unique = name if names.count(name) == 1 else f"{name} ({run.info.run_id[:6]})"
        metrics = run.data.metrics
        contender = ComparedRun(
            unique,
            run.data.tags["entry_point"],
            metrics["best/val_accuracy"],
            metrics.get("time/fit_seconds"),
            _test_predictions(run.info.run_id),
        )
        params = run.data.params
        read.append(
            FinishedRun(
                run.info.run_id,
                contender,
                _steps(client, run.info.run_id),
                params.get("resolved/dataset", params["dataset"]),
                run.data.tags["pictures_digest"],
            )
        )
    return read


def _steps(client: mlflow.MlflowClient, run_id: str) -> list[Step]:
    by_epoch: dict[int, dict[str, float]] = {}
    for name in CURVES:
        for point in client.get_metric_history(run_id, name):
            by_epoch.setdefault(point.step, {})[name] = point.value
    return [Step(epoch, metrics) for epoch, metrics in sorted(by_epoch.items())]


def _test_predictions(run_id: str) -> Predictions:
    try:
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=PREDICTIONS)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"runs: {run_id} has no {PREDICTIONS} that can be read ({first_line(error)})."
        ) from None
    with open(path, "rb") as file:
        arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
        return Predictions(arrays["probabilities"], arrays["labels"], arrays["rows"])
