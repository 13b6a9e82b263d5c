"""Collectives: which lost processes their error names, and how many processes GPUs allow."""

import os
from unittest.mock import Mock

import psutil
import pytest
import torch

from embedlab.distributed import collectives
from embedlab.errors import OptionError
from embedlab.process import this_host


def test_lost_processes_are_named():
    lost = {i: (this_host(), 2**22 + 1, 0.0) for i in range(2)}
    names = f"rank 0 (pid {2**22 + 1} on {this_host()}), rank 1 (pid {2**22 + 1} on {this_host()})"
    alive = {2: (this_host(), os.getpid(), psutil.Process().create_time())}
    assert collectives.ended_ranks_reason(lost | alive).startswith(f"{names} of ")
    assert collectives.ended_ranks_reason(alive) is None


@pytest.mark.parametrize("rank", ["0", "1"])
def test_every_rank_refuses_more_processes_than_gpus(monkeypatch, rank):
    """Also rank 0, which would wait for the others."""
    world = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (world | {"RANK": rank, "LOCAL_RANK": rank}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(OptionError, match="processes: expected at most 1, one for each CUDA device"),
        collectives.process_group({"device": "auto"}),
    ):
        pass


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "cpu:gloo,cuda:nccl")])
def test_nccl_is_needed_on_gpus_only(monkeypatch, device, backend):
    world = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (world | {"RANK": "0", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    joined = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(collectives.dist, "init_process_group", joined)
    with pytest.raises(KeyboardInterrupt), collectives.process_group({"device": device}):
        pass
    assert joined.call_args.args == (backend,)
