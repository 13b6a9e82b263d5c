"""Finished image runs: find those to compare, and read back what they logged."""

import numpy as np
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from embedlab.datasets.cache import DAMAGED_ARRAY
from embedlab.errors import TrackingError
from embedlab.formatting import counted
from embedlab.tracking.finished import (
    download_artifact,
    finished_run,
    newest_finished,
    read_history,
)
from embedlab.tracking.store import safe_first_line, store_address
from embedlab.tracking.tracked_run import resolved_param
from embedlab.vision.evaluation.comparison import ComparedRun
from embedlab.vision.evaluation.metrics import Predictions
from embedlab.vision.options import IMAGE_ENTRY_POINTS
from embedlab.workflows.model_facts import val_score

PREDICTIONS = "predictions/test.npz"
CURVE_METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


def find_image_runs(experiment_id: str, ids: tuple[str, ...]) -> list[ComparedRun]:
    """The runs with these ids; without ids, the best run of each kind on the same data.

    The best run has the highest validation accuracy and, among equals, the lowest validation loss.
    If several data sets have runs of both kinds, the data set with the newest run is used.
    Raises TrackingError if there are too few runs, or if their data differ.
    """
    runs = [finished_run(run_id, IMAGE_ENTRY_POINTS) for run_id in ids] or best_pair(experiment_id)
    if len(set(map(_split_digest, runs))) > 1:
        raise TrackingError(
            "runs: expected runs on the same validation and test images, got "
            + ", ".join(f"{run.info.run_name} ({_split_digest(run)[:8]})" for run in runs)
            + ": use the same dataset, split_seed, val_limit and test_limit."
        )
    names = [run.info.run_name for run in runs]
    return [_read(run, is_unique=names.count(run.info.run_name) == 1) for run in runs]


def check_images_unchanged(runs: list[ComparedRun], digest: str) -> None:
    """Raises TrackingError if the images have changed since the runs."""
    if {run.images_digest for run in runs} != {digest}:
        raise TrackingError(
            f"runs: the images of dataset={runs[0].dataset} are not those that the runs were "
            "made on (their digest differs): put the old ones back, or make the runs again."
        )


def best_pair(experiment_id: str) -> list[Run]:
    """The best finished run of each kind on the newest data that has both."""
    finished = newest_finished(experiment_id, "tags.pictures_digest IS NOT NULL")
    for digest in dict.fromkeys(map(_split_digest, finished)):
        on_same_data = [run for run in finished if _split_digest(run) == digest]
        by_kind = [
            [run for run in on_same_data if run.data.tags["entry_point"] == kind]
            for kind in IMAGE_ENTRY_POINTS
        ]
        if all(by_kind):
            return [max(runs, key=val_score) for runs in by_kind]
    raise TrackingError(
        "runs: expected a finished run of each of extract_features and finetune on the same "
        f"images in experiment {experiment_id} of {store_address()}, found "
        f"{counted(len(finished), 'finished run')} without such a pair: make one of the other kind "
        "with the same dataset, split_seed, val_limit and test_limit, or name runs."
    )


def _split_digest(run: Run) -> str:
    return run.data.tags.get("data_digest", "unknown")


def _read(run: Run, is_unique: bool) -> ComparedRun:
    """A run as it is compared; if its name is not unique, its id is part of the name."""
    run_id, metrics, tags = run.info.run_id, run.data.metrics, run.data.tags
    return ComparedRun(
        name=run.info.run_name if is_unique else f"{run.info.run_name} ({run_id[:6]})",
        entry_point=tags["entry_point"],
        val_accuracy=metrics["best/val_accuracy"],
        seconds=metrics["time/fit_seconds"],
        predictions=_test_predictions(run_id),
        weights=resolved_param(run.data.params, "weights") or "",
        id=run_id,
        dataset=resolved_param(run.data.params, "dataset") or "",
        images_digest=tags["pictures_digest"],
        history=read_history(run_id, CURVE_METRICS),
        best_epoch=int(metrics["best/epoch"]),
    )


def _test_predictions(run_id: str) -> Predictions:
    try:
        with (
            open(download_artifact(f"runs:/{run_id}/{PREDICTIONS}"), "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            return Predictions(arrays["probabilities"], arrays["labels"], arrays["rows"])
    except (MlflowException, *DAMAGED_ARRAY) as error:
        raise TrackingError(
            f"runs: {run_id} has no {PREDICTIONS} that can be read ({safe_first_line(error)})."
        ) from None
