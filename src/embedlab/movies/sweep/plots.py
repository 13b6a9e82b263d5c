"""Figures of a comparison of fits: cost curves, gaps, and the overlap of recommendations."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from embedlab.movies.plots import draw_costs, finish_costs
from embedlab.movies.sweep.results import Comparison, SweepFit, ratio_as_text
from embedlab.plotting import BLUE, GREEN, GREY, ORANGE, heat_map, new_figure, new_panel, tidy
from embedlab.wording import cost_as_text

MIN_GAP = 1e-6  # on a logarithmic scale
OPTIMIZER_COLOURS = {
    "adam": BLUE,
    "rmsprop": ORANGE,
    "sgd": GREEN,
    "lbfgs": "#8e44ad",
    "adamw": "#17a2b8",
}


def comparison_figures(fits: Comparison, about: str, k: int) -> dict[str, Figure]:
    """Every figure of a comparison, by name; `about` names the data and the dim in titles."""
    optimizers = dict.fromkeys(item.optimizer for item in fits.others)
    return {
        **{f"cost_{name}": plot_cost_by_epoch(fits, name, about) for name in optimizers},
        "best": plot_best_curves(fits, f"Best of each: {about}"),
        "gap": plot_gap_heat_map(fits, f"Final cost above the exact one: {about}"),
        "overlap": plot_overlap_heat_map(fits, f"Top {k} in common, mean over the titles"),
        "overlap_by_gap": plot_overlap_by_gap(
            fits, f"Nearer to the exact cost, nearer to its top {k}?"
        ),
    }


def run_colours(fits: Sequence[SweepFit]) -> list[str]:
    """`#rrggbb` of each fit: a hue an optimizer, lighter for each smaller learning rate."""
    rates: dict[str, list[float]] = {}
    for item in fits:
        rates.setdefault(item.optimizer, []).append(item.options.lr or 0.0)
    colours = []
    for item in fits:
        largest_first = sorted(set(rates[item.optimizer]), reverse=True)
        lightness = 0.7 * largest_first.index(item.options.lr or 0.0) / len(largest_first)
        hue = OPTIMIZER_COLOURS.get(item.optimizer, GREY)
        to_white = LinearSegmentedColormap.from_list(item.optimizer, [hue, "white"])
        colours.append(to_hex(to_white(lightness)))
    return colours


def plot_cost_by_epoch(fits: Comparison, optimizer: str, about: str) -> Figure:
    """The cost before each update of one optimizer's fits: a colour a learning rate, a line a
    seed, a cross where a fit diverged."""
    figure, axes = new_panel(7.5, 4.5, title=f"{optimizer}: {about}")
    by_rate: dict[float | None, list[SweepFit]] = {}
    for item in fits.others:
        if item.optimizer == optimizer:
            by_rate.setdefault(item.options.lr, []).append(item)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(by_rate)))
    for (lr, of_rate), colour in zip(by_rate.items(), colours, strict=True):
        ends = [item.fit.cost for item in of_rate if not item.has_diverged]
        diverged = f"diverged at {of_rate[0].fit.diverged_at}"
        label = f"lr {lr:g}: {cost_as_text(float(np.mean(ends))) if ends else diverged}"
        for item in of_rate:
            draw_costs(axes, item.steps, colour, label if item is of_rate[0] else "")
            for last in item.steps[-1:] if item.has_diverged else ():
                cost = last.metrics["train/cost"]
                axes.plot(last.epoch, cost, "x", color=colour, markersize=9, markeredgewidth=2)
    finish_costs(axes, fits.exact.fit.cost)
    return figure


def plot_best_curves(fits: Comparison, title: str) -> Figure:
    """The best fit of each optimizer: cost by epoch, and by seconds."""
    figure = new_figure(12, 4.5)
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, x in zip(panels, ("epoch", "seconds of computing"), strict=True):
        for item in fits.best:
            colour, name = OPTIMIZER_COLOURS[item.optimizer], fits.names[item]
            draw_costs(axes, item.steps, colour, name, in_seconds=x != "epoch")
        finish_costs(axes, fits.exact.fit.cost, x)
        tidy(axes)
    return figure


def plot_gap_heat_map(fits: Comparison, title: str) -> Figure:
    """Optimizer by learning rate: how far the final cost is above the exact one, mean over seeds.

    A cell is a rate of its optimizer, the largest on the left.
    """
    table = fits.fit_table()[1:]
    gaps = table.groupby(["optimizer", "lr"], sort=False)["gap"].mean().reset_index()
    names = list(gaps["optimizer"].unique())
    row, column = gaps["optimizer"].map(names.index), gaps.groupby("optimizer").cumcount()
    cells = np.full((len(names), column.max() + 1), np.nan)
    cells[row, column] = gaps["gap"].clip(lower=MIN_GAP)
    texts = np.full(cells.shape, "", object)
    texts[row, column] = [f"lr {lr:g}\n{_gap_as_text(gap)}" for _, lr, gap in gaps.to_numpy()]
    # Title and colour bar need their room, however few the cells.
    size = max(6.0, 2.2 + 1.6 * cells.shape[1]), max(3.2, 1.6 + 0.8 * len(names))
    norm = LogNorm(1e-4, 1e4, clip=True)
    figure, axes = heat_map(size, cells, "final cost / exact cost − 1", norm, texts)
    axes.set_yticks(range(len(names)), names)
    axes.set(title=title, xlabel="learning rate, largest first", xticks=[])
    return figure


def _gap_as_text(gap: float) -> str:
    if np.isnan(gap):
        return "diverged"
    return f"+{gap:.2%}" if gap < 1 else f"× {ratio_as_text(gap + 1)}"


def plot_overlap_heat_map(fits: Comparison, title: str) -> Figure:
    """The overlap of each pair of fits; grey where one of them diverged."""
    overlap, names = fits.overlap, list(fits.names.values())
    texts = np.array([["" if np.isnan(v) else f"{v:.0%}" for v in row] for row in overlap])
    side = 3.5 + 0.42 * len(names)
    label = "share of the top list in common"
    figure, axes = heat_map((side + 1, side), overlap, label, Normalize(0, 1), texts, names)
    axes.set_title(title)
    return figure


def plot_overlap_by_gap(fits: Comparison, title: str) -> Figure:
    """A point per fit: its gap to the exact cost, and its overlap with the exact solver's lists."""
    figure, axes = new_panel(
        *(7.5, 4.8),
        title=title,
        xlabel="final cost / exact cost − 1",
        ylabel="overlap with the exact solver's top list",
        xscale="log",
        ylim=(-0.05, 1.08),
    )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    table = fits.fit_table().assign(overlap=fits.overlap[0])[1:]
    for name, of_name in table.groupby("optimizer", sort=False):
        gaps, colour = of_name["gap"].clip(lower=MIN_GAP), OPTIMIZER_COLOURS[name]
        axes.scatter(
            gaps, of_name["overlap"], 60, colour, label=name, alpha=0.85, edgecolors="white"
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False)
    return figure
