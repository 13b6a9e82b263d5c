"""Figures of a comparison of fits: cost curves, gaps, and the overlap of recommendations."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from embedlab.movies.sweep.results import (
    SweepFit,
    best_of_each,
    fit_table,
    names_of,
    ratio_as_text,
)
from embedlab.plotting import GREY, heat_map, new_figure, new_panel, tidy
from embedlab.wording import cost_as_text

MIN_GAP = 1e-6  # on a logarithmic scale
OPTIMIZER_COLOURS = {
    "exact": GREY,
    "adam": "#2f6db3",
    "rmsprop": "#e07b39",
    "sgd": "#2b8a4b",
    "lbfgs": "#8e44ad",
    "adamw": "#17a2b8",
}


def comparison_figures(
    fits: Sequence[SweepFit], overlap: np.ndarray, about: str, lists: str
) -> dict[str, Figure]:
    """Every figure of a comparison, by name.

    fits     the exact solver's first.
    overlap  (n_fits, n_fits) of their lists, nan for a fit that diverged.
    about    the data and the dim, lists what overlaps, such as `top 10`: for the titles.
    """
    exact_cost = fits[0].fit.cost
    figures = {}
    for name in dict.fromkeys(item.options.optimizer for item in fits[1:]):
        of_name = [item for item in fits if item.options.optimizer == name]
        figures[f"cost_{name}"] = plot_cost_by_epoch(of_name, exact_cost, f"{name}: {about}")
    best = best_of_each(fits)
    figures["best"] = plot_best_curves(best, exact_cost, f"Best of each: {about}")
    title = f"Final cost above the exact one: {about}"
    figures["gap"] = plot_gap_heat_map(fit_table(fits), title)
    title = f"{lists.capitalize()} in common, mean over the titles"
    figures["overlap"] = plot_overlap_heat_map(names_of(fits), overlap, title)
    title = f"Nearer to the exact cost, nearer to its {lists}?"
    figures["overlap_by_gap"] = plot_overlap_by_gap(fits, overlap[0], title)
    return figures


def plot_cost_by_epoch(fits: Sequence[SweepFit], exact_cost: float, title: str) -> Figure:
    """The cost before each update of one optimizer's fits: a colour a learning rate, a line a
    seed, a cross where a fit diverged; logarithmic."""
    figure, axes = new_panel(7.5, 4.5)
    rates = sorted({item.options.lr or 0.0 for item in fits}, reverse=True)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(rates)))
    for lr, colour in zip(rates, colours, strict=True):
        of_rate = [item for item in fits if item.options.lr == lr]
        ends = [item.fit.cost for item in of_rate if not item.has_diverged]
        diverged = f"diverged at {of_rate[0].fit.diverged_at}"
        end = cost_as_text(float(np.mean(ends))) if ends else diverged
        for item in of_rate:
            _draw(axes, item, colour, f"lr {lr:g}: {end}" if item is of_rate[0] else None)
    _finish_costs(axes, exact_cost, title, "epoch")
    return figure


def plot_best_curves(best: Sequence[SweepFit], exact_cost: float, title: str) -> Figure:
    """The best fit of each optimizer: cost by epoch, and by seconds."""
    figure = new_figure(12, 4.5)
    figure.suptitle(title)
    by_epoch, by_seconds = figure.subplots(1, 2, sharey=True)
    names = dict(zip(map(id, best), names_of(best), strict=True))
    for item in best:
        if not item.is_exact:
            colour = OPTIMIZER_COLOURS[item.options.optimizer]
            _draw(by_epoch, item, colour, names[id(item)])
            _draw(by_seconds, item, colour, None, in_seconds=True)
    _finish_costs(by_epoch, exact_cost, "", "epoch")
    _finish_costs(by_seconds, exact_cost, "", "seconds of computing")
    by_seconds.get_legend().remove()
    by_seconds.set_ylabel("")
    return figure


def _draw(
    axes: Axes,
    item: SweepFit,
    colour: str | np.ndarray,
    label: str | None,
    in_seconds: bool = False,
) -> None:
    costs = [step.metrics["train/cost"] for step in item.steps]
    x = np.array([step.epoch for step in item.steps], float)
    if in_seconds:  # epoch e has the cost before update e: the time of the updates before it
        x = np.cumsum([0.0, *(step.seconds or 0.0 for step in item.steps)])[: len(costs)]
    axes.plot(x, costs, color=colour, linewidth=1.8, label=label)
    if item.has_diverged and costs:
        axes.plot(x[-1], costs[-1], "x", color=colour, markersize=9, markeredgewidth=2)


def _finish_costs(axes: Axes, exact_cost: float, title: str, x: str) -> None:
    label = f"exact solver: {cost_as_text(exact_cost)}"
    axes.axhline(exact_cost, color=GREY, linestyle="--", linewidth=1, label=label)
    axes.set(title=title, xlabel=x, ylabel="cost", yscale="log")
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)
    tidy(axes)


def plot_gap_heat_map(table: pd.DataFrame, title: str) -> Figure:
    """Optimizer by learning rate: how far the final cost is above the exact one, mean over seeds.

    table  from `fit_table`. A cell is a rate of its optimizer, the largest on the left.
    """
    table = table[table["optimizer"] != "exact"]
    gaps = {
        name: of_name.groupby("lr")["gap"].mean().sort_index(ascending=False)
        for name, of_name in table.groupby("optimizer", sort=False)
    }
    widest = max(map(len, gaps.values()))
    cells = np.full((len(gaps), widest), np.nan)
    for row, of_name in enumerate(gaps.values()):
        cells[row, : len(of_name)] = np.maximum(of_name, MIN_GAP)
    # Title and colour bar need their room, however few the cells.
    size = max(6.0, 2.2 + 1.6 * widest), max(3.2, 1.6 + 0.8 * len(gaps))
    label, norm = "final cost / exact cost − 1", LogNorm(1e-4, 1e4, clip=True)
    figure, axes, _ = heat_map(size, cells, label, norm, aspect="auto")
    for row, of_name in enumerate(gaps.values()):
        for column, (lr, gap) in enumerate(of_name.items()):
            end = "diverged" if np.isnan(gap) else _gap_in_words(gap)
            colour = "black" if np.isnan(gap) or gap > 1 else "white"
            axes.text(column, row, f"lr {lr:g}\n{end}", ha="center", va="center", color=colour)
    axes.set_yticks(range(len(gaps)), gaps)
    axes.set(title=title, xlabel="learning rate, largest first", xticks=[])
    return figure


def _gap_in_words(gap: float) -> str:
    return f"+{gap:.2%}" if gap < 1 else f"× {ratio_as_text(gap + 1)}"


def plot_overlap_heat_map(names: Sequence[str], overlap: np.ndarray, title: str) -> Figure:
    """The overlap of each pair of fits, (n_fits, n_fits); grey where one of them diverged."""
    n = len(names)
    side = 3.5 + 0.42 * n
    label = "share of the top list in common"
    figure, axes, bar = heat_map((side + 1, side), overlap, label, Normalize(0, 1))
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    for row, column in np.argwhere(np.isfinite(overlap)):
        value = overlap[row, column]
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(n), names, rotation=90)
    axes.set_yticks(range(n), names)
    axes.set_title(title)
    return figure


def plot_overlap_by_gap(fits: Sequence[SweepFit], overlap: np.ndarray, title: str) -> Figure:
    """A point per fit: its gap to the exact cost, and its overlap with the exact solver's lists.

    overlap  (n_fits,), nan for a fit that diverged.
    """
    figure, axes = new_panel(
        *(7.5, 4.8),
        title=title,
        xlabel="final cost / exact cost − 1",
        ylabel="overlap with the exact solver's top list",
        xscale="log",
        ylim=(-0.05, 1.08),
    )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    for optimizer in dict.fromkeys(item.options.optimizer for item in fits if not item.is_exact):
        of_optimizer = [i for i, item in enumerate(fits) if item.options.optimizer == optimizer]
        gaps = [max(fits[i].gap, MIN_GAP) for i in of_optimizer]
        colour = OPTIMIZER_COLOURS[optimizer]
        y = overlap[of_optimizer]
        axes.scatter(gaps, y, 60, colour, label=optimizer, alpha=0.85, edgecolors="white")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False)
    return figure
