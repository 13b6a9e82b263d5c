"""Lists by epoch: made during a fit, saved with it, and compared with the exact solver's."""

import numpy as np
import pytest
from oracles import small_ratings

from embedlab.movies.data.likes import find_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab.movies.sweep.convergence import (
    LISTS_FILE,
    MIN_MOVIE_LIKES,
    choose_queries,
    fit_with_snapshots,
    read_lists,
    save_lists,
    snapshot_epochs,
)
from embedlab.movies.sweep.grid import Job
from embedlab.progress import EpochRecord
from embedlab_serving.neighbours import Neighbours
from embedlab_serving.titles import TitleIndex

TITLES = ["A (1990)", "B", "C", "A (1990)", "D", "E"]
LIKES = np.array([9, 9, MIN_MOVIE_LIKES - 1, 9, 0, 9])


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


def queries(asked=(0, 4), k=10):
    return choose_queries(TitleIndex(TITLES), LIKES, asked, k)


@pytest.mark.parametrize("n_epochs", [1, 2, 5, 150, 10_000])
def test_epochs_are_dense_at_the_start_and_hold_both_ends(n_epochs):
    epochs = sorted(snapshot_epochs(n_epochs))
    assert (epochs[0], epochs[-1]) == (0, n_epochs)
    assert len(epochs) <= 16
    assert all(np.diff(np.diff(epochs)) >= -1)  # the steps grow, up to rounding


def test_well_known_movies_are_drawn_besides_those_asked_for():
    chosen = queries()
    assert chosen.rows[: chosen.n_asked].tolist() == [0, 4]
    assert sorted(chosen.rows[chosen.n_asked :]) == [0, 1, 3, 5]
    assert chosen.k == 4  # six less the query and the other row of its title


def test_lists_are_those_of_the_served_model(vectors):
    chosen = queries()
    model = Neighbours(vectors)
    for query, others, rows in zip(
        chosen.rows, chosen.excluded, chosen.recommend(vectors), strict=True
    ):
        expected = model.top([int(query)], chosen.k, exclude=others)
        assert rows.tolist() == [one.row for one in expected]


def test_lists_are_read_back_and_other_questions_have_none(tmp_path, vectors):
    first, second = queries(asked=[0]), queries(asked=[2])
    lists = {0: first.recommend(vectors), 5: first.recommend(2 * vectors)}
    save_lists(tmp_path, first, lists)
    content = (tmp_path / LISTS_FILE).read_bytes()
    same = read_lists(content, first)
    assert list(same) == [0, 5]
    np.testing.assert_array_equal(same[5], lists[5])
    other = read_lists(content, second)[0]
    assert (other[0] == -1).all()  # that fit was not queried with movie 2
    np.testing.assert_array_equal(other[1:], lists[0][1:])  # the sampled queries are the same


def test_lists_that_are_too_short_are_asked_anew(tmp_path, vectors):
    short = queries(k=2)
    save_lists(tmp_path, short, {0: short.recommend(vectors)})
    assert read_lists((tmp_path / LISTS_FILE).read_bytes(), queries(k=3)) == {}


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_lists_of_epochs_do_not_change_the_fit(optimizer):
    likes = find_likes(small_ratings(np.random.default_rng(0)), "user_mean", item_power=0.5)
    titles = TitleIndex(likes.movies["title"].tolist())
    asked = choose_queries(titles, likes.popularity, [0], 2)
    options = FitOptions(optimizer, 0.1, dim=3, epochs=4)
    history: list[EpochRecord] = []
    plain = fit_likes(likes.weighted, options, 0, "cpu")
    fit, lists = fit_with_snapshots(likes.weighted, asked, Job(options, 0), "cpu", history.append)
    np.testing.assert_array_equal(fit.embedding, plain.embedding)
    assert set(lists) == snapshot_epochs(4) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(lists[4], asked.recommend(fit.embedding))
