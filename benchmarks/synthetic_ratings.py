"""Synthetic ratings of any size in MovieLens' layout, with its long tails, from a seed.

    python -m benchmarks.synthetic_ratings --ratings 32000000 <folder>

The shape follows the published data sets. The 32 M ratings of ml-32m come from 201 thousand users
and 88 thousand movies, the 0.1 M of ml-latest-small from 610 users and 9.7 thousand movies. A user
has at least 20 ratings; the median is 65, and a few users have tens of thousands. About half of all
users rate the most popular movie, hardly anyone the least popular. Every movie belongs to one of
TASTES tastes; half of a user's ratings go to movies of that user's few tastes, with more stars, so
that an embedding can find these tastes.

Source of the shapes: the README files of https://grouplens.org/datasets/movielens/.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

SMALLEST, LARGEST = 100_836, 32_000_204  # ratings of ml-latest-small and of ml-32m
USERS_OF_SMALLEST, MOVIES_OF_SMALLEST, MOVIES_OF_LARGEST = 610, 9_742, 87_585
MIN_RATINGS = 20  # ratings of a user
USERS_AT_ONCE = 5_000
TASTES, TASTES_OF_A_USER, SHARE_BY_TASTE, MORE_STARS = 300, 5, 0.5, 0.5
FIRST_SECOND, LAST_SECOND = 789_652_009, 1_697_155_200  # 1995 to 2023
GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller", "Documentary")
SYLLABLES = (
    "al", "bor", "cin", "dra", "el", "fen", "gar", "hol", "ist", "jun", "kar", "lum",
    "mor", "nel", "ost", "pra", "qui", "ros", "sil", "tar", "und", "ver", "win", "zen",
)  # fmt: skip


def shape_of(n_ratings: int) -> tuple[int, int]:
    """Number of users and of movies for `n_ratings`: users in proportion, movies by a power law."""
    power = np.log(MOVIES_OF_LARGEST / MOVIES_OF_SMALLEST) / np.log(LARGEST / SMALLEST)
    n_users = max(1, round(USERS_OF_SMALLEST * (n_ratings / SMALLEST) ** 1.006))
    return n_users, round(MOVIES_OF_SMALLEST * (n_ratings / SMALLEST) ** power)


def popularity(n_movies: int) -> np.ndarray:
    """The probability of each movie, most popular first: (n_movies,), summing to 1."""
    rank = np.arange(n_movies)
    weight = (rank + 60.0) ** -1.1 * np.exp(-3 * rank / n_movies)
    return weight / weight.sum()


def taste_sizes() -> np.ndarray:
    """Each taste's share of movies and users: (TASTES,), summing to 1; a few tastes are large."""
    weight = 1 / (np.arange(TASTES) + 5.0)
    return weight / weight.sum()


