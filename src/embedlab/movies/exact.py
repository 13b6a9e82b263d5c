"""The exact solver: with the diagonal free, the problem is minres factor analysis.

Fill the diagonal of X with the current n_i = ‖v_i‖², take the top-d eigenpairs (λ, E) of
X − diag(x) + diag(n), set V = E √λ₊, repeat. Filling the diagonal makes the full squared error
equal to the cost at the current V and never below it anywhere else, and the eigenpairs minimise
the full squared error, so no round can raise the cost. X = LᵀL is applied, never formed.

A round needs no finished eigenpairs, only better ones than the last: `_Block` improves a subspace
by one product with LᵀL and keeps it for the next round. The best V of a subspace that holds the
last V cannot cost more than that, so the cost still falls in every round.

Sources: H. H. Harman and W. H. Jones, "Factor analysis by minimizing residuals (minres)",
Psychometrika 31 (1966); H. H. Thomson's iterated principal axes is the same iteration.
C. Musco and C. Musco, "Randomized block Krylov methods for stronger and faster approximate singular
value decomposition", NeurIPS 2015.
"""

import time

import numpy as np
import scipy.sparse as sp

from embedlab.movies.counts import off_diagonal_squares
from embedlab.movies.fit import Fit
from embedlab.movies.product import LikesProduct
from embedlab.step import OnStep, Step

# Below this a full eigendecomposition is faster, and any dim is allowed.
FEW_MOVIES = 600
SPARE = 0.2  # more vectors than asked for, as a share: the last of a subspace converge last
FEWEST_SPARE = 8


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
    generator  draws the first subspace; the result does not depend on it.
    Epoch `e` holds the cost after `e` rounds, and `products`, how often LᵀL was applied to a vector
    so far; the start, epoch 0, is what the first subspace knows of the top eigenpairs of X with its
    own diagonal. With dim > n_movies the columns beyond n_movies are 0.
    """
    n_movies = likes.shape[1]
    popularity = np.bincount(likes.indices, minlength=n_movies)
    order = np.argsort(-popularity, kind="stable")  # what is read often lies together
    likes = likes[:, order].astype(np.float64)
    x = np.asarray(likes.power(2).sum(axis=0)).ravel()  # (n_movies,) x_i = X_ii
    squares = off_diagonal_squares(likes)
    k = min(dim, n_movies)
    is_small = n_movies <= max(FEW_MOVIES, 4 * dim)
    pairs = _Full(likes) if is_small else _Block(likes, k, generator)

    n = x
    best_v, best_cost, seconds = np.zeros((n_movies, k)), np.inf, 0.0
    for round_ in range(max_rounds + 1):
        started = time.perf_counter()
        values, e, xe = pairs.improve(n - x, k)  # (k,), (n_movies, k), X e: (n_movies, k)
        root = np.sqrt(np.maximum(values, 0))
        v, xv = e * root, xe * root  # V = E √λ₊
        n = np.square(v).sum(axis=1)  # (n_movies,)
        g = root**2  # the diagonal of G = VᵀV, which has nothing else
        # c(V) = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i), and ‖LV‖²_F = tr(VᵀXV)
        pulls = np.vdot(v, xv) - x @ n
        cost = float(squares + np.square(g).sum() - np.square(n).sum() - 2 * pulls)
        elapsed = time.perf_counter() - started
        seconds += elapsed
        # Rounding: the last round was the best.
        stalled = cost > best_cost
        if not stalled:
            # ∇c(V) = 4 [ V G − X V − diag(n − x) V ]
            gradient = 4 * (v * g - xv - (n - x)[:, None] * v)
            metrics = {"train/cost": cost, "train/gradient_norm": float(np.linalg.norm(gradient))}
            on_step(Step(round_, metrics | {"products": pairs.products}, elapsed))
            converged = best_cost - cost <= tolerance * abs(cost)
            best_v, best_cost, rounds = v, cost, round_
        if stalled or converged:
            break
    embedding = np.zeros((n_movies, dim), np.float32)
    embedding[order, :k] = best_v
    return Fit(embedding, best_cost, rounds, seconds)


class _Full:
    """Every eigenpair of X + diag(shift), by LAPACK."""

    def __init__(self, likes: sp.csr_matrix):
        self._x = (likes.T @ likes).toarray()
        self.products = 0

    def improve(self, shift: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.products += len(shift)
        values, e = np.linalg.eigh(self._x + np.diag(shift))
        return values[-k:], e[:, -k:], self._x @ e[:, -k:]


class _Block:
    """A subspace that comes nearer to the top eigenvectors of X + diag(shift) in every round.

    The subspace is spanned by the present vectors Q and their residuals W, all orthonormal. X Q is
    a combination of what is known, so only X W is computed: a block Krylov method of one step,
    restarted from the last round's vectors, on a matrix whose diagonal moves.
    """

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._product = LikesProduct(likes)
        self.products = 0
        self._width = k + max(FEWEST_SPARE, round(SPARE * k))
        drawn = generator.standard_normal((likes.shape[1], self._width))
        self._q = np.linalg.qr(self._gram(drawn)).Q  # (n_movies, width)
        self._xq = self._gram(self._q)

    def improve(self, shift: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Top k Ritz values, ascending: (k,); their vectors E and X E, (n_movies, k)."""
        width, q, xq = self._width, self._q, self._xq
        # (X + diag(shift)) Q lies in the span of Q and the residuals.
        w = np.linalg.qr(np.hstack([q, xq + shift[:, None] * q])).Q[:, width:]
        basis = np.hstack([q, w])  # (n_movies, 2 width)
        x_basis = np.hstack([xq, self._gram(w)])
        projected = basis.T @ (x_basis + shift[:, None] * basis)
        values, turned = np.linalg.eigh((projected + projected.T) / 2)
        turned = turned[:, -width:]  # the best of the subspace, (2 width, width)
        self._q, self._xq = basis @ turned, x_basis @ turned
        return values[-k:], self._q[:, -k:], self._xq[:, -k:]

    def _gram(self, vectors: np.ndarray) -> np.ndarray:
        self.products += vectors.shape[1]
        return self._product.gram(vectors)
