"""X = LᵀL: `X_ij` is the number of users who like both `i` and `j`, `X_ii` those who like `i`.

Sparse integers by scipy, then dense floats on the device, each checked against the other.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import scipy.sparse as sp
import torch

from embedlab.errors import DataError, EmbedlabError

COUNTS_FILE = "counts.npz"
ROWS_AT_ONCE = 512  # dense
SPARSE_ROWS_AT_ONCE = 256  # at most 0.3 GB of them, among 88 thousand movies
GROUPS = 16
EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class Counts:
    """X, and what it took.

    matrix          (n_movies, n_movies) CSR: int32, of weighted likes float64.
    sparse_seconds  for it.
    dense_seconds   for the dense tensor and the check against it; None where it was not made.
    """

    matrix: sp.csr_matrix
    sparse_seconds: float
    dense_seconds: float | None

    @property
    def density(self) -> float:
        """Fraction of entries that are not 0, the diagonal included."""
        return self.matrix.nnz / max(self.matrix.shape[0] ** 2, 1)


def build_counts(likes: sp.csr_matrix, device: str | None) -> Counts:
    """X from L, (n_users, n_movies) CSR; with a device, also as a dense tensor there, compared.

    Raises DataError where the dense tensor does not fit.
    """
    started = time.perf_counter()
    matrix = co_likes(likes)
    sparse_done = time.perf_counter()
    if device is None:
        return Counts(matrix, sparse_done - started, None)
    different = n_differences(matrix, to_dense(matrix, device))
    if different:
        raise EmbedlabError(
            f"the dense matrix on {device} differs from the sparse one in {different:,} entries: "
            "this device computes wrongly; use device=cpu."
        )
    return Counts(matrix, sparse_done - started, time.perf_counter() - sparse_done)


def save_counts(counts: sp.csr_matrix, folder: Path) -> None:
    """Write X as `counts.npz`, which `scipy.sparse.load_npz` reads."""
    sp.save_npz(folder / COUNTS_FILE, counts)


def co_likes(likes: sp.csr_matrix) -> sp.csr_matrix:
    """(n_users, n_movies) likes -> (n_movies, n_movies) CSR of their type, symmetric, sorted.

    Every unordered pair stands in it twice, as (i, j) and as (j, i).
    """
    transposed = likes.T.tocsr()  # (n_movies, n_users)
    counts = (transposed @ likes).tocsr()  # (n_movies, n_movies)
    counts.sort_indices()
    return counts


def off_diagonal_squares(likes: sp.csr_matrix) -> float:
    """‖X‖²_off = Σ_{i≠j} X_ij² of X = LᵀL, which is never held whole.

    likes  (n_users, n_movies) CSR. ‖LᵀL‖_F = ‖LLᵀ‖_F: the smaller of the two products is made, a
    block of rows at a time, and of it one half, since it is symmetric.
    """
    left = likes.astype(np.float64)
    diagonal = np.asarray(left.power(2).sum(axis=0)).ravel()  # (n_movies,) X_ii
    by_user, by_movie = (np.bincount(i, minlength=1).astype(float) for i in left.nonzero())
    if np.square(by_user).sum() < np.square(by_movie).sum():
        left = left.T.tocsr()
    columns = left.T.tocsc()
    n = left.shape[0]
    groups = np.unique(np.linspace(0, n, GROUPS + 1).astype(int))
    total = 0.0
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first, last in pairwise(groups):
            right = columns[:, first:].tocsr()  # rows of this group, times columns from it on

            def squares(start: int, last=last, width=last - first, right=right) -> float:
                rows = left[start : min(start + SPARSE_ROWS_AT_ONCE, last)] @ right
                squared = np.square(rows.data)
                return 2 * squared.sum() - squared[rows.indices < width].sum()

            total += sum(threads.map(squares, range(first, last, SPARSE_ROWS_AT_ONCE)))
    return float(total - np.square(diagonal).sum())


def to_dense(counts: sp.csr_matrix, device: str = "cpu") -> torch.Tensor:
    """The same matrix as a dense float32 tensor on `device`, (n_movies, n_movies).

    Raises DataError if a count is too large for float32 to hold, or if the tensor does not fit.
    """
    if counts.nnz and counts.max() > EXACT_IN_FLOAT32:
        raise DataError(
            f"a count of {counts.max():,} is more than float32 holds exactly "
            f"({EXACT_IN_FLOAT32:,}): use objective=factored, which needs no dense matrix."
        )
    n_movies = counts.shape[0]
    needed, free = n_movies**2 * 4, _free_bytes(device)
    if needed > free:
        raise DataError(
            f"the dense matrix of {n_movies:,} movies needs {needed / 2**30:,.1f} GiB, but "
            f"{device} has {free / 2**30:,.1f} GiB free: use objective=factored, which needs none "
            "(in build_matrix, dense=false)."
        )
    dense = torch.zeros((n_movies, n_movies), dtype=torch.float32, device=device)
    for start in range(0, n_movies, ROWS_AT_ONCE):
        rows = counts[start : start + ROWS_AT_ONCE].toarray().astype(np.float32)
        dense[start : start + ROWS_AT_ONCE] = torch.from_numpy(rows)
    return dense


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def n_differences(counts: sp.csr_matrix, dense: torch.Tensor) -> int:
    """How many entries of the dense tensor are not the sparse matrix's: 0 if they are equal.

    Compares the whole matrix, a block of rows at a time, and brings it back from the device.
    """
    different = 0
    for start in range(0, counts.shape[0], ROWS_AT_ONCE):
        rows = counts[start : start + ROWS_AT_ONCE].toarray()
        found = dense[start : start + ROWS_AT_ONCE].cpu().numpy()
        different += int(np.count_nonzero(rows.astype(np.float32) != found))
    return different
