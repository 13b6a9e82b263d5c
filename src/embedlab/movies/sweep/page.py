"""`compare.html`: watch the list of every fit approach the exact solver's, epoch by epoch.

In: a `Comparison`. Out: the text of a page, with the costs of all fits, and what each recommended
at the watched epochs for the movies that were asked for.
"""

from embedlab.movies.sweep.plots import run_colours
from embedlab.movies.sweep.results import Comparison, SweepFit
from embedlab.pages import render_page

DIGITS = 6  # of a cost: more cannot be seen


def comparison_page(compared: Comparison, about: str) -> str:
    """`compare.html`; `about` names the data and the dim."""
    exact, exact_lists = compared.exact.fit, compared.lists[0]
    assert exact_lists is not None, "the exact fit does not diverge"
    fits = [
        _fit_data(compared, position, colour)
        for position, colour in enumerate(run_colours(compared.fits))
        if position
    ]
    shown = {row for of_query in exact_lists.tolist() for row in of_query}
    shown |= {row for fit in fits for lists in fit["lists"].values() for q in lists for row in q}
    n_drawn = len(compared.watch.queries) - compared.watch.n_asked
    data = {
        "fits": fits,
        "exact": {"cost": exact.cost, "seconds": exact.seconds, "lists": exact_lists.tolist()},
        "asked": [compared.titles[query] for query in compared.queries],
        "titles": {row: compared.titles[row] for row in sorted(shown)},
        "drawn": n_drawn,
    }
    return render_page("compare.html", data=data, about=about, n_drawn=n_drawn, k=compared.watch.k)


def _fit_data(compared: Comparison, position: int, colour: str) -> dict:
    item = compared.fits[position]
    seconds = [0.0]
    for step in item.steps[:-1]:  # an epoch's cost is that before its update
        seconds.append(seconds[-1] + (step.seconds or 0.0))
    return {
        "name": compared.names[item],
        "optimizer": item.optimizer,
        "lr": f"{item.options.lr:g}",
        "colour": colour,
        "gap": None if item.has_diverged else item.gap,
        "epochs": [step.epoch for step in item.steps],
        "costs": [float(f"{step.metrics['train/cost']:.{DIGITS}g}") for step in item.steps],
        "seconds": [round(value, 4) for value in seconds],
        "lists": _asked_lists(compared, item, position),
        "shares": {e: round(share, 4) for e, share in _shares(compared, item).items()},
    }


def _asked_lists(compared: Comparison, item: SweepFit, position: int) -> dict[int, list]:
    """The rows for each title asked for, by epoch, without epochs at which one was not asked."""
    final = compared.lists[position]
    if final is None:
        return {}
    n, length = compared.watch.n_asked, final.shape[1]
    by_epoch = {epoch: lists[:n, :length] for epoch, lists in sorted(item.lists.items())}
    known = {epoch: lists for epoch, lists in by_epoch.items() if (lists >= 0).all()}
    return {epoch: lists.tolist() for epoch, lists in {**known, item.fit.epochs: final}.items()}


def _shares(compared: Comparison, item: SweepFit) -> dict[int, float]:
    if item.has_diverged or len(compared.watch.queries) == compared.watch.n_asked:
        return {}
    return {**compared.drawn_by_epoch[item], item.fit.epochs: compared.drawn[item][0]}
