"""Co-occurrence X = LᵀL: `X_ij` counts the users who like both `i` and `j`, `X_ii` those of `i`.

A sparse integer matrix by scipy and a dense float32 tensor on the device, each checked against the
other. An X too large to hold is computed in blocks of rows, measured and discarded.
"""

import time
from collections.abc import Iterator
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
MAX_NONZEROS = 2**28  # of a sparse X kept only to be saved: 3 GiB
ROWS_AT_ONCE = 512  # dense
SPARSE_ROWS_AT_ONCE = 256  # of 88,000 movies: at most 0.3 GiB
COLUMN_GROUPS = 16  # each is multiplied with itself and the later ones
EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class CooccurrenceResult:
    """X and its measurements.

    matrix          (n_movies, n_movies) CSR: int32, of weighted likes float64; None if it may have
                    more than MAX_NONZEROS entries and no dense tensor needs it.
    nonzeros        number of non-zeros, the diagonal included.
    off_diagonal_squares
                    ‖X‖²_off = Σ_{i≠j} X_ij², the cost of an embedding of zeros.
    density         nonzeros as a fraction of all entries.
    sparse_seconds  wall time of the fields above.
    dense_seconds   for the dense tensor and its comparison; None without one.
    """

    matrix: sp.csr_matrix | None
    nonzeros: int
    off_diagonal_squares: float
    density: float
    sparse_seconds: float
    dense_seconds: float | None


def build_cooccurrence(likes: sp.csr_matrix, device: str | None) -> CooccurrenceResult:
    """X from L, (n_users, n_movies) CSR; with a device, also as a dense tensor there, compared.

    Raises DataError if the dense tensor does not fit, before anything is computed; EmbedlabError
    if the device returns other values than it was given.
    """
    n_movies = likes.shape[1]
    if device is not None:
        check_dense_fits(n_movies, device)
    started = time.perf_counter()
    # X has at most all pairs of movies, or of each user's likes.
    pairs = np.square(np.diff(likes.indptr).astype(np.float64)).sum()
    matrix = None
    if device is not None or min(pairs, n_movies**2) <= MAX_NONZEROS:
        matrix = cooccurrence(likes)
        nonzeros, squares = matrix.nnz, _squares(matrix.data) - _squares(matrix.diagonal())
    else:
        nonzeros, squares = _sums_of_blocks(likes)
    sparse_done = time.perf_counter()
    dense_seconds = None
    if device is not None:
        dense = to_dense(matrix, device)
        blocks = _dense_blocks(matrix)
        n_wrong = sum(np.count_nonzero(own != dense[rows].cpu().numpy()) for rows, own in blocks)
        if n_wrong:
            raise EmbedlabError(
                f"the dense matrix on {device} differs from the sparse one in {n_wrong:,} "
                "entries: this device computes wrongly; use device=cpu."
            )
        dense_seconds = time.perf_counter() - sparse_done
    density = nonzeros / max(n_movies**2, 1)
    seconds = sparse_done - started
    return CooccurrenceResult(matrix, nonzeros, squares, density, seconds, dense_seconds)


def off_diagonal_squares(likes: sp.csr_matrix) -> float:
    """‖X‖²_off = Σ_{i≠j} X_ij² of X = LᵀL, without holding X; likes (n_users, n_movies) CSR."""
    by_user = np.diff(likes.indptr).astype(np.float64)
    by_movie = np.bincount(likes.indices).astype(np.float64)
    if np.square(by_user).sum() <= np.square(by_movie).sum():
        return _sums_of_blocks(likes)[1]
    # ‖LᵀL‖_F = ‖LLᵀ‖_F, and here that product is less work.
    squared = likes.astype(np.float64).power(2)
    rows = np.asarray(squared.sum(axis=1)).ravel()  # (n_users,) (LLᵀ)_uu
    columns = np.asarray(squared.sum(axis=0)).ravel()  # (n_movies,) X_ii
    squares = _sums_of_blocks(likes.T.tocsr())[1] + np.square(rows).sum()
    return float(squares - np.square(columns).sum())


def _squares(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _sums_of_blocks(likes: sp.csr_matrix) -> tuple[int, float]:
    """X's number of non-zeros and Σ_{i≠j} X_ij², from one half of X, as it is symmetric."""
    columns = likes.astype(np.float64).tocsc()
    rows = columns.T  # (n_movies, n_users) CSR, the same arrays
    diagonal = np.asarray(columns.power(2).sum(axis=0)).ravel()  # (n_movies,) X_ii
    edges = np.unique(np.linspace(0, len(diagonal), COLUMN_GROUPS + 1).astype(int))
    nonzeros, squares = 0, 0.0
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first, last in pairwise(edges):
            right = columns[:, first:].tocsr()  # the movies of this group and of all later ones

            def sums(start: int, first=first, last=last, right=right) -> tuple[int, float]:
                block = rows[start : min(start + SPARSE_ROWS_AT_ONCE, last)] @ right
                squared = np.square(block.data)
                within = block.indices < last - first  # has both halves; the rest counts twice
                n = 2 * len(squared) - int(np.count_nonzero(within))
                return n, float(2 * squared.sum() - squared[within].sum())

            for n, square in threads.map(sums, range(first, last, SPARSE_ROWS_AT_ONCE)):
                nonzeros, squares = nonzeros + n, squares + square
    return nonzeros, float(squares - np.square(diagonal).sum())


def save_cooccurrence(x: sp.csr_matrix, folder: Path) -> None:
    """Write X as `counts.npz` for `scipy.sparse.load_npz`."""
    sp.save_npz(folder / COUNTS_FILE, x)


def cooccurrence(likes: sp.csr_matrix) -> sp.csr_matrix:
    """(n_users, n_movies) likes -> X (n_movies, n_movies) CSR of their type, symmetric, sorted.

    It contains every unordered pair twice, as (i, j) and as (j, i).
    """
    return (likes.T.tocsr() @ likes).tocsr().sorted_indices()


def to_dense(x: sp.csr_matrix, device: str = "cpu") -> torch.Tensor:
    """X as a dense float32 tensor on `device`, (n_movies, n_movies).

    Raises DataError if a count is too large for float32 or the tensor does not fit.
    """
    if x.nnz and x.max() > EXACT_IN_FLOAT32:
        raise DataError(
            f"a count of {x.max():,} is more than float32 holds exactly "
            f"({EXACT_IN_FLOAT32:,}): use objective=factored, which needs no dense matrix."
        )
    check_dense_fits(x.shape[0], device)
    dense = torch.zeros(x.shape, dtype=torch.float32, device=device)
    for rows, block in _dense_blocks(x):
        dense[rows] = torch.from_numpy(block)
    return dense


def _dense_blocks(x: sp.csr_matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of rows, and these rows as float32, (up to ROWS_AT_ONCE, n_movies)."""
    for start in range(0, x.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield rows, x[rows].toarray().astype(np.float32)


def check_dense_fits(n_movies: int, device: str, n_matrices: int = 1) -> None:
    """Raises DataError if dense matrices of n_movies x n_movies do not fit the device's memory."""
    needed, free = n_matrices * n_movies**2 * 4, free_bytes(device)
    if needed > free:
        what = "the dense matrix" if n_matrices == 1 else f"a fit with {n_matrices} dense matrices"
        raise DataError(
            f"{what} of {n_movies:,} movies needs {needed / 2**30:,.1f} GiB, but "
            f"{device} has {free / 2**30:,.1f} GiB free: use objective=factored, which needs none "
            "(in build_matrix, dense=false)."
        )
