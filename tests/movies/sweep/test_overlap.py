"""The overlap of lists equals the published example, infinite sums and values by hand."""

import numpy as np
import pytest

from embedlab.movies.sweep.convergence import Queries
from embedlab.movies.sweep.overlap import (
    agreements,
    overlap_at_k,
    rank_biased_overlap,
    sampled_overlap,
)


def test_agreements_and_their_average_are_the_published_example():
    """Webber, Moffat and Zobel 2010, the example of average overlap: abcdefg against zcavwxy."""
    shares = agreements("abcdefg", "zcavwxy")
    np.testing.assert_allclose(shares, [0, 0, 2 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7])
    average = np.cumsum(shares) / np.arange(1, 8)
    published = [0.000, 0.000, 0.222, 0.292, 0.313, 0.317, 0.312]
    np.testing.assert_allclose(average, published, atol=5e-4)  # printed with three decimals


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_rank_biased_overlap_is_its_infinite_sum_with_the_last_agreement_for_ever(p):
    rng = np.random.default_rng(0)
    first, second = (rng.permutation(15)[:10].tolist() for _ in range(2))
    total, weight = 0.0, 1 - p
    for depth in range(1, 5000):
        d = min(depth, 10)
        total += weight * len(set(first[:d]) & set(second[:d])) / d
        weight *= p
    assert rank_biased_overlap(first, second, p) == pytest.approx(total, abs=1e-12)


def test_overlaps_of_equal_and_of_foreign_lists():
    assert overlap_at_k([1, 2], [2, 1]) == 1
    assert overlap_at_k([1, 2, 3, 4], [3, 9, 8, 7]) == 0.25
    assert rank_biased_overlap([1, 2], [1, 2]) == pytest.approx(1)
    assert rank_biased_overlap([1, 2], [3, 4]) == 0
    # By hand, p = 0.9: A = (0, 1), so 1 · 0.81 + 0.1/0.9 · 0.81.
    assert rank_biased_overlap([1, 2], [2, 1]) == pytest.approx(0.9)


def test_the_overlap_is_the_mean_over_the_drawn_movies_with_its_interval():
    chosen = Queries(np.array([0, 4, 5, 6, 7, 3]), n_asked=2, excluded=[[]] * 6, k=2)
    exact = np.array([[1, 2]] * 6)
    lists = np.array([[8, 9], [8, 9], [1, 2], [2, 1], [1, 9], [8, 9]])
    mean, half = sampled_overlap(chosen, lists, exact)
    shares = [1, 1, 0.5, 0]
    assert mean == np.mean(shares)
    assert half == pytest.approx(1.96 * np.std(shares, ddof=1) / 2)
