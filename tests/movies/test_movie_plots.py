"""Figures of ratings, likes, fits and the map of movies: the numbers that they show."""

import numpy as np
import pytest
from movie_embeddings import sample_embedding
from oracles import small_ratings

from embedlab.movies.data.cooccurrence import cooccurrence
from embedlab.movies.data.likes import find_likes
from embedlab.movies.movie_map import map_movies
from embedlab.movies.options import FitOptions
from embedlab.movies.plots import (
    plot_fit,
    plot_movie_map,
    plot_popularity,
    plot_ratings,
    plot_top_block,
)
from embedlab.progress import EpochRecord

sample = pytest.fixture(sample_embedding, scope="module")


@pytest.fixture(scope="module")
def toy():
    ratings = small_ratings(np.random.default_rng(0))
    return ratings, find_likes(ratings, "user_mean")


def test_the_histogram_holds_every_rating_and_every_like(toy):
    ratings, likes = toy
    rated, liked = plot_ratings(ratings, likes).axes[0].containers
    assert sum(bar.get_height() for bar in rated) == ratings.n_ratings
    assert sum(bar.get_height() for bar in liked) == likes.matrix.nnz


def test_the_long_tail_is_sorted_and_whole(toy):
    _, likes = toy
    shown = plot_popularity(likes).axes[0].lines[0].get_ydata()
    assert list(shown) == sorted(likes.popularity[likes.popularity > 0], reverse=True)


def test_the_block_is_that_of_the_most_liked_movies_over_chance_without_its_diagonal(toy):
    _, likes = toy
    axes = plot_top_block(likes, n_top=4).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    rows = [likes.movies["title"].tolist().index(name) for name in names]
    top = np.argsort(-likes.popularity, kind="stable")[:4]
    assert sorted(rows) == sorted(top)
    counts = cooccurrence(likes.matrix).toarray()[np.ix_(rows, rows)]
    liked = likes.popularity[rows]
    expected = counts * likes.matrix.shape[0] / (liked[:, None] * liked)
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(axes.images[0].get_array().filled(np.nan), expected)


def test_rounds_of_the_exact_solver_are_shown_above_the_last():
    history = [
        EpochRecord(epoch, {"train/cost": cost}) for epoch, cost in enumerate([20.0, 11.0, 10.0])
    ]
    axes = plot_fit(history, FitOptions("exact"), "title", None).axes[0]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([1, 0.1])
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize(("costs", "scale"), [([1e6, 1e3], "log"), ([10.0, 9.0], "linear")])
def test_costs_of_several_orders_get_a_logarithmic_axis(costs, scale):
    history = [EpochRecord(epoch, {"train/cost": cost}) for epoch, cost in enumerate(costs)]
    axes = plot_fit(history, FitOptions("adam", 1.0), "title", reference_cost=costs[-1]).axes[0]
    assert axes.get_yscale() == scale
    assert list(axes.lines[0].get_ydata()) == costs
    assert len(axes.get_legend().get_texts()) == 2


def test_a_fit_without_a_finite_cost_still_gets_its_figure():
    axes = plot_fit([], FitOptions("sgd", 9.0), "title").axes[0]
    assert "no finite cost" in axes.get_legend().get_texts()[0].get_text()


def test_the_figure_names_the_best_known_movies(sample):
    vectors, movies, _ = sample
    figure = plot_movie_map(map_movies(vectors, movies, "pca"), "sample", n_names=5)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 5
    assert movies.sort_values("likes")["title"].iloc[-1].startswith(texts[0])
