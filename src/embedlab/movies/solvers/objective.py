"""The cost c(V) = Σ_{i≠j} (v_i·v_j − X_ij)² and its gradient, in two forms that agree.

V is (n_movies, dim), one vector a movie. The sum is over ordered pairs: every unordered pair
counts twice, as published. `Dense` is the published form, over a movies x movies tensor;
`Factored` works from the likes L alone (X = LᵀL) in O(nnz(L)·dim + n_movies·dim²).

Both give the cost as a float64 sum and the gradient in V's own dtype.
"""

from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.movies.data.cooccurrence import ROWS_AT_ONCE, off_diagonal_squares, to_dense
from embedlab.movies.solvers.operators import TorchLikesOperator

ROUNDING = 1e-14  # of a float64 sum, relative to its largest terms


class Objective(Protocol):
    """What a solver needs to know."""

    n_movies: int
    device: torch.device

    def cost_and_gradient(self, v: torch.Tensor) -> tuple[float, torch.Tensor]:
        """(n_movies, dim) -> c(V), ∇c(V) of V's shape and dtype."""
        ...


class Factored:
    """c(V) from the likes, without any movies x movies matrix.

    With x_i = X_ii, n_i = ‖v_i‖² and G = VᵀV (dim x dim):

        c(V)  = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i)
        ∇c(V) = 4 [ V G − Lᵀ(L V) − diag(n − x) V ]

    Near an exact fit the cost is a small difference of large sums, so all of its terms are
    float64, and one that cannot be told from 0 is 0; the gradient's products have `dtype`.
    """

    def __init__(
        self,
        likes: sp.csr_matrix,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.n_movies = likes.shape[1]
        self.device = torch.device(device)
        x = np.asarray(likes.astype(np.float64).power(2).sum(axis=0)).ravel()  # x_i = X_ii
        self.off_diagonal_squares = off_diagonal_squares(likes)
        self.x = torch.from_numpy(x).to(self.device)  # (n_movies,)
        self.likes = TorchLikesOperator(likes, dtype, self.device)

    def cost_and_gradient(self, v: torch.Tensor) -> tuple[float, torch.Tensor]:
        v64 = v.double()  # (n_movies, dim)
        n = v64.square().sum(dim=1)  # (n_movies,)
        g = v64.T @ v64  # (dim, dim)
        lv = self.likes.forward(v64)  # (n_users, dim)
        # c(V) = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i)
        g_squares, lv_squares = g.square().sum(), lv.square().sum()
        pulls = lv_squares - self.x @ n
        cost = self.off_diagonal_squares + g_squares - n.square().sum() - 2 * pulls
        # ∇c(V) = 4 [ V G − Lᵀ(L V) − diag(n − x) V ]
        pulled = self.likes.backward(lv.to(v.dtype))  # (n_movies, dim)
        gradient = torch.addmm(pulled, v, g.to(v.dtype), beta=-1)
        gradient.addcmul_((n - self.x).to(v.dtype).unsqueeze(1), v, value=-1)
        largest = (g_squares + lv_squares).item()
        return clamp_roundoff(cost.item(), largest), gradient.mul_(4)


def clamp_roundoff(cost: float, largest: float) -> float:
    """A float64 cost, or 0 where it cannot be told from 0 beside the largest terms of its sum,
    ‖G‖²_F + ‖LV‖²_F. An infinite one is no rounding."""
    return 0.0 if abs(cost) < ROUNDING * largest else cost


class Dense:
    """c(V) as published: R = VVᵀ − X with a zero diagonal, c = ‖R‖²_F, ∇c = 4 R V.

    Holds two movies x movies matrices, X and R. Raises DataError where X does not fit.
    """

    def __init__(self, counts: sp.csr_matrix, device: str | torch.device = "cpu"):
        self.n_movies = counts.shape[0]
        self.device = torch.device(device)
        self.counts = to_dense(counts, str(device))  # (n_movies, n_movies) float32
        self.residual = torch.empty_like(self.counts)

    def cost_and_gradient(self, v: torch.Tensor) -> tuple[float, torch.Tensor]:
        # R = VVᵀ − X off the diagonal
        r = torch.addmm(self.counts, v, v.T, beta=-1, out=self.residual)  # (n_movies, n_movies)
        r.fill_diagonal_(0)
        # c(V) = ‖R‖²_F, summed in float64 a block of rows at a time
        cost = sum(rows.double().square().sum() for rows in r.split(ROWS_AT_ONCE)).item()
        # ∇c(V) = 4 R V
        return cost, (r @ v).mul_(4)
