"""The results of a comparison of optimizers: overlaps, tables, names."""

import numpy as np
import pytest
from toy_comparison import BLOCKS, FOUR, compare, four_fits, made_fit

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


def test_no_list_holds_another_row_of_the_movie_that_was_asked_for():
    titles = TitleIndex(["A (1990)", "A (1990)", "C", "D"])
    fits = [made_fit("exact", None, 100, BLOCKS)]
    (lists,) = compare(fits, titles, [0, 2], k=10).asked_lists
    first, second = lists.tolist()  # both as long as the shorter
    assert first == [2, 3]
    assert second in ([3, 0], [3, 1])  # equal scores: rows of one movie


def test_names_carry_the_seed_where_there_are_several(fits):
    twice = [*fits, made_fit("adam", 1.0, 102, BLOCKS, seed=1)]
    names = list(compare(twice, FOUR, [0], k=1).names.values())
    assert names[:2] == ["exact", "adam lr=1 seed=0"]
    assert names[-1] == "adam lr=1 seed=1"
