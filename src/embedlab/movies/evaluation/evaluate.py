"""Tune candidates on validation likes, compare them on test likes.

In: L. Out: for every candidate, the settings and the scorer that validation chose and how well they
rank the test likes, as a table and as text. The bootstrap intervals are over users, and paired for
differences.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from embedlab.errors import DataError
from embedlab.movies.data.likes import Likes
from embedlab.movies.evaluation.candidates import (
    WEIGHTED_EMBEDDING,
    Candidate,
    FitFunction,
    Settings,
)
from embedlab.movies.evaluation.metrics import (
    RankingMetrics,
    bootstrap_intervals,
    held_out_metrics,
    mean_metrics,
)
from embedlab.movies.evaluation.splits import (
    HELD_OUT,
    MAX_USER_QUERIES,
    MIN_USER_LIKES,
    Holdout,
    check_enough_likes,
    choose_users,
    hold_out,
)
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab.progress import OnProgress, no_progress

MAX_USERS = 20_000  # a standard error of 1/140 of a standard deviation
METRICS_WITH_INTERVALS = ("hit_rate", "ndcg", "mrr")
METRICS_COMPARED = {"hit_rate": "hit rate", "ndcg": "NDCG"}


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
    test              metrics on the test likes of each split's own choice, mean over the splits.
    by_scorer         the same for every scorer, with each split's own choice of settings.
    """

    name: str
    settings: Settings
    scorer: str
    val_hit_rate: float
    chosen_in: int
    test: RankingMetrics
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
    v = fit.embedding  # (n_movies, dim)
    k = min(10, likes.n_movies - 1)

    def by_dot_product(query: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield "dot", v[query] @ v.T

    return held_out_metrics(by_dot_product, holdout, k)["dot"].means()["ndcg"]


@dataclass(frozen=True)
class _SplitResult:
    """A candidate in one split.

    hit_rates  validation's, of every choice.
    choice     the best one.
    test       the metrics of every scorer, with the chosen settings.
    """

    hit_rates: Mapping[Choice, float]
    choice: Choice
    test: Mapping[str, RankingMetrics]


# On matrices this narrow, two BLAS threads spend more time waiting for each other than multiplying.
@threadpool_limits.wrap(limits=1, user_api="blas")
def tune_and_evaluate(
    matrix: sp.csr_matrix,
    candidates: Sequence[Candidate],
    options: EvaluationOptions,
    on_progress: OnProgress = no_progress,
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
        test=mean_metrics([split.test[split.choice.scorer] for split in splits]),
        by_scorer={
            name: mean_metrics([split.test[name] for split in splits]) for name in splits[0].test
        },
    )


def result_table(evaluations: Sequence[Evaluation], n_resamples: int, seed: int) -> pd.DataFrame:
    """A row per candidate, best test hit rate first.

    Columns: `contestant` (its name), `settings`, `score` (the scorer), `val_hit_rate` and
    `chosen_in` as in `Evaluation`; the test's `hit_rate`, `ndcg` and `mrr`, each with the 95%
    interval `_low` to `_high` of `n_resamples` bootstrap samples of the users; `coverage` and
    `popularity`; `hit_rate_behind` and `ndcg_behind`, by how much the candidate is behind
    WEIGHTED_EMBEDDING, with the paired difference's interval.
    """
    weighted = next(e.test for e in evaluations if e.name == WEIGHTED_EMBEDDING)
    per_user = {}  # by candidate and metric: (n_users,)
    for evaluation in evaluations:
        for name in METRICS_WITH_INTERVALS:
            values = getattr(evaluation.test, name)
            per_user[evaluation.name, name] = values
            if name in METRICS_COMPARED:
                per_user[evaluation.name, f"{name}_behind"] = getattr(weighted, name) - values
    columns = np.stack(list(per_user.values()), axis=1)  # (n_users, m)
    ends = bootstrap_intervals(columns, n_resamples, np.random.default_rng(seed))  # (2, m)
    rows = []
    for evaluation in evaluations:
        settings = " ".join(f"{name}={value}" for name, value in evaluation.settings.items())
        row: dict[str, object] = {
            "contestant": evaluation.name,
            "settings": settings,
            "score": evaluation.scorer,
            "val_hit_rate": evaluation.val_hit_rate,
            "chosen_in": evaluation.chosen_in,
        }
        for ((candidate, name), values), (low, high) in zip(per_user.items(), ends.T, strict=True):
            if candidate == evaluation.name:
                row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        means = evaluation.test.means()
        rows.append(row | {"coverage": means["coverage"], "popularity": means["popularity"]})
    table = pd.DataFrame(rows)
    return table.sort_values("hit_rate", ascending=False, kind="stable", ignore_index=True)


def to_markdown(
    table: pd.DataFrame, data: str, options: EvaluationOptions, left_out: Sequence[str]
) -> str:
    """The result as Markdown: which candidates the weighted embedding beats significantly.

    A difference is significant if its interval excludes 0.

    table     from `result_table`.
    left_out  candidates that are left out, with the reason.
    """
    k, n_splits = options.k, options.n_splits
    weighted = table[table["contestant"] == WEIGHTED_EMBEDDING].iloc[0]
    others = table[table["contestant"] != WEIGHTED_EMBEDDING]
    unbeaten = others[others["hit_rate_behind_low"] <= 0]["contestant"]
    verdict = f"is not significantly better than {'; '.join(unbeaten)}"
    if unbeaten.empty:
        verdict = f"beats all {len(others)} others"
    lines = [
        f"### On {data}, the weighted embedding {verdict} (hit rate@{k})",
        "",
        f"Validation chose `{weighted.settings}`, scored by {weighted.score}: the choice of "
        f"{weighted.chosen_in} of {n_splits} splits, hit rate {weighted.val_hit_rate:.4f} there. "
        "In brackets: 95% intervals.",
        "",
    ]
    for row in table.itertuples():
        settings = f" `{row.settings}`" if row.settings else ""
        lines.append(
            f"- **{row.contestant}**{settings}, {row.score}: hit rate {row.hit_rate:.4f} "
            f"({row.hit_rate_low:.4f} to {row.hit_rate_high:.4f}), NDCG {row.ndcg:.4f}, MRR "
            f"{row.mrr:.4f}; recommends {row.coverage:.1%} of all movies, liked by "
            f"{row.popularity:.0f} users on average{_difference_phrase(row)}."
        )
    novel = table.sort_values("popularity").iloc[0]
    if novel.hit_rate < weighted.hit_rate:
        lines += [
            "",
            f"Accuracy comes with popularity: {novel.contestant} recommends movies that "
            f"{novel.popularity:.0f} users like on average instead of {weighted.popularity:.0f}, "
            f"from {novel.coverage:.0%} of the catalogue instead of {weighted.coverage:.0%}, and "
            f"finds {novel.hit_rate:.4f} of the held-out likes instead of {weighted.hit_rate:.4f}.",
        ]
    only_query = options.exclude == "query"
    excluded = "only the query movie is" if only_query else "the user's known likes are"
    lines += [
        "",
        f"{HELD_OUT} likes of every user with at least {MIN_USER_LIKES} (at most "
        f"{options.max_users:,}, drawn at random) are held out. Up to {MAX_USER_QUERIES} of the "
        f"user's other likes are queries, one at a time; {excluded} never recommended. Hit rate is "
        f"the share of held-out likes among the best {k}. Splits: {n_splits}, each with a "
        "validation split on which everything was chosen; intervals are bootstrapped over users.",
    ]
    if left_out:
        lines += ["", f"Left out: {'; '.join(left_out)}."]
    return "\n".join(lines) + "\n"


def _difference_phrase(row: Any) -> str:
    """How the candidate of a row of `result_table` compares; "" for WEIGHTED_EMBEDDING itself."""
    if row.contestant == WEIGHTED_EMBEDDING:
        return ""
    differences = []
    for name, label in METRICS_COMPARED.items():
        behind, low, high = (getattr(row, f"{name}_behind{end}") for end in ("", "_low", "_high"))
        word = "behind" if low > 0 else "ahead" if high < 0 else "not significantly different"
        differences.append(f"{label} {word} ({-behind:+.4f}; {-high:+.4f} to {-low:+.4f})")
    return "; against the weighted embedding: " + ", ".join(differences)
