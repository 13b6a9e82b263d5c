"""Comparison of fits of the same likes: which is best, and do they recommend the same movies?

In: a `SweepFit` for each optimizer, learning rate and seed, the exact solver's first. Out: tables,
overlaps, and the answer in words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from embedlab.movies.evaluation.metrics import overlap_at_k, rank_biased_overlap
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import FitResult
from embedlab.progress import Step
from embedlab.wording import cost_as_text, counted
from embedlab_serving.neighbours import Neighbours
from embedlab_serving.titles import TitleIndex

CONVERGED_GAP = 0.1
FAR_GAP = 1.0
STUCK_GAP = 1000.0
MIN_FITS_FOR_CORRELATION = 6
CLEAR_CORRELATION = -0.5


@dataclass(frozen=True)
class SweepFit:
    """One fit of a comparison.

    steps   its epochs, with train/cost.
    gap     final cost over the exact solver's, minus 1; nan if it diverged.
    run_id  of its tracked run.
    """

    options: FitOptions
    seed: int
    fit: FitResult
    steps: Sequence[Step]
    gap: float
    run_id: str

    @property
    def is_exact(self) -> bool:
        return self.options.optimizer == "exact"

    @property
    def has_diverged(self) -> bool:
        return self.fit.has_diverged


def names_of(fits: Sequence[SweepFit]) -> list[str]:
    """The name of each fit: `adam lr=0.1`, with the seed if there are several."""
    several = len({item.seed for item in fits}) > 1
    return [
        item.options.label + (f" seed={item.seed}" if several and not item.is_exact else "")
        for item in fits
    ]


def fit_table(fits: Sequence[SweepFit]) -> pd.DataFrame:
    """A row per fit, in the given order."""
    rows = [
        {
            "fit": name,
            "optimizer": item.options.optimizer,
            "lr": item.options.lr,
            "seed": item.seed,
            "cost": None if item.has_diverged else item.fit.cost,
            "gap": None if item.has_diverged else item.gap,
            "epochs": item.fit.epochs,
            "seconds": item.fit.seconds,
            "status": f"diverged at epoch {item.fit.diverged_at}"
            if item.has_diverged
            else "fitted",
            "run_id": item.run_id,
        }
        for item, name in zip(fits, names_of(fits), strict=True)
    ]
    return pd.DataFrame(rows)


def best_of_each(fits: Sequence[SweepFit]) -> list[SweepFit]:
    """The fit with the lowest cost of every optimizer, in order, without fits that diverged."""
    best: dict[str, SweepFit] = {}
    for item in sorted(fits, key=lambda item: item.fit.cost):
        if not item.has_diverged:
            best.setdefault(item.options.optimizer, item)
    order = dict.fromkeys(item.options.optimizer for item in fits)
    return [best[optimizer] for optimizer in order if optimizer in best]


TopLists = Sequence[np.ndarray | None]
"""For each fit the nearest rows of every query, (n_queries, k); None if it diverged."""


def top_lists(
    fits: Sequence[SweepFit], queries: Sequence[int], titles: TitleIndex, k: int
) -> TopLists:
    """The k nearest rows of every query by inner product, or fewer if a query has fewer. No list
    contains its query, or a duplicate of it."""
    duplicates = [titles.duplicates_of([query]) for query in queries]
    k = max(0, min(k, len(titles.titles) - 1 - max(map(len, duplicates))))

    def lists_of(embedding: np.ndarray) -> np.ndarray:
        neighbours = Neighbours(embedding)
        found = [
            [one.row for one in neighbours.top([query], k, exclude=others)] if k else []
            for query, others in zip(queries, duplicates, strict=True)
        ]
        return np.array(found, int)

    return [None if item.has_diverged else lists_of(item.fit.embedding) for item in fits]


def pairwise(
    lists: TopLists, measure: Callable[[list[int], list[int]], float] = overlap_at_k
) -> np.ndarray:
    """The measure of each pair of fits, mean over the queries: (n_fits, n_fits), nan for None."""
    n = len(lists)
    found = np.full((n, n), np.nan)
    for i, first in enumerate(lists):
        for j, second in enumerate(lists[: i + 1]):
            if first is not None and second is not None:
                pairs = zip(first.tolist(), second.tolist(), strict=True)
                found[i, j] = found[j, i] = np.mean([measure(a, b) for a, b in pairs])
    return found


def pair_table(names: Sequence[str], lists: TopLists) -> pd.DataFrame:
    """A row per pair of fits: overlap@k and rank-biased overlap, mean over the queries."""
    overlap, rbo = pairwise(lists), pairwise(lists, rank_biased_overlap)
    rows = [
        {"first": names[i], "second": names[j], "overlap": overlap[i, j], "rbo": rbo[i, j]}
        for i, j in combinations(range(len(names)), 2)
        if np.isfinite(overlap[i, j])
    ]
    return pd.DataFrame(rows, columns=["first", "second", "overlap", "rbo"])


def recommendation_table(
    names: Sequence[str], lists: TopLists, titles: pd.Series, queries: Sequence[int]
) -> pd.DataFrame:
    """A row per fit, query and rank: the recommended title."""
    rows = [
        {"fit": name, "query": titles.iloc[query], "rank": rank, "title": titles.iloc[row]}
        for name, found in zip(names, lists, strict=True)
        if found is not None
        for query, of_query in zip(queries, found, strict=True)
        for rank, row in enumerate(of_query, start=1)
    ]
    return pd.DataFrame(rows, columns=["fit", "query", "rank", "title"])


def to_markdown(fits: Sequence[SweepFit], lists: TopLists, titles: Sequence[str], data: str) -> str:
    """The answer as Markdown: which optimizer is best, do recommendations change, and why."""
    exact = next(item for item in fits if item.is_exact)
    names = dict(zip(map(id, fits), names_of(fits), strict=True))
    by_cost = sorted(
        (item for item in best_of_each(fits) if not item.is_exact), key=lambda item: item.fit.cost
    )
    lines = [
        f"### Which optimizer? ({data}, dim {exact.options.dim}, "
        f"{counted(exact.options.epochs, 'epoch')})",
        "",
        f"The exact solver's cost is {cost_as_text(exact.fit.cost)}, in {exact.fit.seconds:,.1f} s "
        f"and {counted(exact.fit.epochs, 'round')}. Best of each optimizer, by final cost:",
        "",
        "| fit | cost | against the exact cost | seconds |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {names[id(item)]} | {cost_as_text(item.fit.cost)} | {gap_as_text(item.gap)} it | "
        f"{item.fit.seconds:,.1f} |"
        for item in by_cost
    ]
    diverged = [item for item in fits if item.has_diverged]
    if diverged:
        said = (f"{names[id(item)]} at epoch {item.fit.diverged_at}" for item in diverged)
        lines += ["", f"Diverged: {', '.join(said)}."]
    lines += ["", "### Do the recommendations change?", "", *_about_lists(fits, lists, titles)]
    return "\n".join(lines) + "\n"


def _about_lists(fits: Sequence[SweepFit], lists: TopLists, titles: Sequence[str]) -> list[str]:
    exact = next(i for i, item in enumerate(fits) if item.is_exact)
    reference = lists[exact]  # (n_queries, k)
    if reference is None or reference.shape[1] == 0:
        return ["There is no other movie to recommend."]
    k = reference.shape[1]
    overlap = pairwise(lists)[exact]  # (n_fits,)
    gaps = np.array([item.gap for item in fits])
    others = np.isfinite(overlap) & (np.arange(len(fits)) != exact)
    near, far = others & (gaps <= CONVERGED_GAP), others & (gaps > FAR_GAP)
    said = [f"Top {k} for {'; '.join(titles)}, by inner product, against the exact solver's:", ""]
    for group, words in (
        (near, f"at most {CONVERGED_GAP:.0%} above the exact cost"),
        (others & ~near & ~far, f"{CONVERGED_GAP:.0%} to {FAR_GAP:.0%} above it"),
        (far, f"more than {FAR_GAP:.0%} above it"),
    ):
        if group.any():
            values, n = overlap[group] * k, int(np.count_nonzero(group))
            spread = f" (from {values.min():.1f} to {values.max():.1f})" if n > 1 else ""
            said.append(
                f"- **{counted(n, 'fit')} {words}** {'share' if n > 1 else 'shares'} "
                f"{values.mean():.1f} of {counted(k, 'movie')} with it{spread}."
            )
    said.append("")
    n_others = np.count_nonzero(others)
    if n_others >= MIN_FITS_FOR_CORRELATION and np.ptp(overlap[others]) > 0:
        # The fits share their start and their data, so there is no p-value.
        correlation = spearmanr(gaps[others], overlap[others]).statistic
        falls = correlation < CLEAR_CORRELATION
        said.append(
            f"The overlap {'falls' if falls else 'does not clearly fall'} as the gap grows "
            f"(Spearman's rank correlation {correlation:+.2f} over {n_others} fits)."
        )
    said.append(
        "The cost depends on the inner products v_i·v_j alone: a rotation of all vectors changes "
        "every number in them and no recommendation. The optimizer and its rate decide how near "
        "those products come to the counts in the given epochs."
    )
    stuck = np.flatnonzero(others & (gaps > STUCK_GAP))
    if len(stuck) > 1:
        said += ["", _about_stuck(fits, lists, stuck, overlap)]
    return said


def _about_stuck(
    fits: Sequence[SweepFit], lists: TopLists, stuck: np.ndarray, overlap: np.ndarray
) -> str:
    """Overlaps of the fits that hardly left their start; those of one seed have the same start."""
    among = pairwise([lists[i] for i in stuck])
    seeds = np.array([fits[i].seed for i in stuck])
    of_one_seed = (seeds[:, None] == seeds) & ~np.eye(len(stuck), dtype=bool)
    shares = {
        "with others of the same random start": among[of_one_seed],
        "with others of another start": among[seeds[:, None] != seeds],
        "with the exact solver's": overlap[stuck],
    }
    values = (f"{v.mean():.0%} {words}" for words, v in shares.items() if v.size)
    return (
        f"The {len(stuck)} fits that end at more than {STUCK_GAP:,.0f} times the exact cost have "
        f"hardly left their start, which decides what they recommend: their lists share "
        f"{', '.join(values)}."
    )


def gap_as_text(gap: float) -> str:
    """`0.03% above` or `21 times`; the reference follows."""
    return f"{gap:.2%} above" if gap < FAR_GAP else f"{ratio_as_text(gap + 1)} times"


def ratio_as_text(ratio: float) -> str:
    return cost_as_text(ratio) if ratio >= 100 else f"{ratio:.3g}"
