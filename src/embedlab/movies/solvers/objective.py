"""The cost c(V) = Σ_{i≠j} (v_i·v_j − X_ij)² and its gradient, in two forms that agree.

V is (n_movies, dim), a row for each movie. The sum is over ordered pairs: every unordered pair
counts twice, as in the course notebook. `Dense` is the notebook's form, with a movies x movies
tensor; `Factored` uses the likes L alone (X = LᵀL) in O(nnz(L)·dim + n_movies·dim²).
"""

import sys
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.distributed.collectives import all_reduce_sum, local_slice, scatter
from embedlab.distributed.env import is_main_process, world_size
from embedlab.movies.data.cooccurrence import ROWS_AT_ONCE, to_dense
from embedlab.movies.data.weighting import WeightedLikes
from embedlab.movies.solvers.operators import LikesOperator, likes_operator

ROUNDING = 1e-14  # of a float64 sum, relative to its largest terms
# Products are recomputed when the relative change Σ ‖D‖ / ‖V‖ exceeds the smaller of two limits.
# The second one is smaller near an exact fit, where rounding errors are large beside the cost. It
# grows with the number of columns, because rounding errors average out over columns.
MAX_CHANGE = 0.25
MAX_CHANGE_PER_COLUMN = 0.25  # times min(dim, 100), times the cost / its largest terms


class IncrementalProducts:
    """n_i = ‖v_i‖², G = VᵀV and L V in float64, updated incrementally while V changes.

    If V changes by D, then with W = V + D/2 and M = WᵀD

        n_i ← n_i + 2 w_i·d_i        G ← G + M + Mᵀ        L V ← L V + L D

    The products with D have V's dtype. In float32 they take half the time of products in float64,
    and their errors are smaller by ‖D‖ / ‖V‖ than those of float32's VᵀV and L V. `change`, the sum
    of these ratios since `recompute`, measures how far the errors have added up.

    n           (n_movies,)
    g           (dim, dim)
    lv          (users of this rank, dim)
    max_change  an update that would exceed this `change` recomputes.
    """

    def __init__(self, likes: LikesOperator, v: torch.Tensor):
        """v  (n_movies, dim)."""
        self._likes, self.max_change = likes, MAX_CHANGE
        self._v, self._d = torch.empty_like(v), torch.empty_like(v)
        self.recompute(v)

    def recompute(self, v: torch.Tensor) -> None:
        """Compute all from `v` alone, in float64."""
        v64 = v.double()  # (n_movies, dim)
        self.n = torch.linalg.vector_norm(v64, dim=1).square_()  # allocates no matrix
        self.g = v64.T @ v64
        self.lv = self._likes.matmat(v64)
        self.change = 0.0
        self._v.copy_(v)

    def update(self, v: torch.Tensor) -> None:
        """Update all to `v`, which has the shape of the last one."""
        d = torch.sub(v, self._v, out=self._d)  # (n_movies, dim)
        self.change += (torch.dot(d.ravel(), d.ravel()) / self.n.sum()).sqrt().item()
        if not self.change <= self.max_change:  # not >: also if it is not a number
            self.recompute(v)
            return
        w = self._v.lerp_(v, 0.5)  # (n_movies, dim)
        m = w.T @ d  # (dim, dim)
        self.n += torch.linalg.vecdot(w, d).mul_(2)
        self.g += m
        self.g += m.T
        self.lv += self._likes.matmat(d)
        self._v.copy_(v)


