"""`Step`: the one record of a finished epoch, the same for every optimizer and both families."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What one epoch showed.

    epoch    0 is the start.
    metrics  by name, `<split>/<name>`: `train/cost`, `val/accuracy`.
    seconds  wall time of the epoch; None for the evaluation that closes a run and updates nothing.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float | None = None


OnStep = Callable[[Step], None]
OnCount = Callable[[int, int], None]  # (done, of how many)


def combine_callbacks(*listeners: OnStep) -> OnStep:
    """One listener that hands every step to several, in order."""

    def on_step(step: Step) -> None:
        for listener in listeners:
            listener(step)

    return on_step
