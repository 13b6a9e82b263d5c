"""Seeding of torch's global generator, for layer initialisation and torchvision's transforms.

The global generator's state is restored afterwards, so that only the seed decides what is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed torch's global generators of the CPU and of the device inside the block."""
    is_cuda = device.startswith("cuda")
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
