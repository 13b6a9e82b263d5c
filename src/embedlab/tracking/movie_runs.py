"""What the entry points of the movie half do alike."""

from embedlab.datasets.movielens import locate_ratings
from embedlab.movies.fit import Fit
from embedlab.movies.likes import Likes, find_likes, load_likes
from embedlab.movies.ratings import read_ratings
from embedlab.tracking.card import MOVIE_LIMITS, Card, data_licence
from embedlab.tracking.promotion import Score
from embedlab.tracking.runs import TrackedRun
from embedlab.tracking.store import fetch_artifacts

PARAMS = (
    *("like_rule", "user_weight", "item_power"),
    *("optimizer", "lr", "dim", "epochs", "objective", "init_scale", "seed"),
)


def find_or_load_likes(
    run: TrackedRun,
    matrix: str,
    ratings: str,
    like_rule: str,
    user_weight: str = "none",
    item_power: float = 0.0,
) -> Likes:
    """The likes of build_matrix's artifacts `matrix`, with the weighting that they were made with,
    or where that is empty of the ratings; logs their lineage."""
    if matrix:
        source, likes = matrix, load_likes(fetch_artifacts(matrix))
    else:
        files = locate_ratings(ratings)
        found = read_ratings(files.path, files.name)
        source, likes = files.source, find_likes(found, like_rule, user_weight, item_power)
    run.log_dataset(f"{likes.name} likes", likes.digest, source, "training")
    run.log_params(likes.params)
    return likes


def movie_card(
    run: TrackedRun, likes: Likes, fit: Fit, reference_cost: float | None, score: Score
) -> Card:
    """What the registry says of a fit; its gap to the exact cost where that is known.

    Versions with equal data digests are compared: by cost only where X weighs the likes alike.
    """
    n_users, n_movies = likes.matrix.shape
    metrics = {}
    results = {"final cost, of all pairs of movies (so it has no interval)": f"{fit.cost:,.0f}"}
    if reference_cost:
        metrics["gap"] = fit.cost / reference_cost - 1
        results["above the exact solver's cost by"] = f"{metrics['gap']:.2%}"
    if score.name != "cost":
        metrics["cost"] = fit.cost
        results[score.words] = str(score)
    return Card(
        what="A vector for every movie; movies that the same people like have vectors with a "
        "large inner product. Titles in, the nearest movies out.",
        data=likes.name,
        data_digest=likes.cost_digest if score.name == "cost" else likes.digest,
        counts=f"{n_users:,} users, {n_movies:,} movies, {likes.matrix.nnz:,} likes",
        licences={"Ratings": data_licence(likes.name)},
        trained=run.params(PARAMS),
        origin=run.origin,
        run_id=run.id,
        metrics=metrics,
        results=results,
        limits=MOVIE_LIMITS,
        command="mlflow run . -e recommend --env-manager local --experiment-name embedlab \\\n"
        "  -P model={model} -P title='Toy Story'",
    )
