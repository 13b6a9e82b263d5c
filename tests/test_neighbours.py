"""The nearest movies against a full sort, ties included."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlab.errors import DataError, OptionError
from embedlab.movies.neighbours import Neighbours


def top_by_full_sort(v, rows, k, score, include_self):
    """[(row, score)], best first, equal scores by the lower row."""
    v = v.astype(np.float64)
    if score == "dot":
        scores = v @ v[rows].mean(axis=0)
    else:
        norms = np.linalg.norm(v, axis=1)
        units = np.divide(v, norms[:, None], out=np.zeros_like(v), where=norms[:, None] > 0)
        query = units[rows].mean(axis=0)
        scores = units @ (query / (np.linalg.norm(query) or 1))
    order = sorted(range(len(v)), key=lambda row: (-scores[row], row))
    return [(row, scores[row]) for row in order if include_self or row not in rows][:k]


@given(
    seed=st.integers(0, 10**6),
    n_movies=st.integers(1, 30),
    n_queries=st.integers(1, 3),
    k=st.integers(1, 40),
    include_self=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_dot_is_a_full_sort_with_ties_by_the_lower_row(seed, n_movies, n_queries, k, include_self):
    rng = np.random.default_rng(seed)
    # Small whole numbers: many equal scores; one, two or four queries keep the mean exact.
    v = rng.integers(-2, 3, size=(n_movies, 3)).astype(np.float32)
    rows = rng.integers(n_movies, size=2 ** (n_queries - 1)).tolist()
    found = Neighbours(v).top(rows, k, "dot", include_self)
    expected = top_by_full_sort(v, rows, k, "dot", include_self)
    assert [(item.row, item.score) for item in found] == expected
    assert [item.rank for item in found] == list(range(1, len(found) + 1))


@given(seed=st.integers(0, 10**6), n_queries=st.integers(1, 3), include_self=st.booleans())
@settings(max_examples=50, deadline=None)
def test_cosine_is_a_full_sort(seed, n_queries, include_self):
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((25, 4)).astype(np.float32)
    v[3] = 0  # a movie without a vector scores 0, not NaN
    rows = rng.choice(25, n_queries, replace=False).tolist()
    found = Neighbours(v).top(rows, 25, "cosine", include_self)
    expected = dict(top_by_full_sort(v, rows, 25, "cosine", include_self))
    assert {item.row for item in found} == set(expected)
    # float32 products of numbers near 1.
    assert [item.score for item in found] == pytest.approx(
        [expected[item.row] for item in found], abs=1e-5
    )
    assert all(better.score >= worse.score for better, worse in pairwise(found))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], 0), "recommendations must be a whole number from 1, but found 0"),
        (([0], 1.5), "whole number from 1, but found 1.5"),
        (([0], 3, "dto"), "one of dot, cosine, but found 'dto'"),
        (([3], 3), "from 0 to 2, but found 3"),
        (([-1], 3), "from 0 to 2, but found -1"),
        (([], 3), "from 0 to 2, but found"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_is_allowed(arguments, message):
    with pytest.raises(OptionError, match=message):
        Neighbours(np.eye(3)).top(*arguments)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((0, 3)), "shape"),
        (np.array([[1.0, np.nan]]), "finite"),
        (np.array([["a"]]), "real numbers"),
    ],
)
def test_what_is_no_embedding_is_refused(embedding, message):
    with pytest.raises(DataError, match=message):
        Neighbours(embedding)
