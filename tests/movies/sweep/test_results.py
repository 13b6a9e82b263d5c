"""The results of a comparison of optimizers: its tables, and its answer in words."""

import numpy as np
import pytest
from toy_comparison import BLOCKS, FOUR, MIXED, compare, four_fits, made_fit

from embedlab.movies.sweep.summary import to_markdown
from embedlab_serving.titles import TitleIndex

fits = pytest.fixture(four_fits)


def test_turned_vectors_recommend_the_same_and_others_do_not(fits):
    comparison = compare(fits, FOUR, [0, 2], k=1)
    assert [rows if rows is None else rows.tolist() for rows in comparison.asked_lists] == [
        [[1], [3]],
        [[1], [3]],
        [[2], [0]],
        None,
    ]
    overlap = comparison.overlap
    expected = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(overlap[:3, :3], expected)
    assert np.isnan(overlap[3]).all()
    assert np.isnan(overlap[:, 3]).all()
    assert comparison.pair_table()[["first", "second", "overlap", "rbo"]].to_numpy().tolist() == [
        ["exact", "adam lr=1", 1, pytest.approx(1)],
        ["exact", "adam lr=0.1", 0, 0],
        ["adam lr=1", "adam lr=0.1", 0, 0],
    ]


def test_a_fit_that_diverged_is_kept_without_a_cost_and_is_never_the_best(fits):
    comparison = compare(fits, FOUR, [0], k=1)
    table = comparison.fit_table()
    assert table["status"].tolist() == ["fitted"] * 3 + ["diverged at epoch 3"]
    assert table["cost"].isna().tolist() == [False] * 3 + [True]
    assert [item.options.label for item in comparison.best] == ["adam lr=1"]
    said = to_markdown(comparison, "toy")
    assert "Diverged: sgd lr=1 at epoch 3." in said
    assert "| adam lr=1 | 101 | 1.00% above it | 0.5 |" in said
    assert "- **1 fit at most 10% above the exact cost** shares 1.0 of 1 movie with it." in said
    assert "- **1 fit more than 100% above it** shares 0.0 of 1 movie with it." in said


def test_words_say_by_what_fits_that_stayed_at_their_start_recommend():
    far = [made_fit("sgd", lr, 1e6, start, seed) for lr, start, seed in STUCK]
    fits = [made_fit("exact", None, 100, BLOCKS), *far]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    assert "The 3 fits that end at more than 1,000 times the exact cost" in said
    assert "100% with others of the same random start, 0% with others of another start" in said


# Two of one seed, which rank alike, and one of another.
STUCK = [(1.0, MIXED, 0), (0.1, MIXED, 0), (1.0, [[3, 0], [1, 0], [0, 2], [2, 0]], 1)]


def test_words_do_not_claim_a_fall_that_is_not_there():
    fits = [made_fit("exact", None, 100, BLOCKS)]
    fits += [made_fit("adam", lr, 100 + lr, BLOCKS if lr % 2 else MIXED) for lr in range(1, 7)]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    assert "The overlap does not clearly fall as the gap grows (Spearman" in said


@pytest.mark.parametrize(("n", "is_said"), [(5, False), (6, True)])
def test_the_correlation_of_fits_that_share_their_start_has_no_p_value(n, is_said):
    fits = [made_fit("exact", None, 100, BLOCKS)]
    fits += [made_fit("adam", lr, 100 + lr, BLOCKS if lr < 4 else MIXED) for lr in range(1, n + 1)]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    correlation = (
        "The overlap falls as the gap grows (Spearman's rank correlation -0.88 over 6 fits)."
    )
    assert (correlation in said) == is_said
    assert "p = " not in said


def test_no_list_holds_another_row_of_the_movie_that_was_asked_for():
    titles = TitleIndex(["A (1990)", "A (1990)", "C", "D"])
    fits = [made_fit("exact", None, 100, BLOCKS)]
    (lists,) = compare(fits, titles, [0, 2], k=10).asked_lists
    first, second = lists.tolist()  # of the shorter one's length
    assert first == [2, 3]
    assert second in ([3, 0], [3, 1])  # equal scores: rows of one movie


def test_names_carry_the_seed_where_there_are_several(fits):
    twice = [*fits, made_fit("adam", 1.0, 102, BLOCKS, seed=1)]
    names = list(compare(twice, FOUR, [0], k=1).names.values())
    assert names[:2] == ["exact", "adam lr=1 seed=0"]
    assert names[-1] == "adam lr=1 seed=1"
