"""Steps of both `extract_features` and `finetune`: data and epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from embedlab.datasets.folder import LeftOutFile
from embedlab.datasets.image_source import locate_images
from embedlab.distributed.collectives import assert_same_across_ranks, local_main_first
from embedlab.formatting import counted
from embedlab.progress import EpochRecord, OnProgress
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.vision.data.augmentation import augment
from embedlab.vision.data.images import ImageDataset, read_images
from embedlab.vision.data.splits import Split, duplicates_across_parts, split_images
from embedlab.vision.evaluation import plots
from embedlab.vision.evaluation.metrics import Predictions
from embedlab.vision.training.linear_probe import LinearProbe
from embedlab.vision.training.trainer import Trainer

VAL_GRID = "val_predictions"
LEFT_OUT_TABLE, DUPLICATES_TABLE = "tables/unreadable.json", "tables/duplicates.json"
NAMES_SHOWN = 3
IMAGES_EACH_EPOCH = 25  # a square
TRAINING_IMAGES, TRAINING_COLUMNS = 36, 12


def load_images(
    run: TrackedRun, params: Mapping[str, Any], on_progress: OnProgress
) -> tuple[ImageDataset, Split, list[str]]:
    """Find, read and split the data, and log its lineage, its counts and what was left out.

    params  values by name, of `options.SPLIT_PARAMETERS` at least.

    Returns the images, their split, and what to tell the user about them.
    """
    with local_main_first():
        source = locate_images(params["dataset"])
        images = read_images(source, on_progress)
    limits = (params[f"{part}_limit"] for part in ("train", "val", "test"))
    split = split_images(images, params["split_seed"], *limits)
    assert_same_across_ranks("dataset", (images.digest, split.digest))
    run.log_dataset(images.name, images.digest, source.source, "training")
    run.set_tags({"data_digest": split.digest, "pictures_digest": images.digest})
    duplicates = duplicates_across_parts(images, split)
    run.log_params(
        {
            "data_digest": split.digest,
            "data/classes": len(images.classes),
            **{f"data/{part}": len(rows) for part, rows in split.parts.items()},
            "data/unreadable": len(images.left_out),
            "data/duplicates_across_parts": len(duplicates),
        }
    )
    messages = [str(images), *images.notes]
    if images.left_out:
        messages.append(_log_left_out(run, images.left_out))
    if duplicates:
        messages.append(_log_duplicates(run, images, split, duplicates))
    return images, split, [*messages, *plots.prepare_fonts(images)]


def _log_left_out(run: TrackedRun, left_out: Sequence[LeftOutFile]) -> str:
    run.log_text("".join(f"{item}\n" for item in left_out), "unreadable.txt")
    run.log_table(pd.DataFrame(left_out, columns=["file", "reason"]), LEFT_OUT_TABLE)
    n = counted(len(left_out), "file or folder", "files and folders")
    shown = ", ".join(f"{item.name} ({item.reason})" for item in left_out[:NAMES_SHOWN])
    if len(left_out) <= NAMES_SHOWN:
        return f"{n} left out: {shown}."
    return f"{n} left out, such as {shown}; {LEFT_OUT_TABLE} of the run lists all."


def _log_duplicates(
    run: TrackedRun, images: ImageDataset, split: Split, duplicates: Sequence[tuple[int, int]]
) -> str:
    part_of = {row: part for part, rows in split.parts.items() for row in rows.tolist()}
    names = images.files or [f"image {row}" for row in range(len(images.labels))]
    table = pd.DataFrame(
        [(names[row], part_of[row], names[first], part_of[first]) for row, first in duplicates],
        columns=["file", "part", "same_as", "part_of_same"],
    )
    run.log_table(table, DUPLICATES_TABLE)
    copy, part, original, other_part = table.iloc[0]
    return (
        f"The validation and test parts have {counted(len(duplicates), 'copy', 'copies')} of "
        f"images in other parts, such as {copy} ({part}) of {original} ({other_part}), "
        f"which makes accuracies too high: remove them; {DUPLICATES_TABLE} of the run lists all."
    )


def log_training_images(
    run: TrackedRun, images: ImageDataset, split: Split, augmentation: str, resolution: int
) -> None:
    """Log a grid of augmented training images, as the network sees them."""
    rows = split.train[np.linspace(0, len(split.train) - 1, TRAINING_IMAGES).astype(int)]
    generator = torch.Generator().manual_seed(0)
    pixels = augment(torch.from_numpy(images.pixels[rows]), augmentation, resolution, generator)
    names = [images.classes[label] for label in images.labels[rows]]
    title = f"training images, augment={augmentation}"
    figure = plots.plot_image_grid(pixels.numpy(), names, title, columns=TRAINING_COLUMNS)
    run.log_figure(figure, "figures/training_pictures.png")


class TrainingLog:
    """Log every epoch of a training, and its curves at the end.

    label     in the title of the curves: how the classifier is trained, in words.
    training  its `history` and its `best` epoch by validation are logged.

    The earlier epochs of a resumed run are logged again at its beginning; the curves are logged
    even if training was stopped.
    """

    def __init__(self, run: TrackedRun, label: str, training: Trainer | LinearProbe):
        self.run, self.label, self.training = run, label, training
        self.images = training.images
        self._has_images = False
        # Spread evenly over the classes, whatever the order of the rows.
        by_class = np.argsort(self.images.labels[training.split.val], kind="stable")
        positions = np.linspace(0, len(by_class) - 1, min(IMAGES_EACH_EPOCH, len(by_class)))
        self._shown = by_class[np.rint(positions).astype(int)]

    def __enter__(self) -> "TrainingLog":
        for record in self.training.history:
            self.run.log_epoch(record)
        return self

    def __exit__(self, *_: object) -> None:
        if self.training.history:
            curves = {"": (self.training.history, self.training.best.epoch)}
            figure = plots.plot_curves(curves, f"{self.images.name}: {self.label}")
            self.run.log_figure(figure, "figures/curves.png")

    def log_epoch(self, record: EpochRecord, predictions: Predictions | None) -> None:
        """Log the metrics of an epoch, and its predictions for the same validation images."""
        self.run.log_epoch(record)
        if predictions is None:
            return
        shown, classes = predictions.take(self._shown), self.images.classes
        pixels = self.images.pixels[shown.rows]
        if not self._has_images and record.epoch:  # the UI shows step 0 first
            names = [classes[label] for label in shown.labels]
            title = "validation images with their true classes"
            grid = plots.plot_image_grid(pixels, names, title)
            self.run.log_image(plots.as_pixels(grid), VAL_GRID, 0)
        self._has_images = True
        accuracy = predictions.score.accuracy
        title = f"validation images, epoch {record.epoch}: accuracy {accuracy:.1%}"
        grid = plots.plot_predictions(shown, pixels, classes, title)
        self.run.log_image(plots.as_pixels(grid), VAL_GRID, record.epoch)
