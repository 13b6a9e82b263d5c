"""The exact solver against planted vectors, full decompositions and iterated principal axes."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from oracles import random_likes
from toy_fits import exact_options

from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.solvers import minres
from embedlab.movies.solvers.minres import BlockKrylov, fit_minres
from embedlab.movies.solvers.objective import Factored


def test_the_exact_solver_recovers_planted_vectors():
    # X = VVᵀ off the diagonal with dim well below the number of movies: cost 0 is reachable.
    # Only the users of a block like its movies, so X has rank 3.
    likes = np.kron(np.eye(3, dtype=np.int32), np.ones((4, 5), dtype=np.int32))
    result = fit_minres(
        weight_likes(sp.csr_matrix(likes)), exact_options(3), np.random.default_rng(0)
    )
    counts = likes.T @ likes
    np.testing.assert_allclose(result.embedding @ result.embedding.T, counts, atol=1e-3)
    assert result.cost < 1e-6


@pytest.mark.parametrize("n_movies", [40, 700])
def test_no_exact_round_raises_the_cost_whatever_the_seed(n_movies):
    weighted = weight_likes(random_likes(np.random.default_rng(3), 100, n_movies))
    results = []
    for seed in range(3):
        history = []
        results.append(
            fit_minres(
                weighted, exact_options(10), np.random.default_rng(seed), on_epoch=history.append
            )
        )
        costs = [record.metrics["train/cost"] for record in history]
        assert all(later <= earlier for earlier, later in pairwise(costs))
    # The stopping rule may leave a few times 1e-8 of the cost.
    assert results[1].cost == pytest.approx(results[0].cost, rel=1e-6)
    assert results[2].cost == pytest.approx(results[0].cost, rel=1e-6)


def test_the_block_method_agrees_with_the_full_decomposition():
    weighted = weight_likes(random_likes(np.random.default_rng(4), n_users=80, n_movies=120))
    history = []
    common = {"weighted": weighted, "options": exact_options(10), "on_epoch": history.append}
    # With so few movies, X is decomposed fully.
    full = fit_minres(weighted, exact_options(10), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    by_blocks = fit_minres(**common, generator=rng, tolerance=1e-10, eigensolver=BlockKrylov)
    assert by_blocks.cost == pytest.approx(full.cost, rel=1e-7)
    np.testing.assert_allclose(
        by_blocks.embedding @ by_blocks.embedding.T, full.embedding @ full.embedding.T, atol=1e-2
    )
    costs = [record.metrics["train/cost"] for record in history]
    assert all(later <= earlier for earlier, later in pairwise(costs))
    products = [record.metrics["train/products"] for record in history]
    assert all(later > earlier for earlier, later in pairwise(products))


@pytest.mark.parametrize(
    ("is_refined", "tolerance"), [(True, {}), (False, {"rtol": 0, "atol": 5e-5})]
)
@pytest.mark.parametrize("n_users", [12, 80])
def test_ritz_vectors_stay_orthonormal_and_their_products_true(n_users, is_refined, tolerance):
    """This holds even if the rank of X is below the size of the subspace, which cannot grow."""
    rng = np.random.default_rng(5)
    likes = random_likes(rng, n_users=n_users, n_movies=150).astype(float)
    x = torch.from_numpy((likes.T @ likes).toarray())
    solver = BlockKrylov(likes, 10, rng)
    if is_refined:
        assert solver.refine()
        assert not solver.refine()  # it is in float64 already
    for _ in range(15):
        shift = torch.from_numpy(rng.random(150))
        solver.expand_subspace(shift)
        values, e, xe = solver.rayleigh_ritz(shift, 10)
        torch.testing.assert_close(e.T @ e, torch.eye(10, dtype=torch.float64), **tolerance)
        torch.testing.assert_close(xe, x @ e, **tolerance)
    largest = torch.linalg.eigvalsh(x + torch.diag(shift))[-10:]
    torch.testing.assert_close(values, largest, rtol=1e-2, atol=0)


def test_costs_of_rounds_in_float32_are_right_to_five_digits():
    def in_float64(*arguments):
        solver = BlockKrylov(*arguments)
        assert solver.refine()
        return solver

    weighted = weight_likes(random_likes(np.random.default_rng(0), n_users=100, n_movies=700))
    histories = []
    for eigensolver in (BlockKrylov, in_float64):
        rng, rounds = np.random.default_rng(0), []
        fit = fit_minres(
            weighted, exact_options(10), rng, on_epoch=rounds.append, eigensolver=eigensolver
        )
        histories.append([record.metrics["train/cost"] for record in rounds])
        assert fit.cost == pytest.approx(
            Factored(weighted).cost_and_gradient(torch.from_numpy(fit.embedding))[0], rel=1e-6
        )
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
    assert histories[0][-1] == pytest.approx(histories[1][-1], rel=1e-9)


def principal_axes_costs(x, dim, tolerance):
    """The cost of each round of iterated principal axes, which fills in the last ‖v_i‖²."""
    off_diagonal = x - np.diag(np.diag(x))
    n, costs = np.diag(x), []
    while len(costs) < 2 or costs[-2] - costs[-1] > tolerance * costs[-1]:
        values, e = np.linalg.eigh(off_diagonal + np.diag(n))
        v = e[:, -dim:] * np.sqrt(values[-dim:].clip(min=0))
        n = np.square(v).sum(axis=1)
        costs.append(np.square(v @ v.T - np.diag(n) - off_diagonal).sum())
    return costs


def test_newtons_steps_need_a_third_of_the_rounds_of_iterated_principal_axes():
    """Nearly all users like two of the movies, each of which nearly takes a dimension alone."""
    rng = np.random.default_rng(0)
    likes = sp.csr_matrix((rng.random((300, 60)) < np.r_[0.9, 0.8, np.full(58, 0.08)]).astype("i4"))
    plain = principal_axes_costs((likes.T @ likes).toarray().astype(float), 6, 1e-9)
    history = []
    options = exact_options(6, epochs=3000)
    newton = fit_minres(weight_likes(likes), options, rng, 1e-9, on_epoch=history.append)
    assert newton.cost <= plain[-1] * (1 + 1e-6)
    assert len(history) * 3 < len(plain)


def test_the_seconds_of_a_fit_include_its_first_subspace(monkeypatch):
    now = 0.0

    def slowly(*arguments):
        nonlocal now
        now += 5.0
        return minres.choose_eigensolver(*arguments)

    monkeypatch.setattr(minres.time, "perf_counter", lambda: now)
    weighted = weight_likes(random_likes(np.random.default_rng(0), 20, 30))
    history = []
    rng = np.random.default_rng(0)
    fit = fit_minres(weighted, exact_options(3), rng, on_epoch=history.append, eigensolver=slowly)
    assert fit.seconds == history[0].seconds == 5.0


def test_a_rough_fit_leaves_out_the_squares_of_x_and_has_the_same_vectors():
    weighted = weight_likes(random_likes(np.random.default_rng(0), 200, 60))
    options = exact_options(5, epochs=3)
    short = fit_minres(weighted, options, np.random.default_rng(0), is_rough=True)
    assert "off_diagonal_squares" not in vars(weighted)
    full = fit_minres(weighted, options, np.random.default_rng(0), tolerance=0)
    np.testing.assert_array_equal(short.embedding, full.embedding)
    assert short.epochs == full.epochs == 3
    assert short.cost + weighted.off_diagonal_squares == pytest.approx(full.cost)


@pytest.mark.parametrize("n_movies", [6, 700])  # by LAPACK, by the block method
def test_no_likes_at_all_fit_to_nothing(n_movies):
    likes = random_likes(np.random.default_rng(0), 4, n_movies) * 0
    result = fit_minres(weight_likes(likes), exact_options(2), np.random.default_rng(0))
    assert result.cost == 0
    assert not result.embedding.any()
