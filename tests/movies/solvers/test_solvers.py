"""The solvers on worlds with a known answer: what they reach, what they report, how they stop."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from oracles import cooccurrence_by_loop, cost_by_loop, random_likes, two_taste_blocks

from embedlab.errors import DivergedError, OptionError
from embedlab.movies.data import weighting
from embedlab.movies.data.cooccurrence import cooccurrence
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import DEFAULT_LR, OPTIMIZERS, FitOptions
from embedlab.movies.solvers import fit as fit_module
from embedlab.movies.solvers import minres
from embedlab.movies.solvers.fit import fit_likes
from embedlab.movies.solvers.gradient import fit_by_gradient, random_start
from embedlab.movies.solvers.minres import BlockKrylov, fit_minres
from embedlab.movies.solvers.objective import Dense, Factored
from embedlab.movies.solvers.result import FitResult, add_gap_metric, divergence_epoch
from embedlab.progress import EpochRecord
from embedlab_serving.neighbours import Neighbours
from entrypoints import fit_embedding

GRADIENT_OPTIMIZERS = tuple(DEFAULT_LR)
# Small worlds need smaller steps than the 9,742 movies that the defaults are for.
SMALL_LR = {"adam": 0.05, "adamw": 0.05, "rmsprop": 0.02, "sgd": 2e-4, "lbfgs": 1.0}


def exact(dim, epochs=150) -> FitOptions:
    return FitOptions("exact", dim=dim, epochs=epochs)


def fit(likes, optimizer, epochs=400, seed=0, dim=4, objective="factored"):
    history = []
    lr = SMALL_LR.get(optimizer)
    options = FitOptions(optimizer, lr, dim, epochs, objective)
    return fit_likes(weight_likes(likes), options, seed, "cpu", history.append), history


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_taste_blocks_come_out_as_two_blocks(optimizer):
    likes = two_taste_blocks(n_movies=12)
    result, _ = fit(likes, optimizer)
    neighbours = Neighbours(result.embedding)
    for movie in range(12):
        block = set(range(6)) if movie < 6 else set(range(6, 12))
        found = {item.row for item in neighbours.top([movie], k=5)}
        assert found == block - {movie}


@pytest.mark.parametrize("optimizer", GRADIENT_OPTIMIZERS)
def test_a_fit_ends_near_the_exact_cost_and_never_below_it(optimizer):
    likes = random_likes(np.random.default_rng(2), n_users=60, n_movies=20)
    reference = fit_minres(weight_likes(likes), exact(4), np.random.default_rng(0))
    result, _ = fit(likes, optimizer, epochs=2000)
    # Local minima of this problem are rare but real, and AdamW's weight decay pulls away from the
    # minimum, so 5% above is allowed; below is not, beyond float32's rounding.
    assert reference.cost * (1 - 1e-6) <= result.cost <= reference.cost * 1.05


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_epoch_is_reported_and_the_last_is_the_result(optimizer):
    likes = random_likes(np.random.default_rng(0), n_users=30, n_movies=15)
    result, history = fit(likes, optimizer, epochs=7)
    assert [record.epoch for record in history] == list(range(result.epochs + 1))
    assert history[-1].metrics["train/cost"] == result.cost
    counts = cooccurrence_by_loop(likes.toarray())
    # The vectors are kept as float32, the cost that was reported may be of float64 ones.
    assert cost_by_loop(result.embedding, counts) == pytest.approx(result.cost, rel=1e-5)
    assert all(record.metrics["train/gradient_norm"] >= 0 for record in history)


def test_step_zero_is_the_start_and_the_closing_evaluation_has_no_time():
    likes = random_likes(np.random.default_rng(0), n_users=30, n_movies=15)
    options = FitOptions("adam", 0.05, dim=4, epochs=3)
    _, history = fit(likes, "adam", epochs=3)
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


def test_the_dense_and_the_factored_form_give_the_same_fit():
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    _, factored = fit(likes, "adam", epochs=100)
    _, dense = fit(likes, "adam", epochs=100, objective="dense")
    costs = [[record.metrics["train/cost"] for record in history] for history in (factored, dense)]
    # Gradients differ in their last float32 digits, and 100 updates carry that on.
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(optimizer):
    likes = random_likes(np.random.default_rng(0), n_users=30, n_movies=15)
    once, again = fit(likes, optimizer, 20, seed=1)[0], fit(likes, optimizer, 20, seed=1)[0]
    assert np.array_equal(once.embedding, again.embedding)
    if optimizer != "exact":
        assert not np.array_equal(once.embedding, fit(likes, optimizer, 20, seed=2)[0].embedding)


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


def test_an_exact_fit_that_diverged_is_not_advised_a_learning_rate():
    result = FitResult(np.zeros((3, 2), np.float32), 1.0, 4, 0.1, 4, "vectors are too long")
    sentence = (
        r"^exact diverged: vectors are too long; weight the likes \(user_weight=inverse\), or"
    )
    with pytest.raises(DivergedError, match=sentence):
        result.raise_if_diverged(exact(2))


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


def test_the_exact_solver_recovers_planted_vectors():
    # X = VVᵀ off the diagonal with dim well below the number of movies: cost 0 is reachable.
    # Likes in blocks: movie j is liked by the users of its block only, so X has rank 3.
    likes = np.kron(np.eye(3, dtype=np.int32), np.ones((4, 5), dtype=np.int32))
    result = fit_minres(weight_likes(sp.csr_matrix(likes)), exact(3), np.random.default_rng(0))
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
            fit_minres(weighted, exact(10), np.random.default_rng(seed), on_epoch=history.append)
        )
        costs = [record.metrics["train/cost"] for record in history]
        assert all(later <= earlier for earlier, later in pairwise(costs))
    # The stopping rule leaves 1e-8 of the cost a round, a few times over.
    assert results[1].cost == pytest.approx(results[0].cost, rel=1e-6)
    assert results[2].cost == pytest.approx(results[0].cost, rel=1e-6)


def test_the_block_method_agrees_with_the_full_decomposition():
    weighted = weight_likes(random_likes(np.random.default_rng(4), n_users=80, n_movies=120))
    history = []
    common = {"weighted": weighted, "options": exact(10), "on_epoch": history.append}
    # So few movies are decomposed fully.
    full = fit_minres(weighted, exact(10), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    found = fit_minres(**common, generator=rng, tolerance=1e-10, eigensolver=BlockKrylov)
    assert found.cost == pytest.approx(full.cost, rel=1e-7)
    np.testing.assert_allclose(
        found.embedding @ found.embedding.T, full.embedding @ full.embedding.T, atol=1e-2
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
    """Also where X has fewer dimensions than the subspace, so that products add nothing to it."""
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
        fit = fit_minres(weighted, exact(10), rng, on_epoch=rounds.append, eigensolver=eigensolver)
        histories.append([record.metrics["train/cost"] for record in rounds])
        assert fit.cost == pytest.approx(
            Factored(weighted).cost_and_gradient(torch.from_numpy(fit.embedding))[0], rel=1e-6
        )
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
    assert histories[0][-1] == pytest.approx(histories[1][-1], rel=1e-9)


def principal_axes_costs(x, dim, tolerance):
    """The cost by round of iterated principal axes, which fills in the last round's ‖v_i‖²."""
    off_diagonal = x - np.diag(np.diag(x))
    n, costs = np.diag(x), []
    while len(costs) < 2 or costs[-2] - costs[-1] > tolerance * costs[-1]:
        values, e = np.linalg.eigh(off_diagonal + np.diag(n))
        v = e[:, -dim:] * np.sqrt(values[-dim:].clip(min=0))
        n = np.square(v).sum(axis=1)
        costs.append(np.square(v @ v.T - np.diag(n) - off_diagonal).sum())
    return costs


