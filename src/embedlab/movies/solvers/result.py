"""`FitResult`, which every solver returns, and what a sequence of costs says about divergence."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from embedlab.errors import DivergedError
from embedlab.formatting import counted
from embedlab.movies.options import FitOptions
from embedlab.progress import EpochRecord

# With too high a learning rate, the cost of RMSprop and Adam can rise a millionfold and fall again;
# a fit that ends this far above its random start has diverged.
DIVERGED_RATIO = 1000.0


# Callback with an epoch and the vectors before its update: (n_movies, dim) float32, on the device.
OnVectors = Callable[[int, torch.Tensor], None]


def ignore_vectors(epoch: int, vectors: torch.Tensor) -> None:
    """An OnVectors that does nothing."""


@dataclass(frozen=True)
class FitResult:
    """A fitted embedding.

    embedding    (n_movies, dim) float32, a row for each movie; from a solver that is called
                 directly, the vectors of the weighted likes, which `WeightedLikes.to_embedding`
                 scales.
    cost         of the embedding, float64; the last finite one if the fit diverged.
    epochs       number of updates; of the exact solver, of rounds.
    seconds      wall time of all updates and of the last evaluation.
    diverged_at  None, or the epoch from which on the costs had diverged (`divergence_epoch`), or
                 the last epoch if only the embedding's rows are too long to be served.
    divergence   the evidence, as a phrase.
    """

    embedding: np.ndarray
    cost: float
    epochs: int
    seconds: float
    diverged_at: int | None = None
    divergence: str = ""

    @property
    def has_diverged(self) -> bool:
        return self.diverged_at is not None

    def hit_max_rounds(self, options: FitOptions) -> bool:
        """Whether this fit is the exact solver's and ended by its maximum number of rounds."""
        return options.is_exact and self.epochs >= options.epochs

    def length(self, options: FitOptions) -> str:
        """`150 epochs`, or the rounds of the exact solver and whether they are its maximum."""
        text = counted(self.epochs, "round" if options.is_exact else "epoch")
        is_maximum = self.hit_max_rounds(options)
        return f"{text} (the maximum; more might lower it)" if is_maximum else text

    def raise_if_diverged(self, options: FitOptions) -> None:
        """Raises DivergedError with the epoch, the learning rate and what to try."""
        if self.has_diverged:
            advice = "weight the likes (user_weight=inverse), or use fewer ratings"
            if options.lr:
                advice = (
                    f"try a smaller learning rate, such as lr={options.lr / 10:g}, or a smaller "
                    f"init_scale than {options.init_scale:g}"
                )
            raise DivergedError(f"{options.label} diverged: {self.divergence}; {advice}.")


def divergence_epoch(costs: Sequence[float]) -> int | None:
    """The epoch from which every cost is bad; None if the last is good: a spike is not divergence.

    A cost is bad if it is not finite or is above DIVERGED_RATIO times the first.

    costs  by epoch, from 0.
    """
    good = [i for i, c in enumerate(costs) if math.isfinite(c) and c <= DIVERGED_RATIO * costs[0]]
    first_bad = good[-1] + 1 if good else 0
    return first_bad if first_bad < len(costs) else None


def find_divergence(costs: Sequence[float]) -> tuple[int | None, str]:
    """`diverged_at` and `divergence` of a `FitResult` with these costs by epoch."""
    epoch = divergence_epoch(costs)
    if epoch is None:
        return None, ""
    last, epochs = costs[-1], len(costs) - 1
    if not math.isfinite(last):
        return epoch, f"the cost is not finite at epoch {epochs}"
    times = f"{last / costs[0]:.2g} times that of the start"
    return epoch, f"after {counted(epochs, 'epoch')} the cost is {last:.3g}, {times}"


def relative_gap(cost: float, reference_cost: float) -> float:
    """A cost divided by the exact solver's, minus 1."""
    return cost / reference_cost - 1


def add_gap_metric(record: EpochRecord, reference_cost: float | None) -> EpochRecord:
    """`record` with `train/gap`, its cost divided by the exact solver's, minus 1.

    Returns `record` itself if the reference cost is None or 0.
    """
    if not reference_cost:
        return record
    gap = relative_gap(record.metrics["train/cost"], reference_cost)
    return replace(record, metrics={**record.metrics, "train/gap": gap})