def write(folder: Path, n_ratings: int, seed: int = 0) -> None:
    """Write `ratings.csv`, of about `n_ratings` (within 5%), and `movies.csv` to `folder`."""
    rng = np.random.default_rng(seed)
    n_users, n_movies = shape_of(n_ratings)
    movie_id = np.sort(rng.choice(np.arange(1, 3 * n_movies), n_movies, replace=False))
    by_rank = rng.permutation(n_movies)  # rows of movies.csv, the most popular movie first
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "movies.csv.part"  # renamed once the ratings are complete
    _write_movies(unfinished, movie_id, rng)

    excess = rng.lognormal(0.0, 1.5, n_users)
    per_user = MIN_RATINGS + excess * max(0.0, n_ratings / n_users - MIN_RATINGS) / excess.mean()
    per_user = np.minimum(per_user.round().astype(np.int64), n_movies // 3)
    world = _World(n_movies, rng)
    level = rng.normal(3.5, 0.4, n_movies)  # stars
    whole, real = pa.int64(), pa.float64()
    schema = pa.schema(
        {"userId": whole, "movieId": whole, "rating": real, "timestamp": whole}.items()
    )
    options = csv.WriteOptions(quoting_style="none", quoting_header="none")
    with csv.CSVWriter(folder / "ratings.csv", schema, write_options=options) as file:
        for start in range(0, n_users, USERS_AT_ONCE):
            wanted = per_user[start : start + USERS_AT_ONCE]
            tastes = rng.choice(TASTES, (len(wanted), TASTES_OF_A_USER), p=taste_sizes())
            user, rank = _distinct(wanted, world, tastes, rng)
            is_liked = (tastes[user] == world.taste[rank][:, None]).any(axis=1)
            movie = by_rank[rank]
            stars = level[movie] + rng.normal(0, 0.4, len(wanted))[user] + MORE_STARS * is_liked
            stars = (2 * (stars + rng.normal(0, 0.9, len(user)))).round().clip(1, 10) / 2
            order = np.lexsort((movie, user))
            user, movie, stars = user[order], movie[order], stars[order]
            time = rng.integers(FIRST_SECOND, LAST_SECOND, len(user))
            columns = [user + start + 1, movie_id[movie], stars, time]
            file.write_table(pa.table(columns, schema=schema))
    unfinished.rename(folder / "movies.csv")


def folder_of_size(parent: Path, n_ratings: int) -> Path:
    """The folder in `parent` with about `n_ratings` ratings, which are written if missing."""
    folder = parent / str(n_ratings)
    if not (folder / "movies.csv").exists():
        write(folder, n_ratings)
    return folder


class _World:
    """Movies by popularity rank, each with one taste, drawn for users according to their tastes."""

    def __init__(self, n_movies: int, rng: np.random.Generator):
        chance = popularity(n_movies)
        self.n_movies = n_movies
        self.taste = rng.choice(TASTES, n_movies, p=taste_sizes())  # by rank
        self._edges = np.cumsum(chance)
        self._by_taste = np.argsort(self.taste, kind="stable")  # ranks, taste by taste
        self._taste_edges = np.cumsum(chance[self._by_taste])
        ends = np.cumsum(np.bincount(self.taste, chance, TASTES))
        self._start, self._width = np.append(0, ends[:-1]), np.diff(ends, prepend=0)

    def draw(self, tastes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A movie's rank for each row of tastes (n, TASTES_OF_A_USER): (n,)."""
        n = len(tastes)
        anything = np.searchsorted(self._edges, rng.random(n) * self._edges[-1])
        taste = tastes[np.arange(n), rng.integers(0, TASTES_OF_A_USER, n)]
        within = self._start[taste] + rng.random(n) * self._width[taste]
        position = np.searchsorted(self._taste_edges, within).clip(max=self.n_movies - 1)
        return np.where(rng.random(n) < SHARE_BY_TASTE, self._by_taste[position], anything)


def _distinct(
    wanted: np.ndarray, world: _World, tastes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `wanted` different movies for each user: (n,) users from 0, and (n,) ranks."""
    n_movies = world.n_movies
    # Pairs of user and movie: of users who have all their movies, and of users who lack some.
    done, pairs = [], np.empty(0, np.int64)
    missing = wanted.copy()
    while missing.any():
        user = np.repeat(np.arange(len(wanted)), 2 * missing)
        rank = world.draw(tastes[user], rng)
        unique, first = np.unique(np.append(pairs, user * n_movies + rank), return_index=True)
        # A user with too many keeps those drawn first.
        order = np.lexsort((first, unique // n_movies))
        owner = unique[order] // n_movies
        position = np.arange(len(owner)) - np.searchsorted(owner, owner)
        kept = unique[order][position < wanted[owner]]
        owner = kept // n_movies
        missing = np.where(missing, wanted - np.bincount(owner, minlength=len(wanted)), 0)
        has_all = missing[owner] == 0
        done.append(kept[has_all])
        pairs = kept[~has_all]
    pairs = np.concatenate(done)
    return pairs // n_movies, pairs % n_movies


def _write_movies(path: Path, movie_id: np.ndarray, rng: np.random.Generator) -> None:
    n = len(movie_id)
    words = np.array([a + b for a in SYLLABLES for b in SYLLABLES])
    titles = [
        f"{words[a].title()} {words[b].title()} of {words[c].title()} ({year})"
        for a, b, c, year in zip(
            *rng.integers(0, len(words), (3, n)), rng.integers(1920, 2024, n), strict=True
        )
    ]
    genres = np.array(GENRES)[rng.integers(0, len(GENRES), n)]
    columns = {"movieId": movie_id, "title": titles, "genres": genres}
    csv.write_csv(pa.table(columns), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ratings", type=int, default=1_000_000, help="approximate number")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.folder, args.ratings, args.seed)


if __name__ == "__main__":
    main()
