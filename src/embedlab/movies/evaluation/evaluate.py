"""Tune candidates on validation likes, compare them on test likes.

In: L. Out: for every candidate, the settings and the scorer that validation chose, and how well
they rank the test likes; `summary` has the table and the words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from embedlab.errors import DataError
from embedlab.movies.data.likes import Likes
from embedlab.movies.evaluation.candidates import Candidate, FitFunction, Settings
from embedlab.movies.evaluation.metrics import (
    RankingMetrics,
    held_out_metrics,
    inner_products,
    mean_metrics,
)
from embedlab.movies.evaluation.splits import (
    HELD_OUT,
    MIN_USER_LIKES,
    Holdout,
    check_enough_likes,
    choose_users,
    hold_out,
)
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab.progress import OnProgress, ignore_progress

MAX_USERS = 20_000  # a standard error of 1/140 of a standard deviation


class Choice(NamedTuple):
    """The position of settings in a candidate's grid, and the name of a scorer."""

    position: int
    scorer: str


@dataclass(frozen=True)
class EvaluationOptions:
    """How to split and rank.

    n_splits   number of random splits; results are means over them.
    seed       of the splits.
    k, exclude  as in `held_out_metrics`.
    max_users  maximum number of users with queries, the same in every split.
    """

    n_splits: int = 1
    seed: int = 0
    k: int = 10
    exclude: str = "query"
    max_users: int = MAX_USERS


@dataclass(frozen=True)
class Evaluation:
    """Result of a candidate.

    settings, scorer  the choice with the highest validation hit rate, averaged over the splits.
    val_hit_rate      that average.
    chosen_in         number of splits whose own validation made the same choice.
    test_metrics      on the test likes, of each split's own choice, mean over the splits.
    by_scorer         the same for every scorer, with each split's own choice of settings.
    """

    name: str
    settings: Settings
    scorer: str
    val_hit_rate: float
    chosen_in: int
    test_metrics: RankingMetrics
    by_scorer: Mapping[str, RankingMetrics]


def held_out_ndcg(likes: Likes, options: FitOptions, seed: int, device: str) -> float:
    """NDCG@10, by dot product, of a fit of `likes` without the held-out ones.

    The held-out likes depend on the likes alone, not on their weighting or the fit. Raises
    DataError if no user has enough likes, DivergedError if the fit diverges.
    """
    generator = np.random.default_rng(0)
    users = choose_users(likes.matrix, generator, MAX_USERS)
    holdout = hold_out(likes.matrix, generator, users)
    rest = replace(likes, matrix=holdout.matrix)
    fit = fit_likes(rest.weighted, options, seed, device)
    fit.raise_if_diverged(options)
    by_dot_product = inner_products({"dot": (fit.embedding, fit.embedding)})
    k = min(10, likes.n_movies - 1)
    return held_out_metrics(by_dot_product, holdout, k)["dot"].means()["ndcg"]


@dataclass(frozen=True)
class _SplitResult:
    """A candidate in one split.

    hit_rates     validation's, of every choice.
    choice        the best one.
    test_metrics  of every scorer, with the chosen settings.
    """

    hit_rates: Mapping[Choice, float]
    choice: Choice
    test_metrics: Mapping[str, RankingMetrics]


# On matrices this narrow, two BLAS threads spend more time waiting for each other than multiplying.
@threadpool_limits.wrap(limits=1, user_api="blas")
def tune_and_evaluate(
    matrix: sp.csr_matrix,
    candidates: Sequence[Candidate],
    options: EvaluationOptions,
    on_progress: OnProgress = ignore_progress,
) -> list[Evaluation]:
    """Split the likes, tune each candidate on validation, rank the test likes; repeat.

    matrix  (n_users, n_movies) CSR of ones.

    Tuning never sees the test likes; the tested fit learns from all other likes. Returns a result
    per candidate, in their order. Raises DataError if no user has enough likes.
    """
    check_enough_likes(matrix, MIN_USER_LIKES + HELD_OUT)  # validation splits what test leaves
    generator = np.random.default_rng(options.seed)
    users = choose_users(matrix, generator, options.max_users)
    total = options.n_splits * sum(len(candidate.grid) for candidate in candidates)
    done = count(1)

    def on_fit() -> None:
        on_progress(next(done), total)

    splits = []
    for _ in range(options.n_splits):
        test = hold_out(matrix, generator, users)
        validation = hold_out(test.matrix, generator, users)
        if not len(validation.query):
            raise DataError(
                f"users: expected some with at least {MIN_USER_LIKES + HELD_OUT} likes among the "
                f"{len(users)} that were drawn: raise users, or take another seed."
            )
        splits.append(_evaluate_split(validation, test, candidates, options, on_fit))
    return [
        _mean_over_splits(candidate, results)
        for candidate, *results in zip(candidates, *splits, strict=True)
    ]


def _evaluate_split(
    validation: Holdout,
    test: Holdout,
    candidates: Sequence[Candidate],
    options: EvaluationOptions,
    on_fit: Callable[[], object],
) -> list[_SplitResult]:
    """Tune every candidate on validation, and rank the test likes with its best choice.

    on_fit  called after each choice of settings.
    """

    @cache  # candidates with the same fit and settings share the result
    def fit_and_rank(
        holdout: Holdout, fit: FitFunction, *settings: tuple[str, object]
    ) -> dict[str, RankingMetrics]:
        """The metrics of each scorer, by name."""
        score_queries = fit(holdout.matrix, **dict(settings))
        return held_out_metrics(score_queries, holdout, options.k, options.exclude)

    results = []
    for candidate in candidates:
        hit_rates: dict[Choice, float] = {}
        for i, settings in enumerate(candidate.grid):
            rough = {**settings, **candidate.tuning_overrides}
            by_scorer = fit_and_rank(validation, candidate.fit, *rough.items())
            for name, metrics in by_scorer.items():
                if name in candidate.scorer_names or not candidate.scorer_names:
                    hit_rates[Choice(i, name)] = metrics.means()["hit_rate"]
            on_fit()
        choice = _best_choice(hit_rates)
        chosen_settings = candidate.grid[choice.position]
        tested = fit_and_rank(test, candidate.fit, *chosen_settings.items())
        results.append(_SplitResult(hit_rates, choice, tested))
    return results


def _best_choice(hit_rates: Mapping[Choice, float]) -> Choice:
    return max(hit_rates, key=hit_rates.__getitem__)


def _mean_over_splits(candidate: Candidate, splits: Sequence[_SplitResult]) -> Evaluation:
    """The result of a candidate: means over the splits."""
    means = {
        choice: float(np.mean([split.hit_rates[choice] for split in splits]))
        for choice in splits[0].hit_rates
    }
    best = _best_choice(means)
    return Evaluation(
        name=candidate.name,
        settings=candidate.grid[best.position],
        scorer=best.scorer,
        val_hit_rate=means[best],
        chosen_in=sum(split.choice == best for split in splits),
        test_metrics=mean_metrics([split.test_metrics[split.choice.scorer] for split in splits]),
        by_scorer={
            name: mean_metrics([split.test_metrics[name] for split in splits])
            for name in splits[0].test_metrics
        },
    )
