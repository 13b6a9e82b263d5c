"""Nearest neighbours of movies in an embedding.

In: `embedding`, float32 (n_movies, dim), a row for each movie; the rows of one or more query
movies. Out: the k best other movies with their scores.

Two scores, with v_j for a movie and v_q for a query movie:

- `dot`: `v_j · mean_q(v_q)`. The objective fits it (`v_i · v_j ≈ X_ij`), so with one query
  movie the score estimates how many users like both, and popular movies come first.
- `cosine`: the cosine of `v_j` and `mean_q(v_q / ‖v_q‖)`, in [-1, 1]. It ignores the lengths,
  and so popularity. A zero vector scores 0 with every movie.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from embedlab_serving.errors import DataError, OptionError

SCORES = ("dot", "cosine")


class Recommendation(NamedTuple):
    """A movie: its position in the list from 1, its row of the embedding, its score."""

    rank: int
    row: int
    score: float


def unservable_reason(embedding: np.ndarray) -> str | None:
    """Why scores of `embedding`, (n_movies, dim) float32, are not all finite; None if they are."""
    norms = _norms(embedding)
    # |v_j · q| ≤ ‖v_j‖ ‖q‖, and no query is longer than the longest row.
    bad = ~(norms**2 <= np.finfo(np.float32).max)  # also where a norm is not a number
    if not bad.any():
        return None
    return (
        "an embedding's rows must be finite and shorter than 1.8e19 for finite scores, but "
        f"{np.count_nonzero(bad)} of {len(bad)} rows are not, the first of them row "
        f"{np.argmax(bad)} of length {norms[np.argmax(bad)]:.2g}"
    )


def _norms(v: np.ndarray) -> np.ndarray:
    """(n_movies,) float64: squares of large float32 numbers overflow in float32."""
    return np.sqrt(np.einsum("nd,nd->n", v, v, dtype=np.float64))


class Neighbours:
    """Nearest neighbours in `embedding`, (n_movies, dim).

    The embedding is kept as float32 and must not be changed; nothing else changes after
    construction, so threads may share it. Raises DataError if its scores are not all finite.
    """

    def __init__(self, embedding: np.ndarray):
        with np.errstate(over="ignore"):
            v = np.ascontiguousarray(embedding, dtype=np.float32)  # (n_movies, dim)
        if fault := unservable_reason(v):
            raise DataError(f"{fault}; fit it with a lower learning rate.")
        norms = _norms(v)  # (n_movies,)
        self.embedding = v
        self._inverse_norms = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)

    def scores(self, rows: Sequence[int], score: str = "dot") -> np.ndarray:
        """The score of every movie for the query movies `rows`, float32 (n_movies,).

        A row given twice counts twice. Raises OptionError for an unknown score.
        """
        if score not in SCORES:
            raise OptionError(f"score: expected one of {', '.join(SCORES)}, got {score!r}.")
        v = self.embedding
        if score == "dot":
            q = v[rows].mean(axis=0, dtype=np.float64)  # (dim,)
            return v @ q.astype(np.float32)
        # q = mean of v_q / ‖v_q‖;  score_j = v_j · q / (‖v_j‖ ‖q‖)
        q = (v[rows] * self._inverse_norms[rows, None]).mean(axis=0)  # (dim,)
        q /= np.sqrt(q @ q) or 1.0
        cosine = (v @ q.astype(np.float32)) * self._inverse_norms  # (n_movies,)
        return np.clip(cosine, -1, 1).astype(np.float32)

    def top(
        self,
        rows: Sequence[int],
        k: int = 10,
        score: str = "dot",
        include_self: bool = False,
        exclude: Sequence[int] = (),
    ) -> list[Recommendation]:
        """The `k` best movies for the query movies `rows`, best first.

        The rows `exclude`, such as other rows of the same movie, are left out, and so are the query
        movies unless `include_self`; if fewer than `k` remain, all are returned. Equal scores are
        ordered by row, also at the end of the list; the scores of equal vectors may differ in the
        last bit, because of rounding in the matrix product. Raises OptionError for k < 1 or an
        unknown score.
        """
        if k < 1:
            raise OptionError(f"k: expected a whole number from 1, got {k}.")
        s = self.scores(rows, score)  # (n_movies,)
        excluded = np.unique(np.array([*exclude, *(() if include_self else rows)], np.int64))
        k = min(k, len(s) - len(excluded))
        if k < 1:
            return []
        # The other scores are finite (see __init__), so excluded rows are never among the k best.
        s[excluded] = -np.inf
        kth = np.partition(s, len(s) - k)[len(s) - k]
        # Of the movies that share the k-th score, flatnonzero gives the lowest rows first.
        above = np.flatnonzero(s > kth)
        tied = np.flatnonzero(s == kth)[: k - len(above)]
        chosen = np.sort(np.concatenate([above, tied]))  # (k,)
        chosen = chosen[np.argsort(-s[chosen], kind="stable")]
        return [Recommendation(i, int(j), float(s[j])) for i, j in enumerate(chosen, start=1)]
