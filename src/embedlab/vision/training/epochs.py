"""Epochs of a training: a validated one, and the best one so far with its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from embedlab.progress import EpochRecord
from embedlab.vision.evaluation.metrics import AccuracyAndLoss, Predictions


class ValidatedEpoch(NamedTuple):
    """An epoch of a training, after its validation.

    record       its metrics.
    predictions  for all validation images, in their order; None at ranks other than 0.
    """

    record: EpochRecord
    predictions: Predictions | None


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far, by `AccuracyAndLoss`, and its weights by name."""

    epoch: int
    score: AccuracyAndLoss
    weights: Mapping[str, torch.Tensor]

    def __str__(self) -> str:
        return f"validation accuracy {self.score.accuracy:.2%} after epoch {self.epoch}"
