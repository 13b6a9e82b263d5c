"""The figure of an evaluation names every candidate, in labels that do not overlap."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from ranked_likes import evaluated

from embedlab.movies.evaluation.candidates import PUBLISHED_EMBEDDING, WEIGHTED_EMBEDDING
from embedlab.movies.evaluation.plots import plot_accuracy_against_novelty, spread


@pytest.fixture(scope="module")
def result():
    return evaluated()


def test_the_figure_labels_every_candidate_and_no_two_labels_overlap(result):
    entries, table = result
    figure = plot_accuracy_against_novelty(entries, table, "toy", 10)
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        assert {text.get_text().rpartition("  ")[0] for text in axes.texts} == set(
            table["contestant"]
        )
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        for lower, upper in pairwise(boxes):
            assert lower.y1 <= upper.y0 + 1  # a pixel
    paths = {line.get_label().partition(":")[0] for line in figure.axes[0].lines}
    assert {WEIGHTED_EMBEDDING, PUBLISHED_EMBEDDING} <= paths


def test_labels_are_spread_only_as_far_as_they_must():
    np.testing.assert_allclose(spread(np.array([0.1, 0.5, 0.9]), 0.05), [0.1, 0.5, 0.9])
    positions = spread(np.array([0.5, 0.5, 0.51]), 0.1)
    assert (np.diff(positions) >= 0.1 - 1e-12).all()
    assert positions.mean() == pytest.approx(0.503, abs=0.05)
