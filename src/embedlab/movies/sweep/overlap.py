"""The overlap of two lists of recommendations."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from embedlab.movies.sweep.convergence import Queries

PERSISTENCE = 0.9  # the first ten positions have 86% of the weight (Webber et al., eq. 21)


class Overlap(NamedTuple):
    """The mean share of a list that is in another one, and its margin: half of the 95% interval."""

    mean: float
    margin: float


def sampled_overlap(queries: Queries, lists: np.ndarray, exact: np.ndarray) -> Overlap:
    """The overlap of `lists` with the exact lists, both (n_queries, k).

    The mean is over the movies drawn at random; if none were drawn, over those asked for.
    """
    start = queries.n_asked if queries.n_sampled else 0
    is_in_exact = (lists[start:, :, None] == exact[start:, None, :]).any(axis=2)  # (n_sampled, k)
    overlaps = is_in_exact.mean(axis=1) if queries.k else np.ones(len(is_in_exact))
    error = overlaps.std(ddof=1) / np.sqrt(len(overlaps)) if len(overlaps) > 1 else 0.0
    return Overlap(float(overlaps.mean()), float(1.96 * error))


def overlap_at_k(first: Sequence[int], second: Sequence[int]) -> float:
    """The fraction of the k movies of one list that are in the other; order is ignored."""
    return len(set(first) & set(second)) / max(len(first), len(second), 1)


def rank_biased_overlap(
    first: Sequence[int], second: Sequence[int], p: float = PERSISTENCE
) -> float:
    """RBO, extrapolated from the first k positions: 0 to 1; early positions weigh most.

    With A_d the agreement (the overlap of the first d movies over d):

        RBO_ext = A_k p^k + (1 − p)/p Σ_{d=1..k} A_d p^d

    Both lists have k movies, without repetition. Source: W. Webber, A. Moffat and J. Zobel, "A
    similarity measure for indefinite rankings", ACM TOIS 28(4), 2010, equation 23.
    """
    a = np.array(agreements(first, second))
    if not len(a):
        return 0.0
    weight = p ** np.arange(1, len(a) + 1)  # p^d
    return float(a[-1] * weight[-1] + (1 - p) / p * (a @ weight))


def agreements(first: Sequence[int], second: Sequence[int]) -> list[float]:
    """A_d for d = 1 … k: the fraction of the first d movies that both lists have."""
    return [overlap_at_k(first[:d], second[:d]) for d in range(1, len(first) + 1)]
