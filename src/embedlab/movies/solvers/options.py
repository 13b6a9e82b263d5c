"""What every solver of the movie embedding takes and gives back: options and a result.

Light on purpose: entry points read the names and limits before any heavy import.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedlab.errors import DivergedError, OptionError
from embedlab.progress import OnStep, Step

if TYPE_CHECKING:
    import numpy as np

# The published grid's best learning rate for each optimizer; L-BFGS scales its own steps.
DEFAULT_LR = {"adam": 1.0, "rmsprop": 0.1, "sgd": 2e-5, "adamw": 1.0, "lbfgs": 1.0}
OPTIMIZERS = (*DEFAULT_LR, "exact")
OBJECTIVES = ("factored", "dense")
# RMSprop and Adam at too high a rate rise up to a million times and come back; a fit that ends this
# far above its random start has not.
DIVERGED_RATIO = 1000.0


@dataclass(frozen=True)
class FitOptions:
    """How to fit. Raises OptionError with one sentence where a value is out of range.

    optimizer   one of OPTIMIZERS; `exact` solves by eigenpairs and has no learning rate.
    lr          learning rate; None takes the optimizer's own default.
    dim         length of a movie's vector.
    epochs      updates at the most (`exact`: rounds at the most, it stops when it has converged).
    objective   `factored` or `dense`, the published form; `exact` has its own.
    init_scale  standard deviation of the start's N(0, s²) entries.
    """

    optimizer: str = "adam"
    lr: float | None = None
    dim: int = 100
    epochs: int = 150
    objective: str = "factored"
    init_scale: float = 1.0

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise OptionError(
                f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got '{self.optimizer}'"
            )
        if self.objective not in OBJECTIVES:
            raise OptionError(
                f"objective: expected one of {', '.join(OBJECTIVES)}, got '{self.objective}'"
            )
        for name in ("dim", "epochs", "init_scale"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if self.lr is None:
            object.__setattr__(self, "lr", DEFAULT_LR.get(self.optimizer))
        elif self.optimizer == "exact":
            raise OptionError(f"lr: expected 'auto' with optimizer=exact, got {self.lr}")
        elif not self.lr > 0:
            raise OptionError(f"lr: expected more than 0, got {self.lr}")

    @property
    def label(self) -> str:
        """As a curve or a run is named: `adam lr=0.1`, `exact`."""
        return self.optimizer if self.lr is None else f"{self.optimizer} lr={self.lr:g}"


def check_processes(options: FitOptions, processes: int) -> None:
    """Raises OptionError where this fit cannot be shared out among so many processes."""
    if processes == 1:
        return
    is_exact = options.optimizer == "exact"
    if is_exact or options.objective == "dense":
        what = "optimizer=exact" if is_exact else "objective=dense"
        raise OptionError(
            f"processes: expected 1 with {what}, got {processes}; what is shared out is "
            "objective=factored, by an optimizer that goes by gradients, such as adam"
        )


@dataclass(frozen=True)
class FitResult:
    """A fitted embedding.

    embedding    (n_movies, dim) float32, one vector a movie, in the order of the movie index.
    cost         of the embedding, float64; the last finite one of a fit that diverged.
    epochs       updates made.
    seconds      wall time of all updates.
    diverged_at  the epoch from which on it had diverged, as `divergence_epoch` has it, or the last
                 one where its rows are too long to be served; None if it has not.
    divergence   what shows it, in words.
    """

    embedding: "np.ndarray"
    cost: float
    epochs: int
    seconds: float
    diverged_at: int | None = None
    divergence: str = ""

    @property
    def has_diverged(self) -> bool:
        return self.diverged_at is not None

    def raise_if_diverged(self, options: FitOptions) -> None:
        """Raises DivergedError, with the epoch, the learning rate and what to try."""
        if self.has_diverged:
            raise DivergedError(
                f"{options.label} diverged: {self.divergence}; try a smaller learning rate, such "
                f"as lr={options.lr / 10:g}, or a smaller init_scale than {options.init_scale:g}."
            )


def divergence_epoch(costs: Sequence[float]) -> int | None:
    """The epoch from which on `costs`, by epoch from 0, are not finite or more than FAR_ABOVE_START
    times the first; None if the last is neither. A spike on the way is no divergence."""
    first_bad = len(costs)
    for cost in reversed(costs):
        if math.isfinite(cost) and cost <= DIVERGED_RATIO * costs[0]:
            break
        first_bad -= 1
    return first_bad if first_bad < len(costs) else None


def add_gap_metric(on_step: OnStep, reference_cost: float | None) -> OnStep:
    """Add `train/gap` to every step: how far the cost is above the exact one, as a fraction.

    Without a reference cost, or with one of 0, the steps stay as they are.
    """
    if not reference_cost:
        return on_step

    def on_step_with_gap(step: Step) -> None:
        gap = step.metrics["train/cost"] / reference_cost - 1
        on_step(replace(step, metrics={**step.metrics, "train/gap": gap}))

    return on_step_with_gap
