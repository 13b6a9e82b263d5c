"""The built-in sample: 82 movies, 240 users with known tastes, in MovieLens' own layout.

In: nothing, not even a network. Out: `ratings.csv` (userId, movieId, rating, timestamp) and
`movies.csv` (movieId, title, genres), the same bytes on every machine.

THE RATINGS ARE INVENTED. The movies are real (titles, years and genres are general knowledge, in
MovieLens' style of writing), but the ids, users, ratings and times are drawn here from a seeded
generator; no line comes from MovieLens. A result on this sample shows that the code finds the
taste groups that were put in, and says nothing about movies.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

SAMPLE_VERSION = 1  # goes up with every change of the bytes; it is part of the cache's key
SEED = 1994
N_USERS = 240
N_GROUPS = 5  # of taste


@cache
def sample_movies() -> pd.DataFrame:
    """Title, genres and taste group of each movie, in the order of movie ids.

    The groups take turns, so movies with consecutive ids belong to different groups; within a
    group, movies are in order of popularity, the best known first. The last two have no group (""),
    because nobody rated them: the real sets have such movies too, and the code must keep them.
    """
    file = Path(__file__).with_name("sample_movies.csv")
    return pd.read_csv(file, keep_default_na=False)


@cache
def sample_files() -> dict[str, bytes]:
    """File name -> content: UTF-8, CRLF line ends and quotes as in the MovieLens releases."""
    movies = sample_movies()[["title", "genres"]]
    movies.insert(0, "movieId", range(1, len(movies) + 1))
    tables = {"ratings.csv": _ratings(), "movies.csv": movies}
    return {
        name: table.to_csv(index=False, lineterminator="\r\n").encode()
        for name, table in tables.items()
    }


def _ratings() -> pd.DataFrame:
    """A row for each rating, by user and movie.

    User `u` belongs to group `u % 5`, has seen 10 to 14 of the group's 16 movies and 10 to 26
    others, and gives the former 4 to 5 stars and the latter 1 to 3; on average, one rating in
    twelve is the other way round.
    Only integers are drawn, so no floating-point unit can change the outcome.
    """
    rng = np.random.default_rng(SEED)
    movies = np.arange((sample_movies()["group"] != "").sum())
    group = movies % N_GROUPS
    popularity_rank = movies // N_GROUPS  # inside the group
    weights = 60 // (popularity_rank + 3)  # the long tail: 20 for the best known, 3 for the last

    ratings = []
    for user in range(N_USERS):
        is_to_taste = group == user % N_GROUPS
        seen = _draw(rng, np.flatnonzero(is_to_taste), weights, int(rng.integers(10, 15)))
        seen += _draw(rng, np.flatnonzero(~is_to_taste), weights, int(rng.integers(10, 27)))
        for movie in sorted(seen):
            is_liked = is_to_taste[movie] != (rng.integers(12) == 0)
            half_stars = rng.integers(8, 11) if is_liked else rng.integers(2, 7)
            time = 946_684_800 + 86_400 * user + int(rng.integers(86_400))  # from 1 January 2000
            ratings.append((user + 1, movie + 1, int(half_stars) / 2, time))
    return pd.DataFrame(ratings, columns=["userId", "movieId", "rating", "timestamp"])


def _draw(rng: np.random.Generator, movies: np.ndarray, weights: np.ndarray, n: int) -> list[int]:
    """Weighted sample of `n` different movies: the first `n` distinct ones of a shuffled list that
    has each movie `weights[movie]` times."""
    shuffled = rng.permutation(np.repeat(movies, weights[movies]))
    return list(dict.fromkeys(shuffled.tolist()))[:n]
