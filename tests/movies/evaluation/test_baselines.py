"""Baselines equal their closed forms and counts, and find the taste block of a query."""

import numpy as np
import pytest
import scipy.sparse as sp
from oracles import two_taste_blocks
from ranked_likes import best_five, eighty_users, rng, scorer_of, scores_of

from embedlab.movies.evaluation import baselines
from embedlab.movies.evaluation.candidates import embedding_scorers
from embedlab.movies.evaluation.metrics import recommend_for
from embedlab.movies.evaluation.splits import hold_out

BY_MATRIX = {
    "neighbours": (baselines.item_neighbours, {"user_weight": "inverse"}),
    "EASE": (baselines.ease, {"user_weight": "none", "penalty": 3.0}),
    "embedding": (embedding_scorers, {"dim": 4, "user_weight": "inverse_sqrt", "item_power": 0.25}),
}


@pytest.fixture(scope="module")
def likes():
    return eighty_users()


def test_co_likes_and_popularity_are_counts(likes):
    dense = likes.toarray()
    scores = scores_of(baselines.item_neighbours(likes, "none"), "count", 60)
    x = dense.T @ dense
    np.testing.assert_array_equal(np.floor(scores), x)  # popularity adds at most a half
    for row, counts in zip(scores, x, strict=True):
        assert np.argmax(row) == max(range(60), key=lambda j: (counts[j], dense[:, j].sum(), -j))
    np.testing.assert_array_equal(
        scores_of(baselines.popularity(likes), "likes", 60), np.tile(dense.sum(axis=0), (60, 1))
    )


def test_raw_co_likes_are_ordered_by_their_counts_however_many_there_are():
    """The query has 5,000 co-likes with one movie, and 4,995 with another that more users like."""
    columns = np.zeros((12_000, 3), np.int32)
    columns[:5_000, 0] = columns[:5_000, 1] = columns[:4_995, 2] = columns[5_000:, 2] = 1
    score_queries = baselines.item_neighbours(sp.csr_matrix(columns), "none")
    _, second, third = scorer_of(score_queries, "count")(np.array([0]))[0]
    assert second > third


def test_item_knn_is_the_damped_cosine(likes):
    dense = likes.toarray().astype(float)
    norms = np.sqrt(dense.sum(axis=0))
    expected = dense.T @ dense / (np.outer(norms, norms) + 10)
    scores = scores_of(baselines.item_neighbours(likes, "none"), "cosine, shrinkage=10", 60)
    np.testing.assert_allclose(scores, expected, atol=1.001e-3 * expected.max())


@pytest.mark.parametrize("penalty", [0.5, 30.0])
def test_ease_is_its_closed_form_with_a_zero_diagonal(likes, penalty):
    dense = likes.toarray().astype(float)
    p = np.linalg.inv(dense.T @ dense + penalty * np.eye(60))
    expected = -p / np.diag(p)
    np.fill_diagonal(expected, 0)
    scores = scores_of(baselines.ease(likes, "none", penalty), "B", 60)
    np.testing.assert_allclose(scores, expected, atol=1e-9)
    assert not np.diag(scores).any()


def test_ease_minimises_its_objective(likes):
    dense = likes.toarray().astype(float)

    def objective(b):
        return np.square(dense - dense @ b).sum() + 5 * np.square(b).sum()

    best = scores_of(baselines.ease(likes, "none", 5.0), "B", 60)
    for seed in range(5):
        nudge = 0.01 * rng(seed).standard_normal(best.shape)
        np.fill_diagonal(nudge, 0)
        assert objective(best + nudge) > objective(best)


@pytest.mark.parametrize("name", BY_MATRIX)
def test_every_baseline_finds_the_taste_block_of_the_query(name):
    likes = two_taste_blocks(n_users=40, n_movies=24)
    # Each user lacks one movie of the block, so that users differ.
    likes = likes.tolil()
    for user in range(40):
        likes[user, user % 12 + 12 * (user >= 20)] = 0
    holdout = hold_out(sp.csr_matrix(likes), rng())
    fit, settings = BY_MATRIX[name]
    recommended = recommend_for(fit(holdout.matrix, **settings), holdout, 5, "query")
    for score, best in recommended.items():
        assert (best // 12 == holdout.query[:, None] // 12).all(), score


def test_implicit_finds_the_taste_block_of_the_query():
    pytest.importorskip("implicit")
    holdout = hold_out(two_taste_blocks(n_users=40, n_movies=24), rng())
    als = baselines.implicit_als(holdout.matrix, 2, 0.1, 10.0, seed=0)  # as many as blocks
    knn = baselines.implicit_knn(holdout.matrix, "CosineRecommender")
    for score_queries in (als, knn):
        for best in recommend_for(score_queries, holdout, 5, "query").values():
            assert (best // 12 == holdout.query[:, None] // 12).all()


def test_item2vec_finds_the_taste_block_of_the_query():
    pytest.importorskip("gensim")
    holdout = hold_out(two_taste_blocks(n_users=40, n_movies=24), rng())
    scorers = baselines.item2vec(holdout.matrix, dim=4, epochs=60, ns_exponent=0.75, seed=0)
    again = baselines.item2vec(holdout.matrix, dim=4, epochs=60, ns_exponent=0.75, seed=0)
    best = best_five(scorer_of(scorers, "in_out"), holdout)
    assert np.mean(best // 12 == holdout.query[:, None] // 12) > 0.95  # it is stochastic
    assert np.array_equal(best, best_five(scorer_of(again, "in_out"), holdout))
