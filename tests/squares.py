"""A toy data set: squares of one colour with noise, a class a colour. Any classifier learns it."""

import numpy as np

from embedlab.vision.evaluate import Predictions
from embedlab.vision.pictures import PictureSet
from embedlab.vision.split import Split

CLASSES = ("red", "green", "blue")


def squares(n_per_class: int = 40, side: int = 8, seed: int = 0) -> PictureSet:
    """Three classes in turn; the last quarter is the official test set."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(3), n_per_class)
    images = rng.integers(0, 60, (len(labels), 3, side, side), dtype=np.uint8)
    images[np.arange(len(labels)), labels] += 180  # the channel of the class
    n_train = len(labels) * 3 // 4 // 3 * 3
    return PictureSet("squares", CLASSES, images, labels, n_train, digest=f"squares-{seed}")


def split_of(pictures: PictureSet) -> Split:
    """Two thirds of the training pictures train, the others validate."""
    rows = np.arange(len(pictures.labels))
    n_train, n_fit = pictures.n_train, pictures.n_train * 2 // 3
    return Split(rows[:n_fit], rows[n_fit:n_train], rows[n_train:], digest="split")


def predictions(labels: list[int], predicted: list[int], confidence: list[float]) -> Predictions:
    """Three classes; what is not the predicted class shares the rest evenly."""
    probabilities = np.array([[(1 - c) / 2] * 3 for c in confidence])
    probabilities[np.arange(len(labels)), predicted] = confidence
    return Predictions(probabilities, np.array(labels), np.arange(100, 100 + len(labels)))
