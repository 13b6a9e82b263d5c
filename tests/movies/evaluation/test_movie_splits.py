"""Held-out likes are not learnt from, and queries are drawn by the seed."""

import numpy as np
import pytest
import scipy.sparse as sp
from oracles import two_taste_blocks
from ranked_likes import eighty_users, pairs, rng

from embedlab.errors import DataError
from embedlab.movies.evaluation.splits import (
    HELD_OUT,
    MAX_USER_QUERIES,
    MIN_USER_LIKES,
    choose_users,
    hold_out,
)


@pytest.fixture(scope="module")
def likes():
    return eighty_users()


@pytest.fixture(scope="module")
def holdout(likes):
    return hold_out(likes, rng())


def test_training_likes_are_all_likes_but_the_held_out_ones(likes, holdout):
    held = {(u, m) for u, row in zip(holdout.user, holdout.targets, strict=True) for m in row}
    assert len(held) == HELD_OUT * len(np.unique(holdout.user))
    assert not held & pairs(holdout.matrix)
    assert held | pairs(holdout.matrix) == pairs(likes)
    assert holdout.matrix.has_sorted_indices


def test_queries_are_training_likes_of_the_user_each_once_up_to_a_limit(holdout):
    asked = list(zip(holdout.user.tolist(), holdout.query.tolist(), strict=True))
    assert len(set(asked)) == len(asked)
    assert set(asked) <= pairs(holdout.matrix)
    left = np.diff(holdout.matrix.indptr)
    for user in set(holdout.user):
        assert np.count_nonzero(holdout.user == user) == min(left[user], MAX_USER_QUERIES)


def test_users_with_few_likes_are_untouched():
    counts = [0, 3, MIN_USER_LIKES - 1, MIN_USER_LIKES, 20]
    likes = sp.csr_matrix(np.array([[1] * n + [0] * (25 - n) for n in counts]))
    split = hold_out(likes, rng())
    assert set(split.user) == {3, 4}
    assert np.diff(split.matrix.indptr).tolist() == [0, 3, 4, 3, 18]


def test_the_seed_decides_the_split_and_validation_never_sees_test_likes(likes):
    once, again, other = (hold_out(likes, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(once.targets, again.targets)
    assert np.array_equal(once.query, again.query)
    assert not np.array_equal(once.targets[:50], other.targets[:50])
    validation = hold_out(once.matrix, rng(3))
    of_test = {(u, m) for u, row in zip(once.user, once.targets, strict=True) for m in row}
    asked = set(zip(validation.user, validation.query, strict=True))
    held = {(u, m) for u, row in zip(validation.user, validation.targets, strict=True) for m in row}
    assert not of_test & (held | asked | pairs(validation.matrix))


def test_too_few_likes_are_refused():
    with pytest.raises(DataError, match="at least 5 likes, but the most that a user has is 3"):
        hold_out(sp.csr_matrix(np.ones((4, 3), dtype=np.int32)), rng())


def test_a_limit_of_users_limits_the_queries_and_not_the_training_likes():
    likes = two_taste_blocks(n_users=40, n_movies=24)
    seven = choose_users(likes, rng(), 7)
    some, everybody = hold_out(likes, rng(), seven), hold_out(likes, rng(), np.arange(40))
    assert set(some.user) == set(seven)
    assert len(np.unique(some.user)) == 7
    assert some.matrix.nnz == likes.nnz - 2 * 7
    assert len(np.unique(everybody.user)) == 40
    assert set(seven) != set(choose_users(likes, rng(1), 7))
    assert len(choose_users(likes, rng(), 40)) == 40
    without_limit = hold_out(likes, rng())
    assert (everybody.matrix != without_limit.matrix).nnz == 0
