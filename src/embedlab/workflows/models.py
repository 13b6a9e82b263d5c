"""Log a movie or image model so that MLflow can serve it: its files, example and packages."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from embedlab.tracking.model_logging import log_model
from embedlab.tracking.tracked_run import TrackedRun
from embedlab_serving import movie_model
from embedlab_serving.titles import MAX_QUERY

if TYPE_CHECKING:
    from torch import nn

# The packages that each model needs. MLflow's server uses httptools and uvloop if they are
# installed, and then answers faster (docs/serving.md).
SERVER_PACKAGES = ("mlflow", "httptools", "uvloop", "numpy", "pandas")
MOVIE_PACKAGES = (*SERVER_PACKAGES, "rapidfuzz")
IMAGE_PACKAGES = (*SERVER_PACKAGES, "pillow", "safetensors", "torch", "torchvision")


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
    return log_model(run, movie_model, write, MOVIE_PACKAGES, example, about)


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
    movies.to_csv(folder / movie_model.MOVIES_FILE, index=False, lineterminator="\n")
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def log_image_model(
    run: TrackedRun, network: "nn.Module", about: Mapping[str, object], example: np.ndarray
) -> str:
    """Log a classifier as artifacts `classifier/` and as the model `model`; returns its URI.

    network  a classifier of torchvision with its head.
    about    backbone, classes, side, flip_view and preprocessing, which loading needs; and metadata
             for a reader of the artifacts: data, training, accuracy.
    example  (3, side, side) uint8: the image of the model's input example.
    """
    from PIL import Image
    from safetensors.torch import save_file

    from embedlab_serving import image_model

    image = io.BytesIO()
    Image.fromarray(example.transpose(1, 2, 0)).save(image, "png")
    request = pd.DataFrame({"image": [base64.b64encode(image.getvalue()).decode()]})
    weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}

    def write(folder: Path) -> None:
        save_file(weights, folder / image_model.WEIGHTS_FILE)
        text = json.dumps(about, indent=2) + "\n"
        (folder / image_model.ABOUT_FILE).write_text(text, encoding="utf-8")

    example_request = (request, {"k": min(3, len(cast("Sequence[str]", about["classes"])))})
    return log_model(run, image_model, write, IMAGE_PACKAGES, example_request, about)
