"""Seeds for what draws from torch's global generator: its layers' starts, torchvision's transforms.

The global generator's state is restored, so that only the seed decides what is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global CPU generator starts from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
