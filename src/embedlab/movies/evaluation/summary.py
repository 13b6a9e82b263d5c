"""The result of an evaluation as a table and as Markdown: what the weighted embedding beats.

The bootstrap intervals are over users, and paired for differences.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from embedlab.movies.evaluation.candidates import WEIGHTED_EMBEDDING
from embedlab.movies.evaluation.evaluate import Evaluation, EvaluationOptions
from embedlab.movies.evaluation.metrics import bootstrap_intervals
from embedlab.movies.evaluation.splits import HELD_OUT, MAX_USER_QUERIES, MIN_USER_LIKES

METRICS_WITH_INTERVALS = ("hit_rate", "ndcg", "mrr")
METRICS_COMPARED = {"hit_rate": "hit rate", "ndcg": "NDCG"}


def result_table(evaluations: Sequence[Evaluation], n_resamples: int, seed: int) -> pd.DataFrame:
    """A row per candidate, best test hit rate first.

    Columns: `contestant` (its name), `settings`, `score` (the scorer), `val_hit_rate` and
    `chosen_in` as in `Evaluation`; the test's `hit_rate`, `ndcg` and `mrr`, each with the 95%
    interval `_low` to `_high` of `n_resamples` bootstrap samples of the users; `coverage` and
    `popularity`; `hit_rate_behind` and `ndcg_behind`, by how much the candidate is behind
    WEIGHTED_EMBEDDING, with the paired difference's interval.
    """
    weighted = next(e.test_metrics for e in evaluations if e.name == WEIGHTED_EMBEDDING)
    per_user: list[dict[str, np.ndarray]] = []  # of each candidate, by metric: (n_users,)
    for evaluation in evaluations:
        by_metric = {}
        for name in METRICS_WITH_INTERVALS:
            by_metric[name] = getattr(evaluation.test_metrics, name)
            if name in METRICS_COMPARED:
                by_metric[f"{name}_behind"] = getattr(weighted, name) - by_metric[name]
        per_user.append(by_metric)
    columns = np.stack([values for by_metric in per_user for values in by_metric.values()], axis=1)
    generator = np.random.default_rng(seed)
    intervals = iter(bootstrap_intervals(columns, n_resamples, generator).T)  # of each column
    rows = []
    for evaluation, by_metric in zip(evaluations, per_user, strict=True):
        settings = " ".join(f"{name}={value}" for name, value in evaluation.settings.items())
        row: dict[str, object] = {
            "contestant": evaluation.name,
            "settings": settings,
            "score": evaluation.scorer,
            "val_hit_rate": evaluation.val_hit_rate,
            "chosen_in": evaluation.chosen_in,
        }
        for name, values in by_metric.items():
            low, high = next(intervals)
            row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        means = evaluation.test_metrics.means()
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
        f"On validation, the weighted embedding is best with `{weighted.settings}`, scored by "
        f"{weighted.score} (hit rate {weighted.val_hit_rate:.4f}).",
    ]
    if n_splits > 1:
        lines[-1] += (
            f" These settings are best on the average of the {n_splits} splits. Each split tests "
            "its own choice; the number of splits that chose the settings shown is in parentheses."
        )
    lines += ["", "Tested, with 95% intervals:", ""]
    for row in table.itertuples():
        settings = f" `{row.settings}`" if row.settings else ""
        choice = f" ({row.chosen_in} of {n_splits})" if n_splits > 1 else ""
        lines.append(
            f"- **{row.contestant}**{settings}, {row.score}{choice}: hit rate {row.hit_rate:.4f} "
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
