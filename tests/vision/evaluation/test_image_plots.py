"""Figures of classification: what they draw."""

from dataclasses import replace

import numpy as np
from toy_dataset import CLASSES, HAND, squares

from embedlab.vision.evaluation import plots as figures
from embedlab.vision.evaluation.metrics import (
    evaluate,
    top_predictions,
)

IMAGES = squares()


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_prediction_grid_has_a_row_a_class_right_left_and_wrong_right():
    rows = replace(HAND, rows=np.arange(6))
    top = top_predictions(rows, CLASSES)
    (figure,) = figures.plot_top_predictions(top, IMAGES, "title")
    (axes,) = figure.axes
    assert len(axes.images) == len(top) == 6
    shown = texts(figure)
    assert shown[:3] == ["true class", "most confident, right", "most confident, wrong"]
    assert shown[3:] == [
        "red", "90%", "70%", "green\n60%", "no more\nmistakes",
        "green", "80%", "blue\n50%", "no more\nmistakes",
        "blue", "90%", "no\nmistakes",
    ]  # fmt: skip
    left, right = ([i.get_extent()[0] for i in axes.images[:2]], axes.images[2].get_extent()[0])
    assert max(left) < right
    heights = [image.get_extent()[3] for image in axes.images]
    assert heights[0] == heights[1] == heights[2] < heights[3] == heights[4] < heights[5]


def test_many_classes_get_several_pages():
    classes = tuple(f"class {i}" for i in range(60))
    images = replace(IMAGES, classes=classes)
    empty = top_predictions(HAND, CLASSES).iloc[:0]
    assert len(list(figures.plot_top_predictions(empty, images, "title"))) == 3


def test_a_map_rings_the_misclassified_images():
    points = np.random.default_rng(0).normal(size=(6, 2))
    figure = figures.plot_embedding_map(points, replace(HAND, rows=np.arange(6)), IMAGES, "t")
    rings = figure.axes[0].collections[-2].get_offsets()
    assert 0 < np.count_nonzero(~HAND.is_right) < 6
    np.testing.assert_array_equal(rings, points[~HAND.is_right])


def test_the_other_figures_are_drawn():
    report = evaluate(HAND, CLASSES)
    rows = replace(HAND, rows=np.arange(6))
    points = np.random.default_rng(0).normal(size=(6, 2))
    for figure in (
        figures.plot_confusion(report, "t"),
        figures.plot_predictions(rows, IMAGES.pixels[rows.rows], CLASSES, "t"),
        figures.plot_embedding_map(points, rows, IMAGES, "t"),
        figures.plot_neighbours(np.array([0]), np.array([[1, 2]]), IMAGES, "t"),
        figures.plot_disagreements(
            rows, rows.take(np.array([], dtype=int)), ("a", "b"), IMAGES, "t"
        ),
    ):
        pixels = figures.as_pixels(figure)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert pixels.std() > 0
