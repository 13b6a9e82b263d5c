"""Gradient descent on the embedding's cost by torch's optimizers: one update of V per epoch.

In: an objective, options, a seeded generator. Out: the vectors, and an `EpochRecord` per epoch.
Epoch `e` has the cost before update `e`: epoch 0 is the start and the last epoch the result.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch

from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.objective import Objective
from embedlab.movies.solvers.result import FitResult, OnVectors, find_divergence, ignore_vectors
from embedlab.progress import EpochRecord, OnEpoch, ignore_epoch

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, foreach=True),
    "sgd": partial(torch.optim.SGD, fused=True),
    # One L-BFGS iteration per epoch, with a line search (Nocedal & Wright 2006, algorithms 7.4 and
    # 3.5) of at most max_eval evaluations. The tolerances are off: the loop decides when to stop.
    "lbfgs": partial(
        torch.optim.LBFGS,
        max_iter=1,
        max_eval=25,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    ),
}


def fit_by_gradient(
    objective: Objective,
    options: FitOptions,
    generator: torch.Generator,
    on_epoch: OnEpoch = ignore_epoch,
    on_vectors: OnVectors = ignore_vectors,
) -> FitResult:
    """Minimise `objective` from an N(0, init_scale²) start that `generator` draws on the CPU.

    Stops at the first cost that is not finite; `FitResult.diverged_at` reports divergence.
    """
    v = random_start(objective.n_movies, options, generator).to(objective.device)
    v.requires_grad_()
    optimizer = _OPTIMIZERS[options.optimizer]([v], lr=options.lr)
    norms: list[float] = []

    def evaluate() -> float:
        optimizer.zero_grad()  # frees the last gradient before the next is allocated
        with torch.no_grad():
            cost, v.grad = objective.cost_and_gradient(v.detach())
            # (n_movies,) float32: infinite from 1e19 on, shortly before the cost is
            row_norms = torch.linalg.vector_norm(v.grad, dim=1)
            norms.append(torch.linalg.vector_norm(row_norms, dtype=torch.float64).item())
        return cost

    seconds, costs = 0.0, []
    for epoch in range(options.epochs + 1):
        norms.clear()
        on_vectors(epoch, v.detach())
        started = time.perf_counter()
        is_update = epoch < options.epochs
        cost = optimizer.step(evaluate) if is_update else evaluate()
        elapsed = time.perf_counter() - started
        costs.append(cost)
        if not math.isfinite(cost):
            break
        # A line search evaluates several times, first at this epoch's vectors.
        metrics = {"train/cost": cost, "train/gradient_norm": norms[0]}
        on_epoch(EpochRecord(epoch, metrics, elapsed if is_update else None))
        seconds += elapsed
    epochs = len(costs) - 1
    last_finite = next(filter(math.isfinite, reversed(costs)), math.nan)
    embedding = v.detach().cpu().numpy()
    return FitResult(embedding, last_finite, epochs, seconds, *find_divergence(costs))


def random_start(n_movies: int, options: FitOptions, generator: torch.Generator) -> torch.Tensor:
    """(n_movies, dim) float32, drawn on the CPU: a seed gives the same start on every device."""
    return options.init_scale * torch.randn((n_movies, options.dim), generator=generator)
