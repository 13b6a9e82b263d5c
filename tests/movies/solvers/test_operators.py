"""Sparse operators: products of likes and vectors, by scipy's threads and by torch."""

import numpy as np
import pytest
import torch
from oracles import random_likes

from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.solvers import operators
from embedlab.movies.solvers.operators import ScipyLikesOperator, TorchLikesOperator, likes_operator


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_products_of_likes_are_the_same_to_the_bit_by_any_threads(monkeypatch, n_threads):
    rng = np.random.default_rng(0)
    likes = weight_likes(random_likes(rng, 50, 40), "inverse").matrix
    v, u = (torch.from_numpy(rng.standard_normal((n, 7))) for n in (40, 50))
    alone = ScipyLikesOperator(likes, torch.float64, torch.float32)
    np.testing.assert_allclose(alone.matmat(v), likes.toarray() @ v.numpy(), rtol=1e-12)
    np.testing.assert_allclose(alone.rmatmat(u), likes.toarray().T @ u.numpy(), rtol=1e-12)
    monkeypatch.setattr(operators, "MIN_THREADED_MULTIPLICATIONS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    shared = ScipyLikesOperator(likes, torch.float64, torch.float32)
    assert torch.equal(shared.matmat(v), alone.matmat(v))
    assert torch.equal(shared.rmatmat(u), alone.rmatmat(u))
    for single, double in [
        (alone.rmatmat(u.float()), alone.rmatmat(u)),
        (alone.matmat(v.float()), alone.matmat(v)),
    ]:
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_by_scipy_and_by_torch_are_the_same(monkeypatch, dtype):
    likes = random_likes(np.random.default_rng(0), 50, 40)
    by_torch = likes_operator(likes, torch.device("cpu"), dtype)
    monkeypatch.setattr(operators, "MIN_LIKES_FOR_SCIPY", 0)
    by_scipy = likes_operator(likes, torch.device("cpu"), dtype)
    assert isinstance(by_torch, TorchLikesOperator) and isinstance(by_scipy, ScipyLikesOperator)
    v, u = torch.randn(40, 7, dtype=dtype), torch.randn(50, 7, dtype=dtype)
    torch.testing.assert_close(by_scipy.matmat(v), by_torch.matmat(v))
    torch.testing.assert_close(by_scipy.rmatmat(u), by_torch.rmatmat(u))
