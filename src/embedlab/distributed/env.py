"""Rank and world size of this process, from the environment variables of `torchrun`.

A process that torchrun has not started has rank 0 in a world of one. Standard library only: entry
points import this before anything heavy.
"""

import os

STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"  # RANK alone may have been set for something else


def is_distributed() -> bool:
    """Whether torchrun has started this process."""
    return STARTED_BY_TORCHRUN in os.environ


def world_size() -> int:
    """The number of processes of this run, on all hosts."""
    return int(os.environ["WORLD_SIZE"]) if is_distributed() else 1


def rank() -> int:
    """This process's number among all of the run, from 0."""
    return int(os.environ["RANK"]) if is_distributed() else 0


def local_rank() -> int:
    """This process's number among those of its host, from 0."""
    return int(os.environ["LOCAL_RANK"]) if is_distributed() else 0


def local_world_size() -> int:
    """The number of processes of this run on this host."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if is_distributed() else 1


def is_main_process() -> bool:
    """Whether this is rank 0, which alone has an MLflow run, prints, and writes files."""
    return rank() == 0
