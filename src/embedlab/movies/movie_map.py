"""The movie map: positions of movies in the plane, by a projection of their vectors."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsRegressor

from embedlab.movies.evaluation.metrics import unit_rows
from embedlab.movies.genres import GENRE_GROUPS
from embedlab.projection import project

MIN_MAPPED = 10
MAX_PROJECTED = 3_000  # movies; t-SNE of as many takes seconds
MAX_MAPPED = 10_000
TSNE_ITERATIONS = 500  # 1,000 keep neighbours no better


@dataclass(frozen=True)
class MovieMap:
    """Positions of movies in the plane.

    movies      a row for each movie: title, genres, likes; the most liked first.
    rows        (n,) int64, their rows of the embedding.
    positions   (n, 2) float64.
    n_projected number of most liked movies that are projected; each of the others is interpolated
                from the three projected movies nearest to it.
    method      the projection.
    trustworthiness
                of the projected movies, for up to ten neighbours by cosine: 1 if movies that are
                near in the plane are near in the embedding (Venna and Kaski 2001).
    """

    movies: pd.DataFrame
    rows: np.ndarray
    positions: np.ndarray
    n_projected: int
    method: str
    trustworthiness: float

    @property
    def groups(self) -> np.ndarray:
        """(n,) int64: each movie's position in GENRE_GROUPS."""
        group_of = {name: i for i, names in enumerate(GENRE_GROUPS.values()) for name in names}
        other = len(GENRE_GROUPS) - 1
        genres = self.movies["genres"].str.split("|", regex=False)
        return np.array([min(group_of.get(g, other) for g in names) for names in genres], np.int64)


def map_movies(
    vectors: np.ndarray, movies: pd.DataFrame, method: str, n: int = MAX_MAPPED
) -> MovieMap | None:
    """Map the `n` most liked movies by direction, since a vector's length reflects popularity.

    None if there are fewer than MIN_MAPPED different directions.

    vectors  (n_movies, dim) float32.
    movies   one row per vector: title, genres, likes.
    """
    rows = np.argsort(-movies["likes"].to_numpy(), kind="stable")[:n]
    directions = unit_rows(vectors[rows])  # (n, dim)
    n_projected = min(len(rows), MAX_PROJECTED)
    anchors, others = directions[:n_projected], directions[n_projected:]
    if len(np.unique(anchors, axis=0)) < MIN_MAPPED:
        return None
    positions = project(anchors, method, 0, TSNE_ITERATIONS)
    k = min(10, (n_projected - 1) // 2)
    quality = float(trustworthiness(anchors, positions, n_neighbors=k))
    if len(others):
        placed = KNeighborsRegressor(3, weights="distance").fit(anchors, positions)
        positions = np.concatenate([positions, placed.predict(others)])
    movies = movies.iloc[rows].reset_index(drop=True)
    return MovieMap(movies, rows, positions, n_projected, method, quality)
