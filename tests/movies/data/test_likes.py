"""Likes and counts against loops, and what is saved comes back or is refused."""

import json
import math

import numpy as np
import pytest
import torch
from oracles import cooccurrence_by_loop, likes_by_loop, random_likes, small_ratings

from embedlab.errors import DataError, EmbedlabError, OptionError
from embedlab.movies.data import cooccurrence as counts_module
from embedlab.movies.data.cooccurrence import (
    build_cooccurrence,
    cooccurrence,
    off_diagonal_squares,
    save_cooccurrence,
    to_dense,
)
from embedlab.movies.data.likes import find_likes, load_likes, save_likes
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_weighted


@pytest.mark.parametrize("like_rule", ["user_mean", "user_median", "threshold:3.5"])
@pytest.mark.parametrize("seed", range(5))
def test_likes_are_those_of_a_loop(like_rule, seed):
    ratings = small_ratings(np.random.default_rng(seed))
    likes = find_likes(ratings, like_rule)
    assert set(zip(*likes.matrix.nonzero(), strict=True)) == likes_by_loop(ratings, like_rule)
    assert set(likes.matrix.data) <= {1}
    assert likes.popularity.tolist() == likes.matrix.toarray().sum(axis=0).tolist()


def test_a_rating_at_the_users_mean_is_a_like():
    ratings = small_ratings(np.random.default_rng(0))
    everything_alike = np.full_like(ratings.stars, 3.5)
    object.__setattr__(ratings, "stars", everything_alike)
    assert find_likes(ratings, "user_mean").matrix.nnz == ratings.n_ratings


@pytest.mark.parametrize("rule", ["mean", "threshold", "threshold:", "threshold:6", "user_mean:3"])
def test_an_unknown_rule_lists_the_allowed_ones(rule):
    with pytest.raises(OptionError, match=r"like_rule: expected .*threshold.*" + rule):
        find_likes(small_ratings(np.random.default_rng(0)), rule)


def test_the_digest_changes_with_the_likes_and_with_the_movies():
    ratings = small_ratings(np.random.default_rng(0))
    mean, again = find_likes(ratings, "user_mean"), find_likes(ratings, "user_mean")
    assert mean.digest == again.digest
    assert mean.digest != find_likes(ratings, "threshold:5").digest
    other_movies = ratings.movies.assign(movie_id=ratings.movies["movie_id"] + 1)
    object.__setattr__(ratings, "movies", other_movies)
    assert mean.digest != find_likes(ratings, "user_mean").digest


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_a_loop(seed):
    likes = random_likes(np.random.default_rng(seed), n_users=15, n_movies=8)
    assert np.array_equal(cooccurrence(likes).toarray(), cooccurrence_by_loop(likes.toarray()))


@pytest.mark.parametrize("shape", [(40, 30), (9, 60), (200, 5)])
@pytest.mark.parametrize("min_pairs", [0, 30, math.inf])  # all rows dense, some, none
def test_a_matrix_that_is_not_held_is_measured_as_one_that_is(monkeypatch, shape, min_pairs):
    likes = random_likes(np.random.default_rng(1), *shape)
    weighted = weight_likes(likes, "inverse", 0.25).matrix
    for matrix in (likes, weighted):
        x = (matrix.T @ matrix).toarray()
        off_diagonal = np.square(x - np.diag(np.diag(x))).sum()
        assert off_diagonal_squares(matrix) == pytest.approx(off_diagonal, rel=1e-12)
        held = build_cooccurrence(matrix, None)
        monkeypatch.setattr(counts_module, "MAX_NONZEROS", 10)
        monkeypatch.setattr(counts_module, "LIKES_PER_GROUP", 5)
        monkeypatch.setattr(counts_module, "PAIRS_AT_ONCE", 20)
        monkeypatch.setattr(counts_module, "MIN_PAIRS_OF_DENSE_ROW", min_pairs)
        measured = build_cooccurrence(matrix, None)
        monkeypatch.undo()
        assert measured.matrix is None
        assert held.matrix.nnz == held.nonzeros == measured.nonzeros == np.count_nonzero(x)
        assert measured.off_diagonal_squares == pytest.approx(held.off_diagonal_squares, rel=1e-14)
        assert measured.off_diagonal_squares == pytest.approx(off_diagonal, rel=1e-12)


