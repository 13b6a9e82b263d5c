"""A comparison of toy fits of four movies."""

from dataclasses import replace

import numpy as np

from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import FitResult
from embedlab.movies.sweep.convergence import choose_queries
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.progress import EpochRecord
from embedlab_serving.titles import TitleIndex


def made_fit(optimizer, lr, cost, embedding, seed=0, diverged_at=None) -> SweepFit:
    fit = FitResult(np.array(embedding, np.float32), cost, 2, 0.5, diverged_at)
    history = [EpochRecord(0, {"train/cost": 2 * cost}, 0.1), EpochRecord(1, {"train/cost": cost})]
    options = FitOptions(optimizer, lr, dim=2)
    return SweepFit(options, seed, fit, history, {}, f"run-{optimizer}{lr}")


# Movies 0 and 1 belong together, and so do 2 and 3; TURNED are the same vectors, rotated by 90°.
BLOCKS = [[3, 0], [2, 0], [0, 3], [0, 2]]
TURNED = [[0, 3], [0, 2], [-3, 0], [-2, 0]]
MIXED = [[3, 0], [0, 2], [2, 0], [0, 3]]
FOUR = TitleIndex(["A", "B", "C", "D"])


def compare(fits, titles, asked, k) -> OptimizerComparison:
    """Compare fits for these rows; none are drawn at random, because no toy movie has likes."""
    queries = choose_queries(titles, np.zeros(4), asked, k)
    last = [
        {} if r.has_diverged else {r.epochs: queries.recommend(r.embedding)}
        for r in (fit.result for fit in fits)
    ]
    fits = [replace(fit, lists_by_epoch=lists) for fit, lists in zip(fits, last, strict=True)]
    return OptimizerComparison(fits, titles, queries)


def four_fits() -> list[SweepFit]:
    """A fixture: the exact one, one like it, one unlike it, and one that diverged."""
    return [
        made_fit("exact", None, 100, BLOCKS),
        made_fit("adam", 1.0, 101, TURNED),
        made_fit("adam", 0.1, 900, MIXED),
        made_fit("sgd", 1.0, 50, BLOCKS, diverged_at=3),
    ]
