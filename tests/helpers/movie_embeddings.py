"""Exact embeddings of ratings, with their movies and titles."""

import numpy as np
import pandas as pd

from embedlab.datasets.movielens import locate_ratings
from embedlab.movies.data.likes import find_likes
from embedlab.movies.data.ratings import read_ratings
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab_serving.titles import TitleIndex


def embedding_of(ratings: str, dim: int) -> tuple[np.ndarray, pd.DataFrame, TitleIndex]:
    files = locate_ratings(ratings)
    likes = find_likes(read_ratings(files.path, files.name), "user_mean")
    fit = fit_likes(likes.weighted, FitOptions("exact", dim=dim), 0, "cpu")
    return fit.embedding, likes.table, TitleIndex(likes.movies["title"].tolist(), likes.popularity)


def sample_embedding() -> tuple[np.ndarray, pd.DataFrame, TitleIndex]:
    """A fixture: the embedding of the built-in sample."""
    return embedding_of("sample", 20)
