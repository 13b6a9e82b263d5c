"""The exact solver: with the diagonal free, the problem is minres factor analysis.

Fill the diagonal of X = LᵀL with n, take the top k eigenpairs (λ, E) of X − diag(x) + diag(n), set
V = E √λ₊, fill in n_i = ‖v_i‖², repeat; k is the length of a vector. With that diagonal the full
squared error equals the cost at the current V and bounds it from above elsewhere, and the
eigenpairs minimise the full squared error, so no round can raise the cost. With few movies, X is
formed and decomposed (`FullDecomposition`); with more, it is only applied (`BlockKrylov`).

Three things make it fast. First, a round needs no converged eigenpairs, only better ones than the
last round's: `BlockKrylov` improves a subspace by one product with LᵀL and keeps it, and the best V
of a subspace that contains the last V cannot cost more. Second, the n_i of a movie with nearly a
dimension of its own would approach its limit by only 1% per round: `newton_diagonal` solves for
n_i, and if that raises the cost, the plain n is used instead. Third, the first rounds, which gain
much, are in float32; once a round gains little, the solver continues in float64.
`benchmarks/eigenpairs.py` compares eigensolvers.

Sources: H. H. Harman and W. H. Jones, "Factor analysis by minimizing residuals (minres)",
Psychometrika 31 (1966); G. H. Thomson's iterated principal axes is the same iteration.
K. G. Jöreskog, "Factor analysis by least-squares and maximum likelihood methods", 1977: Newton's
method on the diagonal, with the same Hessian.
C. Musco and C. Musco, "Randomized block Krylov methods for stronger and faster approximate singular
value decomposition", NeurIPS 2015.
K. Wu and H. Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM J.
Matrix Anal. Appl. 22 (2000): which vectors to keep.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.movies.data.weighting import WeightedLikes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.objective import clamp_roundoff
from embedlab.movies.solvers.operators import likes_operator
from embedlab.movies.solvers.result import FitResult
from embedlab.progress import EpochRecord, OnEpoch, ignore_epoch

TOLERANCE = 1e-8  # relative gain of a round
# Relative gain at or below which float64 begins; costs in float32 are right to 1e-5.
FLOAT32_GAIN = 1e-3
# Up to this number of movies, a full eigendecomposition is faster, and any dim is allowed.
MAX_MOVIES_FOR_LAPACK = 600
# Additional vectors, as a fraction of k, because the smallest pairs of a subspace converge last.
OVERSAMPLING = 0.2
MIN_OVERSAMPLING = 8
RESTART_SIZE = 1.5  # Ritz vectors that a restart keeps, as a multiple of the wanted ones
MIN_RESIDUAL = 0.01  # relative to the largest; a smaller residual is not worth its product with LᵀL
# Largest inner product of unit vectors that count as orthogonal.
MAX_OVERLAP = {torch.float32: 1e-5, torch.float64: 1e-10}
HIGH_LEVERAGE = 0.1  # at most 10·dim movies have more, since leverages add up to dim
MIN_CURVATURE = 0.05  # of the Hessian that Newton's method divides by

CPU = torch.device("cpu")

# The top k eigenvalues, ascending, (k,); their vectors E and X E, (n_movies, k); all float64.
Eigenpairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Eigensolver(Protocol):
    """Approximates the top eigenpairs of X + diag(shift) while the shift changes slowly."""

    products: int  # of LᵀL with a vector, so far

    def expand_subspace(self, shift: torch.Tensor) -> None:
        """Prepare better eigenpairs, for about this shift, (n_movies,)."""

    def rayleigh_ritz(self, shift: torch.Tensor, k: int) -> Eigenpairs:
        """The best eigenpairs that are known, for this shift, (n_movies,)."""
        ...

    def refine(self) -> bool:
        """Continue in float64; False if it is in float64 already."""
        ...


def choose_eigensolver(likes: sp.csr_matrix, k: int, generator: np.random.Generator) -> Eigensolver:
    """The fastest eigensolver for k eigenpairs of LᵀL, by size."""
    if likes.shape[1] <= max(MAX_MOVIES_FOR_LAPACK, 4 * k):
        return FullDecomposition(likes)
    return BlockKrylov(likes, k, generator)


def fit_minres(
    weighted: WeightedLikes,
    options: FitOptions,
    generator: np.random.Generator,
    tolerance: float = TOLERANCE,
    is_rough: bool = False,
    on_epoch: OnEpoch = ignore_epoch,
    eigensolver: Callable[..., Eigensolver] = choose_eigensolver,
) -> FitResult:
    """Fill the diagonal until the relative gain of a round is at most `tolerance`.

    Returns a `FitResult` of `weighted.matrix`, whose vectors `to_embedding` has to scale.

    weighted     its `matrix`, (n_users, n_movies) CSR, is L.
    options      dim, and the maximum number of rounds as `epochs`.
    generator    draws the first subspace; a converged result does not depend on it.
    is_rough     run `epochs` rounds, never refine to float64, and leave the constant ‖X‖²_off out
                 of the cost: with many likes, computing it takes longer than some rounds.
                 Otherwise the last round is always in float64.
    eigensolver  called with likes, k and generator.

    Epoch `e` has the cost after `e` rounds and `train/products`, the number of products of LᵀL with
    a vector so far. Epoch 0, the start, has the first eigenpairs of X with its own diagonal. If
    dim > n_movies, the columns beyond n_movies are 0.
    """
    likes = weighted.matrix.astype(np.float64)
    n_movies = likes.shape[1]
    x = torch.from_numpy(weighted.diagonal)  # (n_movies,)
    squares = 0.0 if is_rough else weighted.off_diagonal_squares
    k = min(options.dim, n_movies)
    started = time.perf_counter()
    solver = eigensolver(likes, k, generator)
    n, rounds, seconds = x, 0, 0.0
    nothing = torch.empty((n_movies, 0), dtype=torch.float64)
    best = _Solution(nothing, nothing, x, x, math.inf, math.inf)
    for round_ in range(options.epochs + 1):
        solver.expand_subspace(n - x)
        new = _solve(solver, n, k, x, squares)
        if new.cost > best.cost:  # raised by Newton's step: fill in the plain n instead
            new = _solve(solver, best.n, k, x, squares)
        elapsed = time.perf_counter() - started
        seconds += elapsed
        gain = best.cost - new.cost
        if gain >= 0:  # a negative gain is rounding error: nothing is left to gain
            metrics = {"train/cost": new.cost, "train/gradient_norm": new.gradient_norm}
            on_epoch(EpochRecord(round_, metrics | {"train/products": solver.products}, elapsed))
            best, rounds = new, round_
        started = time.perf_counter()
        n = newton_diagonal(best)
        if is_rough:
            continue
        if gain <= FLOAT32_GAIN * abs(best.cost) or round_ == options.epochs - 1:
            if solver.refine():
                # Any cost in float64 is better: rounding in float32 may have made this one too low.
                best = best._replace(cost=math.inf)
            elif gain <= tolerance * abs(best.cost):
                break
    embedding = np.zeros((n_movies, options.dim), np.float32)
    embedding[:, :k] = best.v
    return FitResult(embedding, best.cost, rounds, seconds)


class _Solution(NamedTuple):
    """V = E √λ₊ and its cost.

    e, v    (n_movies, k).
    filled  (n_movies,) the diagonal that was filled in.
    n       (n_movies,) ‖v_i‖²: what the plain iteration fills in next.
    """

    e: torch.Tensor
    v: torch.Tensor
    filled: torch.Tensor
    n: torch.Tensor
    cost: float
    gradient_norm: float


def _solve(
    solver: Eigensolver, filled: torch.Tensor, k: int, x: torch.Tensor, squares: float
) -> _Solution:
    """The best V with the diagonal `filled`; x_i = X_ii, squares = ‖X‖²_off."""
    values, e, xe = solver.rayleigh_ritz(filled - x, k)
    g = values.clamp(min=0)  # G = VᵀV is diagonal; this is its diagonal
    v, xv = e * g.sqrt(), xe * g.sqrt()  # V = E √λ₊
    n = torch.linalg.vecdot(v, v)  # (n_movies,)
    # c(V) = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i), and ‖LV‖²_F = tr(VᵀXV)
    g_squares, lv_squares = g.square().sum(), torch.linalg.vecdot(v, xv).sum()
    cost = float(squares + g_squares - n.square().sum() - 2 * (lv_squares - x @ n))
    cost = clamp_roundoff(cost, float(g_squares + lv_squares))
    # ∇c(V) = 4 [ V G − X V − diag(n − x) V ]
    gradient = 4 * (v * g - xv - (n - x)[:, None] * v)
    return _Solution(e, v, filled, n, cost, float(torch.linalg.vector_norm(gradient)))


def newton_diagonal(solution: _Solution) -> torch.Tensor:
    """The next diagonal to fill in, (n_movies,), by Newton's method.

    The minimal cost with a diagonal n, as a function of n, has the gradient 2 r, r_i = n_i −
    ‖v_i‖², and approximately the Hessian 2 H, H = (I − P)∘(I − P), P = EEᵀ. For a movie whose
    leverage P_ii is near 0, Newton's step is r, the step of the plain iteration; for the others, a
    linear system with their part of H is solved.
    """
    leverage = torch.linalg.vecdot(solution.e, solution.e)  # P_ii
    high = torch.nonzero(leverage > HIGH_LEVERAGE).ravel()
    e = solution.e[high]
    complement = torch.eye(len(high), dtype=torch.float64) - e @ e.T
    curvature, axes = torch.linalg.eigh(complement.square())
    step = solution.filled - solution.n
    step[high] = axes @ ((axes.T @ step[high]) / curvature.clamp(min=MIN_CURVATURE))
    return (solution.filled - step).clamp(min=0)


class FullDecomposition:
    """All eigenpairs of X + diag(shift), by LAPACK."""

    def __init__(self, likes: sp.csr_matrix):
        self._x = torch.from_numpy((likes.T @ likes).toarray())
        self.products = 0

    def refine(self) -> bool:
        return False

    def expand_subspace(self, shift: torch.Tensor) -> None:
        self.products += len(shift)

    def rayleigh_ritz(self, shift: torch.Tensor, k: int) -> Eigenpairs:
        values, e = torch.linalg.eigh(self._x + torch.diag(shift))
        return values[-k:], e[:, -k:], self._x @ e[:, -k:]


class BlockKrylov:
    """A subspace that approaches the top eigenvectors of X + diag(shift) in every round.

    A block Krylov method with thick restarts, for a matrix whose diagonal changes. The orthonormal
    basis consists of the last round's top Ritz vectors, more than are wanted, and of W, which is
    made from the residuals of the wanted ones. X times a Ritz vector is a combination of known
    products, so only X W is computed. Everything is float32 at first, and float64 after `refine`.
    """

    def __init__(self, likes: sp.csr_matrix, k: int, generator: np.random.Generator):
        self._likes, self._dtype = likes, torch.float32
        self._operator = likes_operator(likes, CPU, self._dtype)
        self.products = 0
        self._width = k + max(MIN_OVERSAMPLING, round(OVERSAMPLING * k))
        drawn = torch.from_numpy(generator.standard_normal((likes.shape[1], self._width)))
        drawn = self._gram(drawn.to(self._dtype))
        self._ritz = torch.linalg.qr(drawn).Q  # (n_movies, width and later more)
        self._x_ritz = self._gram(self._ritz)

    def refine(self) -> bool:
        if self._dtype == torch.float64:
            return False
        self._dtype = torch.float64
        self._operator = likes_operator(self._likes, CPU, self._dtype)
        self._ritz = torch.linalg.qr(self._ritz.to(self._dtype)).Q
        self._x_ritz = self._gram(self._ritz)
        return True

    def expand_subspace(self, shift: torch.Tensor) -> None:
        """Add the residuals of the wanted Ritz vectors of X + diag(shift), orthonormalised."""
        wanted, x_wanted = self._ritz[:, -self._width :], self._x_ritz[:, -self._width :]
        w = torch.addcmul(x_wanted, shift[:, None].to(self._dtype), wanted)
        w -= wanted * torch.linalg.vecdot(wanted, w, dim=0)  # the residuals
        norms = torch.linalg.vector_norm(w, dim=0)
        large = norms > MIN_RESIDUAL * norms.max()
        if not large.any():  # every residual is 0: the subspace is invariant
            self._basis, self._x_basis = self._ritz, self._x_ritz
            return
        w = w[:, large]
        overlap = self._ritz.T @ w
        while overlap.abs().max() > MAX_OVERLAP[self._dtype]:
            w = torch.linalg.qr(w - self._ritz @ overlap).Q
            overlap = self._ritz.T @ w
        self._basis = torch.hstack([w, self._ritz])  # (n_movies, 2 width and later more)
        self._x_basis = torch.hstack([self._gram(w), self._x_ritz])

    def rayleigh_ritz(self, shift: torch.Tensor, k: int) -> Eigenpairs:
        """The top k Ritz pairs of the subspace."""
        shifted = torch.addcmul(self._x_basis, shift[:, None].to(self._dtype), self._basis)
        projected = (self._basis.T @ shifted).double()
        values, rotation = torch.linalg.eigh((projected + projected.T) / 2)
        kept = rotation[:, -round(RESTART_SIZE * self._width) :].to(self._dtype)
        self._ritz, self._x_ritz = self._basis @ kept, self._x_basis @ kept
        e, xe = self._ritz[:, -k:].double(), self._x_ritz[:, -k:].double()
        norms = torch.linalg.vector_norm(e, dim=0)  # 1 to rounding
        return values[-k:], e / norms, xe / norms

    def _gram(self, vectors: torch.Tensor) -> torch.Tensor:
        self.products += vectors.shape[1]
        return self._operator.rmatmat(self._operator.matmat(vectors))
