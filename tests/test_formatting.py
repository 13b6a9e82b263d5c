"""Formatting of counts, costs, values and gaps."""

import pytest
from markdown_it import MarkdownIt

from embedlab.formatting import (
    cost_as_text,
    counted,
    escape_markdown,
    first_line,
    gap_as_text,
    score_as_text,
    signed_gap_as_text,
    value_as_text,
)


@pytest.mark.parametrize(
    ("n", "noun", "plural", "text"),
    [
        (0, "run", None, "0 runs"),
        (1, "epoch", None, "1 epoch"),
        (2, "epoch", None, "2 epochs"),
        (1234, "movie", None, "1,234 movies"),
        (1, "process", "processes", "1 process"),
        (3, "class", "classes", "3 classes"),
    ],
)
def test_a_noun_agrees_with_its_number(n, noun, plural, text):
    assert counted(n, noun, plural) == text


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (733_625.35, "733,625"),
        (100.4, "100"),
        (24.437, "24.4"),
        (0.00321, "0.00321"),
        (0.0, "0"),
        (1e15, "1e+15"),
        (4.28e114, "4.28e+114"),
    ],
)
def test_a_cost_has_digits_that_say_something(cost, text):
    assert cost_as_text(cost) == text


@pytest.mark.parametrize(
    ("score", "text"), [(145.28, "145.3"), (10.0, "10.0"), (-12.34, "-12.3"), (0.01234, "0.0123")]
)
def test_small_scores_keep_their_digits(score, text):
    assert score_as_text(score) == text


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), ((64, 96), "64,96"), (0.01, "0.01"), ("a b", "a b")]
)
def test_a_value_is_spelled_as_on_the_command_line(value, text):
    assert value_as_text(value) == text


def test_a_title_is_not_read_as_markup():
    text = escape_markdown(r"M*A*S*H [a_b] <i> `c` \d")
    assert MarkdownIt("commonmark").renderInline(text) == r"M*A*S*H [a_b] &lt;i&gt; `c` \d"


@pytest.mark.parametrize(
    ("gap", "text"), [(-1e-7, "0.00% above"), (0.0003, "0.03% above"), (20.4, "21.4 times")]
)
def test_a_gap_is_a_percentage_or_a_multiple(gap, text):
    assert gap_as_text(gap) == text


@pytest.mark.parametrize(
    ("gap", "text"),
    [
        (0.0003, "+0.03%"),
        (-1e-9, "+0.00%"),
        (5.23, "+523%"),
        (3.1e6, "+3.1e+08%"),
        (float("nan"), "diverged"),
    ],
)
def test_a_signed_gap_is_short_enough_for_a_cell(gap, text):
    assert signed_gap_as_text(gap) == text


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError("\n one\ntwo"), "one"), (ValueError(" "), "ValueError")]
)
def test_the_first_line_of_an_error_is_never_empty(error, text):
    assert first_line(error) == text
