"""Comparison of fits of the same likes: which is best, and do they recommend the same movies?

In: a `SweepFit` for each optimizer, learning rate and seed, the exact solver's first. Out: gaps,
overlaps and tables; `summary` words them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import FitResult, relative_gap
from embedlab.movies.sweep.convergence import ListsByEpoch, Queries
from embedlab.movies.sweep.grid import NEW_PREFIX
from embedlab.movies.sweep.overlap import (
    Overlap,
    overlap_at_k,
    rank_biased_overlap,
    sampled_overlap,
)
from embedlab.progress import EpochRecord
from embedlab_serving.titles import TitleIndex


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
    result: FitResult
    history: Sequence[EpochRecord]
    lists_by_epoch: ListsByEpoch
    run_id: str

    @property
    def optimizer(self) -> str:
        return self.options.optimizer

    @property
    def last_lists(self) -> np.ndarray:
        """(n_queries, k) int32 of a fit that did not diverge."""
        return self.lists_by_epoch[self.result.epochs]


class OptimizerComparison:
    """Fits, the exact solver's first, and the movies that each recommends for every query.

    names    the name of each fit: `adam lr=0.1`, with the seed if there are several.
    gaps     each fit's final cost divided by the exact solver's, minus 1; nan if the fit diverged.
    best     each optimizer's fit with the lowest cost, lowest first, without the exact one.
    asked_lists
             for each fit the nearest rows of every movie asked for, (n_asked, k); None if it
             diverged.
    overlap  (n_fits, n_fits) overlap@k of each pair, mean over the movies asked for; nan if one of
             the two diverged.
    sampled_overlaps
             for each other fit that did not diverge, by epoch: the overlap with the exact lists
             over the movies drawn at random.
    """

    def __init__(self, fits: Sequence[SweepFit], index: TitleIndex, queries: Queries):
        self.fits, self.queries = fits, queries
        self.titles = index.titles
        self.asked = queries.rows[: queries.n_asked].tolist()
        self.exact, *self.others = fits
        self.names = {fit: fit.options.label for fit in fits}
        if len({fit.seed for fit in fits}) > 1:
            self.names |= {fit: f"{fit.options.label} seed={fit.seed}" for fit in self.others}
        fitted = [fit for fit in self.others if not fit.result.has_diverged]
        self.gaps = dict.fromkeys(fits, math.nan) | {self.exact: 0.0}
        self.gaps |= {fit: relative_gap(fit.result.cost, self.exact.result.cost) for fit in fitted}
        best: dict[str, SweepFit] = {}
        for fit in sorted(fitted, key=lambda fit: fit.result.cost):
            best.setdefault(fit.optimizer, fit)
        self.best = list(best.values())
        n = queries.n_asked
        self.asked_lists = [None if fit.result.has_diverged else fit.last_lists[:n] for fit in fits]
        self.overlap = _pairwise(self.asked_lists)
        self.sampled_overlaps = {fit: self._overlap_by_epoch(fit) for fit in fitted}

    def _overlap_by_epoch(self, fit: SweepFit) -> dict[int, Overlap]:
        exact = self.exact.last_lists
        return {
            epoch: sampled_overlap(self.queries, lists, exact)
            for epoch, lists in sorted(fit.lists_by_epoch.items())
        }

    def fit_table(self) -> pd.DataFrame:
        """A row per fit, in the given order."""
        rows = []
        for fit in self.fits:
            result, has_diverged = fit.result, fit.result.has_diverged
            row = {
                "fit": self.names[fit],
                "optimizer": fit.optimizer,
                "lr": fit.options.lr,
                "seed": fit.seed,
                "cost": math.nan if has_diverged else result.cost,
                "gap": self.gaps[fit],
                "epochs": result.epochs,
                "seconds": result.seconds,
                "status": f"diverged at epoch {result.diverged_at}" if has_diverged else "fitted",
                "run_id": fit.run_id,
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def best_metrics(self) -> dict[str, float]:
        """The lowest cost of a fit, its gap, and its overlap over the movies drawn at random."""
        if not self.best:
            return {}
        best = self.best[0]
        overlap = self.sampled_overlaps[best][best.result.epochs]
        metrics = {"cost": best.result.cost, "gap": self.gaps[best], "overlap_random": overlap.mean}
        return {f"best/{name}": value for name, value in metrics.items()}

    def pair_table(self) -> pd.DataFrame:
        """A row per pair of fits: overlap@k and rank-biased overlap, mean over movies asked for."""
        rbo = _pairwise(self.asked_lists, rank_biased_overlap)
        names = list(self.names.values())
        rows = [
            (names[i], names[j], self.overlap[i, j], rbo[i, j])
            for i, j in combinations(range(len(names)), 2)
            if np.isfinite(rbo[i, j])
        ]
        return pd.DataFrame(rows, columns=["first", "second", "overlap", "rbo"])

    def recommendation_table(self) -> pd.DataFrame:
        """A row per movie asked for and rank, a column per fit that did not diverge: titles.

        A title that the exact solver does not recommend for that movie begins with NEW_PREFIX.
        """
        exact = self.exact.last_lists[: self.queries.n_asked]
        ranks = range(1, self.queries.k + 1)
        columns = {
            "query": [self.titles[query] for query in self.asked for _ in ranks],
            "rank": [rank for _ in self.asked for rank in ranks],
        }
        for name, lists in zip(self.names.values(), self.asked_lists, strict=True):
            if lists is not None:
                columns[name] = [
                    ("" if row in exact_list else NEW_PREFIX) + self.titles[row]
                    for fit_list, exact_list in zip(lists, exact, strict=True)
                    for row in fit_list
                ]
        return pd.DataFrame(columns)


def _pairwise(
    lists: Sequence[np.ndarray | None],
    measure: Callable[[list[int], list[int]], float] = overlap_at_k,
) -> np.ndarray:
    """The measure of each pair of fits' lists, mean over the movies: (n, n), nan for None."""
    means = np.full((len(lists), len(lists)), np.nan)
    for i, first in enumerate(lists):
        for j, second in enumerate(lists[: i + 1]):
            if first is not None and second is not None:
                pairs = zip(first.tolist(), second.tolist(), strict=True)
                means[i, j] = means[j, i] = np.mean([measure(a, b) for a, b in pairs])
    return means
