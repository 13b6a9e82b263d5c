"""`images.html`: confusion matrices whose cells open their images, for several runs in turn.

In: runs on the same test images. Out: the text of a page. It carries the most confident images of
every cell of every run, as one sprite, and what each run says of each.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from embedlab.pages import render_page
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation.comparison import ComparedRun
from embedlab.vision.evaluation.metrics import evaluate

SHOWN_PER_CELL = 12
MAX_CLASSES = 40  # a larger matrix cannot be read
THUMBNAIL = 64  # pixels a side at the most
WEBP_QUALITY = 82
CONFIDENCE_DIGITS = 3


def images_page(runs: Sequence[ComparedRun], images: ImageDataset) -> str | None:
    """The page of runs on the same test images, the first one shown first; None for too many
    classes."""
    if len(images.classes) > MAX_CLASSES:
        return None
    shown = np.unique(np.concatenate([_most_confident(run) for run in runs]))
    side = min(images.side, THUMBNAIL)
    columns = max(1, math.isqrt(len(shown)))
    data = {
        "classes": images.classes,
        "columns": columns,
        "perCell": SHOWN_PER_CELL,
        "sprite": _sprite(images.take(runs[0].test.rows[shown]), side, columns),
        "labels": runs[0].test.labels[shown].tolist(),
        "runs": [_run_data(run, shown, images.classes) for run in runs],
    }
    n_test = len(runs[0].test.labels)
    about = {"name": images.name, "n_test": n_test, "n_shown": len(shown)}
    return render_page("images.html", data=data, k=SHOWN_PER_CELL, **about)


def _most_confident(run: ComparedRun) -> np.ndarray:
    """The positions among the test images of the most confident ones of each cell."""
    test = run.test
    cell = test.labels * test.probabilities.shape[1] + test.predicted  # (n,)
    order = np.lexsort((-test.confidence, cell))
    starts = np.searchsorted(cell[order], cell[order])  # where each one's cell begins
    return order[np.arange(len(order)) - starts < SHOWN_PER_CELL]


def _run_data(run: ComparedRun, shown: np.ndarray, classes: tuple[str, ...]) -> dict:
    report = evaluate(run.test, classes)
    return {
        "name": run.name,
        "accuracy": report.accuracy,
        "interval": report.interval,
        "counts": report.confusion.tolist(),
        "predicted": run.test.predicted[shown].tolist(),
        "confidence": run.test.confidence[shown].round(CONFIDENCE_DIGITS).tolist(),
    }


def _sprite(pixels: np.ndarray, side: int, columns: int) -> str:
    """Images (n, 3, h, h) uint8 in rows of one picture: an address `data:image/webp;…`."""
    rows = math.ceil(len(pixels) / columns)
    sprite = Image.new("RGB", (columns * side, rows * side))
    for position, image in enumerate(pixels):
        thumbnail = Image.fromarray(image.transpose(1, 2, 0))
        if thumbnail.size != (side, side):
            thumbnail = thumbnail.resize((side, side), Image.Resampling.LANCZOS)
        row, column = divmod(position, columns)
        sprite.paste(thumbnail, (column * side, row * side))
    file = io.BytesIO()
    sprite.save(file, "webp", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
