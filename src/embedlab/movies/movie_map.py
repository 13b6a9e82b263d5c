"""The movie map: positions of movies in the plane, and the groups of genres that colour them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

# A movie has the colour of the first group that contains one of its genres.
GENRE_GROUPS = {
    "Animation, children": ("Animation", "Children"),
    "Documentary": ("Documentary",),
    "Horror": ("Horror",),
    "Science fiction, fantasy": ("Sci-Fi", "Fantasy"),
    "Action, adventure": ("Action", "Adventure", "War", "Western"),
    "Crime, thriller": ("Crime", "Thriller", "Mystery", "Film-Noir"),
    "Comedy": ("Comedy",),
    "Drama, other": (),
}
# Okabe and Ito's palette, which the colour-blind can tell apart, with grey for its black.
GENRE_COLOURS = (
    "#e69f00", "#56b4e9", "#cc79a7", "#0072b2",
    "#d55e00", "#009e73", "#d9c400", "#8a8f98",
)  # fmt: skip


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
