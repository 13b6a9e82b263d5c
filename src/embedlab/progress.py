"""The record of a finished epoch, for movie fits and image training alike, and callbacks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch.

    epoch    0 is the start.
    metrics  by name: `train/cost`, `val/accuracy`, `lr`.
    seconds  wall time of the epoch; None for a fit's last evaluation, which updates nothing.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float | None = None


OnEpoch = Callable[[EpochRecord], None]


def ignore_epoch(record: EpochRecord) -> None:
    """An OnEpoch that does nothing."""


class OnProgress(Protocol):
    """Callback for work under way: the work done, the total, and a detail.

    The work done and the total are in the same unit, whatever it is; the total is None if it is
    unknown, as for a solver that stops on convergence.
    """

    def __call__(self, done: float, total: float | None, detail: str = "", /) -> None: ...


def ignore_progress(done: float, total: float | None, detail: str = "", /) -> None:
    """An OnProgress that does nothing."""
