"""Co-occurrence X = LᵀL: `X_ij` counts the users who like both `i` and `j`, `X_ii` those of `i`.

X is computed as a sparse integer matrix by scipy and as a dense float32 tensor on the device, and
the two are compared. An X too large to hold is computed in blocks of rows, measured and discarded.
"""

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.device import free_bytes
from embedlab.errors import DataError, EmbedlabError

COUNTS_FILE = "counts.npz"  # X, for `scipy.sparse.load_npz`
MAX_NONZEROS = 2**28  # of a sparse X kept only to be saved: 3 GiB
ROWS_AT_ONCE = 512  # of a dense block
MAX_GROUPS = 16  # of movies; each is multiplied by itself and those after it
LIKES_PER_GROUP = 100_000  # about; more if there would be more than MAX_GROUPS groups
PAIRS_AT_ONCE = 2**20  # pairs of a user's likes that a thread adds up; they take some 20 MiB
MIN_PAIRS_OF_DENSE_ROW = 30_000  # on average; with fewer a sparse product is faster
EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class CooccurrenceResult:
    """X and its measurements.

    counts          X, (n_movies, n_movies) CSR: int32, or float64 for weighted likes; None if it
                    may have more than MAX_NONZEROS entries and no dense tensor needs it.
    nonzeros        number of non-zeros, the diagonal included.
    off_diagonal_squares
                    ‖X‖²_off = Σ_{i≠j} X_ij², the cost of an embedding of zeros.
    density         nonzeros as a fraction of all entries.
    sparse_seconds  wall time of computing the fields above.
    dense_seconds   wall time of the dense tensor and its comparison; None without one.
    """

    counts: sp.csr_matrix | None
    nonzeros: int
    off_diagonal_squares: float
    density: float
    sparse_seconds: float
    dense_seconds: float | None


def build_cooccurrence(likes: sp.csr_matrix, device: str | None) -> CooccurrenceResult:
    """Compute X from L, (n_users, n_movies) CSR; with a device, check it against a dense X there.

    Raises DataError if the dense tensor does not fit (before anything is computed) or a count is
    too large for float32, and EmbedlabError if the device returns other values than it was given.
    """
    n_movies = likes.shape[1]
    if device is not None:
        check_dense_fits(n_movies, device)
    started = time.perf_counter()
    # X has at most one entry per pair of movies, and at most one per pair of a user's likes.
    pairs = np.square(np.diff(likes.indptr).astype(np.float64)).sum()
    counts = None
    if device is not None or min(pairs, n_movies**2) <= MAX_NONZEROS:
        counts = cooccurrence(likes)
        nonzeros, squares = counts.nnz, _squares(counts.data) - _squares(counts.diagonal())
    else:
        nonzeros, squares = _sums_of_blocks(likes)
    sparse_done = time.perf_counter()
    dense_seconds = None
    if device is not None:
        check_dense_equals(counts, to_dense(counts, device))
        dense_seconds = time.perf_counter() - sparse_done
    density = nonzeros / max(n_movies**2, 1)
    seconds = sparse_done - started
    return CooccurrenceResult(counts, nonzeros, squares, density, seconds, dense_seconds)


def check_dense_equals(x: sp.csr_matrix, dense: torch.Tensor) -> None:
    """Raises EmbedlabError if the dense X, (n_movies, n_movies), differs from the sparse one."""
    blocks = _dense_blocks(x)
    n_wrong = sum(np.count_nonzero(block != dense[rows].cpu().numpy()) for rows, block in blocks)
    if n_wrong:
        raise EmbedlabError(
            f"the dense matrix on {dense.device.type} differs from the sparse one in {n_wrong:,} "
            "entries: this device computes wrongly; use device=cpu."
        )


def likes_per_movie(likes: sp.csr_matrix) -> np.ndarray:
    """The number of users who like each movie: (n_movies,) int64."""
    return np.bincount(likes.indices, minlength=likes.shape[1])


def most_liked_first(likes: sp.csr_matrix) -> np.ndarray:
    """The movies by their number of likes, largest first: (n_movies,) int64."""
    return np.argsort(-likes_per_movie(likes), kind="stable")


