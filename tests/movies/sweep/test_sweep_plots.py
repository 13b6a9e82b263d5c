"""Figures of a comparison: what they draw, and their colours."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from toy_comparison import FOUR, compare, four_fits

from embedlab.movies.options import DEFAULT_LR
from embedlab.movies.sweep import plots as sweep_plots
from embedlab.movies.sweep.page import comparison_page

fits = pytest.fixture(four_fits)


def test_figures_show_the_fits(fits):
    comparison = compare(fits, FOUR, [0], k=1)
    figures = sweep_plots.comparison_figures(comparison, "toy")
    assert list(figures) == ["costs", "best", "gap", "overlap", "overlap_by_gap"]
    adam, sgd = figures["costs"].axes
    assert [list(line.get_ydata()) for line in adam.lines[:2]] == [[202, 101], [1800, 900]]
    assert adam.get_yscale() == "log"
    line, cross, _ = sgd.lines
    assert (line.get_label(), cross.get_marker()) == ("1: diverged", "x")
    cells = [text.get_text() for text in figures["gap"].axes[0].texts]
    assert cells == ["lr 1\n+1.00%", "lr 0.1\n+800%", "lr 1\ndiverged", ""]
    collections = figures["overlap_by_gap"].axes[0].collections
    dots = [dot for dot in collections if isinstance(dot, PathCollection)]
    ends = [np.ravel(dot.get_offsets()) for dot in dots]
    np.testing.assert_allclose(ends, [[0.01, 1], [8, 0]])
    texts = [text.get_text() for text in figures["overlap"].axes[0].texts]
    assert len(list(filter(None, texts))) == 6  # pairs of the three that did not diverge
    by_epoch, by_seconds = figures["best"].axes
    assert list(by_epoch.lines[0].get_xdata()) == [0, 1]
    np.testing.assert_allclose(by_seconds.lines[0].get_xdata(), [0, 0.1])


def test_fits_that_diverge_at_their_start_have_figures_without_a_line(fits):
    exact, *_, diverged = fits
    nothing = replace(diverged, history=[])  # a first cost that is not finite is not recorded
    comparison = compare([exact, nothing], FOUR, [0], k=1)
    for figure in sweep_plots.comparison_figures(comparison, "toy").values():
        figure.savefig(io.BytesIO())
    assert comparison_page(comparison, "toy")


def test_runs_have_a_hue_an_optimizer_and_a_lighter_shade_a_smaller_rate(fits):
    colours = sweep_plots.run_colours(fits)
    by_fit = dict(zip(((f.optimizer, f.options.lr) for f in fits), colours, strict=True))
    assert len({*colours}) == len(by_fit)
    for (optimizer, lr), colour in by_fit.items():
        assert re.fullmatch("#[0-9a-f]{6}", colour)
        smaller = [by_fit[key] for key in by_fit if key[0] == optimizer and key[1] and key[1] < lr]
        assert all(int(other[1:], 16) > int(colour[1:], 16) for other in smaller)


def test_a_map_of_one_cell_has_room_for_its_words(fits):
    comparison = compare(fits[:2], FOUR, [0], k=1)
    title = "Final cost above the exact one: ml-latest-small, dim 100"
    figure = sweep_plots.plot_gap_heat_map(comparison, title)
    figure.savefig(io.BytesIO(), dpi="figure")  # computes the layout
    cells, bar = figure.axes
    for words in (cells.title, bar.yaxis.label):
        box = words.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, words
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, words


def test_every_optimizer_has_a_colour_and_a_marker_of_its_own():
    for styles in (sweep_plots.OPTIMIZER_COLOURS, sweep_plots.OPTIMIZER_MARKERS):
        assert set(styles) == set(DEFAULT_LR)
        assert len(set(styles.values())) == len(styles)
