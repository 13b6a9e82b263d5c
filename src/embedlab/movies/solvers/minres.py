"""The exact solver: with the diagonal free, the problem is minres factor analysis.

Fill the diagonal of X with n, take the top-d eigenpairs (λ, E) of X − diag(x) + diag(n), set
V = E √λ₊, fill in n_i = ‖v_i‖², repeat. Filling the diagonal so makes the full squared error equal
to the cost at the current V and never below it anywhere else, and the eigenpairs minimise the full
squared error, so no round can raise the cost. X = LᵀL is applied, never formed.

Two things make it fast. A round needs no finished eigenpairs, only better ones than the last: with
many likes, where products cost most, `_Block` improves a subspace by one product with LᵀL and keeps
it; the best V of a subspace that holds the last V cannot cost more. With few likes `_Lanczos` is
faster, which does less beside its products. And a movie with nearly a dimension of its own would
move to its n_i by a hundredth of the way a round: `_newton` goes there at once, and where that
raises the cost, the plain n is taken in its place.
`benchmarks/eigenpairs.py` compares them.

Sources: H. H. Harman and W. H. Jones, "Factor analysis by minimizing residuals (minres)",
Psychometrika 31 (1966); H. H. Thomson's iterated principal axes is the same iteration.
K. G. Jöreskog, "Factor analysis by least-squares and maximum likelihood methods", 1977: Newton's
method on the diagonal, with the same Hessian.
C. Musco and C. Musco, "Randomized block Krylov methods for stronger and faster approximate singular
value decomposition", NeurIPS 2015.
"""

import time
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, eigsh

from embedlab.movies.data.cooccurrence import off_diagonal_squares
from embedlab.movies.solvers.objective import clamp_roundoff
from embedlab.movies.solvers.operators import MIN_LIKES_FOR_SCIPY, ScipyLikesOperator
from embedlab.movies.solvers.options import FitResult
from embedlab.progress import OnStep, Step

# Below this a full eigendecomposition is faster, and any dim is allowed.
FEW_MOVIES = 600
SPARE = 0.2  # more vectors than asked for, as a share: the last of a subspace converge last
MIN_SPARE = 8
FIRST_TOLERANCE, LAST_TOLERANCE = 1e-1, 1e-7  # of Lanczos' eigenpairs
HIGH_LEVERAGE = 0.1  # at most ten times dim movies have it, for leverages add up to dim
MIN_CURVATURE = 0.05  # of the Hessian that Newton's method divides by


def fit_minres(
    likes: sp.csr_matrix,
    dim: int,
    generator: np.random.Generator,
    max_rounds: int = 150,
    tolerance: float = 1e-8,
    on_step: OnStep = lambda step: None,
) -> FitResult:
    """Rounds of filled diagonals until one lowers the cost by less than `tolerance`, relatively.

    likes      (n_users, n_movies) CSR: L.
    generator  draws the first subspace; the result does not depend on it.
    Epoch `e` holds the cost after `e` rounds, and `train/products`, how often LᵀL was applied to a
    vector so far; the start, epoch 0, is what is known of the top eigenpairs of X with its
    own diagonal. With dim > n_movies the columns beyond n_movies are 0.
    """
    n_movies = likes.shape[1]
    likes = likes.astype(np.float64)
    x = np.asarray(likes.power(2).sum(axis=0)).ravel()  # (n_movies,) x_i = X_ii
    squares = off_diagonal_squares(likes)
    k = min(dim, n_movies)
    pairs = _eigenpairs_of(likes, k, generator)

    n, best, seconds = x, None, 0.0
    for round_ in range(max_rounds + 1):
        started = time.perf_counter()
        pairs.expand_subspace(n - x)
        found = _solution(*pairs.rayleigh_ritz(n - x, k), x, squares)
        if best and found.cost > best.cost:
            found = _solution(*pairs.rayleigh_ritz(best.n - x, k), x, squares)
        elapsed = time.perf_counter() - started
        seconds += elapsed
        stalled = best is not None and found.cost > best.cost  # by rounding
        if not stalled:
            metrics = {"train/cost": found.cost, "train/gradient_norm": found.gradient_norm}
            on_step(Step(round_, metrics | {"train/products": pairs.products}, elapsed))
            converged = best and best.cost - found.cost <= tolerance * abs(found.cost)
            best, rounds = found, round_
        if stalled or converged:
            break
        n = _newton(n, found)
    embedding = np.zeros((n_movies, dim), np.float32)
    embedding[:, :k] = best.v
    return FitResult(embedding, best.cost, rounds, seconds)


def _eigenpairs_of(
    likes: sp.csr_matrix, k: int, generator: np.random.Generator
) -> "_Full | _Lanczos | _Block":
    if likes.shape[1] <= max(FEW_MOVIES, 4 * k):
        return _Full(likes)
    return (_Block if likes.nnz >= MIN_LIKES_FOR_SCIPY else _Lanczos)(likes, k, generator)


