"""Comparison of fits of the same likes: which is best, and do they recommend the same movies?

In: a `SweepFit` for each optimizer, learning rate and seed, the exact solver's first. Out: tables,
overlaps, and the answer as text.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from embedlab.formatting import FAR_GAP, as_markdown, cost_as_text, counted, gap_as_text
from embedlab.movies.evaluation.metrics import overlap_at_k, rank_biased_overlap
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import FitResult, relative_gap
from embedlab.movies.sweep.convergence import MIN_MOVIE_LIKES, Lists, Queries, sampled_overlap
from embedlab.movies.sweep.grid import NEW_PREFIX
from embedlab.progress import EpochRecord
from embedlab_serving.titles import TitleIndex

CONVERGED_GAP = 0.1
STUCK_GAP = 1000.0
MIN_FITS_FOR_CORRELATION = 6
CLEAR_CORRELATION = -0.5
FIT_COLUMNS = (
    "fit", "optimizer", "lr", "seed", "cost",
    "gap", "epochs", "seconds", "status", "run_id",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class SweepFit:
    """One fit of a comparison.

    history  its epochs, with train/cost.
    lists_by_epoch
             what it recommended at some epochs, the last one among them; none if it diverged.
    run_id   of its tracked run.
    """

    options: FitOptions
    seed: int
    fit: FitResult
    history: Sequence[EpochRecord]
    lists_by_epoch: Lists
    run_id: str

    @property
    def optimizer(self) -> str:
        return self.options.optimizer

    @property
    def last_lists(self) -> np.ndarray:
        """(n_queries, k) int32 of a fit that did not diverge."""
        return self.lists_by_epoch[self.fit.epochs]


class OptimizerComparison:
    """Fits, the exact solver's first, and the movies that each recommends for every query.

    names    the name of each fit: `adam lr=0.1`, with the seed if there are several.
    gaps     each fit's final cost over the exact solver's, minus 1; nan if it diverged.
    best     each optimizer's fit with the lowest cost, lowest first, without the exact one.
    final_lists
             for each fit the nearest rows of every movie asked for, (n_asked, k); None if it
             diverged.
    overlap  (n_fits, n_fits) overlap@k of each pair, mean over the queries; nan if one diverged.
    sampled  for each other fit that did not diverge, by epoch: the overlap with the exact lists
             over the movies drawn at random, and half of its interval.

    The lists have fewer than k rows if some query has fewer neighbours.
    """

    def __init__(self, fits: Sequence[SweepFit], titles: TitleIndex, queries: Queries):
        self.fits, self.titles, self.queries = fits, titles.titles, queries
        self.asked = queries.rows[: queries.n_asked].tolist()
        self.exact, *self.others = fits
        self.names = {item: item.options.label for item in fits}
        if len({item.seed for item in fits}) > 1:
            self.names |= {item: f"{item.options.label} seed={item.seed}" for item in self.others}
        fitted = [item for item in self.others if not item.fit.has_diverged]
        self.gaps = dict.fromkeys(fits, math.nan) | {self.exact: 0.0}
        self.gaps |= {item: relative_gap(item.fit.cost, self.exact.fit.cost) for item in fitted}
        best: dict[str, SweepFit] = {}
        for item in sorted(fitted, key=lambda item: item.fit.cost):
            best.setdefault(item.optimizer, item)
        self.best = list(best.values())
        n = queries.n_asked
        self.final_lists = [None if item.fit.has_diverged else item.last_lists[:n] for item in fits]
        self.overlap = _pairwise(self.final_lists)
        self.sampled = {item: self._sampled_overlaps(item) for item in fitted}

    def _sampled_overlaps(self, item: SweepFit) -> dict[int, tuple[float, float]]:
        lists, exact = sorted(item.lists_by_epoch.items()), self.exact.last_lists
        return {epoch: sampled_overlap(self.queries, found, exact) for epoch, found in lists}

    def fit_table(self) -> pd.DataFrame:
        """A row per fit, in the given order."""
        rows = []
        for item, name in self.names.items():
            fit, cost, status = item.fit, item.fit.cost, "fitted"
            if item.fit.has_diverged:
                cost, status = math.nan, f"diverged at epoch {fit.diverged_at}"
            leading = name, item.optimizer, item.options.lr, item.seed, cost, self.gaps[item]
            rows.append((*leading, fit.epochs, fit.seconds, status, item.run_id))
        return pd.DataFrame(rows, columns=FIT_COLUMNS)

    def best_metrics(self) -> dict[str, float]:
        """Cost, gap and overlap over the drawn movies of the fit with the lowest cost."""
        if not self.best:
            return {}
        best = self.best[0]
        share, _ = self.sampled[best][best.fit.epochs]
        metrics = {"cost": best.fit.cost, "gap": self.gaps[best], "overlap_random": share}
        return {f"best/{name}": value for name, value in metrics.items()}

    def pair_table(self) -> pd.DataFrame:
        """A row per pair of fits: overlap@k and rank-biased overlap, mean over the queries."""
        rbo, names = _pairwise(self.final_lists, rank_biased_overlap), list(self.names.values())
        rows = [
            (names[i], names[j], self.overlap[i, j], rbo[i, j])
            for i, j in combinations(range(len(names)), 2)
            if np.isfinite(rbo[i, j])
        ]
        return pd.DataFrame(rows, columns=["first", "second", "overlap", "rbo"])

    def recommendation_table(self) -> pd.DataFrame:
        """A row per query and rank, a column per fit that did not diverge: the recommended titles.

        A title that is not in the exact solver's list for the query begins with NEW_PREFIX.
        """
        exact = self.exact.last_lists[: self.queries.n_asked]
        ranks = range(1, self.queries.k + 1)
        columns = {
            "query": [self.titles[query] for query in self.asked for _ in ranks],
            "rank": [rank for _ in self.asked for rank in ranks],
        }
        for name, found in zip(self.names.values(), self.final_lists, strict=True):
            if found is not None:
                columns[name] = [
                    ("" if row in of_exact else NEW_PREFIX) + self.titles[row]
                    for of_query, of_exact in zip(found, exact, strict=True)
                    for row in of_query
                ]
        return pd.DataFrame(columns)

    def to_markdown(self, data: str) -> str:
        """The answer as Markdown: which optimizer is best, do recommendations change, and why."""
        options, fit = self.exact.options, self.exact.fit
        lines = [
            f"### Which optimizer? ({data}, dim {options.dim}, {counted(options.epochs, 'epoch')})",
            "",
            f"The exact solver's cost is {cost_as_text(fit.cost)}, in {fit.seconds:,.1f} s "
            f"and {counted(fit.epochs, 'round')}. Best of each optimizer, by final cost:",
            "",
            "| fit | cost | against the exact cost | seconds |",
            "| --- | ---: | ---: | ---: |",
        ]
        for item in self.best:
            cost, gap = cost_as_text(item.fit.cost), gap_as_text(self.gaps[item])
            lines.append(f"| {self.names[item]} | {cost} | {gap} it | {item.fit.seconds:,.1f} |")
        diverged = [item for item in self.fits if item.fit.has_diverged]
        if diverged:
            ends = (f"{self.names[item]} at epoch {item.fit.diverged_at}" for item in diverged)
            lines += ["", f"Diverged: {', '.join(ends)}."]
        lines += ["", "### Do the recommendations change?", "", *self._about_lists()]
        return "\n".join(lines) + "\n"

    def _about_lists(self) -> Iterator[str]:
        """Lines on the overlap of the lists with the exact solver's, by gap."""
        if not (k := self.queries.k):
            yield "There is no other movie to recommend."
            return
        titles = as_markdown("; ".join(self.titles[query] for query in self.asked))
        yield from (f"Top {k} for {titles}, by inner product, against the exact solver's:", "")
        overlap = self.overlap[0]  # (n_fits,)
        # (n_fits,); a gap of nan, like the exact fit's here, is in no group.
        gaps = np.array([math.nan, *(self.gaps[item] for item in self.others)])
        converged, far = f"{CONVERGED_GAP:.0%}", f"{FAR_GAP:.0%}"
        for group, words in (
            (gaps <= CONVERGED_GAP, f"at most {converged} above the exact cost"),
            ((gaps > CONVERGED_GAP) & (gaps <= FAR_GAP), f"{converged} to {far} above it"),
            (gaps > FAR_GAP, f"more than {far} above it"),
        ):
            if group.any():
                values, n = overlap[group] * k, int(group.sum())
                spread = f" (from {values.min():.1f} to {values.max():.1f})" if n > 1 else ""
                yield (
                    f"- **{counted(n, 'fit')} {words}** {'share' if n > 1 else 'shares'} "
                    f"{values.mean():.1f} of {counted(k, 'movie')} with it{spread}."
                )
        yield ""
        if self.sampled and self.queries.n_sampled:
            last = {item: by_epoch[item.fit.epochs] for item, by_epoch in self.sampled.items()}
            best, (share, half) = max(last.items(), key=lambda item: item[1][0])
            n_sampled = counted(self.queries.n_sampled, "movie")
            yield (
                f"Over {n_sampled} drawn at random from those with at least {MIN_MOVIE_LIKES} "
                f"likes, {self.names[best]} shares most: {share * k:.1f} ± {half * k:.1f} of "
                f"{counted(k, 'movie')}."
            )
        known = np.isfinite(gaps)
        if known.sum() >= MIN_FITS_FOR_CORRELATION and np.ptp(overlap[known]) > 0:
            # The fits share their start and their data, so there is no p-value.
            correlation = spearmanr(gaps[known], overlap[known]).statistic
            falls = "falls" if correlation < CLEAR_CORRELATION else "does not clearly fall"
            yield (
                f"The overlap {falls} as the gap grows "
                f"(Spearman's rank correlation {correlation:+.2f} over {known.sum()} fits)."
            )
        yield (
            "The cost depends on the inner products v_i·v_j alone: a rotation of all vectors "
            "changes every number in them and no recommendation. The optimizer and its rate decide "
            "how near those products come to the counts in the given epochs."
        )
        yield from self._about_stuck(np.flatnonzero(gaps > STUCK_GAP))

    def _about_stuck(self, stuck: np.ndarray) -> Iterator[str]:
        """Lines on fits, by number, that have hardly left their start."""
        if len(stuck) < 2:
            return
        first, second = np.transpose([*combinations(stuck, 2)])
        among, seeds = self.overlap[first, second], np.array([item.seed for item in self.fits])
        has_same_start = seeds[first] == seeds[second]
        shares = {
            "with others of the same random start": among[has_same_start],
            "with others of another start": among[~has_same_start],
            "with the exact solver's": self.overlap[0, stuck],
        }
        means = (f"{v.mean():.0%} {words}" for words, v in shares.items() if v.size)
        yield ""
        yield (
            f"The {len(stuck)} fits that end at more than {STUCK_GAP:,.0f} times the exact cost "
            "have hardly left their start, which decides what they recommend: their lists share "
            f"{', '.join(means)}."
        )


def _pairwise(
    lists: Sequence[np.ndarray | None],
    measure: Callable[[list[int], list[int]], float] = overlap_at_k,
) -> np.ndarray:
    """The measure of each pair of lists, mean over the queries: (n, n), nan for None."""
    found = np.full((len(lists), len(lists)), np.nan)
    for i, first in enumerate(lists):
        for j, second in enumerate(lists[: i + 1]):
            if first is not None and second is not None:
                pairs = zip(first.tolist(), second.tolist(), strict=True)
                found[i, j] = found[j, i] = np.mean([measure(a, b) for a, b in pairs])
    return found
