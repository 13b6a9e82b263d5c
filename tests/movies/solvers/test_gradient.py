"""Gradient fits: their start, one update, where they end, and where they diverge."""

import numpy as np
import pytest
import torch
from oracles import random_likes
from toy_fits import exact_options, fit_toy

from embedlab.errors import DivergedError
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import DEFAULT_LR, FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab.movies.solvers.gradient import fit_by_gradient, random_start
from embedlab.movies.solvers.minres import fit_minres
from embedlab.movies.solvers.objective import Factored

GRADIENT_OPTIMIZERS = tuple(DEFAULT_LR)


@pytest.mark.parametrize("optimizer", GRADIENT_OPTIMIZERS)
def test_a_fit_ends_near_the_exact_cost_and_never_below_it(optimizer):
    likes = random_likes(np.random.default_rng(2), n_users=60, n_movies=20)
    reference = fit_minres(weight_likes(likes), exact_options(4), np.random.default_rng(0))
    result, _ = fit_toy(likes, optimizer, epochs=2000)
    # Local minima of this problem are rare but real, and AdamW's weight decay pulls away from the
    # minimum, so 5% above is allowed; a lower cost is not, beyond rounding in float32.
    assert reference.cost * (1 - 1e-6) <= result.cost <= reference.cost * 1.05


def test_step_zero_is_the_start_and_the_closing_evaluation_has_no_time():
    likes = random_likes(np.random.default_rng(0), n_users=30, n_movies=15)
    options = FitOptions("adam", 0.05, dim=4, epochs=3)
    _, history = fit_toy(likes, "adam", epochs=3)
    start = random_start(15, options, torch.Generator().manual_seed(0))
    cost, gradient = Factored(weight_likes(likes)).cost_and_gradient(start)
    assert history[0].metrics["train/cost"] == cost
    assert history[0].metrics["train/gradient_norm"] == pytest.approx(gradient.norm().item())
    assert [record.seconds is None for record in history] == [False, False, False, True]


def test_one_sgd_update_is_the_gradient_times_the_rate():
    likes = random_likes(np.random.default_rng(0), n_users=30, n_movies=15)
    options = FitOptions("sgd", 1e-3, dim=4, epochs=1, init_scale=0.1)
    generator = torch.Generator().manual_seed(5)
    start = random_start(15, options, torch.Generator().manual_seed(5))
    result = fit_by_gradient(Factored(weight_likes(likes)), options, generator)
    _, gradient = Factored(weight_likes(likes)).cost_and_gradient(start)
    np.testing.assert_allclose(result.embedding, start - 1e-3 * gradient, rtol=1e-6)


def test_a_fit_that_diverges_stops_and_says_where():
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    options = FitOptions("sgd", 10.0, dim=4, epochs=50)
    history = []
    result = fit_likes(weight_likes(likes), options, 0, "cpu", history.append)
    assert result.epochs == len(history) < 50
    costs = [record.metrics["train/cost"] for record in history]
    assert all(np.isfinite(costs))
    assert result.diverged_at == next(i for i, cost in enumerate(costs) if cost > 1000 * costs[0])
    with pytest.raises(DivergedError, match=rf"sgd lr=10 .* epoch {len(history)}; .* lr=1,"):
        result.raise_if_diverged(options)


def test_a_finite_cost_far_above_the_start_has_diverged_and_a_spike_has_not():
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    exploded = fit_likes(weight_likes(likes), FitOptions("sgd", 0.1, dim=4, epochs=2), 0, "cpu")
    assert np.isfinite(exploded.cost)
    assert (exploded.diverged_at, exploded.epochs) == (1, 2)
    sentence = r"diverged: after 2 epochs the cost is .*e\+.*, .* times that of the start; try a"
    with pytest.raises(DivergedError, match=sentence):
        exploded.raise_if_diverged(FitOptions("sgd", 0.1))

    history = []
    options = FitOptions("rmsprop", 3.0, dim=20, epochs=100)
    spiked = fit_likes(weight_likes(likes), options, 0, "cpu", history.append)
    costs = [record.metrics["train/cost"] for record in history]
    assert max(costs) > 1000 * costs[0]
    assert costs[-1] < 1000 * costs[0]
    assert not spiked.has_diverged
