"""The report of a fit: every epoch, the cost curve, model and card, the map of the movies."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from embedlab.formatting import cost_as_text, counted, gap_as_text
from embedlab.movies.data.likes import Likes
from embedlab.movies.options import FitOptions
from embedlab.movies.plots import plot_fit, plot_movie_map
from embedlab.movies.solvers.result import FitResult, add_gap_metric, relative_gap
from embedlab.progress import EpochRecord, OnEpoch
from embedlab.tracking.project import command
from embedlab.tracking.registry.card import Card
from embedlab.tracking.registry.promotion import PromotionScore
from embedlab.tracking.registry.versions import publish
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.workflows.model_facts import COST, MOVIE_LIMITS, data_licence
from embedlab.workflows.movies.model import example_title, log_movie_model

PAGE = "explore.html"
CARD_PARAMETERS = (
    "like_rule", "user_weight", "item_power",
    "optimizer", "lr", "dim", "epochs", "objective", "init_scale", "seed",
)  # fmt: skip


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


def fit_as_text(options: FitOptions, fit: FitResult) -> str:
    """A fit's result: `adam lr=1: cost 765,544 after 150 epochs`."""
    return f"{options.label}: cost {cost_as_text(fit.cost)} after {fit.length(options)}"


@dataclass(frozen=True)
class FittedEmbedding:
    """A fit that has ended, its likes and options, and the exact solver's cost if it is known."""

    likes: Likes
    options: FitOptions
    result: FitResult
    reference_cost: float | None

    def __str__(self) -> str:
        """The result: `adam lr=1: cost 765,544 after 150 epochs, 4.35% above the exact 733,625`."""
        text, cost = fit_as_text(self.options, self.result), self.result.cost
        if self.reference_cost:
            gap = gap_as_text(relative_gap(cost, self.reference_cost))
            text += f", {gap} the exact {cost_as_text(self.reference_cost)}"
        zeros_cost = self.likes.weighted.off_diagonal_squares
        if cost > zeros_cost:
            text += (
                f"; worse than the {cost_as_text(zeros_cost)} of vectors of zeros: use "
                "optimizer=exact or lbfgs, more epochs, or a smaller init_scale and lr"
            )
        return text


def log_fit(run: TrackedRun, fitted: FittedEmbedding) -> str:
    """Log metrics, vectors and the model of a fit; returns the model's URI."""
    likes, options, result = fitted.likes, fitted.options, fitted.result
    run.log_metrics({"final/cost": result.cost, "time/fit_seconds": result.seconds})
    about = {"optimizer": options.label, "dim": options.dim, "cost": result.cost}
    return log_movie_model(run, result.embedding, likes.table, likes.metadata | about)


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
    # Imported here, because scikit-learn takes half a second, which embedding_map=none saves.
    from embedlab.movies.movie_map import MIN_MAPPED, map_movies
    from embedlab.movies.page import explorer_page

    vectors, likes = fitted.result.embedding, fitted.likes
    caption = f"{likes.label}, {fitted.options.label}, dim {vectors.shape[1]}"
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
