"""Projection of an embedding to the plane, for maps of images and of movies."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE


def project(vectors: np.ndarray, method: str, seed: int, max_iter: int = 1000) -> np.ndarray:
    """Project vectors (n, d) to the plane: (n, 2).

    method    `pca`, the two directions of most variance, or `tsne`, which keeps neighbours.
    max_iter  iterations of t-SNE.
    """
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(vectors)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, max_iter=max_iter, random_state=seed)
    return tsne.fit_transform(vectors)
