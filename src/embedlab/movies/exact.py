"""The exact solver: with the diagonal free, the problem is minres factor analysis.

Fill the diagonal of X with the current n_i = ‖v_i‖², take the top-d eigenpairs (λ, E) of
X − diag(x) + diag(n), set V = E √λ₊, repeat. Filling the diagonal makes the full squared error
equal to the cost at the current V and never below it anywhere else, and the eigenpairs minimise
the full squared error, so no round can raise the cost. X = LᵀL is applied, never formed.

Source: H. H. Harman and W. H. Jones, "Factor analysis by minimizing residuals (minres)",
Psychometrika 31 (1966); H. H. Thomson's iterated principal axes is the same iteration.
"""

import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from embedlab.movies.fit import Fit
from embedlab.movies.objective import Factored
from embedlab.step import OnStep, Step

# Below this a full eigendecomposition is faster than Lanczos, and any dim is allowed.
FEW_MOVIES = 600
FIRST_TOLERANCE, LAST_TOLERANCE = 1e-1, 1e-7  # of the eigenpairs: ten times tighter a round


def fit_exact(
    likes: sp.csr_matrix,
    dim: int,
    generator: np.random.Generator,
    max_rounds: int = 150,
    tolerance: float = 1e-8,
    on_step: OnStep = lambda step: None,
) -> Fit:
    """Rounds of filled diagonals until one lowers the cost by less than `tolerance`, relatively.

    likes      (n_users, n_movies) CSR: L.
    generator  draws the first Lanczos vector; the result does not depend on it.
    The start, epoch 0, is the top eigenpairs of X with its own diagonal; epoch `e` holds the cost
    after `e` rounds. With dim > n_movies the columns beyond n_movies are 0.
    """
    objective = Factored(likes, dtype=torch.float64)
    n_movies, x = objective.n_movies, objective.x.numpy()
    n = x
    start_vector = generator.standard_normal(n_movies)
    top_eigenpairs = _by_lanczos if n_movies > max(FEW_MOVIES, 2 * dim) else _by_full_decomposition
    apply_x = _apply_x(likes)

    accuracy = FIRST_TOLERANCE
    best_v, best_cost, seconds = np.zeros((n_movies, dim)), np.inf, 0.0
    for round_ in range(max_rounds + 1):
        started = time.perf_counter()
        accuracy = max(accuracy / 10, LAST_TOLERANCE)
        values, e = top_eigenpairs(apply_x, n - x, min(dim, n_movies), start_vector, accuracy)
        v = np.zeros((n_movies, dim))
        v[:, : len(values)] = e * np.sqrt(np.maximum(values, 0))  # V = E √λ₊
        elapsed = time.perf_counter() - started
        seconds += elapsed
        cost, gradient = objective.cost_and_gradient(torch.from_numpy(v))
        # Rounding, or an eigenpair that Lanczos left unfinished: the last round was the best.
        stalled = cost > best_cost
        if not stalled:
            norm = torch.linalg.vector_norm(gradient).item()
            on_step(Step(round_, {"train/cost": cost, "train/gradient_norm": norm}, elapsed))
            converged = best_cost - cost <= tolerance * abs(cost)
            best_v, best_cost, rounds = v, cost, round_
        if stalled or converged:
            break
        n = np.square(v).sum(axis=1)
        start_vector = e.sum(axis=1)  # lies in the last round's subspace
    return Fit(best_v.astype(np.float32), best_cost, rounds, seconds)


ApplyX = Callable[[np.ndarray], np.ndarray]


def _apply_x(likes: sp.csr_matrix) -> ApplyX:
    """x -> LᵀL x for a vector or for the columns of a matrix."""
    forward = likes.astype(np.float64)
    backward = forward.T.tocsr()
    return lambda vectors: backward @ (forward @ vectors)


def _by_lanczos(
    apply_x: ApplyX, shift: np.ndarray, k: int, start_vector: np.ndarray, accuracy: float
) -> tuple[np.ndarray, np.ndarray]:
    """Top k eigenpairs of X + diag(shift), ascending: (k,), (n_movies, k)."""
    operator = LinearOperator(
        shape=(len(shift), len(shift)),
        dtype=np.float64,
        matvec=lambda vector: apply_x(vector) + shift * vector,
    )
    # 1.5 k Lanczos vectors: fewer products than orthogonalisations are what costs here.
    ncv = min(k + max(k // 2, 20), len(shift))
    return eigsh(operator, k=k, which="LA", v0=start_vector, ncv=ncv, tol=accuracy)


def _by_full_decomposition(
    apply_x: ApplyX, shift: np.ndarray, k: int, _start_vector: np.ndarray, _accuracy: float
) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(apply_x(np.eye(len(shift))) + np.diag(shift))
    return values[-k:], vectors[:, -k:]
