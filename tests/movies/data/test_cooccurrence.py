"""Co-occurrence: against loops, in blocks, and as a dense tensor that fits or is refused."""

import math

import numpy as np
import pytest
import torch
from oracles import cooccurrence_by_loop, random_likes

from embedlab.errors import DataError, EmbedlabError
from embedlab.movies.data import cooccurrence as cooccurrence_module
from embedlab.movies.data.cooccurrence import (
    build_cooccurrence,
    check_dense_equals,
    cooccurrence,
    off_diagonal_squares,
    to_dense,
)
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_a_loop(seed):
    likes = random_likes(np.random.default_rng(seed), n_users=15, n_movies=8)
    assert np.array_equal(cooccurrence(likes).toarray(), cooccurrence_by_loop(likes.toarray()))


@pytest.mark.parametrize("shape", [(40, 30), (9, 60), (200, 5)])
@pytest.mark.parametrize("min_pairs", [0, 30, math.inf])  # all rows dense, some, none
def test_a_matrix_that_is_not_held_is_measured_as_one_that_is(monkeypatch, shape, min_pairs):
    likes = random_likes(np.random.default_rng(1), *shape)
    weighted = weight_likes(likes, "inverse", 0.25).matrix
    for matrix in (likes, weighted):
        x = (matrix.T @ matrix).toarray()
        off_diagonal = np.square(x - np.diag(np.diag(x))).sum()
        assert off_diagonal_squares(matrix) == pytest.approx(off_diagonal, rel=1e-12)
        held = build_cooccurrence(matrix, None)
        monkeypatch.setattr(cooccurrence_module, "MAX_NONZEROS", 10)
        monkeypatch.setattr(cooccurrence_module, "LIKES_PER_GROUP", 5)
        monkeypatch.setattr(cooccurrence_module, "PAIRS_AT_ONCE", 20)
        monkeypatch.setattr(cooccurrence_module, "MIN_PAIRS_OF_DENSE_ROW", min_pairs)
        measured = build_cooccurrence(matrix, None)
        monkeypatch.undo()
        assert measured.counts is None
        assert held.counts.nnz == held.nonzeros == measured.nonzeros == np.count_nonzero(x)
        assert measured.off_diagonal_squares == pytest.approx(held.off_diagonal_squares, rel=1e-14)
        assert measured.off_diagonal_squares == pytest.approx(off_diagonal, rel=1e-12)


def test_a_dense_tensor_that_does_not_fit_is_refused_before_the_sparse_matrix_is_made(monkeypatch):
    likes = random_likes(np.random.default_rng(0), n_users=5, n_movies=30)
    monkeypatch.setattr(cooccurrence_module, "free_bytes", lambda device: 3_599)
    monkeypatch.setattr(cooccurrence_module, "cooccurrence", None)  # must not be called
    with pytest.raises(DataError, match=r"30 movies needs .* \(in build_matrix, dense=false\)"):
        build_cooccurrence(likes, "cpu")
    # A fit holds X and the residual.
    monkeypatch.setattr(cooccurrence_module, "free_bytes", lambda device: 7_199)
    with pytest.raises(DataError, match=r"2 dense matrices of 30 movies needs .* objective=fact"):
        weighted, options = weight_likes(likes), FitOptions(objective="dense")
        fit_likes(weighted, options, 0, "cpu")


def test_the_dense_tensor_equals_the_sparse_matrix_over_several_blocks(monkeypatch):
    monkeypatch.setattr(
        cooccurrence_module, "ROWS_AT_ONCE", 7
    )  # 30 movies: the last block is shorter
    counts = cooccurrence(random_likes(np.random.default_rng(0), n_users=50, n_movies=30))
    dense = to_dense(counts)
    assert dense.dtype == torch.float32
    assert np.array_equal(dense.numpy(), counts.toarray())


def test_a_dense_tensor_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    counts = cooccurrence(random_likes(np.random.default_rng(0), n_users=5, n_movies=30))
    monkeypatch.setattr(cooccurrence_module, "free_bytes", lambda device: 3_599)  # it needs 3,600
    with pytest.raises(DataError, match=r"30 movies needs .* objective=factored"):
        to_dense(counts)
    monkeypatch.setattr(cooccurrence_module, "free_bytes", lambda device: 3_600)
    assert to_dense(counts).shape == (30, 30)


def test_a_count_that_float32_would_round_is_refused():
    counts = cooccurrence(random_likes(np.random.default_rng(0), n_users=5, n_movies=4))
    counts.data[0] = 2**24 + 1
    with pytest.raises(DataError, match="16,777,217 is more than float32 holds"):
        to_dense(counts)


def test_a_device_that_computes_wrongly_is_found_out(monkeypatch):
    monkeypatch.setattr(
        cooccurrence_module, "ROWS_AT_ONCE", 7
    )  # 30 movies: the last block is shorter
    likes = random_likes(np.random.default_rng(0), n_users=5, n_movies=30)
    counts = cooccurrence(likes)
    dense = to_dense(counts)
    check_dense_equals(counts, dense)
    dense[29, 3] += 1
    dense[0, 0] -= 1
    with pytest.raises(EmbedlabError, match="on cpu differs from the sparse one in 2 entries"):
        check_dense_equals(counts, dense)
    assert build_cooccurrence(likes, "cpu").dense_seconds is not None
    assert build_cooccurrence(likes, None).dense_seconds is None
