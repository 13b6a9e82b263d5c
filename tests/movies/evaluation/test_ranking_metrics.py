"""Metrics of rankings equal those by hand, by loops and by scikit-learn; their bootstrap intervals
have the right width and coverage."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from ranked_likes import best_five, eighty_users, ranking, rng, scorer_of
from sklearn.metrics import ndcg_score

from embedlab.errors import OptionError
from embedlab.movies.evaluation import baselines
from embedlab.movies.evaluation.metrics import (
    RESAMPLES_AT_ONCE,
    bootstrap_intervals,
)
from embedlab.movies.evaluation.splits import Holdout, hold_out


@pytest.fixture(scope="module")
def holdout():
    return hold_out(eighty_users(), rng())


def queries(likes, asked):
    """A holdout of these queries; asked has (user, query, targets) of each."""
    user, query, targets = zip(*asked, strict=True)
    return Holdout(sp.csr_matrix(likes), np.array(user), np.array(query), np.array(targets))


def test_a_hand_worked_example():
    # Movies 0 to 5, and one order for every query: 5, 4, 3, 2, 1, 0, without the query.
    likes = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1]])
    asked = [
        (0, 0, [4, 2]),  # list 5 4 3: a target at rank 2, none
        (0, 1, [4, 2]),  # the same
        (1, 5, [4, 3]),  # list 4 3 2: at ranks 1 and 2, ideal
        (1, 2, [0, 1]),  # list 5 4 3: at none
    ]
    metrics = ranking(
        lambda query: np.tile(np.arange(6.0), (len(query), 1)), queries(likes, asked), k=3
    )
    ideal = 1 + 1 / math.log2(3)
    np.testing.assert_allclose(metrics.hit_rate, [0.5, 0.5])
    np.testing.assert_allclose(metrics.ndcg, [1 / math.log2(3) / ideal, 0.5])
    np.testing.assert_allclose(metrics.mrr, [0.5, 0.5])
    # Likes of the movies: 1 1 1 0 0 1. Lists 543, 543 | 432, 543.
    np.testing.assert_allclose(metrics.popularity, [1 / 3, 1 / 3])
    assert metrics.coverage == 4 / 6  # 2, 3, 4 and 5


@pytest.mark.parametrize("exclude", ["query", "likes"])
def test_the_numbers_are_those_of_a_loop_and_of_scikit_learn(holdout, exclude):
    table = rng(3).standard_normal((60, 60))
    metrics = ranking(lambda query: table[query], holdout, 10, exclude)
    liked = holdout.matrix.toarray() > 0
    hits, ndcgs, mrrs, users, shown = {}, {}, {}, [], set()
    for user, query, targets in zip(holdout.user, holdout.query, holdout.targets, strict=True):
        hidden = liked[user] if exclude == "likes" else np.arange(60) == query
        shown_movies = [movie for movie in range(60) if not hidden[movie]]
        best = sorted(shown_movies, key=lambda movie: -table[query, movie])[:10]
        ranks = [best.index(target) + 1 for target in targets if target in best]
        relevant = np.isin(shown_movies, targets)[None].astype(float)
        hits.setdefault(user, []).append(len(ranks) / 2)
        ndcgs.setdefault(user, []).append(
            ndcg_score(relevant, table[query, shown_movies][None], k=10)
        )
        mrrs.setdefault(user, []).append(max([1 / rank for rank in ranks], default=0))
        users.append(user)
        shown |= set(best)
    for number, by_user in ((metrics.hit_rate, hits), (metrics.ndcg, ndcgs), (metrics.mrr, mrrs)):
        expected = [np.mean(by_user[user]) for user in sorted(set(users))]
        np.testing.assert_allclose(number, expected, rtol=1e-9)
    assert metrics.coverage == len(shown) / 60


def test_targets_ranked_first_score_one_and_ranked_last_nothing():
    asked = queries(np.ones((1, 8)), [(0, 2, [5, 6])])
    scores = np.isin(np.arange(8), [5, 6])[None].astype(float)
    best, worst = (ranking(lambda query, s=s: s * scores, asked, 3) for s in (1, -1))
    assert (best.hit_rate, best.ndcg, best.mrr) == (1, 1, 1)
    assert (worst.hit_rate, worst.ndcg, worst.mrr) == (0, 0, 0)


def test_known_likes_are_recommended_only_where_the_query_alone_is_left_out(holdout):
    def score(query):  # the likes of the first user come first
        return np.tile(holdout.matrix[holdout.user[0]].toarray(), (len(query), 1))

    first = holdout.user == holdout.user[0]
    known = set(holdout.matrix[holdout.user[0]].indices)
    by_query = best_five(score, holdout)[first]
    assert known.issuperset(by_query.ravel())
    assert not (by_query == holdout.query[first][:, None]).any()
    assert known.isdisjoint(best_five(score, holdout, "likes")[first].ravel())


def test_more_movies_than_there_are_are_refused(holdout):
    scorer = scorer_of(baselines.popularity(holdout.matrix), "likes")
    with pytest.raises(OptionError, match=r"k: expected a whole number from 1 to 59, .*, got 60"):
        ranking(scorer, holdout, 60)


# -- the intervals -----------------------------------------------------------------------------


def test_an_interval_is_about_as_wide_as_the_normal_one_and_covers_as_often():
    values = rng().random((300, 200))  # 300 experiments of 200 users, mean 1/2
    ends = bootstrap_intervals(values.T, 1000, rng(1)).T
    normal = 2 * 1.96 * values.std(axis=1) / math.sqrt(200)
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], normal, rtol=0.15)
    covered = np.mean((ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5))
    assert 0.91 <= covered <= 0.98  # 95% of 300, ± 3 standard errors


def test_a_paired_difference_is_told_apart_where_two_intervals_overlap():
    easy = rng().random(400)  # users differ more than the two candidates
    harder = easy - 0.02 + 0.05 * rng(1).standard_normal(400)
    columns = np.stack([easy, harder, easy - harder, easy - easy], axis=1)
    lows, highs = bootstrap_intervals(columns, 1000, rng(2))
    (low, low_2, low_of_difference, zero), (high, high_2) = lows, highs[:2]
    assert low < high_2
    assert low_2 < low
    assert high_2 < high
    assert low_of_difference > 0
    assert zero == highs[3] == 0


def test_resamples_are_drawn_a_few_at_a_time_and_are_those_of_one_draw(monkeypatch):
    values = rng().random((30, 2))
    whole = rng(1).multinomial(30, np.full(30, 1 / 30), size=120) / 30 @ values
    intervals = bootstrap_intervals(values, 120, rng(1))
    assert RESAMPLES_AT_ONCE < 120
    np.testing.assert_allclose(intervals, np.quantile(whole, [0.025, 0.975], axis=0))
