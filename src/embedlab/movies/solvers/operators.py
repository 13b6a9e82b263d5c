"""Sparse operators: L and Lᵀ times a block of vectors, computed by scipy on threads or by torch.

scipy multiplies without holding Python's lock, so each thread multiplies some of the columns. The
order of a column's sums does not depend on the number of threads, so neither do the bits of the
result. Movies are kept most liked first, which keeps frequently read rows together in the cache. On
the CPU, the product by scipy is twice as fast as torch's CSR product with 5 M likes, and takes 2 to
8 times as long with 50 k to 0.5 M.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.movies.data.cooccurrence import most_liked_first

# Fewer multiplications than this finish before a second thread has started.
MIN_THREADED_MULTIPLICATIONS = 1_000_000
# From this number on, the vectors exceed the processor's cache, and scipy is faster than torch.
MIN_LIKES_FOR_SCIPY = 1_000_000


class ScipyLikesOperator:
    """L by scipy, on the CPU; parameters as of `likes_operator`."""

    def __init__(self, likes: sp.csr_matrix, *dtypes: torch.dtype):
        self._order = most_liked_first(likes)  # (n_movies,)
        self._position = np.argsort(self._order)  # (n_movies,) of each movie in that order
        likes = likes[:, self._order].sorted_indices()
        self._likes = {dtype: _with_values_of(dtype, likes) for dtype in dtypes}

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """L V: (n_movies, b) -> (n_users, b)."""
        likes = self._likes[vectors.dtype]
        return torch.from_numpy(_multiply_on_threads(likes, vectors.numpy()[self._order]))

    def rmatmat(self, vectors: torch.Tensor, add_to: torch.Tensor | None = None) -> torch.Tensor:
        """Lᵀ U: (n_users, b) -> (n_movies, b); added to `add_to` in place if there is one."""
        likes_t = self._likes[vectors.dtype].T  # the same arrays, read as CSC
        rows = _multiply_on_threads(likes_t, vectors.numpy())  # most liked movie first
        product = torch.from_numpy(rows[self._position])
        return product if add_to is None else add_to.add_(product)


class TorchLikesOperator:
    """L by torch, on any device; parameters as of `likes_operator`."""

    def __init__(self, likes: sp.csr_matrix, device: torch.device, *dtypes: torch.dtype):
        self._likes = sparse_tensors(likes, device, dtypes)
        self._likes_t = sparse_tensors(likes.T.tocsr(), device, dtypes)

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        return _multiply_by_torch(self._likes[vectors.dtype], vectors)

    def rmatmat(self, vectors: torch.Tensor, add_to: torch.Tensor | None = None) -> torch.Tensor:
        return _multiply_by_torch(self._likes_t[vectors.dtype], vectors, add_to)


LikesOperator = ScipyLikesOperator | TorchLikesOperator


def likes_operator(
    likes: sp.csr_matrix, device: torch.device, *dtypes: torch.dtype
) -> LikesOperator:
    """The faster operator for so many likes, (n_users, n_movies) CSR, on this device.

    dtypes  those of the vectors that it will multiply; a product has the dtype of its vectors.
    """
    if device.type == "cpu" and likes.nnz >= MIN_LIKES_FOR_SCIPY:
        return ScipyLikesOperator(likes, *dtypes)
    return TorchLikesOperator(likes, device, *dtypes)


def _with_values_of(dtype: torch.dtype, likes: sp.csr_matrix) -> sp.csr_matrix:
    """`likes` with values of this dtype; shares the indices."""
    values = likes.data.astype(torch.empty(0, dtype=dtype).numpy().dtype, copy=False)
    return sp.csr_matrix((values, likes.indices, likes.indptr), likes.shape)


def sparse_tensors(
    matrix: sp.csr_matrix, device: torch.device, dtypes: Sequence[torch.dtype]
) -> dict[torch.dtype, torch.Tensor]:
    """`matrix` as CSR tensors on `device`, one of each dtype; they share the indices."""
    matrix = matrix.sorted_indices()
    row_starts = torch.from_numpy(matrix.indptr).to(device)
    columns, values = (torch.from_numpy(a).to(device) for a in (matrix.indices, matrix.data))
    with warnings.catch_warnings():
        # torch warns once per process that CSR tensors are in beta; tests compare them with scipy.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return {
            dtype: torch.sparse_csr_tensor(
                row_starts, columns, values.to(dtype), size=matrix.shape, check_invariants=True
            )
            for dtype in dtypes
        }


def _multiply_by_torch(
    matrix: torch.Tensor, vectors: torch.Tensor, add_to: torch.Tensor | None = None
) -> torch.Tensor:
    """`matrix @ vectors`, added to `add_to` if there is one; for `@`, torch copies its result."""
    if add_to is None:
        add_to = vectors.new_zeros(matrix.shape[0], vectors.shape[1])
    return add_to.addmm_(matrix, vectors)


def _multiply_on_threads(matrix: sp.csr_matrix | sp.csc_matrix, vectors: np.ndarray) -> np.ndarray:
    """`matrix @ vectors`, each thread some of the columns."""
    n_columns = vectors.shape[1]
    n_threads = min(torch.get_num_threads(), n_columns)
    if n_threads < 2 or matrix.nnz * n_columns < MIN_THREADED_MULTIPLICATIONS:
        return matrix @ vectors
    out = np.empty((matrix.shape[0], n_columns), vectors.dtype)
    edges = np.linspace(0, n_columns, n_threads + 1).astype(int)

    def multiply(columns: slice) -> None:
        out[:, columns] = matrix @ np.ascontiguousarray(vectors[:, columns])

    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(multiply, map(slice, edges[:-1], edges[1:])))
    return out
