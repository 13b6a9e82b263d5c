"""The movie map and `explore.html`: walk through an embedding, from a movie to its nearest ones.

In: vectors, and the movies with their likes. Out: a `MovieMap`, and a page of it with the ten
nearest movies of each by `v_j·v_q / ‖v_j‖^a`: a = 0 is the served model's score `dot`, which
prefers popular movies, a = 1 ranks as its `cosine`.
"""

import base64
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsRegressor

from embedlab.movies.movie_map import GENRE_COLOURS, GENRE_GROUPS, MovieMap
from embedlab.movies.options import NORM_EXPONENTS
from embedlab.pages.render import render_page
from embedlab.projection import project
from embedlab_serving.titles import TitleIndex

MIN_MAPPED = 10
MAX_PROJECTED = 3_000  # movies; t-SNE of as many takes seconds
MAX_EXPLORED = 10_000  # movies of a page
TSNE_ITERATIONS = 500  # 1,000 keep neighbours no better
MAX_POSITION = 9_999  # positions of a page are whole numbers
N_NEIGHBOURS = 10
MOVIES_AT_ONCE = 512  # query movies whose scores are computed together


def map_movies(
    vectors: np.ndarray, movies: pd.DataFrame, method: str, n: int = MAX_EXPLORED
) -> MovieMap | None:
    """Map the `n` most liked movies by direction, since a vector's length reflects popularity.

    None if there are fewer than MIN_MAPPED different directions.

    vectors  (n_movies, dim) float32.
    movies   one row per vector: title, genres, likes.
    """
    rows = np.argsort(-movies["likes"].to_numpy(), kind="stable")[:n]
    norms = np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    directions = vectors[rows] / np.where(norms > 0, norms, 1)  # (n, dim)
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


def nearest_movies(vectors: np.ndarray, excluded: Sequence[Sequence[int]]) -> np.ndarray:
    """(n, exponents, k) uint16: for each movie and score the rows of the nearest others.

    k is N_NEIGHBOURS, or less if there are fewer others.

    vectors   (n, dim) float32, n up to 65,536.
    excluded  for each movie, other rows not to list for it, such as duplicates of the movie.
    """
    v = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    norms = v.double().norm(dim=1).float()  # (n,)
    inverse_norms = 1 / torch.where(norms > 0, norms, 1)  # (n,)
    k = min(N_NEIGHBOURS, len(v) - 1 - max(map(len, excluded)))
    nearest = torch.empty((len(v), len(NORM_EXPONENTS), k), dtype=torch.int64)
    for start in range(0, len(v), MOVIES_AT_ONCE):
        block = slice(start, start + MOVIES_AT_ONCE)
        dots = v[block] @ v.T  # (b, n)
        for i, others in enumerate(excluded[block]):
            dots[i, [start + i, *others]] = -torch.inf
        for j, exponent in enumerate(NORM_EXPONENTS):
            nearest[block, j] = (dots * inverse_norms**exponent).topk(k).indices
    return nearest.numpy().astype(np.uint16)


def explorer_page(movie_map: MovieMap, vectors: np.ndarray, caption: str) -> str:
    """Render `explore.html` from a map and all vectors, (n_movies, dim) float32.

    caption  names the embedding in the page's first lines.
    """
    index = TitleIndex(movie_map.movies["title"].tolist(), movie_map.movies["likes"].to_numpy())
    duplicates = [index.duplicates_of([row]) for row in range(len(movie_map.rows))]
    low, high = movie_map.positions.min(0), movie_map.positions.max(0)
    scale = MAX_POSITION / max((high - low).max(), 1e-9)
    grid = np.rint((movie_map.positions - low) * scale).astype(int)  # (n, 2)
    nearest = nearest_movies(vectors[movie_map.rows], duplicates)
    data = {
        "titles": movie_map.movies["title"].tolist(),
        "genres": movie_map.movies["genres"].str.replace("|", ", ", regex=False).tolist(),
        "likes": movie_map.movies["likes"].astype(int).tolist(),
        "groups": movie_map.groups.tolist(),
        "x": grid[:, 0].tolist(),
        "y": grid[:, 1].tolist(),
        "exponents": NORM_EXPONENTS,
        "k": nearest.shape[2],
        "nearest": base64.b64encode(nearest.astype("<u2").tobytes()).decode(),
        "colours": GENRE_COLOURS,
        "groupNames": list(GENRE_GROUPS),
    }
    values = {"data": data, "caption": caption, "movie_map": movie_map, "n_movies": len(vectors)}
    return render_page("explore.html", **values)
