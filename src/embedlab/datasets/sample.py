"""The built-in sample: 82 films, 240 users with known tastes, in MovieLens' own layout.

In: nothing, not even a network. Out: `ratings.csv` (userId, movieId, rating, timestamp) and
`movies.csv` (movieId, title, genres), the same bytes on every machine.

THE RATINGS ARE INVENTED. The films are real (titles, years and genres are general knowledge, in
MovieLens' style of writing), but the ids, users, ratings and times are drawn here from a seeded
generator; no line comes from MovieLens. A result on this sample shows that the code finds the
taste groups that were put in, and says nothing about films.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

SAMPLE_VERSION = 1  # goes up with every change of the bytes; it is part of the cache's key

_SEED = 1994
_N_USERS = 240

_FILMS = Path(__file__).with_name("sample_films.csv")
_N_GROUPS = 5  # of taste


@cache
def sample_films() -> pd.DataFrame:
    """Title, genres and taste group of each film, in the order of movie ids.

    The groups take turns, so an id says nothing about a group; within a group, films are in order
    of popularity, the best known first. The last two have no group (""), as nobody rated them: the
    real sets have such films too, and the code must keep them.
    """
    return pd.read_csv(_FILMS, keep_default_na=False)


@cache
def sample_files() -> dict[str, bytes]:
    """File name -> content: UTF-8, CRLF line ends and quotes as in the MovieLens releases."""
    movies = sample_films()[["title", "genres"]]
    movies.insert(0, "movieId", range(1, len(movies) + 1))
    tables = {"ratings.csv": _ratings(), "movies.csv": movies}
    return {
        name: table.to_csv(index=False, lineterminator="\r\n").encode()
        for name, table in tables.items()
    }


def _ratings() -> pd.DataFrame:
    """A row for each rating, by user and movie.

    User `u` belongs to group `u % 5`, has seen 10 to 14 of its 16 films and 10 to 26 others, gives
    the former 4 to 5 stars and the latter 1 to 3; one rating in twelve is the other way round.
    Only integers are drawn, so no floating-point unit can change the outcome.
    """
    rng = np.random.default_rng(_SEED)
    films = np.arange((sample_films()["group"] != "").sum())
    group = films % _N_GROUPS
    rank = films // _N_GROUPS  # in popularity, inside the group
    weights = 60 // (rank + 3)  # the long tail: 20 for the best known, 3 for the last

    rows = []
    for user in range(_N_USERS):
        own = group == user % _N_GROUPS
        seen = _draw(rng, np.flatnonzero(own), weights, int(rng.integers(10, 15)))
        seen += _draw(rng, np.flatnonzero(~own), weights, int(rng.integers(10, 27)))
        for film in sorted(seen):
            likes = own[film] != (rng.integers(12) == 0)
            half_stars = rng.integers(8, 11) if likes else rng.integers(2, 7)
            time = 946_684_800 + 86_400 * user + int(rng.integers(86_400))  # from 1 January 2000
            rows.append((user + 1, film + 1, int(half_stars) / 2, time))
    return pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"])


def _draw(rng: np.random.Generator, films: np.ndarray, weights: np.ndarray, n: int) -> list[int]:
    """Weighted sample of `n` different films: the first `n` distinct ones of a shuffled list that
    has each film `weights[film]` times."""
    shuffled = rng.permutation(np.repeat(films, weights[films]))
    return list(dict.fromkeys(shuffled.tolist()))[:n]
