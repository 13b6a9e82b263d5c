"""Likes against loops, and saved likes, which are read back or refused."""

import json

import numpy as np
import pytest
from oracles import likes_by_loop, small_ratings

from embedlab.errors import DataError, OptionError
from embedlab.movies.data.cooccurrence import COUNTS_FILE, cooccurrence, save_sparse
from embedlab.movies.data.likes import find_likes, load_likes, save_likes


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


@pytest.mark.parametrize(
    "title", ["Toy Story (1995)", "a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "NA"]
)
def test_saved_likes_come_back(tmp_path, title):
    ratings = small_ratings(np.random.default_rng(0))
    ratings.movies.loc[0, "title"] = title
    likes = find_likes(ratings, "user_median")
    save_likes(likes, tmp_path)
    save_sparse(cooccurrence(likes.matrix), tmp_path / COUNTS_FILE)
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
