"""Results of fits: the epoch of a divergence, the advice of its error, and the gap."""

import math

import numpy as np
import pytest
from oracles import random_likes
from toy_fits import exact_options

from embedlab.errors import DivergedError
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab.movies.solvers.result import FitResult, add_gap_metric, divergence_epoch
from embedlab.progress import EpochRecord


def test_an_exact_fit_that_diverged_is_not_advised_a_learning_rate():
    result = FitResult(np.zeros((3, 2), np.float32), 1.0, 4, 0.1, 4, "vectors are too long")
    sentence = (
        r"^exact diverged: vectors are too long; weight the likes \(user_weight=inverse\), or"
    )
    with pytest.raises(DivergedError, match=sentence):
        result.raise_if_diverged(exact_options(2))


@pytest.mark.parametrize(("rounds", "is_hit"), [(2, True), (500, False)])
def test_an_exact_fit_that_has_not_converged_says_so(rounds, is_hit):
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    options = exact_options(4, rounds)
    result = fit_likes(weight_likes(likes), options, 0, "cpu")
    assert result.hit_max_rounds(options) == is_hit
    assert result.length(options).endswith(" rounds (the maximum; more might lower it)") == is_hit
    assert result.length(FitOptions("adam", epochs=2)) == f"{result.epochs} epochs"


@pytest.mark.parametrize(
    ("costs", "epoch"),
    [
        ([1.0, 5000.0, 1000.0], None),
        ([1.0, 0.5, 1001.0, 900.0, 1001.0, math.inf], 4),
        ([1.0, math.nan], 1),
        ([math.inf], 0),
        ([0.0, 0.0], None),
    ],
)
def test_the_epoch_of_a_divergence_is_the_first_of_the_last_bad_ones(costs, epoch):
    assert divergence_epoch(costs) == epoch


@pytest.mark.parametrize(("init_scale", "fault"), [(1e19, "shorter than"), (1e38, "finite")])
def test_vectors_that_could_not_be_served_have_diverged(init_scale, fault):
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    weighted = weight_likes(likes, item_power=1.0)  # whose scale is far above 1
    options = FitOptions("adam", 1.0, dim=4, epochs=1, init_scale=init_scale)
    result = fit_likes(weighted, options, 0, "cpu")
    assert result.has_diverged
    with pytest.raises(DivergedError, match=rf"diverged: .*({fault}|not finite)"):
        result.raise_if_diverged(options)


def test_gap_is_relative_to_the_reference():
    record = add_gap_metric(EpochRecord(3, {"train/cost": 250.0}, 0.5), 200.0)
    assert record == EpochRecord(3, {"train/cost": 250.0, "train/gap": 0.25}, 0.5)


def test_above_a_cost_of_zero_there_is_no_gap():
    record = EpochRecord(3, {"train/cost": 250.0}, 0.5)
    assert add_gap_metric(record, 0.0) == record
