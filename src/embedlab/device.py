"""The device of tensors, and its free memory."""

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from embedlab.errors import OptionError


def choose_device(name: str) -> str:
    """Resolve `auto` to cuda if available, else cpu. Raises OptionError if cuda is missing."""
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "cpu"
    if name == "cuda" and not has_cuda:
        raise OptionError(
            "device: expected a CUDA device, but torch finds none here: use device=cpu"
        )
    return name


def can_compile() -> bool:
    """Whether torch.compile finds the tools that it builds CUDA kernels with."""
    compilers = filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return bool(find_spec("triton")) and any(map(shutil.which, compilers)) and headers.is_file()


def free_bytes(device: str) -> int:
    """Free memory of `device`, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
