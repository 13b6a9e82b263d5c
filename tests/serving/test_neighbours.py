"""The nearest movies against a full sort, ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlab.errors import DataError, OptionError
from embedlab_serving.neighbours import Neighbours


def unit(v_j):
    return v_j / (np.linalg.norm(v_j) or 1)


def scores_by_loop(v, rows, score):
    """The module's two formulas, one movie at a time, in float64."""
    v = v.astype(np.float64)
    if score == "dot":
        query = sum(v[row] for row in rows) / len(rows)
        return np.array([sum(v_j * query) for v_j in v])
    query = unit(sum(unit(v[row]) for row in rows) / len(rows))
    return np.array([sum(unit(v_j) * query) for v_j in v])


def top_by_full_sort(scores, rows, k, include_self):
    """[(rank, row, score)], best first; of equal scores, the lower row first."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    left = [row for row in order if include_self or row not in rows][:k]
    return [(rank, row, scores[row]) for rank, row in enumerate(left, start=1)]


@st.composite
def questions(draw):
    """(v, rows): small whole numbers, so many equal scores, or numbers of any kind."""
    n_movies, dim = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    if draw(st.booleans()):
        v = rng.integers(-1, 2, size=(n_movies, dim))
    else:
        v = rng.standard_normal((n_movies, dim)) * rng.integers(2, size=(n_movies, 1))
    rows = draw(st.lists(st.integers(0, n_movies - 1), min_size=1, max_size=4))
    return v.astype(np.float32), rows


@given(question=questions(), score=st.sampled_from(["dot", "cosine"]))
@settings(max_examples=200, deadline=None)
def test_scores_are_those_of_loops(question, score):
    v, rows = question
    actual = Neighbours(v).scores(rows, score)
    assert (actual.dtype, actual.shape) == (np.float32, (len(v),))
    left = np.linalg.norm(sum(unit(v[row].astype(np.float64)) for row in rows))
    if score == "cosine" and left < 1e-3 and v[rows].any():
        return  # opposite queries cancel, so their mean is only rounding error
    # float32 keeps 7 digits of numbers below about 30.
    np.testing.assert_allclose(actual, scores_by_loop(v, rows, score), rtol=1e-5, atol=1e-5)


@given(
    question=questions(),
    score=st.sampled_from(["dot", "cosine"]),
    k=st.integers(1, 40),  # also more than there are movies
    include_self=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_top_is_a_full_sort_with_ties_by_the_lower_row(question, score, k, include_self):
    v, rows = question
    neighbours = Neighbours(v)
    # To the bit: both sort the same scores.
    scores = neighbours.scores(rows, score).tolist()
    top = neighbours.top(rows, k, score, include_self)
    assert [tuple(item) for item in top] == top_by_full_sort(scores, rows, k, include_self)


@given(question=questions(), k=st.integers(1, 40), include_self=st.booleans())
@settings(max_examples=100, deadline=None)
def test_whole_numbers_tie_exactly(question, k, include_self):
    v, rows = question
    v, rows = np.round(v), (rows * 4)[:4]  # four queries: the mean is exact in float32
    scores = scores_by_loop(v, rows, "dot").tolist()
    top = [tuple(item) for item in Neighbours(v).top(rows, k, "dot", include_self)]
    assert top == top_by_full_sort(scores, rows, k, include_self)


def test_a_tie_at_the_last_rank_goes_to_the_lower_row():
    v = np.array([[1, 0], [2, 0], [2, 1], [3, 0], [2, 5]])
    assert [item.row for item in Neighbours(v).top([0], 2)] == [3, 1]
    assert [item.row for item in Neighbours(v).top([0], 3)] == [3, 1, 2]


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_a_zero_vector_scores_zero(score):
    v = np.array([[1, 2], [0, 0], [-1, 1]])
    assert Neighbours(v).scores([0], score)[1] == 0
    assert Neighbours(v).scores([1], score).tolist() == [0, 0, 0]


def test_rounding_takes_no_cosine_beyond_1():
    neighbours = Neighbours(np.random.default_rng(0).standard_normal((500, 17)))
    assert max(neighbours.scores([row], "cosine").max() for row in range(500)) == 1


def test_cosine_leaves_lengths_out_and_weighs_queries_alike():
    v = np.array([[100, 0], [0, 1], [1, 1], [5, 0]])
    assert [item.row for item in Neighbours(v).top([0, 1], 1, "cosine")] == [2]
    assert [item.row for item in Neighbours(v).top([0, 1], 1, "dot")] == [3]


def test_a_query_given_twice_counts_twice():
    scores = Neighbours(np.eye(3)).scores([0, 1, 1])
    assert scores.tolist() == pytest.approx([1 / 3, 2 / 3, 0])  # float32


def test_a_query_leaves_the_embedding_unchanged():
    v = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    neighbours, before = Neighbours(v), v.copy()
    first = neighbours.top([4], 5)
    assert neighbours.top([4], 5) == first
    np.testing.assert_array_equal(v, before)


def test_no_movie_is_recommended_if_every_movie_is_a_query():
    assert Neighbours(np.eye(3)).top([0, 1, 2]) == []
    assert len(Neighbours(np.eye(3)).top([0, 1, 2], include_self=True)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: expected a whole number from 1, got 0"),
        ({"k": -1}, "k: expected a whole number from 1, got -1"),
        ({"score": "dto"}, "one of dot, cosine, got 'dto'"),
    ],
)
def test_options_out_of_range_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(OptionError, match=message) as error:
        Neighbours(np.eye(3)).top([0], **options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (
            np.array([[0.0, 1], [1, np.nan], [np.inf, 0]]),
            "2 of 3 rows are not, .* row 1 of length nan",
        ),
        (np.array([[1e300]]), "1 of 1 rows are not"),  # more than float32 holds
        (np.array([[1.0, 2], [3e38, 3e38]]), "shorter than .* row 1 of length 4.2e"),
    ],
)
def test_an_embedding_whose_scores_are_not_finite_is_refused(embedding, message):
    with pytest.raises(DataError, match=message) as error:
        Neighbours(embedding)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_the_longest_rows_that_are_taken_have_finite_scores(score):
    v = np.array([[1.3e19, 1.3e19], [1.3e19, -1.3e19], [1, 1]])  # length 1.84e19, limit 1.845e19
    top = Neighbours(v).top([0], 2, score)
    assert [item.row for item in top] == [2, 1]
    assert np.isfinite([item.score for item in top]).all()


@pytest.mark.parametrize(("include_self", "rows"), [(False, [1]), (True, [0, 1])])
def test_excluded_rows_are_never_recommended(include_self, rows):
    neighbours = Neighbours(np.array([[3.0], [2.0], [3.0]]))
    top = neighbours.top([0], include_self=include_self, exclude=[2])
    assert [item.row for item in top] == rows
