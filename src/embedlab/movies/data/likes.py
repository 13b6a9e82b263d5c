"""Ratings in, likes out: L is users x movies, 1 where a user likes a movie.

A user likes a movie if the rating is at least the user's own mean (`user_mean`, the default),
the user's own median (`user_median`), or a number of stars (`threshold:4`).
"""

import csv
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from embedlab.datasets.cache import DAMAGED_ARRAY
from embedlab.errors import DataError
from embedlab.formatting import counted
from embedlab.movies.data.cooccurrence import likes_per_movie, save_sparse
from embedlab.movies.data.ratings import Ratings
from embedlab.movies.data.weighting import WeightedLikes, weight_likes
from embedlab.movies.options import parse_like_rule
from embedlab_serving.titles import repeated_titles

LIKES_FILE, MOVIES_FILE, ABOUT_FILE = "likes.npz", "movies.csv", "about.json"
CHECKSUM = "sha256"  # in about.json


@dataclass(frozen=True)
class Likes:
    """The likes of a data set.

    matrix     (n_users, n_movies) CSR of int32 ones, indices sorted: L.
    movies     a row for each column of L, in order of movie_id: movie_id, title, genres.
    name       of the data set.
    like_rule  the rule that defined a like.
    user_weight, item_power
               weights of likes in X (see `weighting`); none by default.
    """

    matrix: sp.csr_matrix
    movies: pd.DataFrame
    name: str
    like_rule: str
    user_weight: str = "none"
    item_power: float = 0.0

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of L and the movie ids."""
        sha = hashlib.sha256(repr(self.matrix.shape).encode())
        # A fixed width, whichever integer type scipy uses.
        for array in (self.matrix.indptr, self.matrix.indices, self.movies["movie_id"].to_numpy()):
            sha.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return sha.hexdigest()

    @property
    def n_movies(self) -> int:
        return self.matrix.shape[1]

    @cached_property
    def popularity(self) -> np.ndarray:
        """Users who like each movie: (n_movies,) int64, the diagonal of X."""
        return likes_per_movie(self.matrix)

    @property
    def table(self) -> pd.DataFrame:
        """The movies with the number of users who like each, in the column `likes`."""
        return self.movies.assign(likes=self.popularity)

    @cached_property
    def weighted(self) -> WeightedLikes:
        """The likes that a solver fits."""
        return weight_likes(self.matrix, self.user_weight, self.item_power)

    @property
    def cost_digest(self) -> str:
        """sha256 (hex) of the likes and their weights: costs with equal digests are comparable."""
        if self.user_weight == "none" and not self.item_power:
            return self.digest
        text = f"{self.digest} {self.user_weight} {self.item_power!r}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """The name, followed by the weights if there are any, for titles of figures."""
        weights = []
        if self.user_weight != "none":
            weights.append(f"user_weight={self.user_weight}")
        if self.item_power:
            weights.append(f"item_power={self.item_power:g}")
        return ", ".join([self.name, *weights])

    @property
    def params(self) -> dict[str, object]:
        """The parameters that runs log."""
        return {"ratings": self.name, **self.options, "data_digest": self.cost_digest}

    @property
    def options(self) -> dict[str, object]:
        """The options that select and weigh likes, by name."""
        return {name: getattr(self, name) for name in ("like_rule", "user_weight", "item_power")}

    @cached_property
    def remarks(self) -> list[str]:
        """Sentences about peculiarities of the data that a user should know."""
        if not (repeated := repeated_titles(self.movies["title"].tolist())):
            return []
        many = counted(len(repeated), "title stands", "titles stand")
        return [
            f"{many} in several rows of movies.csv, such as {repeated[0]!r}: their likes are "
            "counted apart, and no movie is recommended for another row of itself."
        ]

    @property
    def metadata(self) -> dict[str, object]:
        """The facts that identify these likes in files and models made from them.

        `data_digest` covers the likes alone; the run's parameter of that name also covers their
        weighting.
        """
        return {"data": self.name, "data_digest": self.digest, **self.options}


def find_likes(
    ratings: Ratings, like_rule: str, user_weight: str = "none", item_power: float = 0.0
) -> Likes:
    """The likes that `like_rule` finds in the ratings. Raises OptionError for an unknown rule."""
    rule, threshold = parse_like_rule(like_rule)
    if rule == "threshold":
        bar = np.full(ratings.n_users, threshold, np.float32)  # (n_users,) stars, as ratings are
    else:
        by_user = pd.Series(ratings.stars.astype(np.float64)).groupby(ratings.user)
        bar = (by_user.mean() if rule == "user_mean" else by_user.median()).to_numpy()
    liked = ratings.stars >= bar[ratings.user]  # (n_ratings,) bool
    entries = (ratings.user[liked], ratings.movie[liked])
    ones = np.ones(len(entries[0]), dtype=np.int32)
    shape = (ratings.n_users, ratings.n_movies)
    matrix = sp.csr_matrix((ones, entries), shape).sorted_indices()
    return Likes(matrix, ratings.movies, ratings.name, like_rule, user_weight, item_power)


def save_likes(likes: Likes, folder: Path) -> None:
    """Write `likes.npz`, `movies.csv` (with each movie's likes) and `about.json` into `folder`."""
    save_sparse(likes.matrix, folder / LIKES_FILE)
    write_movies(likes.table.rename_axis("index").reset_index(), folder / MOVIES_FILE)
    about: dict[str, object] = {"name": likes.name, "digest": likes.digest, **likes.options}
    about[CHECKSUM] = _checksum(folder, about)
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def write_movies(movies: pd.DataFrame, file: Path) -> None:
    """Write the table as CSV, without its index, so that `pandas.read_csv` reads it back."""
    texts = movies[["title", "genres"]]
    # Before Python 3.13, a carriage return is quoted only if all texts are.
    has_return = texts.apply(lambda text: text.str.contains("\r", regex=False)).any(axis=None)
    quoting = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    movies.to_csv(file, index=False, lineterminator="\n", quoting=quoting)


def _checksum(folder: Path, about: dict) -> str:
    """sha256 (hex) of the two other files and of the other entries of `about.json`."""
    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in (LIKES_FILE, MOVIES_FILE):
        sha.update((folder / name).read_bytes())
    return sha.hexdigest()


def load_likes(folder: Path) -> Likes:
    """Read the files of `save_likes`. Raises DataError if one is missing, damaged or altered."""
    try:
        about = dict(json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8")))
        checksum = about.pop(CHECKSUM, None)  # files of earlier versions have none
        if checksum is not None and checksum != _checksum(folder, about):
            raise _altered()
        matrix = sp.load_npz(folder / LIKES_FILE)
        movies = pd.read_csv(
            folder / MOVIES_FILE,
            usecols=["movie_id", "title", "genres"],
            dtype={"movie_id": np.int64, "title": str, "genres": str},
            keep_default_na=False,
        )
        digest = about.pop("digest")
        likes = Likes(matrix.tocsr().sorted_indices(), movies, **about)
        is_the_same = likes.digest == digest and len(movies) == likes.n_movies
    except FileNotFoundError as error:
        raise DataError(
            f"matrix: expected a folder that build_matrix wrote, but '{Path(error.filename).name}' "
            "is not in it: give matrix=runs:/<run id of build_matrix>/matrix."
        ) from None
    except (*DAMAGED_ARRAY, TypeError) as error:
        raise DataError(
            f"matrix: the files of build_matrix are damaged ({error}): run build_matrix again."
        ) from None
    if not is_the_same:
        raise _altered()
    return likes


def _altered() -> DataError:
    return DataError(
        "matrix: likes.npz, movies.csv and about.json are not the ones that build_matrix wrote "
        "(their digest differs): run build_matrix again."
    )
