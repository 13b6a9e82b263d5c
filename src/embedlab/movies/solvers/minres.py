"""The exact solver: with the diagonal free, the problem is minres factor analysis.

Fill the diagonal of X with n, take the top-d eigenpairs (λ, E) of X − diag(x) + diag(n), set
V = E √λ₊, fill in n_i = ‖v_i‖², repeat. With that diagonal the full squared error equals the cost
at the current V and bounds it from above elsewhere, and the eigenpairs minimise the full squared
error, so no round can raise the cost. X = LᵀL is applied, never formed.

Two things make it fast. First, a round needs no converged eigenpairs, only better ones than the
last round's. With many likes, where products dominate, `BlockKrylov` improves a subspace by one
product with LᵀL and keeps it; the best V of a subspace that contains the last V cannot cost more.
With few likes `Lanczos` is faster, which does less besides its products. Second, a movie with
nearly a dimension of its own would approach its n_i by 1 % per round: `newton_diagonal` solves for
it, and if that raises the cost, the plain n is used instead.
`benchmarks/eigenpairs.py` compares the eigensolvers.

Sources: H. H. Harman and W. H. Jones, "Factor analysis by minimizing residuals (minres)",
Psychometrika 31 (1966); H. H. Thomson's iterated principal axes is the same iteration.
K. G. Jöreskog, "Factor analysis by least-squares and maximum likelihood methods", 1977: Newton's
method on the diagonal, with the same Hessian.
C. Musco and C. Musco, "Randomized block Krylov methods for stronger and faster approximate singular
value decomposition", NeurIPS 2015.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, eigsh

from embedlab.movies.data.cooccurrence import off_diagonal_squares
from embedlab.movies.solvers.objective import clamp_roundoff
from embedlab.movies.solvers.operators import MIN_LIKES_FOR_SCIPY, ScipyLikesOperator
from embedlab.movies.solvers.result import FitResult
from embedlab.progress import OnStep, Step

# Up to this a full eigendecomposition is faster, and any dim is allowed.
MAX_MOVIES_FOR_LAPACK = 600
SPARE = 0.2  # additional vectors, as a fraction of k: the last of a subspace converge last
MIN_SPARE = 8
FIRST_TOLERANCE, LAST_TOLERANCE = 1e-1, 1e-7  # of Lanczos' eigenpairs
HIGH_LEVERAGE = 0.1  # of at most 10·dim movies, since leverages add up to dim
MIN_CURVATURE = 0.05  # of the Hessian that Newton's method divides by

# The top k eigenvalues, ascending, (k,); their vectors E and X E, (n_movies, k).
Eigenpairs = tuple[np.ndarray, np.ndarray, np.ndarray]


class Eigensolver(Protocol):
    """Approximates the top eigenpairs of X + diag(shift) while the shift changes slowly."""

    products: int  # of LᵀL with a vector, so far

    def expand_subspace(self, shift: np.ndarray) -> None:
        """Prepare better eigenpairs, for about this shift, (n_movies,)."""

    def rayleigh_ritz(self, shift: np.ndarray, k: int) -> Eigenpairs:
        """The best eigenpairs that are known, for this shift, (n_movies,)."""
        ...


def choose_eigensolver(likes: sp.csr_matrix, k: int, generator: np.random.Generator) -> Eigensolver:
    """The fastest eigensolver for k eigenpairs of LᵀL, by size."""
    if likes.shape[1] <= max(MAX_MOVIES_FOR_LAPACK, 4 * k):
        return FullDecomposition(likes)
    return (BlockKrylov if likes.nnz >= MIN_LIKES_FOR_SCIPY else Lanczos)(likes, k, generator)


def fit_minres(
    likes: sp.csr_matrix,
    dim: int,
    generator: np.random.Generator,
    max_rounds: int = 150,
    tolerance: float = 1e-8,
    on_step: OnStep = lambda step: None,
    eigensolver: Callable[..., Eigensolver] = choose_eigensolver,
) -> FitResult:
    """Fill the diagonal until a round lowers the cost by less than `tolerance`, relatively.

    likes        (n_users, n_movies) CSR: L.
    generator    draws the first subspace; the result does not depend on it.
    eigensolver  called with likes, k and generator.

    Epoch `e` has the cost after `e` rounds and `train/products`, the number of products of LᵀL with
    a vector so far. Epoch 0, the start, has the first eigenpairs of X with its own diagonal. If
    dim > n_movies, the columns beyond n_movies are 0.
    """
    n_movies = likes.shape[1]
    likes = likes.astype(np.float64)
    x = np.asarray(likes.power(2).sum(axis=0)).ravel()  # (n_movies,) x_i = X_ii
    squares = off_diagonal_squares(likes)
    k = min(dim, n_movies)
    pairs = eigensolver(likes, k, generator)

    n, rounds, seconds = x, 0, 0.0
    best = _Solution(np.empty((n_movies, 0)), np.empty((n_movies, 0)), x, math.inf, math.inf)
    for round_ in range(max_rounds + 1):
        started = time.perf_counter()
        pairs.expand_subspace(n - x)
        found = _solution(*pairs.rayleigh_ritz(n - x, k), x, squares)
        if found.cost > best.cost:
            found = _solution(*pairs.rayleigh_ritz(best.n - x, k), x, squares)
        elapsed = time.perf_counter() - started
        seconds += elapsed
        if found.cost > best.cost:  # by rounding: nothing is left to gain
            break
        metrics = {"train/cost": found.cost, "train/gradient_norm": found.gradient_norm}
        on_step(Step(round_, metrics | {"train/products": pairs.products}, elapsed))
        converged = best.cost - found.cost <= tolerance * abs(found.cost)
        best, rounds = found, round_
        if converged:
            break
        n = newton_diagonal(n, found)
    embedding = np.zeros((n_movies, dim), np.float32)
    embedding[:, :k] = best.v
    return FitResult(embedding, best.cost, rounds, seconds)


class _Solution(NamedTuple):
    """V = E √λ₊ and its cost.

    e, v  (n_movies, k); n  (n_movies,) n_i = ‖v_i‖².
    """

    e: np.ndarray
    v: np.ndarray
    n: np.ndarray
    cost: float
    gradient_norm: float


def _solution(
    values: np.ndarray, e: np.ndarray, xe: np.ndarray, x: np.ndarray, squares: float
) -> _Solution:
    """From eigenpairs (k,), (n_movies, k) and X E; x_i = X_ii, squares = ‖X‖²_off."""
    root = np.sqrt(np.maximum(values, 0))
    v, xv = e * root, xe * root  # V = E √λ₊
    n = np.square(v).sum(axis=1)  # (n_movies,)
    g = root**2  # the diagonal of G = VᵀV, which has nothing else
    # c(V) = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i), and ‖LV‖²_F = tr(VᵀXV)
    g_squares, lv_squares = np.square(g).sum(), np.vdot(v, xv)
    pulls = lv_squares - x @ n
    cost = float(squares + g_squares - np.square(n).sum() - 2 * pulls)
    cost = clamp_roundoff(cost, g_squares + lv_squares)
    # ∇c(V) = 4 [ V G − X V − diag(n − x) V ]
    gradient = 4 * (v * g - xv - (n - x)[:, None] * v)
    return _Solution(e, v, n, cost, float(np.linalg.norm(gradient)))


def newton_diagonal(filled: np.ndarray, found: _Solution) -> np.ndarray:
    """The next diagonal to fill in, (n_movies,), after `filled` gave `found`.

    The minimal cost with a diagonal n, as a function of n, has the gradient 2 r, r_i = n_i −
    ‖v_i‖², and approximately the Hessian 2 H, H = (I − P)∘(I − P), P = EEᵀ. For a movie of leverage
    P_ii near 0, Newton's step is r, that of the plain iteration; the others are solved for.
    """
    leverage = np.square(found.e).sum(axis=1)  # P_ii
    high = np.flatnonzero(leverage > HIGH_LEVERAGE)
    e = found.e[high]
    curvature, axes = np.linalg.eigh(np.square(np.eye(len(high)) - e @ e.T))
    step = filled - found.n
    step[high] = axes @ ((axes.T @ step[high]) / np.maximum(curvature, MIN_CURVATURE))
    return np.maximum(filled - step, 0)


class FullDecomposition:
    """All eigenpairs of X + diag(shift), by LAPACK."""

    def __init__(self, likes: sp.csr_matrix):
        self._x = (likes.T @ likes).toarray()
        self.products = 0

    def expand_subspace(self, shift: np.ndarray) -> None:
        self.products += len(shift)

    def rayleigh_ritz(self, shift: np.ndarray, k: int) -> Eigenpairs:
        values, e = np.linalg.eigh(self._x + np.diag(shift))
        return values[-k:], e[:, -k:], self._x @ e[:, -k:]


class Lanczos:
    """The top eigenpairs of X + diag(shift) by ARPACK, ten times tighter in every round."""

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._likes, self._likes_t = likes, likes.T
        self._start = generator.standard_normal(likes.shape[1])
        self._tolerance = FIRST_TOLERANCE
        self.products = 0

    def expand_subspace(self, shift: np.ndarray) -> None:
        self._tolerance = max(self._tolerance / 10, LAST_TOLERANCE)

    def rayleigh_ritz(self, shift: np.ndarray, k: int) -> Eigenpairs:
        shape = (len(shift), len(shift))
        operator = LinearOperator(shape, lambda v: self._x(v) + shift * v, dtype=np.float64)
        # 1.5 k Lanczos vectors: orthogonalisations cost more than products here.
        ncv = min(k + max(k // 2, 20), len(shift))
        start, tolerance = self._start, self._tolerance
        values, e = eigsh(operator, k, which="LA", v0=start, ncv=ncv, tol=tolerance)
        self._start = e.sum(axis=1)  # lies in this round's subspace
        return values, e, self._x(e)

    def _x(self, vectors: np.ndarray) -> np.ndarray:
        """LᵀL times a vector, or the columns of a matrix."""
        self.products += vectors.size // len(vectors)
        return self._likes_t @ (self._likes @ vectors)


class BlockKrylov:
    """A subspace that approaches the top eigenvectors of X + diag(shift) in every round.

    A block Krylov method of one step on a matrix whose diagonal moves, restarted from the last
    round's vectors. The subspace is spanned by the current vectors Q and their residuals W, all
    orthonormal. X Q is a combination of known products, so only X W is computed.
    """

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._product = ScipyLikesOperator(likes)
        self.products = 0
        self._width = k + max(MIN_SPARE, round(SPARE * k))
        drawn = generator.standard_normal((likes.shape[1], self._width))
        self._q = np.linalg.qr(self._gram(drawn)).Q  # (n_movies, width)
        self._xq = self._gram(self._q)

    def expand_subspace(self, shift: np.ndarray) -> None:
        """Span the current vectors and their products with X + diag(shift)."""
        pushed = self._xq + shift[:, None] * self._q
        w = np.linalg.qr(np.hstack([self._q, pushed])).Q[:, self._width :]
        self._basis = np.hstack([self._q, w])  # (n_movies, 2 width)
        self._x_basis = np.hstack([self._xq, self._gram(w)])

    def rayleigh_ritz(self, shift: np.ndarray, k: int) -> Eigenpairs:
        """The top k Ritz pairs of the subspace, the current vectors of the next round."""
        projected = self._basis.T @ (self._x_basis + shift[:, None] * self._basis)
        values, turned = np.linalg.eigh((projected + projected.T) / 2)
        turned = turned[:, -self._width :]  # (2 width, width)
        self._q, self._xq = self._basis @ turned, self._x_basis @ turned
        return values[-k:], self._q[:, -k:], self._xq[:, -k:]

    def _gram(self, vectors: np.ndarray) -> np.ndarray:
        self.products += vectors.shape[1]
        return self._product.gram(vectors)
