"""Which device computes, and how much memory it has left."""

import psutil
import torch

from embedlab.errors import OptionError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> str:
    """`auto` is cuda where there is one, else cpu. Raises OptionError for a cuda that is not."""
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "cpu"
    if name == "cuda" and not has_cuda:
        raise OptionError(
            "device: expected a CUDA device, but torch finds none here: use device=cpu"
        )
    return name


def free_bytes(device: str) -> int:
    """Memory that a tensor on `device` can still take."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
