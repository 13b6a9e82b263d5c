"""Figures of a comparison of fits: cost curves, gaps, and the overlap of recommendations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from embedlab.formatting import cost_as_text, percent, signed_gap_as_text
from embedlab.movies.plots import draw_costs, finish_costs
from embedlab.movies.solvers.result import relative_gap
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.plotting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    TEAL,
    heat_map,
    new_figure,
    new_panel,
    tidy,
)

MIN_GAP = 1e-6  # on a logarithmic scale
OPTIMIZER_COLOURS = {
    "adam": BLUE,
    "rmsprop": ORANGE,
    "sgd": GREEN,
    "lbfgs": PURPLE,
    "adamw": TEAL,
}
OPTIMIZER_MARKERS = {"adam": "o", "rmsprop": "s", "sgd": "^", "lbfgs": "D", "adamw": "v"}
MAX_COST_RATIO_SHOWN = 20  # times the largest starting cost: a spike must not flatten the others


def comparison_figures(comparison: OptimizerComparison, caption: str) -> dict[str, Figure]:
    """Every figure of a comparison, by name; `caption` names the data and the dim in titles."""
    k = comparison.queries.k
    return {
        "costs": plot_costs(comparison, f"Cost by epoch of every learning rate: {caption}"),
        "best": plot_best_curves(
            comparison, f"The best learning rate of each optimizer: {caption}"
        ),
        "gap": plot_gap_heat_map(comparison, f"Final cost above the exact one: {caption}"),
        "overlap": plot_overlap_heat_map(comparison, f"Top {k} in common, mean over the titles"),
        "overlap_by_gap": plot_overlap_by_gap(
            comparison, f"Nearer to the exact cost, nearer to its top {k}: {caption}"
        ),
    }


def run_colours(fits: Sequence[SweepFit]) -> list[str]:
    """`#rrggbb` of each fit: one hue per optimizer, lighter for each smaller learning rate."""
    colours = []
    for fit in fits:
        rates = {other.options.lr or 0.0 for other in fits if other.optimizer == fit.optimizer}
        largest_first = sorted(rates, reverse=True)
        lightness = 0.7 * largest_first.index(fit.options.lr or 0.0) / len(largest_first)
        hue = OPTIMIZER_COLOURS.get(fit.optimizer, GREY)
        to_white = LinearSegmentedColormap.from_list(fit.optimizer, [hue, "white"])
        colours.append(to_hex(to_white(lightness)))
    return colours


def plot_costs(comparison: OptimizerComparison, title: str) -> Figure:
    """The cost before each update: one panel per optimizer, one line per fit.

    The axis ends at MAX_COST_RATIO_SHOWN times the largest starting cost. A cross marks the end of
    a fit that diverged, at the upper edge if its last cost is above the axis.
    """
    names = list(dict.fromkeys(fit.optimizer for fit in comparison.others))
    figure = new_figure(max(6.0, 3.4 * len(names)), 4.6)
    figure.suptitle(title)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    starts = [fit.history[0].metrics["train/cost"] for fit in comparison.others if fit.history]
    top = MAX_COST_RATIO_SHOWN * max(starts, default=comparison.exact.result.cost)
    colours = dict(zip(comparison.fits, run_colours(comparison.fits), strict=True))
    for axes, name in zip(panels, names, strict=True):
        optimizer_fits = [fit for fit in comparison.others if fit.optimizer == name]
        for fit in optimizer_fits:
            end = "diverged" if fit.result.has_diverged else cost_as_text(fit.result.cost)
            label = f"{comparison.names[fit].removeprefix(f'{name} lr=')}: {end}"
            draw_costs(axes, fit.history, colours[fit], label)
            if fit.result.has_diverged and fit.history:
                last = fit.history[-1]
                y = min(last.metrics["train/cost"], top)
                style = {"color": colours[fit], "markersize": 9, "markeredgewidth": 2}
                axes.plot(last.epoch, y, "x", clip_on=False, **style)
        finish_costs(axes, comparison.exact.result.cost)
        axes.legend(title="rate: final cost", loc="upper center", bbox_to_anchor=(0.5, -0.16))
        axes.get_legend().set(frame_on=False)
        axes.set(title=name, ylabel="cost" if name == names[0] else "", yscale="log")
        tidy(axes)
    bottom = min(fit.result.cost for fit in comparison.fits if not fit.result.has_diverged)
    panels[0].set_ylim(max(bottom, MIN_GAP) * 0.8, top)
    return figure


def plot_best_curves(comparison: OptimizerComparison, title: str) -> Figure:
    """The best fit of each optimizer: cost by epoch and by seconds, the exact fit as a star."""
    figure = new_figure(12, 5)
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    exact = comparison.exact.result
    for axes, x in zip(panels, ("epoch", "seconds of computing"), strict=True):
        in_seconds = x != "epoch"
        for fit in comparison.best:
            name = fit.optimizer
            label = f"{comparison.names[fit]}: {cost_as_text(fit.result.cost)}"
            draw_costs(axes, fit.history, OPTIMIZER_COLOURS[name], label, in_seconds=in_seconds)
            axes.lines[-1].set(marker=OPTIMIZER_MARKERS[name], markevery=[-1], linewidth=1.6)
        if in_seconds:
            style = {"color": GREY, "markersize": 13, "markeredgecolor": "white"}
            axes.plot(max(exact.seconds, 1e-3), exact.cost, "*", zorder=5, **style)
            axes.set_xscale("log")
        finish_costs(axes, exact.cost, x)
        tidy(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    labels[-1] += f" in {exact.seconds:.1f} s (★)"
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_gap_heat_map(comparison: OptimizerComparison, title: str) -> Figure:
    """Heat map, optimizer by learning rate: the final cost above the exact one, mean over seeds.

    A cell is a learning rate of its row's optimizer, the largest on the left. It shows `diverged`
    if the fit of any seed diverged.
    """
    table = comparison.fit_table()[1:]
    gaps = table.groupby(["optimizer", "lr"], sort=False)["gap"]
    gaps = gaps.agg(lambda by_seed: by_seed.mean(skipna=False)).reset_index()
    names = list(gaps["optimizer"].unique())
    row, column = gaps["optimizer"].map(names.index), gaps.groupby("optimizer").cumcount()
    cells = np.full((len(names), column.max() + 1), np.nan)
    cells[row, column] = gaps["gap"].clip(lower=MIN_GAP)
    texts = np.full(cells.shape, "", object)
    texts[row, column] = [f"lr {lr:g}\n{signed_gap_as_text(gap)}" for _, lr, gap in gaps.to_numpy()]
    # Title and colour bar need their room, however few the cells.
    size = max(6.0, 2.2 + 1.6 * cells.shape[1]), max(3.2, 1.6 + 0.8 * len(names))
    norm = LogNorm(1e-4, 1e4, clip=True)
    figure, axes = heat_map(size, cells, "above the exact cost", norm, texts)
    figure.axes[-1].yaxis.set_major_formatter(lambda share, _: percent(share))
    axes.set_yticks(range(len(names)), names)
    axes.set(title=title, xlabel="learning rate, largest first", xticks=[])
    return figure


def plot_overlap_heat_map(comparison: OptimizerComparison, title: str) -> Figure:
    """The overlap of each pair of fits, the exact one first, then by cost.

    Fits that diverged recommend nothing and are left out.
    """
    order = sorted(
        (i for i, fit in enumerate(comparison.fits) if not fit.result.has_diverged),
        key=lambda i: (comparison.fits[i] is not comparison.exact, comparison.fits[i].result.cost),
    )
    overlap = comparison.overlap[np.ix_(order, order)]
    overlap = np.where(np.tri(len(order), dtype=bool), overlap, np.nan)
    names = [comparison.names[comparison.fits[i]] for i in order]
    texts = np.array([["" if np.isnan(v) else f"{v:.0%}" for v in row] for row in overlap])
    side = 3.5 + 0.42 * len(names)
    label = "share of the top list in common"
    figure, axes = heat_map((side + 1, side), overlap, label, Normalize(0, 1), texts, names)
    axes.set_facecolor("none")  # each pair has one cell
    axes.set_title(f"{title}; fits by final cost")
    return figure


def plot_overlap_by_gap(comparison: OptimizerComparison, title: str) -> Figure:
    """Overlap with the exact lists, over the drawn movies, against the gap to the exact cost.

    Each fit is a path from its start, on the right, to its end, a point with an interval.
    """
    figure, axes = new_panel(
        width=9,
        height=5.4,
        title=title,
        xlabel="cost above the exact one",
        ylabel="movies in common with the exact lists",
        xscale="log",
        ylim=(-0.03, 1.05),
    )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    named: set[str] = set()
    exact_cost = comparison.exact.result.cost
    for fit, by_epoch in comparison.sampled_overlaps.items():
        name, colour = fit.optimizer, OPTIMIZER_COLOURS[fit.optimizer]
        costs = {record.epoch: record.metrics["train/cost"] for record in fit.history}
        costs[fit.result.epochs] = fit.result.cost
        x = [max(relative_gap(costs[epoch], exact_cost), MIN_GAP) for epoch in by_epoch]
        y = [overlap.mean for overlap in by_epoch.values()]
        margin = by_epoch[fit.result.epochs].margin
        axes.plot(x, y, color=colour, linewidth=1, alpha=0.5)
        axes.errorbar(x[-1], y[-1], margin, color=colour, fmt="none", zorder=3)
        marker = OPTIMIZER_MARKERS[name]
        end = axes.scatter(x[-1:], y[-1:], 64, colour, marker=marker, edgecolors="white", zorder=4)
        end.set_label("" if name in named else name)  # once in the legend
        named.add(name)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_formatter(lambda share, _: percent(share))
    if comparison.sampled_overlaps:
        n_sampled = comparison.queries.n_sampled
        key = f"end of each fit, mean over {n_sampled} movies\nwith its 95% interval; lines: epochs"
        axes.legend(frameon=False, title=key)
    return figure
