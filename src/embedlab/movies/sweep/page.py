"""`compare.html`: the list of every fit as it approaches the exact solver's, epoch by epoch.

In: an `OptimizerComparison`. Out: the text of a page, with the costs of all fits, and what each
recommended at some epochs for the movies that were asked for.
"""

from itertools import accumulate

from embedlab.movies.sweep.plots import run_colours
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.pages.render import render_page

DIGITS = 6  # of a cost: more cannot be seen


def comparison_page(compared: OptimizerComparison, caption: str) -> str:
    """`compare.html`; `caption` names the data and the dim."""
    exact, n_asked = compared.exact.fit, compared.queries.n_asked
    exact_lists = compared.exact.last_lists[:n_asked]
    others = zip(compared.others, run_colours(compared.fits)[1:], strict=True)
    fits = [_fit_data(compared, item, colour) for item, colour in others]
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


def _fit_data(compared: OptimizerComparison, item: SweepFit, colour: str) -> dict:
    # An epoch's cost is that before its update.
    seconds = accumulate((record.seconds or 0.0 for record in item.history[:-1]), initial=0.0)
    shares = compared.sampled.get(item, {}) if compared.queries.n_sampled else {}
    return {
        "name": compared.names[item],
        "optimizer": item.optimizer,
        "colour": colour,
        "gap": None if item.fit.has_diverged else compared.gaps[item],
        "epochs": [record.epoch for record in item.history],
        "costs": [float(f"{record.metrics['train/cost']:.{DIGITS}g}") for record in item.history],
        "seconds": [round(value, 4) for value in seconds],
        "lists": {} if item.fit.has_diverged else _asked_lists(compared, item),
        "shares": {epoch: round(share, 4) for epoch, (share, _) in shares.items()},
    }


def _asked_lists(compared: OptimizerComparison, item: SweepFit) -> dict[int, list]:
    """The rows for each title asked for, by epoch, without epochs at which one was not asked."""
    n = compared.queries.n_asked
    return {
        epoch: lists[:n].tolist()
        for epoch, lists in sorted(item.lists_by_epoch.items())
        if (lists[:n] >= 0).all()
    }
