"""The factored cost by several processes: each has the likes of some users, all have the vectors.

In: at the first process all likes, at the others nothing. Out: at each the same cost and gradient
as `Factored` gives, to rounding, with one message an evaluation.
"""

from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.distributed.collectives import all_reduce_sum, local_slice, scatter
from embedlab.distributed.env import is_main_process, world_size
from embedlab.movies.solvers.objective import Factored, clamp_roundoff
from embedlab.movies.solvers.operators import TorchLikesOperator


class ShardedFactored(Factored):
    """c(V) and ∇c(V), of which Lᵀ(LV) and ‖LV‖² are sums over the processes' users.

    Whatever else there is of the gradient, each process adds for its share of the movies, and of
    the cost, the first. So the sums are all of it, and the same bits at each process: their vectors
    cannot drift apart, on whatever hosts they are.
    """

    def __init__(self, likes: sp.csr_matrix | None, device: str | torch.device = "cpu"):
        """likes  (n_users, n_movies) at the first process, which sends the others theirs."""
        parts = None
        if is_main_process():
            super().__init__(likes, device)
            parts = [
                (self.x.cpu(), likes[users]) for users in balanced_row_shards(likes, world_size())
            ]
        self.device = torch.device(device)
        x, mine = scatter(parts)  # (n_movies,), (users of this process, n_movies)
        self.x, self.n_movies = x.to(self.device), mine.shape[1]
        self.likes = TorchLikesOperator(mine, torch.float32, self.device)

    def cost_and_gradient(self, v: torch.Tensor) -> tuple[float, torch.Tensor]:
        v64 = v.double()  # (n_movies, dim)
        n = v64.square().sum(dim=1)  # (n_movies,)
        g = v64.T @ v64  # (dim, dim)
        lv = self.likes.forward(v64)  # (users of this process, dim)

        message = torch.empty(v.numel() + 2, dtype=torch.float64, device=self.device)
        gradient, cost, largest = message[:-2].view(v.shape), message[-2], message[-1]
        # ∇c(V) / 4 = V G − Lᵀ(L V) − diag(n − x) V
        gradient.copy_(self.likes.backward(lv.to(v.dtype))).neg_()
        movies = local_slice(self.n_movies)
        gradient[movies].addmm_(v64[movies], g).addcmul_(
            (n - self.x)[movies].unsqueeze(1), v64[movies], value=-1
        )
        # c(V) = ‖X‖²_off + ‖G‖²_F − Σ n_i² − 2 (‖LV‖²_F − Σ x_i n_i)
        lv_squares = lv.square().sum()
        cost.copy_(-2 * lv_squares)
        largest.copy_(lv_squares)
        if is_main_process():
            g_squares = g.square().sum()
            cost += self.off_diagonal_squares + g_squares - n.square().sum() + 2 * (self.x @ n)
            largest += g_squares
        all_reduce_sum(message)
        return clamp_roundoff(cost.item(), largest.item()), gradient.mul_(4).to(v.dtype)


def balanced_row_shards(likes: sp.csr_matrix, n_parts: int) -> list[slice]:
    """Rows that follow one another, with about as many likes for each part; some may be empty."""
    ends = np.searchsorted(likes.indptr, likes.nnz * np.arange(n_parts + 1) / n_parts)
    ends[0], ends[-1] = 0, likes.shape[0]
    return [slice(start, end) for start, end in pairwise(ends)]
