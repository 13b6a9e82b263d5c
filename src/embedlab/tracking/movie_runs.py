"""What the entry points of the movie half do alike."""

from embedlab.datasets.movielens import locate_ratings
from embedlab.movies.likes import Likes, find_likes, load_likes
from embedlab.movies.ratings import read_ratings
from embedlab.tracking.runs import TrackedRun
from embedlab.tracking.store import fetch_artifacts


def find_or_load_likes(run: TrackedRun, matrix: str, ratings: str, like_rule: str) -> Likes:
    """The likes of build_matrix's artifacts `matrix`, or where that is empty of the ratings; logs
    their lineage."""
    if matrix:
        source, likes = matrix, load_likes(fetch_artifacts(matrix))
    else:
        files = locate_ratings(ratings)
        source, likes = files.source, find_likes(read_ratings(files.path, files.name), like_rule)
    run.log_dataset(f"{likes.name} likes", likes.digest, source, "training")
    run.log_params({"ratings": likes.name, "like_rule": likes.like_rule})
    run.log_params({"data_digest": likes.digest})
    return likes
