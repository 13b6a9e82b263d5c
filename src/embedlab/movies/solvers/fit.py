"""Options and likes in, a fitted embedding out: picks the solver and seeds it."""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.device import free_bytes
from embedlab.errors import OptionError
from embedlab.movies.data.cooccurrence import check_dense_fits, cooccurrence
from embedlab.movies.data.weighting import Weighted
from embedlab.movies.solvers.gradient import fit_by_gradient
from embedlab.movies.solvers.minres import fit_minres
from embedlab.movies.solvers.objective import Dense, Factored
from embedlab.movies.solvers.options import FitOptions, FitResult, check_processes
from embedlab.movies.solvers.sharded import ShardedFactored
from embedlab.progress import OnStep
from embedlab_serving.neighbours import unservable_reason


def fit_likes(
    likes: sp.csr_matrix | None,
    options: FitOptions,
    seed: int,
    device: str,
    on_step: OnStep,
    processes: int = 1,
) -> FitResult:
    """Fit the likes L, (n_users, n_movies) CSR. The exact solver always works on the CPU.

    processes  that do it together, all of which call this; the first has the likes and sends the
               others their share, for which they pass None.
    """
    check_processes(options, processes)
    if likes is not None:
        _check_vectors_fit(likes.shape, options, device)
    if options.optimizer == "exact":
        generator = np.random.default_rng(seed)
        return fit_minres(likes, options.dim, generator, options.epochs, on_step=on_step)
    if processes > 1:
        objective = ShardedFactored(likes, device)
    elif options.objective == "factored":
        objective = Factored(likes, device)
    else:
        check_dense_fits(likes.shape[1], device)
        objective = Dense(cooccurrence(likes), device)
    return fit_by_gradient(objective, options, torch.Generator().manual_seed(seed), on_step)


def _check_vectors_fit(shape: tuple[int, int], options: FitOptions, device: str) -> None:
    """Raises OptionError where the arrays of a fit that grow with dim are larger than the memory.

    In bytes: of V (n_movies, dim) the optimizer's copies and one in float64, of L V (n_users, dim)
    and G (dim, dim) a float64 and a float32.
    """
    (n_users, n_movies), dim = shape, options.dim
    needed, free = 12 * dim * (3 * n_movies + n_users + dim), free_bytes(device)
    if needed > free:
        raise OptionError(
            f"dim: expected vectors that fit into memory, but dim={dim} needs "
            f"{needed / 2**30:,.1f} GiB and {device} has {free / 2**30:,.1f} GiB free: use a "
            f"smaller one (dim={n_movies}, the number of movies, can fit every count)"
        )


def fit_weighted(
    weighted: Weighted,
    options: FitOptions,
    seed: int,
    device: str,
    on_step: OnStep,
    processes: int = 1,
) -> FitResult:
    """Fit weighted likes: the cost is that of the weighted X, the embedding the movies' own.

    An embedding that could not be served has diverged, whatever its cost.
    """
    fit = fit_likes(weighted.likes, options, seed, device, on_step, processes)
    fit = replace(fit, embedding=weighted.embedding(fit.embedding))
    fault = None if fit.has_diverged else unservable_reason(fit.embedding)
    return replace(fit, diverged_at=fit.epochs, divergence=fault) if fault else fit


def fit_reference(likes: sp.csr_matrix, dim: int, seed: int) -> FitResult:
    """The exact solver's fit of the same likes and dim: the yardstick of every gradient fit."""
    return fit_minres(likes, dim, np.random.default_rng(seed))
