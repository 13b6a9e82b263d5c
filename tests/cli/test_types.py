"""Argument types: good values are converted, bad ones are refused with one sentence."""

from argparse import ArgumentTypeError

import pytest

from embedlab.cli.types import (
    auto_or,
    boolean,
    fraction,
    integer,
    integers,
    model_name,
    nonblank,
    number,
    one_of,
    positive_number,
    run_id_or_nothing,
    run_ids,
    version,
)


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "yes", "on", " Yes "])
def test_true_in_all_its_spellings(text):
    assert boolean(text) is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off"])
def test_false_in_all_its_spellings(text):
    assert boolean(text) is False


def test_good_values_come_out_typed():
    assert integer(1)("7") == 7
    assert integer(0, 9)("9") == 9
    assert positive_number("1e-3") == 0.001
    assert auto_or(positive_number)("0.5") == 0.5
    assert auto_or(positive_number)("Auto") is None
    assert one_of("a", "b")("b") == "b"
    assert nonblank("a title")("  Toy Story ") == "Toy Story"
    assert model_name(" movie-embedding ") == "movie-embedding"
    assert [version(text) for text in ("12", " previous ")] == ["12", "previous"]


def test_a_word_far_from_every_choice_gets_no_hint():
    with pytest.raises(ArgumentTypeError) as refused:
        one_of("dot", "cosine")("zzz")
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("text", ["../../elsewhere", "abc", "A" * 32])
def test_an_invalid_run_id_is_refused(text):
    with pytest.raises(ArgumentTypeError, match="expected a run's id"):
        run_id_or_nothing(text)


def test_a_run_id_or_an_empty_text_is_accepted():
    assert run_id_or_nothing(f" {'0a' * 16} ") == "0a" * 16
    assert run_id_or_nothing("") == ""


def test_best_is_not_an_id_and_one_id_is_too_few():
    two_or_more = run_ids("best", 2)
    assert two_or_more("best") == ()
    assert two_or_more(" a, b ,a") == ("a", "b")
    for text in ("", "a", "a,a"):
        with pytest.raises(ArgumentTypeError, match="expected best, or two or more run ids"):
            two_or_more(text)
    assert run_ids("latest", 1)("a") == ("a",)
    with pytest.raises(ArgumentTypeError, match="expected latest, or one or more run ids"):
        run_ids("latest", 1)(" , ")


def test_auto_is_none_and_several_numbers_are_a_tuple():
    assert auto_or(positive_number)(" Auto ") is None
    assert auto_or(positive_number)("0.5") == 0.5
    resolutions = integers(32, 1024)
    assert resolutions("64, 96,128") == (64, 96, 128)
    for text in ("", "64,", "64,12", "2000"):
        with pytest.raises(ArgumentTypeError, match="expected a whole number from 32 to 1024"):
            resolutions(text)


def test_a_number_out_of_its_range_is_refused():
    assert number(0, 1)("1") == 1.0
    for text in ("1.01", "-0.1", "nan", "inf", "x"):
        with pytest.raises(ArgumentTypeError, match="expected a number from 0 to 1, got"):
            number(0, 1)(text)
    with pytest.raises(ArgumentTypeError, match="expected a number from 0 up, got"):
        number(0)("inf")


def test_a_fraction_is_below_one():
    assert (fraction("0"), fraction("0.999")) == (0.0, 0.999)
    for text in ("1", "-0.1", "nan"):
        with pytest.raises(ArgumentTypeError, match="expected a number from 0 to below 1, got"):
            fraction(text)


def test_a_refusal_of_auto_or_a_value_names_both():
    for type, expected in (
        (positive_number, "expected 'auto' or a number above 0, got '-1'"),
        (one_of("sgd", "adam"), "expected 'auto' or one of sgd, adam; got '-1'"),
    ):
        with pytest.raises(ArgumentTypeError) as refused:
            auto_or(type)("-1")
        assert str(refused.value) == expected
