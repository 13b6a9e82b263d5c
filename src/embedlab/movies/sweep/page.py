"""`compare.html`: the list of every fit as it approaches the exact solver's, epoch by epoch.

In: an `OptimizerComparison`. Out: the text of a page, with the costs of all fits, and the movies
that each fit recommended at some epochs for the titles asked for.
"""

from itertools import accumulate

from embedlab.movies.sweep.plots import run_colours
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.pages.render import render_page

COST_DIGITS = 6  # more cannot be seen


def comparison_page(comparison: OptimizerComparison, caption: str) -> str:
    """`compare.html`; `caption` names the data and the dim."""
    exact, n_asked = comparison.exact.result, comparison.queries.n_asked
    exact_lists = comparison.exact.last_lists[:n_asked]
    others = zip(comparison.others, run_colours(comparison.fits)[1:], strict=True)
    fits = [_fit_data(comparison, fit, colour) for fit, colour in others]
    shown = {row for query_list in exact_lists.tolist() for row in query_list}
    shown |= {row for fit in fits for lists in fit["lists"].values() for q in lists for row in q}
    data = {
        "fits": fits,
        "exact": {"cost": exact.cost, "seconds": exact.seconds, "lists": exact_lists.tolist()},
        "asked": [comparison.titles[query] for query in comparison.asked],
        "titles": {row: comparison.titles[row] for row in sorted(shown)},
        "sampled": comparison.queries.n_sampled,
    }
    return render_page("compare.html", data=data, caption=caption, k=comparison.queries.k)


def _fit_data(comparison: OptimizerComparison, fit: SweepFit, colour: str) -> dict:
    """What `compare.js` shows of a fit: curve, lists, and their overlap with the exact lists."""
    # The cost of an epoch is the cost before its update.
    costs = [record.metrics["train/cost"] for record in fit.history]
    seconds = accumulate((record.seconds or 0.0 for record in fit.history[:-1]), initial=0.0)
    overlaps = comparison.sampled_overlaps.get(fit, {}) if comparison.queries.n_sampled else {}
    return {
        "name": comparison.names[fit],
        "optimizer": fit.optimizer,
        "colour": colour,
        "gap": None if fit.result.has_diverged else comparison.gaps[fit],
        "epochs": [record.epoch for record in fit.history],
        "costs": [float(f"{cost:.{COST_DIGITS}g}") for cost in costs],
        "seconds": [round(value, 4) for value in seconds],
        "lists": {} if fit.result.has_diverged else _asked_lists_by_epoch(comparison, fit),
        "shares": {epoch: round(overlap.mean, 4) for epoch, overlap in overlaps.items()},
    }


def _asked_lists_by_epoch(comparison: OptimizerComparison, fit: SweepFit) -> dict[int, list]:
    """The recommended rows for each title asked for, by epoch; incomplete epochs are left out."""
    n = comparison.queries.n_asked
    return {
        epoch: lists[:n].tolist()
        for epoch, lists in sorted(fit.lists_by_epoch.items())
        if (lists[:n] >= 0).all()
    }
