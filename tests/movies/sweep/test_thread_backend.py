"""Concurrent fits in threads: the same results, in order, and none goes on after a stop."""

import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import small_ratings

from embedlab.movies.data.likes import find_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.sweep import thread_backend
from embedlab.movies.sweep.convergence import choose_queries, fit_with_snapshots
from embedlab.movies.sweep.thread_backend import fits_at_once, fits_by_threads
from embedlab_serving.titles import TitleIndex

OPTIONS = FitOptions("adam", 0.1, dim=3, epochs=5)
JOBS = [
    *((replace(OPTIONS, lr=lr), seed) for lr in (1.0, 0.1) for seed in (0, 1)),
    (FitOptions("lbfgs", 1.0, dim=3, epochs=5), 0),
]


@pytest.fixture
def weighted():
    return find_likes(small_ratings(np.random.default_rng(0)), "user_mean").weighted


@pytest.fixture
def queries():
    likes = find_likes(small_ratings(np.random.default_rng(0)), "user_mean")
    return choose_queries(TitleIndex(likes.movies["title"].tolist()), likes.popularity, [0], 2)


def nothing(*_: object) -> None:
    pass


def test_fits_in_threads_are_those_one_after_another_in_the_same_order(weighted, queries):
    done: dict = {}
    with fits_by_threads(weighted, JOBS, queries, 2, done.__setitem__) as outcomes:
        found = list(outcomes)
    assert [job for job, _ in found] == JOBS
    for job, by_thread in found:
        alone = fit_with_snapshots(weighted, queries, job, "cpu")
        np.testing.assert_array_equal(by_thread.fit.embedding, alone.fit.embedding)
        assert [r.metrics for r in by_thread.history] == [r.metrics for r in alone.history]
        for epoch, lists in alone.lists.items():
            np.testing.assert_array_equal(by_thread.lists[epoch], lists)
        assert by_thread.node == ""
    assert done == dict.fromkeys(JOBS, 1.0)


def test_two_fits_run_at_the_same_time_with_a_share_of_the_cores(weighted, queries, monkeypatch):
    both, solve, n_threads = threading.Barrier(2, timeout=60), fit_with_snapshots, []

    def together(*args):
        both.wait()  # BrokenBarrierError if the other fit does not start before this one ends
        n_threads.append(torch.get_num_threads())
        return solve(*args)

    monkeypatch.setattr(thread_backend, "fit_with_snapshots", together)
    before = torch.get_num_threads()
    with fits_by_threads(weighted, JOBS[:2], queries, 2, nothing) as outcomes:
        assert len(list(outcomes)) == 2
    assert n_threads == [max(1, before // 2)] * 2
    assert torch.get_num_threads() == before


def test_a_stop_ends_the_fits_that_run_and_starts_no_others(weighted, queries):
    endless = [(replace(OPTIONS, epochs=10**9, lr=1e-9), seed) for seed in range(3)]
    started, has_begun = set(), threading.Event()

    def on_progress(job, _):
        started.add(job)
        if len(started) == 2:
            has_begun.set()

    def stop_when_both_run(outcomes):
        waiting = threading.Thread(target=ask, args=[outcomes], daemon=True)
        waiting.start()
        assert has_begun.wait(60)
        raise KeyboardInterrupt

    def ask(outcomes):
        with suppress(CancelledError):
            next(outcomes)

    with (
        pytest.raises(KeyboardInterrupt),
        fits_by_threads(weighted, endless, queries, 2, on_progress) as outcomes,
    ):
        stop_when_both_run(outcomes)
    assert started == set(endless[:2])


def test_one_fit_at_a_time_where_it_keeps_the_machine_busy(weighted, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert fits_at_once(weighted, OPTIONS, "cpu") == 8
    assert fits_at_once(weighted, OPTIONS, "cuda") == 1
    assert fits_at_once(weighted, replace(OPTIONS, objective="dense"), "cpu") == 1
    monkeypatch.setattr(thread_backend, "free_bytes", lambda _: 0)
    assert fits_at_once(weighted, OPTIONS, "cpu") == 1
    monkeypatch.undo()
    monkeypatch.setattr(thread_backend, "MIN_LIKES_FOR_SCIPY", 1)
    assert fits_at_once(weighted, OPTIONS, "cpu") == 1
