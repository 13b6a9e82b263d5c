"""Comparison of runs: its numbers and its Markdown."""

import re
from dataclasses import replace

import pytest
from toy_dataset import CLASSES, compared_run, predictions

from embedlab.vision.evaluation.comparison import compare_runs, right_only_by


def compared_runs():
    labels = [0, 1, 2] * 20
    good = predictions(labels, labels, [0.9] * 60)
    worse = [(label + 1) % 3 if i < 12 else label for i, label in enumerate(labels)]
    bad = predictions(labels, worse, [0.7] * 60)
    return [
        compared_run("features", "extract_features", bad, val_accuracy=0.79, seconds=60.0),
        compared_run("tuned", "finetune", good, val_accuracy=0.99, seconds=600.0),
    ]


def test_runs_are_compared_in_numbers_and_words():
    comparison = compare_runs(compared_runs(), CLASSES)
    assert [run.name for run in comparison.runs] == ["tuned", "features"]
    assert comparison.table["run"].tolist() == ["tuned", "features"]
    assert comparison.table["accuracy"].tolist() == [1.0, 0.8]
    assert comparison.table["minutes"].tolist() == [10.0, 1.0]
    (pair,) = comparison.pairs.to_dict("records")
    assert (pair["first"], pair["only_first_right"], pair["only_second_right"]) == ("tuned", 12, 0)
    assert pair["p_value"] == pytest.approx(2 / 2**12)
    assert comparison.recall["features"].tolist() == [0.8, 0.8, 0.8]
    words = comparison.to_markdown("squares")
    assert words.startswith("### tuned is the best of 2 on squares\n")
    assert "+20.00 points, significant (McNemar" in words
    assert re.search(r"gains most is \w+ \(\+20\.0 points\)", words)


def test_a_difference_that_is_not_significant_is_called_that():
    first, _ = compared_runs()
    twin = replace(first, name="twin", predictions=first.predictions)
    words = compare_runs([first, twin], CLASSES).to_markdown("squares")
    assert words.startswith("### features and twin are equally good on squares\n")
    assert "+0.00 points, not significant (McNemar" in words
    assert "chance" not in words


@pytest.mark.parametrize(("n_runs", "is_significant"), [(2, True), (4, False)])
def test_the_best_of_several_runs_needs_a_clearer_lead(n_runs, is_significant):
    labels = [0, 1, 2] * 20
    runs = []
    for i in range(n_runs):  # each gets seven other images wrong than the best one, which is right
        wrong = [(label + 1) % 3 if j // 7 == i - 1 else label for j, label in enumerate(labels)]
        answered = predictions(labels, wrong, [0.9] * 60)
        runs.append(compared_run(f"run {i}", "finetune", answered, val_accuracy=0.9, seconds=1.0))
    comparison = compare_runs(runs, CLASSES)
    n_pairs = n_runs * (n_runs - 1) / 2
    assert comparison.pairs["p_value"].tolist() == pytest.approx(
        [n_pairs * 2 / 2**7] * (n_runs - 1)
    )
    words = comparison.to_markdown("squares")
    assert words.startswith("### run 0 is the best of 2") == is_significant
    assert ("the lead over run 1 is not significant (p = 0.094)" in words) != is_significant
    assert ("p = 0.094 after multiplying by the 6 pairs of runs)" in words) == (n_runs == 4)


def test_disagreements_show_the_wrong_answers_most_confident_first():
    bad, good = (run.predictions for run in compared_runs())
    shown = right_only_by(good, bad, max_shown=5)
    assert len(shown.rows) == 5
    assert not shown.is_right.any()
    assert len(right_only_by(bad, good).rows) == 0
