"""Both forms of the cost and its gradient against loops, each other, and the cost's symmetries."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import cooccurrence_by_loop, cost_by_loop, gradient_by_differences, random_likes
from scipy.stats import ortho_group

from embedlab.movies.data.cooccurrence import cooccurrence
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.solvers import objective as objective_module
from embedlab.movies.solvers.objective import (
    MAX_CHANGE,
    Dense,
    Factored,
    IncrementalProducts,
    balanced_row_shards,
)


def both_forms(likes):
    return {"factored": Factored(weight_likes(likes)), "dense": Dense(cooccurrence(likes))}


# Seed, users, movies, dim.
toys = st.tuples(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 7), st.integers(1, 5))


@given(toy=toys, form=st.sampled_from(["factored", "dense"]))
@settings(max_examples=40, deadline=None)
def test_cost_and_gradient_are_those_of_loops(toy, form):
    seed, n_users, n_movies, dim = toy
    rng = np.random.default_rng(seed)
    likes = random_likes(rng, n_users, n_movies)
    counts = cooccurrence_by_loop(likes.toarray())
    v = torch.from_numpy(rng.standard_normal((n_movies, dim))).float()

    cost, gradient = both_forms(likes)[form].cost_and_gradient(v)

    # Residuals are at most about 30 here; float32 keeps 7 digits of each, squared and summed.
    assert cost == pytest.approx(cost_by_loop(v.numpy(), counts), rel=1e-5, abs=1e-4)
    # The differences' own error is O(h²) times the third derivative, about 24·‖v‖·1e-8.
    expected = gradient_by_differences(v.numpy(), counts)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-2)


def test_both_forms_agree_over_several_blocks_of_rows(monkeypatch):
    monkeypatch.setattr(objective_module, "ROWS_AT_ONCE", 7)  # 60 movies: the last block is shorter
    rng = np.random.default_rng(0)
    likes = random_likes(rng, n_users=80, n_movies=60)
    v = torch.from_numpy(rng.standard_normal((60, 10))).float()
    forms = both_forms(likes)
    cost, gradient = forms["factored"].cost_and_gradient(v)
    dense_cost, dense_gradient = forms["dense"].cost_and_gradient(v)
    # The factored cost is exact in float64; the dense one rounds its residuals to float32.
    assert dense_cost == pytest.approx(cost, rel=1e-6)
    # Each entry is a float32 sum of 60 products of this size.
    np.testing.assert_allclose(dense_gradient, gradient, rtol=0, atol=1e-5 * gradient.abs().max())


@pytest.mark.parametrize("n_users", [5, 50])
def test_the_smaller_gram_matrix_gives_the_same_norm_of_the_counts(n_users):
    likes = random_likes(np.random.default_rng(1), n_users, n_movies=20)
    counts = cooccurrence_by_loop(likes.toarray())
    off_diagonal = counts - np.diag(np.diag(counts))
    assert Factored(weight_likes(likes)).off_diagonal_squares == (off_diagonal**2).sum()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_rotating_the_vectors_or_permuting_the_movies_leaves_the_cost(seed):
    rng = np.random.default_rng(seed)
    likes = random_likes(rng, n_users=20, n_movies=10)
    v = rng.standard_normal((10, 4))
    rotation = ortho_group.rvs(4, random_state=rng)
    order = rng.permutation(10)
    cost = cost_of(likes, v)
    # All in float64, so only the rounding of about 100 terms is left.
    assert cost_of(likes, v @ rotation) == pytest.approx(cost, rel=1e-12)
    assert cost_of(likes[:, order], v[order]) == pytest.approx(cost, rel=1e-12)


@given(seed=st.integers(0, 10**6), times=st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_counts_times_c_and_vectors_times_root_c_scale_the_cost_by_c_squared(seed, times):
    rng = np.random.default_rng(seed)
    likes = random_likes(rng, n_users=20, n_movies=10)
    v = rng.standard_normal((10, 4))
    # Every user `times` over: X becomes times·X.
    repeated = likes[np.repeat(np.arange(20), times)]
    expected = times**2 * cost_of(likes, v)
    assert cost_of(repeated, np.sqrt(times) * v) == pytest.approx(expected, rel=1e-12)


def test_an_exact_fit_costs_nothing_and_is_never_negative():
    # Without likes, X is 0: orthogonal vectors fit it exactly, and large sums cancel.
    likes = random_likes(np.random.default_rng(0), 1, 6) * 0
    v = torch.eye(6) * 1e3
    cost, gradient = Factored(weight_likes(likes)).cost_and_gradient(v)
    assert cost == 0
    assert gradient.abs().max() == 0


def cost_of(likes, v):
    objective = Factored(weight_likes(likes), dtype=torch.float64)
    return objective.cost_and_gradient(torch.from_numpy(v))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 10])
@pytest.mark.parametrize("step", [1e-5, 1e-3, 0.05, 1.0])
def test_updated_products_give_the_cost_and_gradient_of_new_ones(monkeypatch, step, dim, dtype):
    recomputed = record_recomputations(monkeypatch)
    rng = np.random.default_rng(0)
    weighted = weight_likes(random_likes(rng, n_users=80, n_movies=60))
    v = 0.3 * torch.from_numpy(rng.standard_normal((60, dim))).to(dtype)
    objective, norm = Factored(weighted, dtype=dtype), v.norm()
    for _ in range(100):
        cost, gradient = objective.cost_and_gradient(v)
        expected, expected_gradient = Factored(weighted, dtype=dtype).cost_and_gradient(v)
        assert cost == pytest.approx(expected, rel=1e-6)
        largest = expected_gradient.abs().max()
        np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-5 * largest)
        v += step * norm / np.sqrt(60 * dim) * torch.from_numpy(rng.standard_normal((60, dim)))
        v *= norm / v.norm()
    # The cost is far from 0, so a change of MAX_CHANGE decides.
    n_recomputed = sum(products is objective._products for products in recomputed)
    assert n_recomputed == pytest.approx(1 + 99 * min(1, step / MAX_CHANGE), rel=0.3)


def test_products_near_an_exact_fit_are_recomputed_once_in_every_call(monkeypatch):
    # Orthogonal vectors fit X = 0; what noise adds to the cost is 1e-11 of the sums that cancel.
    recomputed = record_recomputations(monkeypatch)
    weighted = weight_likes(random_likes(np.random.default_rng(0), 1, 6) * 0)
    objective, generator = Factored(weighted), torch.Generator().manual_seed(0)
    for n in range(1, 10):
        v = torch.eye(6) * 1e3 + 1e-3 * torch.randn(6, 6, generator=generator)
        cost, _ = objective.cost_and_gradient(v)
        assert sum(products is objective._products for products in recomputed) == n
        assert cost == Factored(weighted).cost_and_gradient(v)[0] > 0


def record_recomputations(monkeypatch):
    """A list to which every recomputation of products adds its object."""
    recomputed, recompute = [], IncrementalProducts.recompute

    def recorded(self, v):
        recomputed.append(self)
        recompute(self, v)

    monkeypatch.setattr(IncrementalProducts, "recompute", recorded)
    return recomputed


def test_the_dense_form_holds_two_matrices_of_movies_by_movies():
    objective = Dense(cooccurrence(random_likes(np.random.default_rng(0), 20, 300)))
    v = torch.randn(300, 8)
    objective.cost_and_gradient(v)
    with torch.profiler.profile(profile_memory=True) as profile:
        objective.cost_and_gradient(v)
    allocated = sum(max(event.self_device_memory_usage, 0) for event in profile.key_averages())
    allocated += sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    # X and R are kept. An evaluation also allocates the blocks of its float64 sum and the gradient;
    # added up, all of these are less than four more matrices.
    assert objective.counts.shape == objective.residual.shape == (300, 300)
    assert 0 < allocated < 4 * 300 * 300 * 4 + 64 * 300 * 8


def test_shares_of_users_hold_about_as_many_likes():
    rng = np.random.default_rng(0)
    likes = sp.random(200, 50, 0.3, "csr", rng=rng)
    likes = likes.multiply(rng.random((200, 1)) < 0.2).tocsr()
    for n in (1, 2, 3, 7):
        parts = balanced_row_shards(likes, n)
        assert [row for part in parts for row in range(200)[part]] == list(range(200))
        counts = [likes[part].nnz for part in parts]
        assert max(counts) - min(counts) <= 2 * np.diff(likes.indptr).max()
    few = balanced_row_shards(likes[:2], 4)
    assert [row for part in few for row in range(2)[part]] == [0, 1]


def test_a_cost_within_roundoff_is_zero():
    """A single movie is in no pair, so the cost is 0 for any vector."""
    likes = sp.csr_matrix(np.ones((3, 1), dtype=np.int32))
    objective = Factored(weight_likes(likes), dtype=torch.float64)
    rng = np.random.default_rng(0)

    def cost(scale: float) -> float:
        return objective.cost_and_gradient(torch.from_numpy(rng.normal(size=(1, 7)) * scale))[0]

    assert {cost(scale) for scale in (0.1, 1, 10, 100) for _ in range(20)} == {0.0}


def test_a_cost_that_overflows_is_infinite():
    """The fourth power of 3e76 is finite, but the sum over all pairs of 100 movies is not."""
    likes = sp.csr_matrix(np.ones((3, 100), dtype=np.int32))
    objective = Factored(weight_likes(likes), dtype=torch.float64)
    cost, _ = objective.cost_and_gradient(torch.full((100, 1), 3e76, dtype=torch.float64))
    assert cost == np.inf
