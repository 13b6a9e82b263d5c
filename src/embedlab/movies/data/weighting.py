"""Weighted likes L', whose plain co-occurrence L'ᵀL' every solver can fit.

A user with n likes is in n (n − 1) / 2 pairs, so a few very active users dominate the plain X. With
a weight w for each user, and errors relative to the counts that independent likes would give, the
embedding minimises

    Σ_{i≠j} ((v_i·v_j − X_ij) / (x_i x_j)^β)²    X = Lᵀ diag(w) L,  x_i likes of movie i

This is the plain cost of L' = diag(√w) L diag(x^−β), and the embedding is the vectors of that fit
times x^β. β = 0 is the plain cost; β = 1/2 divides by the standard deviation of independent counts
(Pearson residuals).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from embedlab.movies.data.cooccurrence import likes_per_movie, off_diagonal_squares
from embedlab.movies.options import USER_WEIGHTS


@dataclass(frozen=True)
class WeightedLikes:
    """Likes for a solver, and the scale that turns its vectors into the embedding.

    matrix (n_users, n_movies) CSR: L'; float64 if weighted.
    scale  (n_movies,) float64: x^β; with β > 0 it is 0 for a movie without likes.
    """

    matrix: sp.csr_matrix
    scale: np.ndarray

    @cached_property
    def diagonal(self) -> np.ndarray:
        """(n_movies,) float64: the diagonal of L'ᵀL', which the solvers call x."""
        return np.asarray(self.matrix.astype(np.float64).power(2).sum(axis=0)).ravel()

    @cached_property
    def off_diagonal_squares(self) -> float:
        """‖X‖²_off of X = L'ᵀL', the cost of vectors of zeros; computed once for all fits."""
        return off_diagonal_squares(self.matrix)

    def to_embedding(self, vectors: np.ndarray) -> np.ndarray:
        """Scale a solver's vectors for `matrix`, (n_movies, dim), to the embedding, float32."""
        with np.errstate(over="ignore"):  # vectors of a fit that diverged
            return (vectors * self.scale[:, None]).astype(np.float32)


def weight_likes(
    likes: sp.csr_matrix, user_weight: str = "none", item_power: float = 0.0
) -> WeightedLikes:
    """likes (n_users, n_movies) CSR of ones -> L' and x^β.

    user_weight  one of USER_WEIGHTS.
    item_power   β, from 0 to 1.
    """
    if user_weight == "none" and not item_power:
        return WeightedLikes(likes, np.ones(likes.shape[1]))
    n = np.diff(likes.indptr)  # (n_users,)
    x = likes_per_movie(likes)
    root_w = _power(n, -USER_WEIGHTS[user_weight] / 2)
    # L' = diag(√w) L diag(x^−β)
    weighted = sp.diags_array(root_w) @ likes  # float64
    weighted = sp.csr_matrix(weighted @ sp.diags_array(_power(x, -item_power)))
    weighted.sort_indices()
    scale = _power(x, item_power) if item_power else np.ones(len(x))  # (n_movies,)
    return WeightedLikes(weighted, scale)


def _power(counts: np.ndarray, exponent: float) -> np.ndarray:
    """counts^exponent, and 0 for a count of 0."""
    return np.where(counts > 0, np.maximum(counts, 1.0) ** exponent, 0.0)
