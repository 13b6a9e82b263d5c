"""The likes that a movie entry point computes with, and their lineage."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from embedlab.datasets.cache import absolute_path
from embedlab.datasets.movielens import RATINGS_NAMES, locate_ratings, ratings_name
from embedlab.errors import TrackingError
from embedlab.formatting import counted
from embedlab.movies.data.likes import Likes, find_likes, load_likes
from embedlab.movies.data.ratings import read_ratings
from embedlab.movies.options import check_like_rule
from embedlab.tracking.finished import download_artifact
from embedlab.tracking.store import safe_first_line, store_address
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.workflows.conflicts import refuse_conflicts


def fetch_matrix(uri: str) -> Path:
    """Local folder of a matrix given as `runs:/<run id>/matrix`, another URI, or a local path.

    Raises TrackingError if there is none.
    """
    local = absolute_path(uri)
    if os.path.isdir(local):
        return local
    if os.path.exists(local):
        raise TrackingError(f"matrix: expected the folder that holds it, got the file '{uri}'")
    if "://" not in uri and not uri.startswith(("runs:/", "models:/", "mlflow-artifacts:/")):
        raise TrackingError(
            f"matrix: expected runs:/<run id>/matrix or a folder, but there is no '{uri}' in "
            f"{Path.cwd()}: give an absolute path, or the line that build_matrix printed."
        )
    try:
        return download_artifact(uri)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"matrix: '{uri}' cannot be read from {store_address()} ({safe_first_line(error)}): "
            "give runs:/<run id>/matrix as build_matrix printed it, with the same tracking store."
        ) from None


def find_or_load_likes(
    run: TrackedRun,
    params: Mapping[str, Any],
    non_default: Mapping[str, object],
    notify: Callable[[str], object],
) -> Likes:
    """The likes of build_matrix's artifacts, or of ratings; logs their lineage.

    params  the parsed command line: matrix, ratings, like_rule and, if the entry point has them,
            user_weight and item_power. A matrix that is not empty replaces the others.
    non_default
            the parameters that are not at their default. Raises OptionError if one of them
            contradicts the matrix.
    notify  receives the sizes of the data, and a sentence per peculiarity.
    """
    if source := params["matrix"]:
        likes = load_likes(fetch_matrix(source))
        given = dict(non_default)
        if "ratings" in given:
            given["ratings"] = ratings_name(params["ratings"])
        n_users, n_movies = likes.matrix.shape
        sizes = f"{likes.name}: {counted(n_users, 'user')}, {counted(n_movies, 'movie')}"
        recorded = likes.params | {"like_rule": check_like_rule(likes.like_rule)}
        refuse_conflicts(f"matrix={source}", recorded, given)
    else:
        files = locate_ratings(params["ratings"])
        ratings = read_ratings(files.path, files.name)
        weighting = {name: params[name] for name in ("user_weight", "item_power") if name in params}
        source, likes = files.source, find_likes(ratings, params["like_rule"], **weighting)
        sizes = str(ratings)
    run.log_dataset(f"{likes.name} likes", likes.digest, source, "training")
    run.log_params(likes.params)
    for line in (f"{sizes}, {counted(likes.matrix.nnz, 'like')}", *likes.remarks):
        notify(line)
    return likes


def fit_parameters(
    likes: Likes, params: Mapping[str, Any], weighting: Mapping[str, object]
) -> dict[str, object]:
    """The parameters that make `fit_embedding` fit these likes with this weighting.

    A matrix has its own weighting, so another weighting needs the ratings.

    weighting  user_weight and item_power.
    """
    if params["matrix"] and weighting.items() <= likes.options.items():
        return {"matrix": params["matrix"]}
    ratings = params["ratings"]
    if params["matrix"]:  # a matrix records only the name of a folder of ratings
        ratings = likes.name if likes.name in RATINGS_NAMES else f"<path of {likes.name}>"
    return {"ratings": ratings, "like_rule": likes.like_rule, **weighting}
