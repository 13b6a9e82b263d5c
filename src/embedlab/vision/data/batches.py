"""Batches of images on the device, while the next batch is read from the disk."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
import torch

from embedlab.vision.data.images import ImageDataset


def iter_batches(
    images: ImageDataset, batches: Sequence[np.ndarray], device: str
) -> Iterator[torch.Tensor]:
    """The pixels of one batch after the other, (n, 3, side, side) uint8 on the device.

    batches  the rows of each batch.

    The operating system reads the next batch from the disk while the caller uses the current one.
    """
    for rows, next_rows in zip_longest(batches, batches[1:]):
        if next_rows is not None:
            images.read_ahead(next_rows)
        yield torch.from_numpy(images.pixels[rows]).to(device, non_blocking=True)
