"""The images that an image entry point computes with: split, lineage, what was left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from embedlab.datasets.folder import LeftOutFile
from embedlab.datasets.image_source import locate_images
from embedlab.distributed.collectives import assert_same_across_ranks, local_main_first
from embedlab.formatting import counted
from embedlab.progress import OnProgress
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.vision.data.augmentation import augment
from embedlab.vision.data.images import ImageDataset, read_images
from embedlab.vision.data.splits import Split, duplicates_across_parts, split_images
from embedlab.vision.evaluation import plots

LEFT_OUT_TABLE, DUPLICATES_TABLE = "tables/unreadable.json", "tables/duplicates.json"
REASONS_SHOWN = 5
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
    reasons = Counter(item.reason for item in left_out).most_common(REASONS_SHOWN)
    first = {item.reason: item.name for item in reversed(left_out)}
    examples = [
        f"{first[reason]}{f' and {count - 1:,} more' if count > 1 else ''} ({reason})"
        for reason, count in reasons
    ]
    if len(examples) == len(left_out):
        return f"{n} left out: {', '.join(examples)}."
    return f"{n} left out, such as {', '.join(examples)}; {LEFT_OUT_TABLE} of the run lists all."


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
    rows, firsts = np.array(duplicates).T
    n_relabelled = int((images.labels[rows] != images.labels[firsts]).sum())
    relabelled = f" ({n_relabelled:,} with another label)" if n_relabelled else ""
    return (
        f"The validation and test parts have {counted(len(duplicates), 'copy', 'copies')} of "
        f"images in other parts{relabelled}, such as {copy} ({part}), a copy of {original} "
        f"({other_part}). Copies make accuracies unreliable: remove them; {DUPLICATES_TABLE} of "
        "the run lists all."
    )


def log_training_images(
    run: TrackedRun, images: ImageDataset, split: Split, augmentation: str, resolution: int
) -> None:
    """Log a grid of augmented training images, as the network sees them."""
    n_train = len(split.train)
    rows = split.train[np.linspace(0, n_train - 1, min(n_train, TRAINING_IMAGES)).astype(int)]
    generator = torch.Generator().manual_seed(0)
    pixels = augment(torch.from_numpy(images.pixels[rows]), augmentation, resolution, generator)
    names = [images.classes[label] for label in images.labels[rows]]
    title = f"training images, augment={augmentation}"
    figure = plots.plot_image_grid(pixels.numpy(), names, title, columns=TRAINING_COLUMNS)
    run.log_figure(figure, "figures/training_pictures.png")
