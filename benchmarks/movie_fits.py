"""Shared by the movie benchmarks: likes, an epoch of Adam, and the time of an exact fit.

In: ratings as the entry points name them, or likes. Out: timings of this project's own fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.timing import timed
from embedlab.datasets.movielens import locate_ratings
from embedlab.movies.data.likes import Likes, find_likes
from embedlab.movies.data.ratings import read_ratings
from embedlab.movies.data.weighting import WeightedLikes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.minres import fit_minres
from embedlab.movies.solvers.objective import Objective
from embedlab.movies.solvers.result import FitResult
from embedlab.progress import EpochRecord

DIM = 100
EXACT = FitOptions("exact", dim=DIM)
NEAR_END = 1e-3  # a cost is near if it is at most this fraction above the final cost


def load_likes(ratings: str) -> Likes:
    files = locate_ratings(ratings)
    return find_likes(read_ratings(files.path, files.name), "user_mean")


def adam_epoch(objective: Objective) -> Callable[[], float]:
    """One epoch of this project: cost and gradient in closed form, then Adam; returns the cost."""
    v = torch.randn((objective.n_movies, DIM), requires_grad=True)
    optimizer = torch.optim.Adam([v], lr=1.0, fused=True)

    def epoch() -> float:
        optimizer.zero_grad()
        with torch.no_grad():
            cost, v.grad = objective.cost_and_gradient(v.detach())
        optimizer.step()
        return cost

    return epoch


def first_within(history: Sequence[EpochRecord], limit: float, gap: float) -> int | None:
    """The position from which on all costs are within the fraction `gap` of `limit`, if any.

    A single cost proves nothing: in float32, rounding may have made it too low.
    """
    costs = [record.metrics["train/cost"] for record in history]
    outside = [i for i, cost in enumerate(costs) if abs(cost / limit - 1) > gap]
    position = outside[-1] + 1 if outside else 0
    return position if position < len(history) else None


def seconds_until(history: Sequence[EpochRecord], position: int) -> float:
    """Total seconds of all rounds up to and including the one at `position`."""
    return sum(record.seconds or 0.0 for record in history[: position + 1])


@dataclass(frozen=True)
class TimedFit:
    """An exact fit, with its seconds until the end and until round `near_round`.

    `near_round` is the first round whose cost is within NEAR_END of the final cost.
    """

    fit: FitResult
    history: list[EpochRecord]
    seconds: float
    near_round: int
    near_seconds: float


def timed_exact_fit(weighted: WeightedLikes) -> TimedFit:
    history: list[EpochRecord] = []
    generator = np.random.default_rng(0)
    fit, seconds = timed(
        lambda: fit_minres(weighted, EXACT, generator, tolerance=1e-5, on_epoch=history.append)
    )
    near = first_within(history, fit.cost, NEAR_END)
    assert near is not None, "the last round's cost is the final one"
    rounds_after = seconds_until(history, len(history) - 1) - seconds_until(history, near)
    return TimedFit(fit, history, seconds, near, seconds - rounds_after)
