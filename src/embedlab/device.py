"""Which device computes."""

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
