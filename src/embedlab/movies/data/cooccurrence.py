"""X = LᵀL: `X_ij` is the number of users who like both `i` and `j`, `X_ii` those who like `i`.

Sparse integers by scipy, then dense floats on the device, each checked against the other. A sparse
X that would be too large is made a block of rows at a time, measured and let go.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.device import free_bytes
from embedlab.errors import DataError, EmbedlabError

COUNTS_FILE = "counts.npz"
MAX_NONZEROS = 2**28  # of a sparse X that is held for its own sake: 3 GiB
ROWS_AT_ONCE = 512  # dense
SPARSE_ROWS_AT_ONCE = 256  # among 88 thousand movies at most 0.3 GiB
GROUPS = 16
EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class CooccurrenceResult:
    """X, and what it took.

    matrix          (n_movies, n_movies) CSR: int32, of weighted likes float64; None where it may
                    have more than MAX_NONZEROS entries and no dense tensor needs it.
    nonzeros        entries that are not 0, the diagonal included.
    off_diagonal_squares
                    ‖X‖²_off = Σ_{i≠j} X_ij², the cost of an embedding of zeros.
    density         nonzeros as a share of all entries.
    sparse_seconds  for all that.
    dense_seconds   for the dense tensor and the check against it; None where it was not made.
    """

    matrix: sp.csr_matrix | None
    nonzeros: int
    off_diagonal_squares: float
    density: float
    sparse_seconds: float
    dense_seconds: float | None


def build_cooccurrence(likes: sp.csr_matrix, device: str | None) -> CooccurrenceResult:
    """X from L, (n_users, n_movies) CSR; with a device, also as a dense tensor there, compared.

    Raises DataError where the dense tensor does not fit, before anything is computed.
    """
    n_movies = likes.shape[1]
    if device is not None:
        check_dense_fits(n_movies, device)
    started = time.perf_counter()
    is_held = device is not None or _max_nonzeros(likes) <= MAX_NONZEROS
    if is_held:
        matrix = cooccurrence(likes)
        nonzeros, squares = matrix.nnz, _squares(matrix.data) - _squares(matrix.diagonal())
    else:
        matrix, (nonzeros, squares) = None, _sums_of_blocks(likes)
    sparse_done = time.perf_counter()
    dense_seconds = None
    if device is not None:
        different = n_differences(matrix, to_dense(matrix, device))
        if different:
            raise EmbedlabError(
                f"the dense matrix on {device} differs from the sparse one in {different:,} "
                "entries: this device computes wrongly; use device=cpu."
            )
        dense_seconds = time.perf_counter() - sparse_done
    density = nonzeros / max(n_movies**2, 1)
    seconds = sparse_done - started
    return CooccurrenceResult(matrix, nonzeros, squares, density, seconds, dense_seconds)


def off_diagonal_squares(likes: sp.csr_matrix) -> float:
    """‖X‖²_off = Σ_{i≠j} X_ij² of X = LᵀL, which is never held whole; (n_users, n_movies) CSR."""
    by_user = np.diff(likes.indptr).astype(np.float64)
    by_movie = np.bincount(likes.indices).astype(np.float64)
    if np.square(by_user).sum() <= np.square(by_movie).sum():
        return _sums_of_blocks(likes)[1]
    # ‖LᵀL‖_F = ‖LLᵀ‖_F, and that product is less work.
    rows = np.asarray(likes.multiply(likes).sum(axis=1)).ravel().astype(np.float64)
    columns = np.asarray(likes.multiply(likes).sum(axis=0)).ravel().astype(np.float64)
    squares = _sums_of_blocks(likes.T.tocsr())[1] + np.square(rows).sum()
    return float(squares - np.square(columns).sum())


def _squares(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _max_nonzeros(likes: sp.csr_matrix) -> int:
    """What X cannot have more of than: all pairs of movies, or those that somebody likes."""
    pairs = np.square(np.diff(likes.indptr).astype(np.float64)).sum()
    return int(min(pairs, float(likes.shape[1]) ** 2))


def _sums_of_blocks(likes: sp.csr_matrix) -> tuple[int, float]:
    """X's entries that are not 0, and Σ_{i≠j} X_ij²; one half of X is made, as it is symmetric."""
    columns = likes.astype(np.float64).tocsc()
    rows = columns.T  # (n_movies, n_users) CSR, the same arrays
    diagonal = np.asarray(columns.power(2).sum(axis=0)).ravel()  # (n_movies,) X_ii
    edges = np.unique(np.linspace(0, len(diagonal), GROUPS + 1).astype(int))
    nonzeros, squares = 0, 0.0
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first, last in pairwise(edges):
            right = columns[:, first:].tocsr()  # the movies of this group, and all that follow

            def sums(start: int, first=first, last=last, right=right) -> tuple[int, float]:
                block = rows[start : min(start + SPARSE_ROWS_AT_ONCE, last)] @ right
                squared = np.square(block.data)
                within = block.indices < last - first  # both ways round; the rest stands twice
                n = 2 * len(squared) - np.count_nonzero(within)
                return n, 2 * squared.sum() - squared[within].sum()

            for n, square in threads.map(sums, range(first, last, SPARSE_ROWS_AT_ONCE)):
                nonzeros, squares = nonzeros + int(n), squares + float(square)
    return nonzeros, float(squares - np.square(diagonal).sum())


def save_cooccurrence(counts: sp.csr_matrix, folder: Path) -> None:
    """Write X as `counts.npz`, which `scipy.sparse.load_npz` reads."""
    sp.save_npz(folder / COUNTS_FILE, counts)


def cooccurrence(likes: sp.csr_matrix) -> sp.csr_matrix:
    """(n_users, n_movies) likes -> (n_movies, n_movies) CSR of their type, symmetric, sorted.

    Every unordered pair stands in it twice, as (i, j) and as (j, i).
    """
    transposed = likes.T.tocsr()  # (n_movies, n_users)
    counts = (transposed @ likes).tocsr()  # (n_movies, n_movies)
    counts.sort_indices()
    return counts


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
    check_dense_fits(n_movies, device)
    dense = torch.zeros((n_movies, n_movies), dtype=torch.float32, device=device)
    for start in range(0, n_movies, ROWS_AT_ONCE):
        rows = counts[start : start + ROWS_AT_ONCE].toarray().astype(np.float32)
        dense[start : start + ROWS_AT_ONCE] = torch.from_numpy(rows)
    return dense


def check_dense_fits(n_movies: int, device: str) -> None:
    """Raises DataError where a dense X of so many movies does not fit on the device."""
    needed, free = n_movies**2 * 4, free_bytes(device)
    if needed > free:
        raise DataError(
            f"the dense matrix of {n_movies:,} movies needs {needed / 2**30:,.1f} GiB, but "
            f"{device} has {free / 2**30:,.1f} GiB free: use objective=factored, which needs none "
            "(in build_matrix, dense=false)."
        )


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
