"""Fit likes: choose the solver that the options name, and seed it."""

from dataclasses import replace

import numpy as np
import torch

from embedlab.device import free_bytes
from embedlab.errors import OptionError
from embedlab.movies.data.cooccurrence import check_dense_fits, cooccurrence
from embedlab.movies.data.weighting import WeightedLikes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.gradient import fit_by_gradient
from embedlab.movies.solvers.minres import fit_minres
from embedlab.movies.solvers.objective import Dense, Factored, Objective
from embedlab.movies.solvers.result import FitResult, OnVectors, ignore_vectors
from embedlab.progress import OnEpoch, ignore_epoch
from embedlab_serving.neighbours import unservable_reason


def fit_likes(
    weighted: WeightedLikes,
    options: FitOptions,
    seed: int,
    device: str,
    on_epoch: OnEpoch = ignore_epoch,
    is_sharded: bool = False,
    on_vectors: OnVectors = ignore_vectors,
) -> FitResult:
    """Fit weighted likes. The cost is that of the weighted X; the embedding is scaled back.

    The exact solver always runs on the CPU. An embedding that cannot be served
    (`unservable_reason`) counts as diverged, whatever its cost.

    is_sharded  whether all ranks share the fit: this is rank 0, and the others call `join_fit`.
    on_vectors  called with the unscaled vectors of every epoch, except by the exact solver.

    Raises OptionError if the vectors do not fit into memory, DataError if a dense X does not.
    """
    _check_memory(weighted.matrix.shape, options.dim, "cpu" if options.is_exact else device)
    if options.is_exact:
        rng = np.random.default_rng(seed)
        fit = fit_minres(weighted, options, rng, on_epoch=on_epoch)
    else:
        if options.objective == "factored":
            objective: Objective = Factored(weighted, device, is_sharded=is_sharded)
        else:
            check_dense_fits(weighted.matrix.shape[1], device, n_matrices=2)  # X and its residual
            objective = Dense(cooccurrence(weighted.matrix), device)
        generator = torch.Generator().manual_seed(seed)
        fit = fit_by_gradient(objective, options, generator, on_epoch, on_vectors)
    fit = replace(fit, embedding=weighted.to_embedding(fit.embedding))
    reason = None if fit.has_diverged else unservable_reason(fit.embedding)
    return replace(fit, diverged_at=fit.epochs, divergence=reason) if reason else fit


def join_fit(
    options: FitOptions, seed: int, device: str, on_epoch: OnEpoch = ignore_epoch
) -> FitResult:
    """Share the fit of rank 0, which calls `fit_likes` with the likes and scatters them.

    Returns the vectors before they are scaled back, the same at every rank.
    """
    generator = torch.Generator().manual_seed(seed)
    objective = Factored(None, device, is_sharded=True)
    return fit_by_gradient(objective, options, generator, on_epoch)


def _check_memory(shape: tuple[int, int], dim: int, device: str) -> None:
    """Raises OptionError if the vectors of a fit do not fit into memory."""
    n_users, n_movies = shape
    # (n_movies, dim): V, its gradient and Adam's moments, the last V and the change from it, and
    # V in float64; (n_users, dim): two L V and their squares in float64; G (dim, dim)
    needed, free = 12 * dim * (3 * n_movies + 2 * n_users + dim), free_bytes(device)  # bytes
    if needed > free:
        raise OptionError(
            f"dim: expected vectors that fit into memory, but dim={dim} needs "
            f"{needed / 2**30:,.1f} GiB and {device} has {free / 2**30:,.1f} GiB free: use a "
            f"smaller one (dim={n_movies}, the number of movies, can fit every count)"
        )
