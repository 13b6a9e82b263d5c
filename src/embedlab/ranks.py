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
from embedlab.errors import LostProcessError, OptionError
from embedlab.process import has_ended, this_host
from embedlab.torchrun import count, is_first, number, number_on_host

# As long as the others wait, for a download of the first or for a host that has gone without a
# word. A process that has died is noticed at once.
LONGEST_WAIT = timedelta(hours=1)
SECONDS_TO_DIE = 1.0  # between a connection that closes and its process having ended

T = TypeVar("T")

_others: dict[int, tuple[str, int, float]] = {}  # (host, process id, when it was there) by number


@contextmanager
def joined(params: Mapping[str, object]) -> Iterator[str]:
    """Inside, this process is one of those that torchrun has started, if it has; gives the device.

    All leave together. Raises OptionError where they were given different parameters, or there are
    more of them than CUDA devices, LostProcessError where one of the others has ended.
    """
    device = choose_device(str(params["device"]))
    if count() == 1:
        yield device
        return
    has_cuda = torch.cuda.is_available()
    if device == "cuda":
        if number_on_host() >= torch.cuda.device_count():
            raise OptionError(
                f"processes: expected at most {torch.cuda.device_count()}, one for each CUDA "
                f"device of {this_host()}, or device=cpu"
            )
        torch.cuda.set_device(number_on_host())
    try:
        with _lost_processes_explained():
            backend = "cpu:gloo,cuda:nccl" if has_cuda else "gloo"
            dist.init_process_group(backend, timeout=LONGEST_WAIT)
        me = (this_host(), os.getpid(), time.time())
        _others.update(enumerate(_from_each(me)))
        del _others[number()]
        agree("the parameters", dict(params))
        yield device
        wait_for_all()
        dist.destroy_process_group()
    except SystemExit as stopped:  # torchrun ends all where one has ended
        if lost := _ended():
            raise LostProcessError(lost) from stopped
        raise


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place, the same bits at each."""
    if count() > 1:
        with _lost_processes_explained():
            dist.all_reduce(tensor)
    return tensor


def stacked(tensor: torch.Tensor) -> torch.Tensor:
    """(processes, ...): the tensors, of one shape, of all, by number."""
    found = tensor.new_empty((count(), *tensor.shape))
    with _lost_processes_explained():
        dist.all_gather(list(found.unbind()), tensor.contiguous())
    return found


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns at the first process, which alone calls it."""
    if count() == 1:
        return make()
    made = [make() if is_first() else None]
    with _lost_processes_explained():
        dist.broadcast_object_list(made)
    return made[0]


def to_each(parts: list[T] | None) -> T:
    """The first process's `parts[i]` at process i; None at the others."""
    mine = [None]
    with _lost_processes_explained():
        dist.scatter_object_list(mine, parts)
    return mine[0]


def at_first(part: T) -> list[T] | None:
    """The parts of all, by number, at the first process; None at the others."""
    if count() == 1:
        return [part]
    parts = [None] * count() if is_first() else None
    with _lost_processes_explained():
        dist.gather_object(part, parts)
    return parts


def wait_for_all() -> None:
    """Until all are here."""
    if count() > 1:
        with _lost_processes_explained():
            dist.barrier()


def share_of(n: int) -> slice:
    """Those of n things that are this process's; shares differ by one at the most."""
    return slice(n * number() // count(), n * (number() + 1) // count())


@contextmanager
def first_of_host() -> Iterator[None]:
    """One process of a host does what is inside, which fills the cache, before its others do."""
    if number_on_host() > 0:
        wait_for_all()
    yield
    if number_on_host() == 0:
        wait_for_all()


def agree(what: str, value: object) -> None:
    """Raises OptionError where `value` is not the same at all processes."""
    values = _from_each(value)
    other = next((i for i, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        raise OptionError(
            f"{what}: expected the same for all {count()} processes, but number {other} has others "
            "than number 0; start every host with the same command and the same data."
        )


def _from_each(value: T) -> list[T]:
    values = [value] * count()
    if count() > 1:
        with _lost_processes_explained():
            dist.all_gather_object(values, value)
    return values


@contextmanager
def _lost_processes_explained() -> Iterator[None]:
    """What torch raises inside is that another process is not there."""
    try:
        yield
    except RuntimeError as error:
        until = time.monotonic() + SECONDS_TO_DIE
        while not (lost := _ended()) and time.monotonic() < until:
            time.sleep(0.05)
        reason = str(error).strip().splitlines()[0]
        raise LostProcessError(lost or f"another process cannot be reached ({reason})") from error


def _ended() -> str:
    """In words, which of the others on this host have ended; nothing where none has."""
    lost = [
        f"number {i} ({pid} on {host})"
        for i, (host, pid, was_there) in _others.items()
        if has_ended(host, pid, was_there)
    ]
    ended = "has ended before its time" if len(lost) == 1 else "have ended before their time"
    return f"of {count()} processes {', '.join(lost)} {ended}" if lost else ""
