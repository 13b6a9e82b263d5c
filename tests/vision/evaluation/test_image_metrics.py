"""Metrics of classification against hand-worked examples."""

import math

import numpy as np
import pytest
from toy_dataset import CLASSES, HAND, predictions

from embedlab.vision.evaluation.metrics import (
    NO_SCORE,
    AccuracyAndLoss,
    calibration_error,
    evaluate,
    mcnemar,
    predictions_of,
    top_predictions,
    wilson_interval,
)

#                      labels              predicted           confidence


def test_metrics_against_a_hand_worked_example():
    report = evaluate(HAND, CLASSES)
    assert report.accuracy == 4 / 6
    assert report.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    table = report.per_class.set_index("class")
    assert table["pictures"].tolist() == [3, 2, 1]
    assert table["precision"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert table["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert table["f1"].tolist() == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    of_truth = [0.9, 0.7, 0.2, 0.8, 0.25, 0.9]
    assert report.loss == pytest.approx(-np.log(of_truth).mean())
    metrics = report.as_metrics()
    assert metrics["test/accuracy_low"] < 4 / 6 < metrics["test/accuracy_high"]


def test_calibration_error_by_hand():
    """Of the fifteen bins, the two 0.9 share one; 0.7, 0.6, 0.8 and 0.5 have one each."""
    excess = [2 - 1.8, 1 - 0.7, 0 - 0.6, 1 - 0.8, 0 - 0.5]
    assert calibration_error(HAND) == pytest.approx(sum(map(abs, excess)) / 6)


def test_wilsons_interval_is_the_closed_formula():
    n, p, z = 50, 0.8, 1.959964
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert wilson_interval(40, 50) == pytest.approx(expected, rel=1e-6)


def test_top_predictions_are_the_most_confident_of_each_true_class():
    top = top_predictions(HAND, CLASSES, k=1)
    assert top.to_dict("list") == {
        "class": ["red", "red", "green", "green", "blue"],
        "kind": ["right", "wrong", "right", "wrong", "right"],
        "rank": [1] * 5,
        "predicted": ["red", "green", "green", "blue", "blue"],
        "confidence": [0.9, 0.6, 0.8, 0.5, 0.9],
        "row": [100, 102, 103, 104, 105],
    }


def test_top_predictions_against_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    drawn = predictions_of(rng.normal(size=(200, 3)), labels, np.arange(200))
    top = top_predictions(drawn, CLASSES, k=5)
    assert len(top) == 3 * 2 * 5
    for label, name in enumerate(CLASSES):
        for kind in ("right", "wrong"):
            candidates = [
                (-drawn.probabilities[i].max(), i)
                for i in range(200)
                if labels[i] == label
                and (drawn.probabilities[i].argmax() == label) == (kind == "right")
            ]
            expected = [i for _, i in sorted(candidates)[:5]]
            of_kind = top[(top["class"] == name) & (top["kind"] == kind)]
            assert of_kind["row"].tolist() == expected


def test_mcnemar_by_hand():
    """Six images are right in one model only, 5 and 1: two-sided p = 2 · (6 + 1) / 2⁶."""
    labels = [0] * 8
    first = predictions(labels, [0] * 6 + [1, 1], [0.9] * 8)
    second = predictions(labels, [0] + [1] * 5 + [0, 1], [0.9] * 8)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (5, 1)
    assert test.p_value == pytest.approx(14 / 64)
    assert mcnemar(first, first).p_value == 1.0


@pytest.mark.parametrize(
    ("one", "other", "beats"),
    [
        ((0.8, 9.0), (0.7, 0.1), True),
        ((0.8, 0.4), (0.8, 0.5), True),
        ((0.8, 0.5), (0.8, 0.5), False),
        ((0.8, math.nan), (0.8, 0.5), False),
        ((0.0, math.inf), NO_SCORE, True),
    ],
)
def test_the_higher_accuracy_is_better_and_of_equal_ones_the_lower_loss(one, other, beats):
    assert AccuracyAndLoss(*one).beats(AccuracyAndLoss(*other)) is beats
