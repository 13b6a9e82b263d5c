"""Classification metrics: numbers and tables from predicted probabilities, without a network.

In: `Predictions`. Out: a `ClassificationReport`, the most confident right and wrong images of each
class, a paired test.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

N_BINS = 15  # of the calibration error, as in the paper
PER_CLASS_COLUMNS = ("class", "pictures", "precision", "recall", "f1")


class AccuracyAndLoss(NamedTuple):
    """The score that selects the best epoch: accuracy, a fraction, and cross-entropy in nats."""

    accuracy: float
    loss: float

    def beats(self, other: "AccuracyAndLoss") -> bool:
        """Whether the accuracy is higher, or is equal and the loss is lower."""
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


NO_SCORE = AccuracyAndLoss(-1.0, math.inf)  # any other score beats it


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for n images.

    probabilities  (n, classes) float64, rows sum to 1.
    labels         (n,) int64, the true classes.
    rows           (n,) int64, of `ImageDataset.pixels`.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(1)  # (n,)

    @property
    def confidence(self) -> np.ndarray:
        return self.probabilities.max(1)  # (n,)

    @property
    def is_right(self) -> np.ndarray:
        return self.predicted == self.labels  # (n,) bool

    @property
    def score(self) -> AccuracyAndLoss:
        """Accuracy, and mean cross-entropy; a probability below 2.2e-16 counts as that."""
        p_true = self.probabilities[np.arange(len(self.labels)), self.labels]  # (n,)
        loss = -np.log(p_true.clip(np.finfo(np.float64).eps)).mean()
        return AccuracyAndLoss(float(self.is_right.mean()), float(loss))

    def take(self, positions: np.ndarray) -> "Predictions":
        """The predictions at these positions, 0 to n − 1."""
        return Predictions(**{name: array[positions] for name, array in vars(self).items()})


@dataclass(frozen=True)
class ClassificationReport:
    """Metrics of predictions for labelled images.

    loss               mean cross-entropy in nats.
    accuracy           a fraction; `interval` is its 95% interval.
    calibration_error  from the function of that name.
    per_class          one row per class: PER_CLASS_COLUMNS; `pictures` is its number of images.
    confusion          (classes, classes) counts: true class by row, predicted by column.
    """

    loss: float
    accuracy: float
    interval: tuple[float, float]
    calibration_error: float
    per_class: pd.DataFrame
    confusion: np.ndarray

    def __str__(self) -> str:
        low, high = self.interval
        return f"Test accuracy {self.accuracy:.2%} (95% interval {low:.2%} to {high:.2%})"

    def as_metrics(self) -> dict[str, float]:
        """The overall test metrics by name; those of each class are in the tables."""
        low, high = self.interval
        return {
            "test/loss": self.loss,
            "test/accuracy": self.accuracy,
            "test/accuracy_low": low,
            "test/accuracy_high": high,
            "test/calibration_error": self.calibration_error,
        }


def predictions_of(logits: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Predictions:
    """Predictions from logits (n, classes) for these rows; `labels` are the whole data set's."""
    return Predictions(softmax(logits.astype(np.float64), axis=1), labels[rows], rows)


def evaluate(predictions: Predictions, classes: tuple[str, ...]) -> ClassificationReport:
    """Metrics of predictions, overall and by class, with Wilson's interval of the accuracy."""
    pairs = predictions.labels, predictions.predicted
    labels = np.arange(len(classes))
    *scores, support = precision_recall_fscore_support(*pairs, labels=labels, zero_division=0.0)
    rows = zip(classes, support, *scores, strict=True)
    return ClassificationReport(
        loss=predictions.score.loss,
        accuracy=predictions.score.accuracy,
        interval=wilson_interval(int(predictions.is_right.sum()), len(predictions.labels)),
        calibration_error=calibration_error(predictions),
        per_class=pd.DataFrame(rows, columns=PER_CLASS_COLUMNS),
        confusion=confusion_matrix(*pairs, labels=labels),
    )


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson, JASA 22, 1927)."""
    interval = binomtest(n_right, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def calibration_error(predictions: Predictions) -> float:
    """Mean |accuracy − confidence| over bins of confidence, weighted by their images.

    Expected calibration error (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
    """
    confidence = predictions.confidence
    # Bin k holds (k/N, (k+1)/N].
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    excess = np.bincount(bins, predictions.is_right - confidence, minlength=N_BINS)
    return float(np.abs(excess).sum() / len(confidence))


def top_predictions(predictions: Predictions, classes: tuple[str, ...], k: int = 5) -> pd.DataFrame:
    """The k most confident right and wrong predictions for the images of each true class.

    One row per image: class, kind (right or wrong), rank from 1, predicted, confidence, row.
    A class with fewer than k has fewer rows; at equal confidence, the earlier image comes first.
    """
    names = np.array(classes, dtype=object)
    table = pd.DataFrame(
        {
            "label": predictions.labels,
            "class": names[predictions.labels],
            "kind": np.where(predictions.is_right, "right", "wrong"),
            "predicted": names[predictions.predicted],
            "confidence": predictions.confidence,
            "row": predictions.rows,
        }
    ).sort_values("confidence", ascending=False, kind="stable")
    table.insert(3, "rank", 1 + table.groupby(["label", "kind"]).cumcount())
    table = table[table["rank"] <= k].sort_values(["label", "kind", "rank"], ignore_index=True)
    return table.drop(columns="label")


class PairedTest(NamedTuple):
    """McNemar's exact test of two models on the same images.

    only_first, only_second  numbers of images that only one of them gets right.
    p_value                  two-sided, of the binomial test that the two are equally likely.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Predictions, second: Predictions) -> PairedTest:
    """McNemar's test (Psychometrika 12, 1947), exact and therefore valid for few images."""
    only_first = int((first.is_right & ~second.is_right).sum())
    only_second = int((second.is_right & ~first.is_right).sum())
    n = only_first + only_second
    p_value = float(binomtest(only_first, n).pvalue) if n else 1.0
    return PairedTest(only_first, only_second, p_value)
