"""The parts that movie entry points share: likes and their lineage, epochs, map, model card."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from embedlab.datasets.cache import absolute_path
from embedlab.datasets.movielens import RATINGS_NAMES, locate_ratings, ratings_name
from embedlab.errors import TrackingError
from embedlab.formatting import command, cost_as_text, counted, gap_as_text
from embedlab.movies.data.likes import Likes, find_likes, load_likes
from embedlab.movies.data.ratings import read_ratings
from embedlab.movies.options import FitOptions
from embedlab.movies.plots import plot_fit, plot_movie_map
from embedlab.movies.solvers.result import FitResult, add_gap_metric, relative_gap
from embedlab.progress import EpochRecord, OnEpoch
from embedlab.tracking.finished import download_artifact
from embedlab.tracking.registry.card import Card
from embedlab.tracking.registry.promotion import PromotionScore
from embedlab.tracking.registry.versions import publish
from embedlab.tracking.store import safe_first_line, store_address
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.workflows.conflicts import refuse_conflicts
from embedlab.workflows.model_facts import COST, MOVIE_LIMITS, data_licence
from embedlab.workflows.models import example_title, log_movie_model

PAGE = "explore.html"
CARD_PARAMETERS = (
    "like_rule", "user_weight", "item_power",
    "optimizer", "lr", "dim", "epochs", "objective", "init_scale", "seed",
)  # fmt: skip


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
    notify  receives a sentence per peculiarity of the data.
    """
    if source := params["matrix"]:
        likes = load_likes(fetch_matrix(source))
        given = dict(non_default)
        if "ratings" in given:
            given["ratings"] = ratings_name(params["ratings"])
        refuse_conflicts(f"matrix={source}", likes.params, given)
    else:
        files = locate_ratings(params["ratings"])
        ratings = read_ratings(files.path, files.name)
        weighting = {name: params[name] for name in ("user_weight", "item_power") if name in params}
        source, likes = files.source, find_likes(ratings, params["like_rule"], **weighting)
    run.log_dataset(f"{likes.name} likes", likes.digest, source, "training")
    run.log_params(likes.params)
    for remark in likes.remarks:
        notify(remark)
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


@contextmanager
def epoch_log(
    run: TrackedRun,
    options: FitOptions,
    caption: str,
    reference_cost: float | None,
    show: OnEpoch,
) -> Iterator[OnEpoch]:
    """A callback that logs and shows every epoch, with its gap to the exact cost if that is known.

    The curve is logged at the end, even if the fit was stopped.
    """
    history: list[EpochRecord] = []

    def on_epoch(record: EpochRecord) -> None:
        history.append(add_gap_metric(record, reference_cost))
        run.log_epoch(history[-1])
        show(history[-1])

    try:
        yield on_epoch
    finally:
        run.log_figure(plot_fit(history, options, caption, reference_cost), "figures/cost.png")


@dataclass(frozen=True)
class FittedEmbedding:
    """A fit that has ended, its likes and options, and the exact solver's cost if it is known."""

    likes: Likes
    options: FitOptions
    result: FitResult
    reference_cost: float | None

    def __str__(self) -> str:
        """The result: `adam lr=1: cost 765,544 after 150 epochs, 4.35% above the exact 733,625`."""
        options, cost = self.options, self.result.cost
        after = counted(self.result.epochs, "round" if options.is_exact else "epoch")
        text = f"{options.label}: cost {cost_as_text(cost)} after {after}"
        if not self.reference_cost:
            return text
        gap = gap_as_text(relative_gap(cost, self.reference_cost))
        return f"{text}, {gap} the exact {cost_as_text(self.reference_cost)}"

    def log_model(self, run: TrackedRun) -> str:
        """Log metrics, vectors and the model; returns the model's URI."""
        result, options = self.result, self.options
        run.log_metrics({"final/cost": result.cost, "time/fit_seconds": result.seconds})
        fit = {"optimizer": options.label, "dim": options.dim, "cost": result.cost}
        return log_movie_model(run, result.embedding, self.likes.table, self.likes.metadata | fit)


def publish_fit(
    run: TrackedRun,
    fitted: FittedEmbedding,
    model_uri: str,
    score: PromotionScore,
    params: Mapping[str, Any],
) -> list[str]:
    """Register the logged model if `params` say so, and describe the run.

    Versions compete by `score`. Returns what to tell the user.
    """
    card = movie_card(run, fitted, score)
    messages = publish(run, model_uri, card, params, str(fitted), "Query")
    return [*messages, run.ui_instructions()]


def log_explorer(run: TrackedRun, fitted: FittedEmbedding, method: str) -> str:
    """Log the movie map, `figures/movie_map.png`, and `explore.html`; returns a line for the user.

    method  one of `options.MOVIE_MAPS`.
    """
    if method == "none":
        return "No map of the movies, as embedding_map=none asks."
    # Imported here, because scikit-learn takes half a second and other movie runs do not need it.
    from embedlab.movies.explorer import MIN_MAPPED, explorer_page, map_movies

    vectors, likes = fitted.result.embedding, fitted.likes
    caption = f"{likes.name}, {fitted.options.label}, dim {vectors.shape[1]}"
    movie_map = map_movies(vectors, likes.table, method)
    if movie_map is None:
        return f"No map: fewer than {MIN_MAPPED} movies have vectors of different directions."
    run.log_text(explorer_page(movie_map, vectors, caption), PAGE)
    title = f"{caption}: movies that the same people like are near"
    run.log_figure(plot_movie_map(movie_map, title), "figures/movie_map.png")
    return f"Walk through the movies: {run.artifact_location(PAGE)}"


def movie_card(run: TrackedRun, fitted: FittedEmbedding, score: PromotionScore) -> Card:
    """The model card of a fit.

    Versions compete if their data digests are equal. If they compete by cost, the digest includes
    the weighting.
    """
    likes, cost = fitted.likes, fitted.result.cost
    n_users, n_movies = likes.matrix.shape
    title = example_title(likes.table)
    metrics = {}
    results = {"final cost, of all pairs of movies (so it has no interval)": cost_as_text(cost)}
    if fitted.reference_cost:
        metrics["gap"] = relative_gap(cost, fitted.reference_cost)
        results["above the exact solver's cost by"] = f"{metrics['gap']:.2%}"
    if score.metric != COST:
        metrics["cost"] = cost
        results[score.metric.label] = str(score)
    return Card(
        summary="A vector for every movie; movies that the same people like have vectors with a "
        "large inner product. Titles in, the nearest movies out.",
        data=likes.name,
        data_digest=likes.cost_digest if score.metric == COST else likes.digest,
        counts=f"{counted(n_users, 'user')}, {counted(n_movies, 'movie')}, "
        f"{counted(likes.matrix.nnz, 'like')}",
        licences={"Ratings": data_licence(likes.name)},
        trained=run.resolved_params(CARD_PARAMETERS),
        origin=run.origin,
        run_id=run.id,
        score=score,
        metrics=metrics,
        results=results,
        limits=MOVIE_LIMITS,
        command=lambda uri: command("recommend", model=uri, title=title),
    )