def test_a_dense_tensor_that_does_not_fit_is_refused_before_the_sparse_matrix_is_made(monkeypatch):
    likes = random_likes(np.random.default_rng(0), n_users=5, n_movies=30)
    monkeypatch.setattr(counts_module, "free_bytes", lambda device: 3_599)
    monkeypatch.setattr(counts_module, "cooccurrence", None)  # is not called
    with pytest.raises(DataError, match=r"30 movies needs .* \(in build_matrix, dense=false\)"):
        build_cooccurrence(likes, "cpu")
    # A fit holds X and the residual.
    monkeypatch.setattr(counts_module, "free_bytes", lambda device: 7_199)
    with pytest.raises(DataError, match=r"2 dense matrices of 30 movies needs .* objective=fact"):
        weighted, options = weight_likes(likes), FitOptions(objective="dense")
        fit_weighted(weighted, options, 0, "cpu")


def test_the_dense_tensor_equals_the_sparse_matrix_over_several_blocks(monkeypatch):
    monkeypatch.setattr(counts_module, "ROWS_AT_ONCE", 7)  # 30 movies: the last block is shorter
    counts = cooccurrence(random_likes(np.random.default_rng(0), n_users=50, n_movies=30))
    dense = to_dense(counts)
    assert dense.dtype == torch.float32
    assert np.array_equal(dense.numpy(), counts.toarray())


def test_a_dense_tensor_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    counts = cooccurrence(random_likes(np.random.default_rng(0), n_users=5, n_movies=30))
    monkeypatch.setattr(counts_module, "free_bytes", lambda device: 3_599)  # it needs 3,600
    with pytest.raises(DataError, match=r"30 movies needs .* objective=factored"):
        to_dense(counts)
    monkeypatch.setattr(counts_module, "free_bytes", lambda device: 3_600)
    assert to_dense(counts).shape == (30, 30)


def test_a_count_that_float32_would_round_is_refused():
    counts = cooccurrence(random_likes(np.random.default_rng(0), n_users=5, n_movies=4))
    counts.data[0] = 2**24 + 1
    with pytest.raises(DataError, match="16,777,217 is more than float32 holds"):
        to_dense(counts)


def test_a_device_that_computes_wrongly_is_found_out(monkeypatch):
    monkeypatch.setattr(counts_module, "ROWS_AT_ONCE", 7)  # 30 movies: the last block is shorter
    likes = random_likes(np.random.default_rng(0), n_users=5, n_movies=30)
    wrong = to_dense(cooccurrence(likes))
    wrong[29, 3] += 1
    wrong[0, 0] -= 1
    monkeypatch.setattr(counts_module, "to_dense", lambda counts, device: wrong)
    with pytest.raises(EmbedlabError, match="differs from the sparse one in 2 entries"):
        build_cooccurrence(likes, "cpu")
    assert build_cooccurrence(likes, None).dense_seconds is None


def test_saved_likes_come_back(tmp_path):
    likes = find_likes(small_ratings(np.random.default_rng(0)), "user_median")
    save_likes(likes, tmp_path)
    save_cooccurrence(cooccurrence(likes.matrix), tmp_path)
    back = load_likes(tmp_path)
    assert (back.matrix != likes.matrix).nnz == 0
    assert back.movies.equals(likes.movies)
    assert (back.name, back.like_rule, back.digest) == ("small", "user_median", likes.digest)


def _delete(folder):
    (folder / "likes.npz").unlink()


def _truncate(folder):
    (folder / "likes.npz").write_bytes((folder / "likes.npz").read_bytes()[:100])


def _not_json(folder):
    (folder / "about.json").write_text("{")


def _other_movies(folder):
    text = (folder / "movies.csv").read_text()
    (folder / "movies.csv").write_text(text.replace("\n0,1,", "\n0,2,"))


def _other_digest(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"digest": "f" * 64}))


def _missing_column(folder):
    (folder / "movies.csv").write_text("index,title\n0,A\n")


@pytest.mark.parametrize(
    "damage", [_delete, _truncate, _not_json, _other_movies, _other_digest, _missing_column]
)
def test_damaged_likes_are_refused_with_a_sentence(tmp_path, damage):
    save_likes(find_likes(small_ratings(np.random.default_rng(0)), "user_mean"), tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=r"matrix: .*(run build_matrix again|matrix=runs:/)"):
        load_likes(tmp_path)
