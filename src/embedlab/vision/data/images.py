"""Read a data set as one array of images: CIFAR-10, a folder of image files, the sample.

In: an `ImageSource`. Out: an `ImageDataset`, all images as uint8 squares of one size.
"""

import hashlib
import json
import mmap
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedlab.datasets.folder import LeftOutFile, list_files
from embedlab.datasets.image_source import CIFAR10, ImageSource
from embedlab.progress import OnProgress, ignore_progress
from embedlab.vision.data.image_cache import decoded_images, fingerprint


@dataclass(frozen=True)
class ImageDataset:
    """All images of a data set.

    name          for titles of figures.
    classes       names, by label.
    pixels        (n, 3, side, side) uint8.
    labels        (n,) int64.
    part_sizes    number of images in each part (train, val, test) that the data set comes with, in
                  the order of the rows; empty if it has none.
    digest        sha256 over class names, labels and pixels.
    fingerprints  (n,) uint64, a hash of each image's pixels.
    files         (n,) names of files; empty if the images do not come from a folder.
    left_out      files and folders that gave no image, by name.
    notes         sentences about folders that are not read, although a user may expect it.
    mapped        the memory map that `pixels` is a view of; None if they are in memory.
    """

    name: str
    classes: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray
    part_sizes: Mapping[str, int]
    digest: str
    fingerprints: np.ndarray
    files: tuple[str, ...] = ()
    left_out: tuple[LeftOutFile, ...] = ()
    notes: tuple[str, ...] = ()
    mapped: mmap.mmap | None = None

    @property
    def side(self) -> int:
        return self.pixels.shape[-1]

    def __str__(self) -> str:
        n = len(self.labels)
        return f"{self.name}: {n:,} images of {len(self.classes)} classes, {self.side} px a side"

    def read_ahead(self, rows: np.ndarray) -> None:
        """Ask the operating system to read those images of a mapped file, without waiting."""
        if self.mapped is None or sys.platform == "win32":
            return
        size = self.pixels[0].nbytes
        for start in (rows * size).tolist():
            page = start - start % mmap.PAGESIZE
            self.mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def read_images(source: ImageSource, on_progress: OnProgress = ignore_progress) -> ImageDataset:
    """Read all images of `source`.

    Raises DataError for a folder with another layout, or with fewer than two classes of images.
    """
    if source.path is None:
        return _read_digits(source.name)
    if source.kind == CIFAR10:
        return _read_cifar10(source.name, source.path)
    return _read_folder(source.name, source.path, on_progress)


def _read_digits(name: str) -> ImageDataset:
    """scikit-learn's 1,797 handwritten digits, 8 × 8 pixels of 17 greys."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (n, 8, 8)
    images = np.repeat(grey[:, None], 3, axis=1)  # (n, 3, 8, 8)
    classes = tuple(map(str, digits.target_names))
    return from_arrays(name, classes, images, digits.target, {})


def _read_cifar10(name: str, path: Path) -> ImageDataset:
    from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10

    train, test = TorchvisionCIFAR10(path, train=True), TorchvisionCIFAR10(path, train=False)
    images = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)
    labels = np.concatenate([train.targets, test.targets])
    part_sizes = {"train": len(train), "test": len(test)}
    return from_arrays(name, tuple(train.classes), images, labels, part_sizes)


def from_arrays(
    name: str,
    classes: tuple[str, ...],
    images: np.ndarray,
    labels: np.ndarray,
    part_sizes: Mapping[str, int],
) -> ImageDataset:
    """The data set of images (n, 3, side, side) uint8 and labels (n,), with its digests."""
    images, labels = np.ascontiguousarray(images), labels.astype(np.int64)
    digest = hashlib.sha256(json.dumps([*classes, *images.shape]).encode() + labels.tobytes())
    digest.update(images.data)
    fingerprints = np.array([fingerprint(image.tobytes()) for image in images], dtype=np.uint64)
    sha256 = digest.hexdigest()
    return ImageDataset(name, classes, images, labels, part_sizes, sha256, fingerprints)


def _read_folder(name: str, root: Path, on_progress: OnProgress) -> ImageDataset:
    """The images of a folder, from the cache or decoded and cached."""
    listing = list_files(root)
    cached = decoded_images(root, listing, on_progress)
    reasons = dict(cached.unreadable)  # by position of the file
    unreadable = [LeftOutFile(listing.files[i].name, reason) for i, reason in reasons.items()]
    files = [file for i, file in enumerate(listing.files) if i not in reasons]
    return ImageDataset(
        name=name,
        classes=listing.classes,
        pixels=cached.pixels,
        labels=np.array([file.label for file in files], dtype=np.int64),
        part_sizes={part: sum(file.part == part for file in files) for part in listing.parts},
        digest=cached.digest,
        fingerprints=cached.fingerprints,
        files=tuple(file.name for file in files),
        left_out=tuple(sorted([*listing.left_out, *unreadable])),
        notes=listing.notes,
        mapped=cached.mapped,
    )
