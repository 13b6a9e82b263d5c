"""`images.html`: confusion matrices whose cells open their images, for several runs in turn.

In: runs on the same test images. Out: the text of a page. It contains the most confident images of
every cell of every run, as one sprite, and the prediction of each run for each of these images.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from embedlab.pages.render import render_page, webp_data_url
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation.comparison import ComparedRun
from embedlab.vision.evaluation.metrics import evaluate

SHOWN_PER_CELL = 12
MAX_SHOWN = 3_000  # images of a page, about 1.5 KB each; to stay below, cells show fewer
MAX_CLASSES = 40  # a larger matrix cannot be read
THUMBNAIL = 64  # pixels a side at the most
WEBP_QUALITY = 82
CONFIDENCE_DIGITS = 3


def images_page(runs: Sequence[ComparedRun], images: ImageDataset) -> str | None:
    """The page of runs on the same test images; the first run is shown first.

    None if there are too many classes.
    """
    if len(images.classes) > MAX_CLASSES:
        return None
    for per_cell in range(SHOWN_PER_CELL, 0, -1):
        shown = np.unique(np.concatenate([_most_confident(run, per_cell) for run in runs]))
        if len(shown) <= MAX_SHOWN:
            break
    side = min(images.side, THUMBNAIL)
    columns = max(1, math.isqrt(len(shown)))
    sprite = _sprite(images, runs[0].predictions.rows[shown], side, columns)
    data = {
        "classes": images.classes,
        "columns": columns,
        "perCell": per_cell,
        "sprite": webp_data_url(sprite, WEBP_QUALITY),
        "labels": runs[0].predictions.labels[shown].tolist(),
        "runs": [_run_data(run, shown, images.classes) for run in runs],
    }
    n_test = len(runs[0].predictions.labels)
    facts = {"name": images.name, "n_test": n_test, "n_shown": len(shown)}
    return render_page("images.html", data=data, k=per_cell, **facts)


def _most_confident(run: ComparedRun, per_cell: int) -> np.ndarray:
    """The most confident images of each cell, as positions among the test images."""
    test = run.predictions
    cell = test.labels * test.probabilities.shape[1] + test.predicted  # (n,)
    order = np.lexsort((-test.confidence, cell))
    starts = np.searchsorted(cell[order], cell[order])  # where each one's cell begins
    return order[np.arange(len(order)) - starts < per_cell]


def _run_data(run: ComparedRun, shown: np.ndarray, classes: tuple[str, ...]) -> dict:
    """What `images.js` shows of a run; `shown` are positions among the test images."""
    report = evaluate(run.predictions, classes)
    return {
        "name": run.name,
        "accuracy": report.accuracy,
        "interval": report.interval,
        "counts": report.confusion.tolist(),
        "predicted": run.predictions.predicted[shown].tolist(),
        "confidence": run.predictions.confidence[shown].round(CONFIDENCE_DIGITS).tolist(),
    }


def _sprite(images: ImageDataset, rows: np.ndarray, side: int, columns: int) -> Image.Image:
    """One image that holds the images of these rows in a grid, `side` pixels each."""
    sprite = Image.new("RGB", (columns * side, math.ceil(len(rows) / columns) * side))
    for position, row in enumerate(rows):
        pixels = images.pixels[row].transpose(1, 2, 0)
        line, column = divmod(position, columns)
        thumbnail = Image.fromarray(pixels).resize((side, side))
        sprite.paste(thumbnail, (column * side, line * side))
    return sprite
