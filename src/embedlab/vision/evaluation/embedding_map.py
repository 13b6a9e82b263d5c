"""A map of images by their features, and the nearest neighbours of an image.

In: features (n, d). Out: points in the plane, or rows of the nearest images.
"""

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from embedlab.projection import project

MAX_QUERY_CLASSES = 10  # classes of which one image is shown with its neighbours
MAX_POINTS = {"pca": 20_000, "tsne": 3_000}  # t-SNE of 3,000 takes about 20 s on two cores


def map_images(features: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (m, 2) of the standardised features, and which rows they are, (m,).

    method  `pca` or `tsne`, as in `project`.

    If there are more rows than can be drawn, the points are those of a random sample.
    """
    rows = np.arange(len(features))
    if len(rows) > MAX_POINTS[method]:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_POINTS[method], replace=False))
    standardised = StandardScaler().fit_transform(features[rows])  # (m, d)
    return project(standardised, method, seed), rows


def nearest(features: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The k rows nearest to each query row by cosine, (q, k), nearest first, without the query.

    Features are standardised first, so that no unit outweighs the others by its scale.
    """
    standardised = StandardScaler().fit_transform(features)  # (n, d)
    k = min(k, len(features) - 1)
    search = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(standardised)
    nearest_rows = search.kneighbors(standardised[queries], return_distance=False)  # (q, k + 1)
    # A duplicate of the query may come before it.
    pairs = zip(queries, nearest_rows, strict=True)
    return np.array([rows[rows != query][:k] for query, rows in pairs])


def one_query_per_class(labels: np.ndarray) -> np.ndarray:
    """The first row of each of the first MAX_QUERY_CLASSES classes."""
    _, first = np.unique(labels, return_index=True)
    return first[:MAX_QUERY_CLASSES]