def test_a_movie_with_a_dimension_of_its_own_is_found_at_once():
    """Two movies outside of all blocks, liked by nearly all: each takes a dimension, nearly."""
    rng = np.random.default_rng(0)
    likes = sp.csr_matrix((rng.random((300, 60)) < np.r_[0.9, 0.8, np.full(58, 0.08)]).astype("i4"))
    plain = principal_axes_costs((likes.T @ likes).toarray().astype(float), 6, 1e-9)
    history = []
    options = exact(6, epochs=3000)
    newton = fit_minres(weight_likes(likes), options, rng, 1e-9, on_epoch=history.append)
    assert newton.cost <= plain[-1] * (1 + 1e-6)
    assert len(history) * 3 < len(plain)


def test_fits_of_the_same_likes_count_the_squares_of_x_once(monkeypatch):
    counted = []
    count = weighting.off_diagonal_squares
    monkeypatch.setattr(
        weighting, "off_diagonal_squares", lambda likes: counted.append(likes) or count(likes)
    )
    weighted = weight_likes(random_likes(np.random.default_rng(0), 20, 30))
    for optimizer in ("exact", "adam", "lbfgs"):
        options = FitOptions(optimizer, dim=3, epochs=2)
        fit_likes(weighted, options, 0, "cpu")
    assert len(counted) == 1


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
    fit = fit_minres(weighted, exact(3), rng, on_epoch=history.append, eigensolver=slowly)
    assert fit.seconds == history[0].seconds == 5.0


