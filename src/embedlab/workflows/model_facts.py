"""Facts about movie and image models that registered versions carry: scores, licences and limits.

Imports nothing heavy: parsers import this module before any heavy import.
"""

import math
import re
from typing import TYPE_CHECKING

from embedlab.formatting import cost_as_text
from embedlab.tracking.registry.promotion import PromotionMetric

if TYPE_CHECKING:
    from mlflow.entities import Run

COST = PromotionMetric("cost", "cost", cost_as_text, lower_is_better=True)
NDCG = PromotionMetric("ndcg", "NDCG@10 of held-out likes")
MOVIE_METRICS = {metric.name: metric for metric in (COST, NDCG)}
VAL_LOSS = PromotionMetric("val_loss", "validation loss", lower_is_better=True)
VAL_ACCURACY = PromotionMetric("val_accuracy", "validation accuracy", tie_breaker=VAL_LOSS)

YOUR_OWN = "your own; its licence is yours to state."
MOVIELENS = re.compile(r"ml-[\w-]+")
MOVIELENS_LICENCE = (
    "MovieLens (F. M. Harper and J. A. Konstan, ACM TiiS 5(4), 2015), as its name says: for "
    "research; no commercial or revenue-bearing use without GroupLens' permission; what is made "
    "from it may be passed on only under the same conditions."
)
LICENCES = {
    "sample": (
        "built in and MIT-licensed as the project; the films are real, users and ratings invented."
    ),
    "digits sample": (
        "scikit-learn's copy of the UCI hand-written digits (E. Alpaydin and C. Kaynak, 1998), "
        "CC BY 4.0."
    ),
    "CIFAR-10": (
        "its authors state none; cite A. Krizhevsky, Learning Multiple Layers of Features from "
        "Tiny Images, 2009."
    ),
}
WEIGHTS_LICENCES = {
    "imagenet": (
        "torchvision's, trained on ImageNet, whose images are for non-commercial research; "
        "torchvision leaves it to you to find out whether that binds your use of the weights."
    ),
    "none": "drawn at random.",
}

MOVIE_LIMITS = (
    "It knows the movies of its data and no others: a movie that few liked has a vector of little "
    "meaning, one that nobody liked is refused, one that came later has none.",
    "`score=dot` favours popular movies; `score=cosine` ignores popularity.",
    "It says which movies the same people liked, not why, and nothing about a person: do not use "
    "it to infer anything about one.",
    "A lower cost is a better fit to these counts. It is no proof of better recommendations.",
)
IMAGE_LIMITS = (
    "It predicts one of its classes for any image, even one that shows none of them.",
    "The accuracy holds for images like the test images; with another camera, size or scene "
    "it may be much lower. Measure it on your own first.",
    "A probability is not a certainty: see `test/calibration_error` of its run.",
    "Not for decisions about people, nor where a mistake does harm.",
)


def val_score(run: "Run") -> tuple[float, float]:
    """What the image run is ranked by: the best is the largest."""
    metrics = run.data.metrics  # runs of an earlier version lack the loss
    return metrics["best/val_accuracy"], -metrics.get("best/val_loss", math.inf)


def data_licence(name: str) -> str:
    """The licence of a data set of this name, in a sentence."""
    return LICENCES.get(name) or (MOVIELENS_LICENCE if MOVIELENS.fullmatch(name) else YOUR_OWN)


def weights_licence(weights: str) -> str:
    """The licence of the weights that a network started from, in a sentence."""
    return WEIGHTS_LICENCES.get(weights, YOUR_OWN)
