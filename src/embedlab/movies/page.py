"""`explore.html`: walk through an embedding, from a movie to its nearest ones.

In: a `MovieMap` and all vectors. Out: the text of a page, with the map and the ten nearest movies
of each by `v_j·v_q / ‖v_j‖^a`: a = 0 is the served model's score `dot`, which prefers popular
movies, a = 1 ranks as its `cosine`.
"""

import base64
from collections.abc import Sequence

import numpy as np
import torch

from embedlab.movies.genres import GENRE_COLOURS, GENRE_GROUPS
from embedlab.movies.movie_map import MovieMap
from embedlab.movies.options import NORM_EXPONENTS
from embedlab.pages.render import render_page
from embedlab_serving.titles import rows_by_identity

MAX_POSITION = 9_999  # positions of a page are whole numbers
N_NEIGHBOURS = 10
MOVIES_AT_ONCE = 512  # query movies whose scores are computed together


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
    titles = movie_map.movies["title"].tolist()
    duplicates: list[list[int]] = [[] for _ in titles]  # other rows of the same movie
    for same in rows_by_identity(titles):
        for row in same:
            duplicates[row] = [other for other in same if other != row]
    low, high = movie_map.positions.min(0), movie_map.positions.max(0)
    scale = MAX_POSITION / max((high - low).max(), 1e-9)
    grid = np.rint((movie_map.positions - low) * scale).astype(int)  # (n, 2)
    nearest = nearest_movies(vectors[movie_map.rows], duplicates)
    data = {
        "titles": titles,
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
