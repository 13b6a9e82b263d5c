"""Fits by every optimizer: what they find, what they report, and the memory that they need."""

import numpy as np
import pytest
from oracles import cooccurrence_by_loop, cost_by_loop, random_likes, two_taste_blocks
from toy_fits import exact_options, fit_toy

from embedlab.errors import OptionError
from embedlab.movies.data import weighting
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import OPTIMIZERS, FitOptions
from embedlab.movies.solvers import fit as fit_module
from embedlab.movies.solvers.fit import fit_likes
from embedlab_serving.neighbours import Neighbours


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_taste_blocks_come_out_as_two_blocks(optimizer):
    likes = two_taste_blocks(n_movies=12)
    result, _ = fit_toy(likes, optimizer)
    neighbours = Neighbours(result.embedding)
    for movie in range(12):
        block = set(range(6)) if movie < 6 else set(range(6, 12))
        nearest = {item.row for item in neighbours.top([movie], k=5)}
        assert nearest == block - {movie}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_epoch_is_reported_and_the_last_is_the_result(optimizer):
    likes = random_likes(np.random.default_rng(0), n_users=30, n_movies=15)
    result, history = fit_toy(likes, optimizer, epochs=7)
    assert [record.epoch for record in history] == list(range(result.epochs + 1))
    assert history[-1].metrics["train/cost"] == result.cost
    counts = cooccurrence_by_loop(likes.toarray())
    # The vectors are float32; the reported cost may be that of float64 vectors.
    assert cost_by_loop(result.embedding, counts) == pytest.approx(result.cost, rel=1e-5)
    assert all(record.metrics["train/gradient_norm"] >= 0 for record in history)


def test_the_dense_and_the_factored_form_give_the_same_fit():
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    _, factored = fit_toy(likes, "adam", epochs=100)
    _, dense = fit_toy(likes, "adam", epochs=100, objective="dense")
    costs = [[record.metrics["train/cost"] for record in history] for history in (factored, dense)]
    # Gradients differ in the last digits of float32, and 100 updates increase the difference.
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(optimizer):
    likes = random_likes(np.random.default_rng(0), n_users=30, n_movies=15)
    once, again = fit_toy(likes, optimizer, 20, seed=1)[0], fit_toy(likes, optimizer, 20, seed=1)[0]
    assert np.array_equal(once.embedding, again.embedding)
    if optimizer != "exact":
        assert not np.array_equal(
            once.embedding, fit_toy(likes, optimizer, 20, seed=2)[0].embedding
        )


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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("n_users", "n_movies"), [(1, 1), (3, 2), (5, 30)])
def test_degenerate_likes_fit(optimizer, n_users, n_movies):
    likes = random_likes(np.random.default_rng(0), n_users, n_movies)
    result, _ = fit_toy(likes, optimizer, epochs=5, dim=40)  # dim above the number of movies
    assert result.embedding.shape == (n_movies, 40)
    assert np.isfinite(result.embedding).all()
    assert np.isfinite(result.cost)


def test_the_exact_solver_asks_for_no_memory_of_a_gpu(monkeypatch):
    likes = random_likes(np.random.default_rng(0), n_users=60, n_movies=30)
    monkeypatch.setattr(fit_module, "free_bytes", {"cpu": 24 << 30, "cuda": 0}.__getitem__)
    fit = fit_likes(weight_likes(likes), exact_options(3), 0, "cuda")
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
