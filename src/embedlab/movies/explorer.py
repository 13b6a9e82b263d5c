"""The movie map and `explore.html`: walk through an embedding, from a movie to its nearest ones.

In: vectors, and the movies with their likes. Out: a `MovieMap`, a figure of it, and a page with the
ten nearest movies of each by `v_j·v_q / ‖v_j‖^a`: a = 0 is the served model's score `dot`, which
prefers popular movies, a = 1 ranks as its `cosine`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsRegressor

from embedlab.movies.plots import short_title
from embedlab.pages import as_base64, render_page
from embedlab.plotting import new_figure
from embedlab.projection import project

MIN_MAPPED = 10
MAX_PROJECTED = 3_000  # movies; t-SNE of as many takes seconds
MAX_EXPLORED = 10_000  # movies of a page
TSNE_ITERATIONS = 500  # 1,000 keep neighbours no better
GRID = 9_999  # positions of a page are whole numbers up to it
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
K = 10
BLOCK = 512  # movies whose scores are in memory at once

# The first group that has one of a movie's genres is its colour's.
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
    *("#e69f00", "#56b4e9", "#cc79a7", "#0072b2"),
    *("#d55e00", "#009e73", "#d9c400", "#8a8f98"),
)


@dataclass(frozen=True)
class MovieMap:
    """Positions of movies in the plane.

    movies      a row for each movie: title, genres, likes; the most liked first.
    rows        (n,) int64, their rows of the embedding.
    positions   (n, 2) float64.
    n_projected so many of the most liked are projected; the others stand among the three nearest
                of these.
    how         the projection.
    trust       trustworthiness of the projected ones for ten neighbours by cosine: 1 if all that
                are near in the plane are near in the embedding (Venna and Kaski 2001).
    """

    movies: pd.DataFrame
    rows: np.ndarray
    positions: np.ndarray
    n_projected: int
    how: str
    trust: float

    @property
    def groups(self) -> np.ndarray:
        """(n,) int64: each movie's position in GENRE_GROUPS."""
        genres = self.movies["genres"].str.split("|", regex=False)
        return np.array([_group_of(names) for names in genres], dtype=np.int64)


