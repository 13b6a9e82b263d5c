"""Collectives: which lost processes their error names."""

import os

import psutil

from embedlab.distributed import collectives
from embedlab.process import this_host


def test_lost_processes_are_named():
    lost = {i: (this_host(), 2**22 + 1, 0.0) for i in range(2)}
    names = f"rank 0 (pid {2**22 + 1} on {this_host()}), rank 1 (pid {2**22 + 1} on {this_host()})"
    alive = {2: (this_host(), os.getpid(), psutil.Process().create_time())}
    assert collectives.ended_ranks_reason(lost | alive).startswith(f"{names} of ")
    assert collectives.ended_ranks_reason(alive) is None
