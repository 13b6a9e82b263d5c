"""L and Lᵀ times a block of vectors on the CPU, by scipy, some columns to each thread.

scipy multiplies without holding Python's lock. A column's sums are made in the same order however
many threads there are, so the result is the same to the bit.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch

# Fewer multiplications than this are done before a second thread has begun.
FEW_MULTIPLICATIONS = 1_000_000


class LikesProduct:
    """likes (n_users, n_movies) CSR; vectors are of its dtype."""

    def __init__(self, likes: sp.csr_matrix):
        self._likes = likes
        self._likes_t = likes.T  # the same arrays, read as CSC

    def forward(self, vectors: np.ndarray) -> np.ndarray:
        """L V: (n_movies, b) -> (n_users, b)."""
        return _by_columns(self._likes, vectors)

    def backward(self, vectors: np.ndarray) -> np.ndarray:
        """Lᵀ U: (n_users, b) -> (n_movies, b)."""
        return _by_columns(self._likes_t, vectors)

    def gram(self, vectors: np.ndarray) -> np.ndarray:
        """LᵀL V: (n_movies, b) -> (n_movies, b)."""
        return self.backward(self.forward(vectors))


def _by_columns(matrix: sp.spmatrix, vectors: np.ndarray) -> np.ndarray:
    n_columns = vectors.shape[1]
    n_threads = min(torch.get_num_threads(), n_columns)
    if n_threads < 2 or matrix.nnz * n_columns < FEW_MULTIPLICATIONS:
        return matrix @ vectors
    out = np.empty((matrix.shape[0], n_columns), vectors.dtype)
    edges = np.linspace(0, n_columns, n_threads + 1).astype(int)

    def multiply(part: slice) -> None:
        out[:, part] = matrix @ np.ascontiguousarray(vectors[:, part])

    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(multiply, map(slice, edges[:-1], edges[1:])))
    return out