def map_movies(
    vectors: np.ndarray, movies: pd.DataFrame, how: str, seed: int, n: int = MAX_EXPLORED
) -> MovieMap | None:
    """The map of the `n` most liked movies, by direction: a vector's length is popularity.

    None if there are fewer than MIN_MAPPED different directions.

    vectors  (n_movies, dim) float32.
    movies   a row a vector: title, genres, likes.
    """
    rows = np.argsort(-movies["likes"].to_numpy(), kind="stable")[:n]
    norms = np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    directions = vectors[rows] / np.where(norms > 0, norms, 1)  # (n, dim)
    n_projected = min(len(rows), MAX_PROJECTED)
    anchors, others = directions[:n_projected], directions[n_projected:]
    if len(np.unique(anchors, axis=0)) < MIN_MAPPED:
        return None
    positions = project(anchors, how, seed, TSNE_ITERATIONS)
    k = min(10, (n_projected - 1) // 2)
    trust = float(trustworthiness(anchors, positions, n_neighbors=k))
    if len(others):
        placed = KNeighborsRegressor(3, weights="distance").fit(anchors, positions)
        positions = np.concatenate([positions, placed.predict(others)])
    movies = movies.iloc[rows].reset_index(drop=True)
    return MovieMap(movies, rows, positions, n_projected, how, trust)


def nearest_movies(
    vectors: np.ndarray, left_out: Callable[[int], Sequence[int]], k: int = K
) -> np.ndarray:
    """(n, len(EXPONENTS), k) uint16: for each movie and exponent the rows of the nearest others.

    vectors   (n, dim) float32, n up to 65,536.
    left_out  by row: rows that are no answer to it, such as other copies of the movie.
    """
    v = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    norms = v.double().norm(dim=1).float()  # (n,)
    inverse = torch.where(norms > 0, 1 / norms, 0)
    powers = [torch.where(norms > 0, inverse**a, 0) for a in EXPONENTS]  # (n,) each
    k = min(k, len(v) - 1)
    found = torch.empty((len(v), len(EXPONENTS), k), dtype=torch.int64)
    for start in range(0, len(v), BLOCK):
        block = slice(start, start + BLOCK)
        dots = v[block] @ v.T  # (b, n)
        for i in range(len(dots)):
            dots[i, [start + i, *left_out(start + i)]] = -torch.inf
        for j, power in enumerate(powers):
            scores = torch.where(dots > -torch.inf, dots * power, dots)
            found[block, j] = scores.topk(k).indices
    return found.numpy().astype(np.uint16)


def explorer_page(
    found: MovieMap,
    vectors: np.ndarray,
    duplicates_of: Callable[[list[int]], Sequence[int]],
    about: str,
) -> str:
    """`explore.html` of a map and of all vectors, (n_movies, dim) float32.

    duplicates_of  rows of the same movies as these rows; they are no answer.
    about          which embedding it is, for the page's first lines.
    """
    position = {row: i for i, row in enumerate(found.rows.tolist())}

    def left_out(i: int) -> list[int]:
        same = duplicates_of([int(found.rows[i])])
        return [position[row] for row in same if row in position]

    low, high = found.positions.min(0), found.positions.max(0)
    scale = GRID / max((high - low).max(), 1e-9)
    grid = np.rint((found.positions - low) * scale).astype(int)  # (n, 2)
    nearest = nearest_movies(vectors[found.rows], left_out)
    data = {
        "titles": found.movies["title"].tolist(),
        "genres": found.movies["genres"].str.replace("|", ", ", regex=False).tolist(),
        "likes": found.movies["likes"].astype(int).tolist(),
        "groups": found.groups.tolist(),
        "x": grid[:, 0].tolist(),
        "y": grid[:, 1].tolist(),
        "exponents": EXPONENTS,
        "k": nearest.shape[2],
        "nearest": as_base64(nearest),
        "colours": GENRE_COLOURS,
        "groupNames": list(GENRE_GROUPS),
    }
    return render_page(
        "explore.html",
        data=data,
        about=about,
        found=found,
        n_movies=len(vectors),
        exponents=EXPONENTS,
    )


def plot_movie_map(found: MovieMap, title: str, n_names: int = 30) -> Figure:
    """The projected movies: area by likes, colour by genre, the best known by name."""
    n, likes = found.n_projected, found.movies["likes"].to_numpy(float)
    positions, groups = found.positions[:n], found.groups[:n]
    areas = 2 + 120 * likes[:n] / max(likes.max(), 1)
    figure = new_figure(10, 9)
    axes = figure.subplots()
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for group, (name, colour) in enumerate(zip(GENRE_GROUPS, GENRE_COLOURS, strict=True)):
        of_group = groups == group
        if of_group.any():
            x, y = positions[of_group].T
            axes.scatter(x, y, areas[of_group], colour, alpha=0.75, linewidths=0)
            axes.scatter([], [], 40, colour, label=name)  # the legend's, of one size
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0))
    figure.draw_without_rendering()  # the layout: names have sizes in pixels
    _name_points(axes, positions, found.movies["title"][:n].tolist(), n_names)
    return figure


def _name_points(axes: Axes, positions: np.ndarray, titles: Sequence[str], n_names: int) -> None:
    """Names where they do not cover one another, the most liked first."""
    taken: list[Bbox] = []
    for position, title in zip(positions, titles, strict=True):
        text = axes.annotate(
            short_title(title.rsplit(" (", 1)[0], 28),
            position,
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        box = text.get_window_extent().padded(2)
        if len(taken) < n_names and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            text.remove()
        if len(taken) == n_names:
            return


def _group_of(genres: Sequence[str]) -> int:
    has = set(genres)
    matches = (i for i, names in enumerate(GENRE_GROUPS.values()) if has & {*names})
    return next(matches, len(GENRE_GROUPS) - 1)
