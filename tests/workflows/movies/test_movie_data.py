"""The command that fits what an evaluation chose uses the same likes and that weighting."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from oracles import random_likes

from embedlab.errors import TrackingError
from embedlab.movies.data.likes import Likes
from embedlab.workflows.movies.data import fetch_matrix, fit_parameters

MATRIX = "runs:/1234/matrix"
LIKES = Likes(
    random_likes(np.random.default_rng(0), n_users=6, n_movies=5),
    pd.DataFrame({"movie_id": range(5), "title": list("abcde"), "genres": [""] * 5}),
    name="ml-latest-small",
    like_rule="threshold:4",
)
PLAIN = {"user_weight": "none", "item_power": 0.0}
WEIGHTED = {"user_weight": "inverse", "item_power": 0.25}


@pytest.mark.parametrize("weighting", [PLAIN, WEIGHTED])
def test_a_matrix_of_the_chosen_weighting_is_named_alone(weighting):
    params = {"matrix": MATRIX, "ratings": "sample"}
    assert fit_parameters(replace(LIKES, **weighting), params, weighting) == {"matrix": MATRIX}


def test_another_weighting_than_the_matrix_has_needs_its_ratings():
    params = {"matrix": MATRIX, "ratings": "sample"}
    expected = {"ratings": "ml-latest-small", "like_rule": "threshold:4", **WEIGHTED}
    assert fit_parameters(LIKES, params, WEIGHTED) == expected


def test_ratings_whose_folder_a_matrix_does_not_keep_have_a_place_to_fill_in():
    params = {"matrix": MATRIX, "ratings": "sample"}
    fitted = fit_parameters(replace(LIKES, name="my-ratings"), params, WEIGHTED)
    assert fitted["ratings"] == "<path of my-ratings>"


def test_ratings_are_named_as_they_were_given_with_their_like_rule():
    params = {"matrix": "", "ratings": "/data/ml-latest-small"}
    expected = {"ratings": "/data/ml-latest-small", "like_rule": "threshold:4", **PLAIN}
    assert fit_parameters(LIKES, params, PLAIN) == expected


@pytest.mark.parametrize("uri", ["~nosuchuser/matrix", "x" * 300, __file__])
def test_an_invalid_matrix_uri_is_refused_in_a_sentence(uri):
    with pytest.raises(TrackingError, match=r"^matrix: expected .*[^\n]$"):
        fetch_matrix(uri)
