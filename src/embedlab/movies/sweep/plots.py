"""The figures of a comparison of fits: curves, gaps, and how alike the recommendations are."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from embedlab.movies.sweep.results import SweepFit, names_of, ratio_as_text
from embedlab.plotting import GREY, new_figure, tidy
from embedlab.wording import cost_as_text

MIN_GAP = 1e-6  # of what is drawn on a logarithmic scale
OPTIMIZER_COLOURS = {
    "exact": GREY,
    "adam": "#2f6db3",
    "rmsprop": "#e07b39",
    "sgd": "#2b8a4b",
    "lbfgs": "#8e44ad",
    "adamw": "#17a2b8",
}


def plot_cost_by_epoch(fits: Sequence[SweepFit], exact_cost: float, title: str) -> Figure:
    """The cost before each update of one optimizer's fits: a colour a learning rate, a line a
    seed, a cross where a fit diverged; logarithmic."""
    figure = new_figure(7.5, 4.5)
    axes = figure.subplots()
    rates = sorted({item.options.lr for item in fits}, reverse=True)
    colours = dict(
        zip(rates, mpl.colormaps["viridis"](np.linspace(0, 0.9, len(rates))), strict=True)
    )
    for lr in rates:
        of_rate = [item for item in fits if item.options.lr == lr]
        ends = [item.fit.cost for item in of_rate if not item.has_diverged]
        diverged = f"diverged at {of_rate[0].fit.diverged_at}"
        said = cost_as_text(np.mean(ends)) if ends else diverged
        for item in of_rate:
            _draw(axes, item, colours[lr], f"lr {lr:g}: {said}" if item is of_rate[0] else None)
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


def _draw(axes: Axes, item: SweepFit, colour, label: str | None, in_seconds: bool = False) -> None:
    costs = [step.metrics["train/cost"] for step in item.steps]
    places = [step.epoch for step in item.steps]
    if in_seconds:  # epoch e holds the cost before update e, after the time of the updates before
        places = np.cumsum([0.0, *(step.seconds or 0.0 for step in item.steps)])[: len(costs)]
    axes.plot(places, costs, color=colour, linewidth=1.8, label=label)
    if item.has_diverged and costs:
        axes.plot(places[-1], costs[-1], "x", color=colour, markersize=9, markeredgewidth=2)


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

    table  of `sweep.fit_table`. A cell is a rate of its optimizer, the largest on the left.
    """
    table = table[table["optimizer"] != "exact"]
    optimizers = list(dict.fromkeys(table["optimizer"]))
    rates = {name: _rates(table, name) for name in optimizers}
    widest = max(map(len, rates.values()))
    cells = np.full((len(optimizers), widest), np.nan)
    # Title and colour bar need their room, however few the cells.
    figure = new_figure(max(6.0, 2.2 + 1.6 * widest), max(3.2, 1.6 + 0.8 * len(optimizers)))
    axes = figure.subplots()
    for row, name in enumerate(optimizers):
        for column, lr in enumerate(rates[name]):
            of_cell = table[(table["optimizer"] == name) & (table["lr"] == lr)]
            gap = of_cell["gap"].mean()
            cells[row, column] = gap
            said = "diverged" if np.isnan(gap) else _gap_in_words(gap)
            colour = "black" if np.isnan(gap) or gap > 1 else "white"
            axes.text(column, row, f"lr {lr:g}\n{said}", ha="center", va="center", color=colour)
    drawn = np.ma.masked_invalid(np.maximum(cells, MIN_GAP))
    axes.set_facecolor("#eceef0")
    image = axes.imshow(drawn, cmap="viridis", norm=LogNorm(1e-4, 1e4, clip=True), aspect="auto")
    axes.set_yticks(range(len(optimizers)), optimizers)
    axes.set_xticks([])
    axes.set_xlabel("learning rate, largest first")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="final cost / exact cost − 1")
    return figure


def _rates(table: pd.DataFrame, optimizer: str) -> list[float]:
    return sorted(table.loc[table["optimizer"] == optimizer, "lr"].unique(), reverse=True)


def _gap_in_words(gap: float) -> str:
    return f"+{gap:.2%}" if gap < 1 else f"× {ratio_as_text(gap + 1)}"


def plot_overlap_heat_map(names: Sequence[str], overlap: np.ndarray, title: str) -> Figure:
    """The overlap of each pair of fits, (n_fits, n_fits); grey where one of them diverged."""
    n = len(names)
    side = 3.5 + 0.42 * n
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    axes.set_facecolor("#d5d8dc")
    image = axes.imshow(np.ma.masked_invalid(overlap), cmap="viridis", vmin=0, vmax=1)
    for row, column in np.argwhere(np.isfinite(overlap)):
        value = overlap[row, column]
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(n), names, rotation=90)
    axes.set_yticks(range(n), names)
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the top list in common")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def plot_overlap_by_gap(fits: Sequence[SweepFit], overlap: np.ndarray, title: str) -> Figure:
    """A point a fit: its gap to the exact cost, and its lists' overlap with the exact solver's.

    overlap  (n_fits,), nan for a fit that diverged.
    """
    figure = new_figure(7.5, 4.8)
    axes = figure.subplots()
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    for optimizer in dict.fromkeys(item.options.optimizer for item in fits if not item.is_exact):
        of_it = [i for i, item in enumerate(fits) if item.options.optimizer == optimizer]
        gaps = [max(fits[i].gap, MIN_GAP) for i in of_it]
        axes.scatter(
            gaps,
            overlap[of_it],
            s=60,
            color=OPTIMIZER_COLOURS[optimizer],
            label=optimizer,
            alpha=0.85,
            edgecolors="white",
        )
    axes.set(
        title=title,
        xlabel="final cost / exact cost − 1",
        ylabel="overlap with the exact solver's top list",
        xscale="log",
        ylim=(-0.05, 1.08),
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False)
    tidy(axes)
    return figure
