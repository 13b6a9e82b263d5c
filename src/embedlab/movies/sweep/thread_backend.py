"""Concurrent fits as threads of this process, with a share of its cores each.

More threads hardly make a small fit faster, so several small ones at once take less time than one
after another (docs/architecture.md, "the default grid"). torch computes without Python's lock.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import torch

from embedlab.device import free_bytes
from embedlab.movies.data.weighting import WeightedLikes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_bytes
from embedlab.movies.solvers.operators import MIN_LIKES_FOR_SCIPY
from embedlab.movies.sweep.convergence import JobFit, Queries, fit_with_snapshots
from embedlab.movies.sweep.grid import Job
from embedlab.progress import EpochRecord


def fits_at_once(weighted: WeightedLikes, options: FitOptions, device: str) -> int:
    """The number of fits that this process runs at once: 1 on a GPU, with a dense X or with many
    likes, where one fit keeps the whole machine busy."""
    shape, n_likes = weighted.matrix.shape, weighted.matrix.nnz
    if device != "cpu" or options.objective == "dense" or n_likes >= MIN_LIKES_FOR_SCIPY:
        return 1
    by_memory = free_bytes(device) // fit_bytes(shape, options.dim)
    return max(1, min(torch.get_num_threads(), by_memory))


@contextmanager
def fits_by_threads(
    weighted: WeightedLikes,
    jobs: Sequence[Job],
    queries: Queries,
    n_at_once: int,
    on_progress: Callable[[Job, float], None],
) -> Iterator[Iterator[tuple[Job, JobFit]]]:
    """Yields an iterator that starts all jobs, `n_at_once` at a time, and has each with its fit, in
    the given order. Leaving the block stops the fits that are not finished.

    on_progress  receives a job and the fraction of its epochs that are done.
    """
    n_threads, pool, is_left = torch.get_num_threads(), ThreadPoolExecutor(n_at_once), Event()
    _ = weighted.off_diagonal_squares  # computed once, not by each thread

    def fit(job: Job) -> JobFit:
        torch.set_num_threads(max(1, n_threads // n_at_once))

        def on_epoch(record: EpochRecord) -> None:
            if is_left.is_set():
                raise CancelledError
            on_progress(job, record.epoch / job[0].epochs)

        return fit_with_snapshots(weighted, queries, job, "cpu", on_epoch)

    def outcomes() -> Iterator[tuple[Job, JobFit]]:
        futures = [(job, pool.submit(fit, job)) for job in jobs]
        for job, future in futures:
            yield job, future.result()

    try:
        yield outcomes()
    finally:
        is_left.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)
