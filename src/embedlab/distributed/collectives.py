"""What the processes of one run tell each other while they compute one result.

All call the same functions in the same order. In a process that is alone each does what is left of
it: nothing is summed, the first is itself.
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
from embedlab.distributed.launch import is_main_process, local_rank, rank, world_size
from embedlab.errors import LostProcessError, OptionError
from embedlab.process import has_ended, this_host

# As long as the others wait, for a download of the first or for a host that has gone without a
# word. A process that has died is noticed at once.
MAX_WAIT = timedelta(hours=1)
SECONDS_TO_DIE = 1.0  # between a connection that closes and its process having ended

T = TypeVar("T")

_other_ranks: dict[
    int, tuple[str, int, float]
] = {}  # (host, process id, when it was there) by number


@contextmanager
def process_group(params: Mapping[str, object]) -> Iterator[str]:
    """Inside, this process is one of those that torchrun has started, if it has; gives the device.

    All leave together. Raises OptionError where they were given different parameters, or there are
    more of them than CUDA devices, LostProcessError where one of the others has ended.
    """
    device = choose_device(str(params["device"]))
    if world_size() == 1:
        yield device
        return
    has_cuda = torch.cuda.is_available()
    if device == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise OptionError(
                f"processes: expected at most {torch.cuda.device_count()}, one for each CUDA "
                f"device of {this_host()}, or device=cpu"
            )
        torch.cuda.set_device(local_rank())
    try:
        with _explain_lost_ranks():
            backend = "cpu:gloo,cuda:nccl" if has_cuda else "gloo"
            dist.init_process_group(backend, timeout=MAX_WAIT)
        me = (this_host(), os.getpid(), time.time())
        _other_ranks.update(enumerate(_all_gather_object(me)))
        del _other_ranks[rank()]
        assert_same_across_ranks("the parameters", dict(params))
        yield device
        barrier()
        dist.destroy_process_group()
    except SystemExit as stopped:  # torchrun ends all where one has ended
        if lost := _lost_ranks():
            raise LostProcessError(lost) from stopped
        raise


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place, the same bits at each."""
    if world_size() > 1:
        with _explain_lost_ranks():
            dist.all_reduce(tensor)
    return tensor


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """(processes, ...): the tensors, of one shape, of all, by number."""
    found = tensor.new_empty((world_size(), *tensor.shape))
    with _explain_lost_ranks():
        dist.all_gather(list(found.unbind()), tensor.contiguous())
    return found


def broadcast(make: Callable[[], T]) -> T:
    """What `make` returns at the first process, which alone calls it."""
    if world_size() == 1:
        return make()
    made = [make() if is_main_process() else None]
    with _explain_lost_ranks():
        dist.broadcast_object_list(made)
    return made[0]


def scatter(parts: list[T] | None) -> T:
    """The first process's `parts[i]` at process i; None at the others."""
    mine = [None]
    with _explain_lost_ranks():
        dist.scatter_object_list(mine, parts)
    return mine[0]


def gather(part: T) -> list[T] | None:
    """The parts of all, by number, at the first process; None at the others."""
    if world_size() == 1:
        return [part]
    parts = [None] * world_size() if is_main_process() else None
    with _explain_lost_ranks():
        dist.gather_object(part, parts)
    return parts


def barrier() -> None:
    """Until all are here."""
    if world_size() > 1:
        with _explain_lost_ranks():
            dist.barrier()


def local_slice(n: int) -> slice:
    """Those of n things that are this process's; shares differ by one at the most."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


@contextmanager
def local_main_first() -> Iterator[None]:
    """One process of a host does what is inside, which fills the cache, before its others do."""
    if local_rank() > 0:
        barrier()
    yield
    if local_rank() == 0:
        barrier()


def assert_same_across_ranks(what: str, value: object) -> None:
    """Raises OptionError where `value` is not the same at all processes."""
    values = _all_gather_object(value)
    other = next((i for i, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        raise OptionError(
            f"{what}: expected the same for all {world_size()} processes, but number {other} has "
            "others than number 0; start every host with the same command and the same data."
        )


def _all_gather_object(value: T) -> list[T]:
    values = [value] * world_size()
    if world_size() > 1:
        with _explain_lost_ranks():
            dist.all_gather_object(values, value)
    return values


@contextmanager
def _explain_lost_ranks() -> Iterator[None]:
    """What torch raises inside is that another process is not there."""
    try:
        yield
    except RuntimeError as error:
        until = time.monotonic() + SECONDS_TO_DIE
        while not (lost := _lost_ranks()) and time.monotonic() < until:
            time.sleep(0.05)
        reason = str(error).strip().splitlines()[0]
        raise LostProcessError(lost or f"another process cannot be reached ({reason})") from error


def _lost_ranks() -> str:
    """In words, which of the others on this host have ended; nothing where none has."""
    lost = [
        f"number {i} ({pid} on {host})"
        for i, (host, pid, was_there) in _other_ranks.items()
        if has_ended(host, pid, was_there)
    ]
    ended = "has ended before its time" if len(lost) == 1 else "have ended before their time"
    return f"of {world_size()} processes {', '.join(lost)} {ended}" if lost else ""
