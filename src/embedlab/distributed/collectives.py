"""Collective operations of the ranks of one run.

All ranks call the same functions in the same order. With one process these are no-ops that need no
process group, except `scatter`, which always needs one.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from embedlab.device import choose_device
from embedlab.distributed.env import (
    is_main_process,
    local_rank,
    local_world_size,
    rank,
    world_size,
)
from embedlab.errors import LostProcessError, OptionError
from embedlab.process import has_ended, this_host

# The longest wait for another rank, for example during a download by rank 0, or for a host that
# vanished without closing its connections. A process that has died is noticed at once.
MAX_WAIT = timedelta(hours=1)
SECONDS_TO_DIE = 1.0  # from the closing of a process's connections to its end

T = TypeVar("T")
Identity = tuple[str, int, float]  # host, process id, a time at which the process was running


@contextmanager
def process_group(params: Mapping[str, object]) -> Iterator[str]:
    """Join torchrun's process group, if there is one; yields the device of this rank.

    params  the command line's, `device` among them; compared across the ranks.

    Raises OptionError if the ranks were given different parameters or if a host has more ranks than
    CUDA devices, and LostProcessError if another rank has ended or cannot be reached.
    """
    device = choose_device(str(params["device"]))
    if world_size() == 1:
        yield device
        return
    if device == "cuda":
        if local_world_size() > torch.cuda.device_count():  # all ranks of this host see it
            raise OptionError(
                f"processes: expected at most {torch.cuda.device_count()}, one for each CUDA "
                f"device of {this_host()}, or device=cpu"
            )
        torch.cuda.set_device(local_rank())
    others: dict[int, Identity] = {}
    try:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=MAX_WAIT)
        others |= enumerate(_all_gather_object((this_host(), os.getpid(), time.time())))
        del others[rank()]
        assert_same_across_ranks("the parameters", dict(params))
        assert_same_across_ranks(f"device={params['device']}, which is {device} here", device)
        yield device
        dist.barrier()
        dist.destroy_process_group()
    except (RuntimeError, SystemExit) as error:  # torchrun stops all ranks after the end of one
        if lost := _lost_ranks_reason(others, error):
            raise LostProcessError(lost) from error
        raise


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over all ranks, in place; the result is bit-identical at every rank."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast(make: Callable[[], T]) -> T:
    """Call `make` at rank 0 alone, and return its result at every rank."""
    if world_size() == 1:
        return make()
    value: list = [make() if is_main_process() else None]
    dist.broadcast_object_list(value)
    return value[0]


def scatter(values: list[T] | None) -> T:
    """Return rank 0's `values[i]` at rank i; other ranks pass None. Needs a process group."""
    received: list = [None]
    dist.scatter_object_list(received, values)
    return received[0]


def gather(value: T) -> list[T] | None:
    """The values of all ranks, in their order, at rank 0; None at the others."""
    if world_size() == 1:
        return [value]
    values: list | None = [None] * world_size() if is_main_process() else None
    dist.gather_object(value, values)
    return values


def local_slice(n: int) -> slice:
    """This rank's share of n items; shares differ by one at most."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


@contextmanager
def local_main_first() -> Iterator[None]:
    """Run the block at local rank 0 of each host, which fills the cache, before its other ranks."""
    if local_rank() > 0:
        dist.barrier()
    yield
    if local_rank() == 0 and world_size() > 1:
        dist.barrier()


def assert_same_across_ranks(name: str, value: object) -> None:
    """Raises OptionError, which begins with `name`, if `value` is not the same at all ranks."""
    values = _all_gather_object(value)
    differing = [i for i in range(world_size()) if values[i] != values[0]]
    if differing:
        raise OptionError(
            f"{name}: expected the same at all {world_size()} ranks, but rank {differing[0]} "
            "differs from rank 0: start every host with the same command and the same data."
        )


def _all_gather_object(value: T) -> list[T]:
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def _lost_ranks_reason(others: Mapping[int, Identity], error: BaseException) -> str | None:
    """A phrase on the lost rank that caused `error`; None if it has another cause."""
    until = time.monotonic() + (0 if isinstance(error, SystemExit) else SECONDS_TO_DIE)
    while not (lost := ended_ranks_reason(others)) and time.monotonic() < until:
        time.sleep(0.05)
    # gloo has no exception type of its own, but its messages name its source file.
    if not lost and (isinstance(error, dist.DistError) or "gloo" in str(error)):
        return f"another process cannot be reached ({str(error).strip().splitlines()[0]})"
    return lost


def ended_ranks_reason(others: Mapping[int, Identity]) -> str | None:
    """A phrase on the ranks of this host whose processes have ended; None if none has."""
    lost = [
        f"rank {i} (pid {pid} on {host})"
        for i, (host, pid, running_at) in others.items()
        if has_ended(host, pid, running_at)
    ]
    if not lost:
        return None
    return f"{', '.join(lost)} of {world_size()} processes exited before the end"
