"""The grid of a comparison: optimizers, learning rates, and what is refused."""

import pytest

from embedlab.errors import OptionError
from embedlab.movies.options import REFERENCE_ROUNDS, FitOptions
from embedlab.movies.sweep import grid

EXACT = FitOptions("exact", dim=100)


def test_the_default_grid_is_the_published_one_with_lbfgs_and_the_exact_solver():
    optimizers = grid.parse_optimizers("adam,rmsprop,sgd,lbfgs")
    rates = grid.choose_rates(optimizers, grid.parse_rates("published"))
    fits = grid.fit_grid(rates, EXACT)
    assert [(options.optimizer, options.lr) for options in fits] == [
        ("exact", None),
        *(("adam", lr) for lr in (1, 0.1, 0.01, 0.001, 0.0001)),
        *(("rmsprop", lr) for lr in (1, 0.1, 0.01, 0.001, 0.0001)),
        *(("sgd", lr) for lr in (4e-5, 3e-5, 2e-5, 1e-5, 1e-6)),
        ("lbfgs", 1),
    ]
    assert [options.epochs for options in fits] == [REFERENCE_ROUNDS, *16 * [150]]


@pytest.mark.parametrize(
    ("text", "adam", "sgd"),
    [
        ("1,0.1", (1.0, 0.1), (1.0, 0.1)),
        ("0.1, 1,0.1", (1.0, 0.1), (1.0, 0.1)),
        ("sgd:1e-5", (1, 0.1, 0.01, 0.001, 0.0001), (1e-5,)),
        ("adam:2/sgd:1e-5,1e-6", (2.0,), (1e-5, 1e-6)),
    ],
)
def test_rates_for_all_or_for_each(text, adam, sgd):
    rates = grid.choose_rates(("adam", "sgd"), grid.parse_rates(text))
    assert rates == {"adam": adam, "sgd": sgd}
    assert grid.parse_rates(grid.rates_as_text(rates)) == rates


@pytest.mark.parametrize(
    "text", ["", "fast", "1,,2", "0", "-1", "inf", "nan", "adm:1", "adam:", "adam:1/adam:2", "1/2"]
)
def test_bad_rates_are_refused_with_an_example(text):
    with pytest.raises(OptionError, match=r"learning_rates: expected .*adam:1,0\.1/sgd:2e-5; got"):
        grid.parse_rates(text)


def test_rates_of_an_optimizer_that_is_not_compared_are_refused():
    with pytest.raises(OptionError, match="sgd has rates, but optimizers is adam: add sgd there"):
        grid.choose_rates(("adam",), grid.parse_rates("sgd:1e-5"))


@pytest.mark.parametrize("text", ["", "exact", "adam,adm"])
def test_bad_optimizers_are_refused(text):
    with pytest.raises(OptionError, match="optimizers: expected some of adam, rmsprop, sgd"):
        grid.parse_optimizers(text)
