"""Toy data of the vision tests: squares of one colour with noise, which any classifier learns;
features, predictions, finished runs, and a file with one weight changed."""

import numpy as np

from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.evaluation.comparison import ComparedRun
from embedlab.vision.evaluation.metrics import Predictions
from embedlab_serving.network import Preprocessing

CLASSES = ("red", "green", "blue")
# The mean and the standard deviation are ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing(32, 1.0, MEAN, STD)


def squares(n_per_class: int = 40, side: int = 8, seed: int = 0) -> ImageDataset:
    """Three classes in turn; the last quarter is the official test set."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(3), n_per_class)
    images = rng.integers(0, 60, (len(labels), 3, side, side), dtype=np.uint8)
    images[np.arange(len(labels)), labels] += 180  # the channel of the class
    n_train = len(labels) * 3 // 4 // 3 * 3
    parts = {"train": n_train, "test": len(labels) - n_train}
    digest, fingerprints = f"squares-{seed}", np.arange(len(labels))
    return ImageDataset("squares", CLASSES, images, labels, parts, digest, fingerprints)


def split_of(images: ImageDataset) -> Split:
    """Two thirds of the training images train, the others validate."""
    rows = np.arange(len(images.labels))
    n_train = images.part_sizes["train"]
    n_fit = n_train * 2 // 3
    return Split(rows[:n_fit], rows[n_fit:n_train], rows[n_train:], digest="split")


def predictions(labels: list[int], predicted: list[int], confidence: list[float]) -> Predictions:
    """Predictions for three classes; the two not predicted share the rest evenly."""
    probabilities = np.array([[(1 - c) / 2] * 3 for c in confidence])
    probabilities[np.arange(len(labels)), predicted] = confidence
    return Predictions(probabilities, np.array(labels), np.arange(100, 100 + len(labels)))


def compared_run(
    name: str, entry_point: str, predictions: Predictions, **values: float
) -> ComparedRun:
    """A finished run from pretrained weights, without a history of epochs."""
    about = {"weights": "imagenet", "id": name, "dataset": "toy", "images_digest": "toy"}
    values = {"val_accuracy": 0.5, "seconds": 1.0} | values
    values |= {"history": (), "best_epoch": 1}
    return ComparedRun(name, entry_point, predictions=predictions, **values, **about)


def blobs(n=300, d=6, seed=0):
    """Features and labels of three classes that overlap a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    centres = np.random.default_rng(9).normal(size=(3, d))
    features = centres[labels] * 1.5 + rng.normal(size=(n, d))
    return (features * 3 + 7).astype(np.float32), labels  # neither centred nor scaled


def tampered(content: bytes) -> bytes:
    """The content of a file with one weight changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


HAND = predictions([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], [0.9, 0.7, 0.6, 0.8, 0.5, 0.9])