class _Solution(NamedTuple):
    """V = E √λ₊ and what it costs.

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


def _newton(filled: np.ndarray, found: _Solution) -> np.ndarray:
    """The diagonal to fill in next, (n_movies,), after `filled` gave `found`.

    The least cost with a diagonal n, as a function of n, has the gradient 2 r with r_i = n_i −
    ‖v_i‖², and about the Hessian 2 H with H = (I − P)∘(I − P), P = EEᵀ. For a movie of leverage
    P_ii near 0 a step of r, which is the plain iteration, is Newton's; the others are solved for.
    """
    leverage = np.square(found.e).sum(axis=1)  # P_ii
    high = np.flatnonzero(leverage > HIGH_LEVERAGE)
    e = found.e[high]
    curvature, axes = np.linalg.eigh(np.square(np.eye(len(high)) - e @ e.T))
    step = filled - found.n
    step[high] = axes @ ((axes.T @ step[high]) / np.maximum(curvature, MIN_CURVATURE))
    return np.maximum(filled - step, 0)


class _Full:
    """Every eigenpair of X + diag(shift), by LAPACK."""

    def __init__(self, likes: sp.csr_matrix):
        self._x = (likes.T @ likes).toarray()
        self.products = 0

    def expand_subspace(self, shift: np.ndarray) -> None:
        self.products += len(shift)

    def rayleigh_ritz(self, shift: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, e = np.linalg.eigh(self._x + np.diag(shift))
        return values[-k:], e[:, -k:], self._x @ e[:, -k:]


class _Lanczos:
    """The top eigenpairs of X + diag(shift) by ARPACK, ten times tighter in every round."""

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._likes, self._likes_t = likes, likes.T
        self._start = generator.standard_normal(likes.shape[1])
        self._tolerance = FIRST_TOLERANCE
        self.products = 0

    def expand_subspace(self, shift: np.ndarray) -> None:
        self._tolerance = max(self._tolerance / 10, LAST_TOLERANCE)

    def rayleigh_ritz(self, shift: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Top k eigenvalues, ascending: (k,); their vectors E and X E, (n_movies, k)."""
        shape = (len(shift), len(shift))
        operator = LinearOperator(shape, lambda v: self._x(v) + shift * v, dtype=np.float64)
        # 1.5 k Lanczos vectors: fewer products than orthogonalisations are what costs here.
        ncv = min(k + max(k // 2, 20), len(shift))
        start, tolerance = self._start, self._tolerance
        values, e = eigsh(operator, k, which="LA", v0=start, ncv=ncv, tol=tolerance)
        self._start = e.sum(axis=1)  # lies in this round's subspace
        return values, e, self._x(e)

    def _x(self, vectors: np.ndarray) -> np.ndarray:
        """LᵀL times a vector, or the columns of a matrix."""
        self.products += vectors.size // len(vectors)
        return self._likes_t @ (self._likes @ vectors)


class _Block:
    """A subspace that comes nearer to the top eigenvectors of X + diag(shift) in every round.

    It is spanned by the present vectors Q and their residuals W, all orthonormal. X Q is a
    combination of what is known, so only X W is computed: a block Krylov method of one step,
    restarted from the last round's vectors, on a matrix whose diagonal moves.
    """

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._product = ScipyLikesOperator(likes)
        self.products = 0
        self._width = k + max(MIN_SPARE, round(SPARE * k))
        drawn = generator.standard_normal((likes.shape[1], self._width))
        self._q = np.linalg.qr(self._gram(drawn)).Q  # (n_movies, width)
        self._xq = self._gram(self._q)

    def expand_subspace(self, shift: np.ndarray) -> None:
        """The subspace of the present vectors and what X + diag(shift) makes of them."""
        pushed = self._xq + shift[:, None] * self._q
        w = np.linalg.qr(np.hstack([self._q, pushed])).Q[:, self._width :]
        self._basis = np.hstack([self._q, w])  # (n_movies, 2 width)
        self._x_basis = np.hstack([self._xq, self._gram(w)])

    def rayleigh_ritz(self, shift: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of that subspace the top k Ritz values, ascending: (k,); their vectors E and X E,
        (n_movies, k). They and the next few are the present vectors then."""
        projected = self._basis.T @ (self._x_basis + shift[:, None] * self._basis)
        values, turned = np.linalg.eigh((projected + projected.T) / 2)
        turned = turned[:, -self._width :]  # (2 width, width)
        self._q, self._xq = self._basis @ turned, self._x_basis @ turned
        return values[-k:], self._q[:, -k:], self._xq[:, -k:]

    def _gram(self, vectors: np.ndarray) -> np.ndarray:
        self.products += vectors.shape[1]
        return self._product.gram(vectors)