def test_a_fit_of_so_many_rounds_counts_no_squares_and_has_the_same_vectors():
    weighted = weight_likes(random_likes(np.random.default_rng(0), 200, 60))
    options = exact(5, epochs=3)
    short = fit_minres(weighted, options, np.random.default_rng(0), is_rough=True)
    assert "off_diagonal_squares" not in vars(weighted)
    full = fit_minres(weighted, options, np.random.default_rng(0), tolerance=0)
    np.testing.assert_array_equal(short.embedding, full.embedding)
    assert short.epochs == full.epochs == 3
    assert short.cost + weighted.off_diagonal_squares == pytest.approx(full.cost)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("n_users", "n_movies"), [(1, 1), (3, 2), (5, 30)])
def test_degenerate_worlds_fit(optimizer, n_users, n_movies):
    likes = random_likes(np.random.default_rng(0), n_users, n_movies)
    result, _ = fit(likes, optimizer, epochs=5, dim=40)  # dim above the number of movies
    assert result.embedding.shape == (n_movies, 40)
    assert np.isfinite(result.embedding).all()
    assert np.isfinite(result.cost)


@pytest.mark.parametrize("n_movies", [6, 700])  # by LAPACK, by the block method
def test_no_likes_at_all_fit_to_nothing(n_movies):
    likes = random_likes(np.random.default_rng(0), 4, n_movies) * 0
    result = fit_minres(weight_likes(likes), exact(2), np.random.default_rng(0))
    assert result.cost == 0
    assert not result.embedding.any()


def test_the_dense_form_holds_two_matrices_of_movies_by_movies():
    objective = Dense(cooccurrence(random_likes(np.random.default_rng(0), 20, 300)))
    v = torch.randn(300, 8)
    objective.cost_and_gradient(v)
    with torch.profiler.profile(profile_memory=True) as profile:
        objective.cost_and_gradient(v)
    allocated = sum(max(event.self_device_memory_usage, 0) for event in profile.key_averages())
    allocated += sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    # X and R are kept; one evaluation adds the blocks of its float64 sum and the gradient, which
    # even when all of them were alive at once are less than four more.
    assert objective.counts.shape == objective.residual.shape == (300, 300)
    assert 0 < allocated < 4 * 300 * 300 * 4 + 64 * 300 * 8


def test_gap_is_relative_to_the_reference():
    record = add_gap_metric(EpochRecord(3, {"train/cost": 250.0}, 0.5), 200.0)
    assert record == EpochRecord(3, {"train/cost": 250.0, "train/gap": 0.25}, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adm"], "optimizer: expected one of adam, .*exact; got 'adm'"),
        (["--objective", "sparse"], "objective: expected one of factored, dense; got 'sparse'"),
        (["--dim", "0"], "dim: expected a whole number from 1 to 100000, got '0'"),
        (["--epochs", "-1"], "epochs: expected a whole number from 1 up, got '-1'"),
        (["--init-scale", "0.0"], "init_scale: expected a number above 0, got '0.0'"),
        (["--lr", "-0.1"], "lr: expected 'auto' or a number above 0, got '-0.1'"),
        (["--optimizer", "exact", "--lr", "0.1"], "lr: expected 'auto' with optimizer=exact"),
    ],
)
def test_options_out_of_range_are_refused_before_any_run(arguments, message):
    with pytest.raises(OptionError, match=message):
        fit_embedding.main(arguments)


def test_the_exact_solver_asks_for_no_memory_of_a_gpu(monkeypatch):
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    monkeypatch.setattr(fit_module, "free_bytes", {"cpu": 24 << 30, "cuda": 0}.__getitem__)
    fit = fit_likes(weight_likes(likes), exact(3), 0, "cuda")
    assert fit.embedding.shape == (30, 3)


@pytest.mark.parametrize(("optimizer", "objective"), [("adam", "factored"), ("sgd", "dense")])
def test_vectors_larger_than_the_memory_are_refused(monkeypatch, optimizer, objective):
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    monkeypatch.setattr(fit_module, "free_bytes", lambda device: 24 << 30)
    options = FitOptions(optimizer, dim=99_999, objective=objective)
    sentence = (
        r"dim=99999 needs 11\d\.\d GiB and cpu has 24\.0 GiB free: .* \(dim=30, the number of"
    )
    with pytest.raises(OptionError, match=sentence):
        fit_likes(weight_likes(likes), options, 0, "cpu")
