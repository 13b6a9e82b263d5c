"""Batches of images are read from the disk before they are used."""

import itertools
import mmap

import numpy as np

from embedlab.vision.data.batches import iter_batches
from embedlab.vision.data.images import ImageDataset


class RecordedMap:
    """A memory map that records the bytes that it is advised to read ahead."""

    def __init__(self):
        self.needed: list[range] = []

    def madvise(self, advice: int, start: int, length: int) -> None:
        assert (advice, start % mmap.PAGESIZE) == (mmap.MADV_WILLNEED, 0)
        self.needed.append(range(start, start + length))


def test_the_next_images_of_a_mapped_file_are_requested_while_some_are_used():
    shape = (7, 3, 40, 40)  # an image is a little more than a page
    pixels = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None], shape)
    mapped, size = RecordedMap(), 3 * 40 * 40
    images = ImageDataset("toy", (), pixels, np.zeros(7), {}, "", np.arange(7), mapped=mapped)
    parts = [np.array([0, 5]), np.array([3]), np.array([6, 1])]
    taken = iter_batches(images, parts, "cpu")
    for part, following in itertools.zip_longest(parts, parts[1:], fillvalue=()):
        assert next(taken)[:, 0, 0, 0].tolist() == part.tolist()
        for row, needed in zip(following, mapped.needed, strict=True):
            assert row * size in needed and (row + 1) * size - 1 in needed
            assert (row + 1) * size not in needed
        mapped.needed.clear()
    assert next(taken, None) is None
