"""The answer of a comparison of optimizers as Markdown."""

import pytest
from toy_comparison import BLOCKS, FOUR, MIXED, compare, four_fits, made_fit

from embedlab.movies.sweep.summary import to_markdown


def test_words_give_the_best_fit_what_diverged_and_what_lists_share():
    said = to_markdown(compare(four_fits(), FOUR, [0], k=1), "toy")
    assert "Diverged: sgd lr=1 at epoch 3." in said
    assert "| adam lr=1 | 101 | 1.00% above it | 0.5 |" in said
    assert "- **1 fit at most 10% above the exact cost** shares 1.0 of 1 movie with it." in said
    assert "- **1 fit more than 100% above it** shares 0.0 of 1 movie with it." in said


def test_where_every_fit_diverged_smaller_rates_are_advised():
    fits = [four_fits()[0], four_fits()[-1]]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    assert "Every fit diverged: compare smaller learning rates" in said
    assert "Best of each optimizer" not in said
    assert "Top 1 for" not in said


def test_the_summary_explains_the_lists_of_fits_that_stayed_at_their_start():
    far = [made_fit("sgd", lr, 1e6, start, seed) for lr, start, seed in STUCK]
    fits = [made_fit("exact", None, 100, BLOCKS), *far]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    assert "The 3 fits that end at more than 1,000 times the exact cost" in said
    assert "100% with others of the same random start, 0% with others of another start" in said


# Two of one seed, which recommend the same, and one of another.
STUCK = [(1.0, MIXED, 0), (0.1, MIXED, 0), (1.0, [[3, 0], [1, 0], [0, 2], [2, 0]], 1)]


def test_the_summary_claims_no_falling_overlap_without_a_clear_correlation():
    fits = [made_fit("exact", None, 100, BLOCKS)]
    fits += [made_fit("adam", lr, 100 + lr, BLOCKS if lr % 2 else MIXED) for lr in range(1, 7)]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    assert "The overlap does not clearly fall as the gap grows (Spearman" in said


@pytest.mark.parametrize(("n", "is_said"), [(5, False), (6, True)])
def test_the_correlation_of_fits_that_share_their_start_has_no_p_value(n, is_said):
    fits = [made_fit("exact", None, 100, BLOCKS)]
    fits += [made_fit("adam", lr, 100 + lr, BLOCKS if lr < 4 else MIXED) for lr in range(1, n + 1)]
    said = to_markdown(compare(fits, FOUR, [0], k=1), "toy")
    correlation = (
        "The overlap falls as the gap grows (Spearman's rank correlation -0.88 over 6 fits)."
    )
    assert (correlation in said) == is_said
    assert "p = " not in said
