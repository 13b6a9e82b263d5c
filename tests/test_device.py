"""The device of tensors: its precisions and memory, and whether torch.compile can work there."""

import pytest
import torch

from embedlab import device
from embedlab.errors import OptionError


@pytest.mark.parametrize("missing", ["compiler", "headers", "triton"])
def test_a_network_is_compiled_only_where_that_can_work(monkeypatch, tmp_path, missing):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(device.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(device, "find_spec", lambda name: object())
    assert device.can_compile()
    if missing == "compiler":
        monkeypatch.setattr(device.shutil, "which", lambda name: None)
    elif missing == "headers":
        (tmp_path / "Python.h").unlink()
    else:
        monkeypatch.setattr(device, "find_spec", lambda name: None)
    assert not device.can_compile()


def test_memory_that_torch_keeps_for_its_next_tensors_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert device.free_bytes("cuda") == 500


def test_precisions_that_the_cpu_lacks_are_refused():
    assert device.choose_precision("auto", "cpu") in ("float32", "bfloat16")
    with pytest.raises(OptionError, match="float16 needs a GPU"):
        device.choose_precision("float16", "cpu")
