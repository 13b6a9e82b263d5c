"""Genres on the map of movies: the group and the colour of a movie."""

import numpy as np
import pandas as pd
import pytest
from movie_embeddings import sample_embedding

from embedlab.movies.genres import GENRE_COLOURS, GENRE_GROUPS
from embedlab.movies.movie_map import map_movies

sample = pytest.fixture(sample_embedding, scope="module")


def test_a_movies_colour_is_of_the_first_group_that_it_is_in(sample):
    vectors, movies, _ = sample
    movie_map = map_movies(vectors, movies, "pca")
    group = dict(zip(movie_map.movies["title"], movie_map.groups.tolist(), strict=True))
    names = list(GENRE_GROUPS)
    assert names[group["Toy Story (1995)"]] == "Animation, children"
    assert len(names) == len({*GENRE_COLOURS})
    unknown = pd.DataFrame({"title": "m", "genres": "(no genres listed)", "likes": range(30)})
    other = map_movies(np.eye(30, dtype=np.float32), unknown, "pca")
    assert {names[i] for i in other.groups} == {"Drama, other"}