class Factored:
    """c(V) from the likes, without any movies x movies matrix.

    With x_i = X_ii, n_i = ‖v_i‖² and G = VᵀV (dim x dim):

        c(V)  = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i)
        ∇c(V) = 4 [ V G − Lᵀ(L V) − diag(n − x) V ]

    Near an exact fit, the cost is a small difference of large sums, so all of its terms are
    float64, and a cost within rounding error of 0 becomes 0. Their products are updated from one
    call to the next (`IncrementalProducts`); costs are those of products in float64 to 1e-6. The
    gradient's products have `dtype`.

    With `is_sharded` the users are divided among the ranks. Lᵀ(LV) and ‖LV‖² are sums over ranks;
    each rank adds the other terms of the gradient for its slice of the movies, and rank 0 adds
    those of the cost. So one sum over the ranks gives the whole result, bit-identical at every
    rank: the ranks' vectors cannot drift apart, whatever hosts the ranks run on.
    """

    def __init__(
        self,
        weighted: WeightedLikes | None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        is_sharded: bool = False,
    ):
        """weighted  its `matrix` is L. If sharded, rank 0 scatters it and other ranks pass None."""
        self.device = torch.device(device)
        self.is_sharded = is_sharded
        self.is_main = not is_sharded or is_main_process()
        shards: list[tuple[np.ndarray, sp.csr_matrix]] = []  # of each rank
        if weighted is not None:
            likes, x = weighted.matrix, weighted.diagonal
            self.off_diagonal_squares = weighted.off_diagonal_squares
            shards = [(x, likes)]
            if is_sharded:
                shards = [(x, likes[rows]) for rows in balanced_row_shards(likes, world_size())]
        x, likes = scatter(shards or None) if is_sharded else shards[0]
        self.n_movies = likes.shape[1]
        self.movies = local_slice(self.n_movies) if is_sharded else slice(None)  # of this rank
        self.x = torch.from_numpy(x).to(self.device)  # (n_movies,)
        # (users of this rank, n_movies)
        self.likes = likes_operator(likes, self.device, torch.float64, dtype)
        self._products: IncrementalProducts | None = None  # of the last call

    def cost_and_gradient(self, v: torch.Tensor) -> tuple[float, torch.Tensor]:
        """c(V) as a float, summed in float64, and ∇c(V), (n_movies, dim) in V's dtype.

        If sharded, both are sums over all ranks.

        v  (n_movies, dim) on `device`, of the same shape in every call.
        """
        products = self._products
        if products is None:
            products = self._products = IncrementalProducts(self.likes, v)
        else:
            products.update(v)
        cost, largest, change = self._sums(products)
        relative_cost = abs(cost) / max(largest, sys.float_info.min)
        limit = MAX_CHANGE_PER_COLUMN * min(v.shape[1], 100) * relative_cost
        products.max_change = min(MAX_CHANGE, limit)
        if change > products.max_change:
            products.recompute(v)
            cost, largest, _ = self._sums(products)
        # ∇c(V) = 4 V G − 4 diag(n − x) V + Lᵀ(−4 L V), in as few passes as possible
        n, g, lv = products.n, products.g, products.lv
        movies, shift = self.movies, torch.zeros_like(n)  # (n_movies,); 0 for other ranks' movies
        shift[movies] = (n - self.x)[movies]
        gradient = v * shift.to(v.dtype).unsqueeze(1)  # (n_movies, dim)
        gradient[movies].addmm_(v[movies], g.to(v.dtype), beta=-4, alpha=4)
        self.likes.rmatmat(lv.to(v.dtype) * -4, add_to=gradient)
        if self.is_sharded:
            all_reduce_sum(gradient)
        return clamp_roundoff(cost, largest), gradient

    def _sums(self, products: IncrementalProducts) -> tuple[float, float, float]:
        """The cost, its largest terms ‖G‖²_F + ‖LV‖²_F, and `change`: the same at every rank."""
        # c(V) = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i)
        n, g_squares, lv_squares = products.n, products.g.square().sum(), products.lv.square().sum()
        sums = torch.stack([-2 * lv_squares, lv_squares, torch.zeros_like(lv_squares)])
        if self.is_main:
            others = self.off_diagonal_squares + g_squares - n.square().sum() + 2 * (self.x @ n)
            sums += torch.stack([others, g_squares, torch.full_like(others, products.change)])
        if self.is_sharded:
            all_reduce_sum(sums)
        cost, largest, change = sums.tolist()
        return cost, largest, change


def balanced_row_shards(likes: sp.csr_matrix, n_shards: int) -> list[slice]:
    """Slices of consecutive rows with about equally many likes; some may be empty."""
    ends = np.searchsorted(likes.indptr, likes.nnz * np.arange(n_shards + 1) / n_shards)
    ends[0], ends[-1] = 0, likes.shape[0]
    return [slice(start, end) for start, end in pairwise(ends)]


def clamp_roundoff(cost: float, largest: float) -> float:
    """The float64 `cost`, or 0 if it is within rounding error of 0; infinity stays infinite.

    largest  the largest terms of its sum, ‖G‖²_F + ‖LV‖²_F.
    """
    return 0.0 if abs(cost) < ROUNDING * largest else cost


class Dense:
    """c(V) in the notebook's form: R = VVᵀ − X with a zero diagonal, c = ‖R‖²_F, ∇c = 4 R V.

    Holds two movies x movies matrices, X and R. Raises DataError if X does not fit into memory.
    """

    def __init__(self, counts: sp.csr_matrix, device: str | torch.device = "cpu"):
        self.n_movies = counts.shape[0]
        self.device = torch.device(device)
        self.counts = to_dense(counts, str(device))  # (n_movies, n_movies) float32
        self.residual = torch.empty_like(self.counts)

    def cost_and_gradient(self, v: torch.Tensor) -> tuple[float, torch.Tensor]:
        """c(V) as a float, summed in float64, and ∇c(V), (n_movies, dim) float32.

        v  (n_movies, dim) float32 on `device`.
        """
        # R = VVᵀ − X off the diagonal
        r = torch.addmm(self.counts, v, v.T, beta=-1, out=self.residual)  # (n_movies, n_movies)
        r.fill_diagonal_(0)
        # c(V) = ‖R‖²_F, summed in float64 a block of rows at a time
        cost = sum(rows.double().square().sum().item() for rows in r.split(ROWS_AT_ONCE))
        # ∇c(V) = 4 R V
        return cost, (r @ v).mul_(4)


Objective = Factored | Dense
