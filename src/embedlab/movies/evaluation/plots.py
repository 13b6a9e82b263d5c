"""Figure of an evaluation: accuracy against novelty."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from embedlab.movies.evaluation.candidates import (
    PUBLISHED_COSINE,
    PUBLISHED_EMBEDDING,
    WEIGHTED_EMBEDDING,
)
from embedlab.movies.evaluation.evaluate import Evaluation
from embedlab.plotting import BLUE, GREEN, GREY, ORANGE, new_figure, tidy

COLOURS = {WEIGHTED_EMBEDDING: BLUE, PUBLISHED_EMBEDDING: ORANGE, PUBLISHED_COSINE: ORANGE}
LEADER = {"arrowstyle": "-", "color": "#a9afb7", "linewidth": 0.7, "relpos": (0, 0.5)}
LINE_OF_TEXT = 0.052  # height of a label as a fraction of the panel
LABELS = {
    "coverage": "share of movies recommended to anybody",
    "popularity": "users who like a recommended movie, mean",
}


def plot_accuracy_against_novelty(
    evaluations: Sequence[Evaluation], table: pd.DataFrame, title: str, k: int
) -> Figure:
    """Hit rate with its interval against coverage and against popularity, a dot per candidate.

    The lines are the scores `dot / |v|^a` of the two embeddings, from dot to cosine; small dots are
    the steps of a.

    table  from `result_table`.
    """
    figure = new_figure(14, 6.2)
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    low, high = table["hit_rate_low"].min(), table["hit_rate_high"].max()
    margin = 0.08 * (high - low) or 0.05
    bottom, top = panels[0].set_ylim(low - margin, high + margin)
    panels[0].set_ylabel(f"hit rate@{k} on test, with 95% interval")
    # The names are in the right margin, each near the height of its dot and joined by a thin line.
    shown = table.sort_values("hit_rate")
    heights = spread(((shown["hit_rate"] - bottom) / (top - bottom)).to_numpy(), LINE_OF_TEXT)
    for axes, (column, label) in zip(panels, LABELS.items(), strict=True):
        for evaluation in evaluations:
            if evaluation.name in (WEIGHTED_EMBEDDING, PUBLISHED_EMBEDDING):
                means = [ranking.means() for ranking in evaluation.by_scorer.values()]
                x, y = ([mean[name] for mean in means] for name in (column, "hit_rate"))
                path = f"{evaluation.name}: dot / |v|^a, from dot (a = 0) to cosine (a = 1)"
                axes.plot(x, y, "-o", color=COLOURS[evaluation.name], markersize=4, label=path)
        for row, height in zip(shown.itertuples(), heights, strict=True):
            x = getattr(row, column)
            colour = _colour(row.contestant)
            axes.vlines(x, row.hit_rate_low, row.hit_rate_high, colour, linewidth=5, alpha=0.2)
            axes.plot(x, row.hit_rate, "o", color=colour, markersize=8, markeredgecolor="white")
            axes.annotate(
                f"{row.contestant}  {row.hit_rate:.3f}",
                (x, row.hit_rate),
                xytext=(1.03, height),
                textcoords="axes fraction",
                va="center",
                color=colour,
                weight="bold" if row.contestant == WEIGHTED_EMBEDDING else None,
                arrowprops=LEADER,
            )
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if column == "coverage" else (1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        tidy(axes, grid="both")
    panels[0].xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    panels[1].xaxis.set_major_formatter(FuncFormatter(lambda users, _: f"{users:g}"))
    panels[1].invert_xaxis()  # in both panels, novelty is on the right
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _colour(name: str) -> str:
    return COLOURS.get(name, GREEN if name.startswith(("implicit", "item2vec")) else GREY)


def spread(heights: np.ndarray, spacing: float) -> np.ndarray:
    """Ascending heights, (n,), moved up and down until they are at least `spacing` apart: (n,)."""
    steps = spacing * np.arange(len(heights))
    up = np.maximum.accumulate(heights - steps) + steps
    down = np.minimum.accumulate((heights - steps)[::-1])[::-1] + steps
    return (up + down) / 2  # both have that spacing at least, so their mean has it, too
