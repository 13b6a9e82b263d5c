"""Log a movie embedding as a model that MLflow can serve."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from embedlab.movies.data.likes import write_movies
from embedlab.tracking.model_logging import SERVER_PACKAGES, log_model
from embedlab.tracking.tracked_run import TrackedRun
from embedlab_serving import movie_model
from embedlab_serving.titles import MAX_QUERY

PACKAGES = (*SERVER_PACKAGES, "rapidfuzz")


def log_movie_model(
    run: TrackedRun, vectors: np.ndarray, movies: pd.DataFrame, about: Mapping[str, object]
) -> str:
    """Log the embedding as artifacts `embedding/` and as the model `model`; returns its URI.

    vectors  (n_movies, dim) float32.
    movies   one row per vector: movie_id, title, genres, likes.
    about    metadata for a reader of the artifacts: data, optimizer, cost.
    """
    example = (pd.DataFrame({"title": [example_title(movies)]}), {"k": 3})
    write = partial(save_embedding, vectors=vectors, movies=movies, about=about)
    return log_model(run, movie_model, write, PACKAGES, example, about)


def example_title(movies: pd.DataFrame) -> str:
    """The most popular title that a query can name: one with a "|" would be read as two."""
    by_likes = movies.sort_values("likes", ascending=False, kind="stable")["title"]
    usable = by_likes[~by_likes.str.contains("|", regex=False) & (by_likes.str.len() <= MAX_QUERY)]
    return (usable if len(usable) else by_likes).iloc[0]


def save_embedding(
    folder: Path, vectors: np.ndarray, movies: pd.DataFrame, about: Mapping[str, object]
) -> None:
    """Write vectors, movies and `about` of `log_movie_model` as files, without pickle."""
    np.save(folder / movie_model.VECTORS_FILE, vectors, allow_pickle=False)
    write_movies(movies, folder / movie_model.MOVIES_FILE)
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
