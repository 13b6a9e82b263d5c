"""A comparison of optimizers: its answer in words, its figures."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from embedlab.movies.options import DEFAULT_LR, FitOptions
from embedlab.movies.solvers.result import FitResult
from embedlab.movies.sweep import plots as sweep_plots
from embedlab.movies.sweep.convergence import choose_queries
from embedlab.movies.sweep.page import comparison_page
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.movies.sweep.summary import to_markdown
from embedlab.progress import EpochRecord
from embedlab_serving.titles import TitleIndex


def made(optimizer, lr, cost, embedding, seed=0, diverged_at=None) -> SweepFit:
    fit = FitResult(np.array(embedding, np.float32), cost, 2, 0.5, diverged_at)
    history = [EpochRecord(0, {"train/cost": 2 * cost}, 0.1), EpochRecord(1, {"train/cost": cost})]
    options = FitOptions(optimizer, lr, dim=2)
    return SweepFit(options, seed, fit, history, {}, f"run-{optimizer}{lr}")


# Movies 0 and 1 belong together, and so do 2 and 3; `turned` is the same world, rotated by 90°.
BLOCKS = [[3, 0], [2, 0], [0, 3], [0, 2]]
TURNED = [[0, 3], [0, 2], [-3, 0], [-2, 0]]
MIXED = [[3, 0], [0, 2], [2, 0], [0, 3]]
FOUR = TitleIndex(["A", "B", "C", "D"])


def compare(fits, titles, asked, k) -> OptimizerComparison:
    """The fits asked for these rows, without drawn ones: no movie of the toy has a like."""
    queries = choose_queries(titles, np.zeros(4), asked, k)
    last = [
        {} if r.has_diverged else {r.epochs: queries.recommend(r.embedding)}
        for r in (fit.result for fit in fits)
    ]
    fits = [replace(fit, lists_by_epoch=lists) for fit, lists in zip(fits, last, strict=True)]
    return OptimizerComparison(fits, titles, queries)


@pytest.fixture
def fits():
    return [
        made("exact", None, 100, BLOCKS),
        made("adam", 1.0, 101, TURNED),
        made("adam", 0.1, 900, MIXED),
        made("sgd", 1.0, 50, BLOCKS, diverged_at=3),
    ]


def test_turned_vectors_recommend_the_same_and_others_do_not(fits):
    comparison = compare(fits, FOUR, [0, 2], k=1)
    assert [found if found is None else found.tolist() for found in comparison.asked_lists] == [
        [[1], [3]],
        [[1], [3]],
        [[2], [0]],
        None,
    ]
    overlap = comparison.overlap
    expected = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(overlap[:3, :3], expected)
    assert np.isnan(overlap[3]).all()
    assert np.isnan(overlap[:, 3]).all()
    assert comparison.pair_table()[["first", "second", "overlap", "rbo"]].to_numpy().tolist() == [
        ["exact", "adam lr=1", 1, pytest.approx(1)],
        ["exact", "adam lr=0.1", 0, 0],
        ["adam lr=1", "adam lr=0.1", 0, 0],
    ]


def test_a_fit_that_diverged_is_kept_without_a_cost_and_is_never_the_best(fits):
    comparison = compare(fits, FOUR, [0], k=1)
    table = comparison.fit_table()
    assert table["status"].tolist() == ["fitted"] * 3 + ["diverged at epoch 3"]
    assert table["cost"].isna().tolist() == [False] * 3 + [True]
    assert [item.options.label for item in comparison.best] == ["adam lr=1"]
    said = to_markdown(comparison, "toy")
    assert "Diverged: sgd lr=1 at epoch 3." in said
    assert "| adam lr=1 | 101 | 1.00% above it | 0.5 |" in said
    assert "- **1 fit at most 10% above the exact cost** shares 1.0 of 1 movie with it." in said
    assert "- **1 fit more than 100% above it** shares 0.0 of 1 movie with it." in said


def test_words_say_by_what_fits_that_stayed_at_their_start_recommend():
    far = [made("sgd", lr, 1e6, start, seed) for lr, start, seed in STUCK]
    fits = [made("exact", None, 100, BLOCKS), *far]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    assert "The 3 fits that end at more than 1,000 times the exact cost" in said
    assert "100% with others of the same random start, 0% with others of another start" in said


# Two of one seed, which rank alike, and one of another.
STUCK = [(1.0, MIXED, 0), (0.1, MIXED, 0), (1.0, [[3, 0], [1, 0], [0, 2], [2, 0]], 1)]


def test_words_do_not_claim_a_fall_that_is_not_there():
    fits = [made("exact", None, 100, BLOCKS)]
    fits += [made("adam", lr, 100 + lr, BLOCKS if lr % 2 else MIXED) for lr in range(1, 7)]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    assert "The overlap does not clearly fall as the gap grows (Spearman" in said


@pytest.mark.parametrize(("n", "is_said"), [(5, False), (6, True)])
def test_the_correlation_of_fits_that_share_their_start_has_no_p_value(n, is_said):
    fits = [made("exact", None, 100, BLOCKS)]
    fits += [made("adam", lr, 100 + lr, BLOCKS if lr < 4 else MIXED) for lr in range(1, n + 1)]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    correlation = (
        "The overlap falls as the gap grows (Spearman's rank correlation -0.88 over 6 fits)."
    )
    assert (correlation in said) == is_said
    assert "p = " not in said


def test_no_list_holds_another_row_of_the_movie_that_was_asked_for():
    titles = TitleIndex(["A (1990)", "A (1990)", "C", "D"])
    fits = [made("exact", None, 100, BLOCKS)]
    (lists,) = compare(fits, titles, [0, 2], k=10).asked_lists
    first, second = lists.tolist()  # of the shorter one's length
    assert first == [2, 3]
    assert second in ([3, 0], [3, 1])  # equal scores: rows of one movie


def test_names_carry_the_seed_where_there_are_several(fits):
    twice = [*fits, made("adam", 1.0, 102, BLOCKS, seed=1)]
    names = list(compare(twice, FOUR, [0], k=1).names.values())
    assert names[:2] == ["exact", "adam lr=1 seed=0"]
    assert names[-1] == "adam lr=1 seed=1"


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
    figure.savefig(io.BytesIO(), dpi="figure")  # lays it out
    cells, bar = figure.axes
    for words in (cells.title, bar.yaxis.label):
        box = words.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, words
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, words


def test_every_optimizer_has_a_colour_and_a_marker_of_its_own():
    for styles in (sweep_plots.OPTIMIZER_COLOURS, sweep_plots.OPTIMIZER_MARKERS):
        assert set(styles) == set(DEFAULT_LR)
        assert len(set(styles.values())) == len(styles)
