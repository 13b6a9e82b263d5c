"""`compare.html`: the list of every fit as it approaches the exact solver's, epoch by epoch.

In: an `OptimizerComparison`. Out: the text of a page, with the costs of all fits, and what each
recommended at some epochs for the movies that were asked for.
"""

from itertools import accumulate

from embedlab.movies.sweep.plots import run_colours
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.pages.render import render_page

COST_DIGITS = 6  # more cannot be seen


def comparison_page(compared: OptimizerComparison, caption: str) -> str:
    """`compare.html`; `caption` names the data and the dim."""
    exact, n_asked = compared.exact.result, compared.queries.n_asked
    exact_lists = compared.exact.last_lists[:n_asked]
    others = zip(compared.others, run_colours(compared.fits)[1:], strict=True)
    fits = [_fit_data(compared, fit, colour) for fit, colour in others]
    shown = {row for of_query in exact_lists.tolist() for row in of_query}
    shown |= {row for fit in fits for lists in fit["lists"].values() for q in lists for row in q}
    data = {
        "fits": fits,
        "exact": {"cost": exact.cost, "seconds": exact.seconds, "lists": exact_lists.tolist()},
        "asked": [compared.titles[query] for query in compared.asked],
        "titles": {row: compared.titles[row] for row in sorted(shown)},
        "sampled": compared.queries.n_sampled,
    }
    return render_page("compare.html", data=data, caption=caption, k=compared.queries.k)


def _fit_data(compared: OptimizerComparison, fit: SweepFit, colour: str) -> dict:
    # An epoch's cost is that before its update.
    costs = [record.metrics["train/cost"] for record in fit.history]
    seconds = accumulate((record.seconds or 0.0 for record in fit.history[:-1]), initial=0.0)
    overlaps = compared.sampled_overlaps.get(fit, {}) if compared.queries.n_sampled else {}
    return {
        "name": compared.names[fit],
        "optimizer": fit.optimizer,
        "colour": colour,
        "gap": None if fit.result.has_diverged else compared.gaps[fit],
        "epochs": [record.epoch for record in fit.history],
        "costs": [float(f"{cost:.{COST_DIGITS}g}") for cost in costs],
        "seconds": [round(value, 4) for value in seconds],
        "lists": {} if fit.result.has_diverged else _asked_lists(compared, fit),
        "shares": {epoch: round(overlap, 4) for epoch, (overlap, _) in overlaps.items()},
    }


def _asked_lists(compared: OptimizerComparison, fit: SweepFit) -> dict[int, list]:
    """The rows for each title asked for, by epoch, without epochs at which one was not asked."""
    n = compared.queries.n_asked
    return {
        epoch: lists[:n].tolist()
        for epoch, lists in sorted(fit.lists_by_epoch.items())
        if (lists[:n] >= 0).all()
    }