def off_diagonal_squares(likes: sp.csr_matrix) -> float:
    """‖X‖²_off = Σ_{i≠j} X_ij² of X = LᵀL, without holding X; likes (n_users, n_movies) CSR."""
    by_user = np.diff(likes.indptr).astype(np.float64)
    by_movie = likes_per_movie(likes).astype(np.float64)
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
    """X's number of non-zeros and Σ_{i≠j} X_ij², from one half of X, which is symmetric."""
    # Most liked movies first, so that entries updated often are close together in the cache.
    order = most_liked_first(likes)
    is_binary = bool((likes.data == 1).all())
    ordered = likes[:, order].sorted_indices().astype(np.int32 if is_binary else np.float64)
    by_movie, n_movies = ordered.T.tocsr(), len(order)  # Lᵀ, (n_movies, n_users)
    diagonal = np.asarray(by_movie.power(2).sum(axis=1)).ravel()  # (n_movies,) X_ii
    n_groups = min(MAX_GROUPS, 1 + by_movie.nnz // LIKES_PER_GROUP)
    likes_before = np.linspace(0, by_movie.nnz, n_groups, endpoint=False)
    edges = np.unique(np.append(np.searchsorted(by_movie.indptr, likes_before), n_movies))
    nonzeros, squares = 0, 0.0
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first, last in pairwise(edges):
            group, columns = by_movie[first:last], ordered[:, first:]  # this group's and later
            n_pairs = np.cumsum(np.diff(columns.indptr)[group.indices])
            n_pairs = np.append(0, n_pairs)[group.indptr]  # (rows + 1,) in all earlier rows
            entries_of = _sparse_rows
            if is_binary and n_pairs[-1] >= MIN_PAIRS_OF_DENSE_ROW * (last - first):
                entries_of = _dense_rows
                columns = columns.astype(np.int8)  # needs the indices alone
            sums = partial(_sums_of_rows, entries_of, columns, last - first)
            starts = np.searchsorted(n_pairs, np.arange(0, n_pairs[-1], PAIRS_AT_ONCE))
            blocks = (group[start:end] for start, end in pairwise([*starts, last - first]))
            for n, square in threads.map(sums, blocks):
                nonzeros, squares = nonzeros + n, squares + square
    return nonzeros, float(squares - np.square(diagonal).sum())


# (values, in_group): entries of some rows of X, and those of them in columns of the rows' group.
RowEntries = Iterator[tuple[np.ndarray, np.ndarray]]


def _sums_of_rows(
    entries_of: Callable[..., RowEntries],
    columns: sp.csr_matrix,
    n_group: int,
    rows: sp.csr_matrix,
) -> tuple[int, float]:
    """Number of non-zeros and sum of squares of `rows @ columns`, and of its mirror image.

    rows     (some movies of a group, n_users) CSR: these rows of Lᵀ.
    columns  (n_users, n) CSR: the columns of L of that group and of all later ones.
    n_group  number of movies of the group, the first of `columns`.

    The first n_group columns belong to a square block on X's diagonal, which is complete. Every
    other entry (i, j) stands for (j, i), too, so it counts twice.
    """
    nonzeros, squares = 0, 0.0
    for values, in_group in entries_of(rows, columns, n_group):
        nonzeros += 2 * int(np.count_nonzero(values)) - int(np.count_nonzero(in_group))
        squares += 2 * _squares(values) - _squares(in_group)
    return nonzeros, squares


def _dense_rows(rows: sp.csr_matrix, columns: sp.csr_matrix, n_group: int) -> RowEntries:
    """Each row of `rows @ columns`, both binary, added up in place; fast if few entries are 0."""
    likes = columns[rows.indices]  # of the users of the first row, then of the second, …
    lengths = np.diff(likes.indptr[rows.indptr]).tolist()
    for liked in torch.from_numpy(likes.indices).split(lengths):
        row = torch.bincount(liked, minlength=columns.shape[1]).numpy()
        yield row, row[:n_group]


def _sparse_rows(rows: sp.csr_matrix, columns: sp.csr_matrix, n_group: int) -> RowEntries:
    """All entries of `rows @ columns` that are not 0."""
    block = rows @ columns
    yield block.data, block.data[block.indices < n_group]


def save_sparse(matrix: sp.csr_matrix, file: Path) -> None:
    """Save like `scipy.sparse.save_npz`, at zlib's fastest level: a little larger, much faster."""
    stored = io.BytesIO()
    sp.save_npz(stored, matrix, compressed=False)
    with ZipFile(stored) as arrays, ZipFile(file, "w") as archive:
        for array in arrays.infolist():
            archive.writestr(array, arrays.read(array), ZIP_DEFLATED, compresslevel=1)


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
