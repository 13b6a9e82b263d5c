"""Read a data set as one array of images: CIFAR-10, a folder of image files, the sample.

In: an `ImageSource`. Out: an `ImageDataset`, all images as uint8 squares of one size. A folder is
decoded once and cached; a cache of more than 1 GiB is mapped into memory.
"""

import hashlib
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import TimeoutError as PoolTimeout
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from embedlab.datasets.cache import DAMAGED_ARRAY, build_folder, cache_folder
from embedlab.datasets.folder import ClassFile, LeftOutFile, Listing, list_files
from embedlab.datasets.image_source import CIFAR10, ImageSource
from embedlab.errors import DataError
from embedlab.progress import OnProgress, ignore_progress
from embedlab_serving.decode import decode_image, shorter_side

MAX_SIDE = 256  # pixels; larger images are stored at this size, as torchvision's transform does
MAX_BYTES_IN_MEMORY = 1 << 30  # bytes; a larger cache is mapped instead of read
DECODING_BATCH = 256
DECODING_THREADS = (os.cpu_count() or 1) + 4  # some wait for the disk while others decode
CACHE_VERSION = 2  # goes up with every change of the decoding
IMAGES_FILE, FINGERPRINTS_FILE, ABOUT_FILE = "images.u8", "fingerprints.npy", "about.json"

T = TypeVar("T")


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
    fingerprints = np.array([_fingerprint(image.tobytes()) for image in images], dtype=np.uint64)
    sha256 = digest.hexdigest()
    return ImageDataset(name, classes, images, labels, part_sizes, sha256, fingerprints)


def _fingerprint(pixels: bytes) -> int:
    """A 64-bit hash: among a million different images, a collision has a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "little")


def _read_folder(name: str, root: Path, on_progress: OnProgress) -> ImageDataset:
    """The images of a folder, from the cache or decoded and cached."""
    listing = list_files(root)
    folder = cache_folder() / "pictures" / _listing_digest(root, listing)
    cached = _load(folder)
    # Perhaps a file that could not be read before can be read now.
    if cached is None or any(_can_be_read(listing.files[i]) for i, _ in cached.unreadable):
        build_folder(folder, lambda work: _decode_all(root, listing, work, on_progress))
        cached = _load(folder)
        assert cached is not None
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


def _can_be_read(file: ClassFile) -> bool:
    try:
        decode_image(file.path, 8)
    except DataError:
        return False
    return True


class _CachedImages(NamedTuple):
    """Decoded images, (n, 3, side, side) uint8, and the other contents of their cache folder."""

    pixels: np.ndarray
    mapped: mmap.mmap | None
    fingerprints: np.ndarray
    digest: str
    unreadable: list[tuple[int, str]]  # position of the file, reason


def _load(folder: Path) -> _CachedImages | None:
    """The images of a folder of the cache; None if a file is missing or damaged."""
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        pixels, mapped = _load_pixels(folder / IMAGES_FILE, about["shape"])
        fingerprints = np.load(folder / FINGERPRINTS_FILE, allow_pickle=False)
        fingerprints = fingerprints.reshape(len(pixels))
        return _CachedImages(pixels, mapped, fingerprints, about["digest"], about["unreadable"])
    except (*DAMAGED_ARRAY, KeyError, TypeError):  # or if the files differ in the number of images
        return None


def _load_pixels(file: Path, shape: list[int]) -> tuple[np.ndarray, mmap.mmap | None]:
    if math.prod(shape) <= MAX_BYTES_IN_MEMORY:
        return np.fromfile(file, np.uint8).reshape(shape), None
    with open(file, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if sys.platform != "win32":
        mapped.madvise(mmap.MADV_RANDOM)  # training reads in random order: do not read neighbours
    return np.frombuffer(mapped, np.uint8).reshape(shape), mapped


def _listing_digest(root: Path, listing: Listing) -> str:
    """32 hex digits of a sha256 of names, sizes and times: cheap, and changes if any file does."""
    key = [CACHE_VERSION, MAX_SIDE, str(root), *listing.classes]
    digest = hashlib.sha256(json.dumps(key).encode())
    for file in listing.files:
        digest.update(json.dumps([file.name, file.size, file.mtime]).encode())
    return digest.hexdigest()[:32]


def _decode_all(root: Path, listing: Listing, folder: Path, on_progress: OnProgress) -> None:
    """Decode into `folder`, in bounded memory. Raises DataError if a class has no image left."""
    files = listing.files
    unreadable: list[tuple[int, str]] = []
    labels: list[int] = []
    fingerprints: list[int] = []
    digest = hashlib.sha256()
    # The pool's threads are daemons: a thread that blocks in a file system does not keep the
    # process alive.
    with ThreadPool(DECODING_THREADS) as pool, open(folder / IMAGES_FILE, "wb") as out:
        sides = _imap(pool, shorter_side, files)
        side = min(MAX_SIDE, max((side for side, _ in sides if side is not None), default=0))
        for start in range(0, len(files), DECODING_BATCH):
            batch = files[start : start + DECODING_BATCH]
            decoded = _imap(pool, lambda path: decode_image(path, side), batch)
            for i, (image, reason) in enumerate(decoded, start):
                if image is None:
                    unreadable.append((i, reason))
                    continue
                pixels = image.tobytes()
                out.write(pixels)
                digest.update(pixels)
                labels.append(files[i].label)
                fingerprints.append(_fingerprint(pixels))
            on_progress(start + len(batch), len(files))

    present = set(labels)
    missing = [name for label, name in enumerate(listing.classes) if label not in present]
    if missing:
        left_out = [*(LeftOutFile(files[i].name, why) for i, why in unreadable), *listing.left_out]
        reasons = [str(item) for item in left_out if {*missing} & {*item.name.split(os.sep)}]
        raise DataError(
            f"dataset: {root} has no readable image of {', '.join(missing[:5])} "
            f"({'; '.join(reasons[:3])}): put images there, or remove the folder."
        )
    np.save(folder / FINGERPRINTS_FILE, np.array(fingerprints, dtype=np.uint64), allow_pickle=False)
    digest.update(np.array(labels, dtype=np.int64).tobytes())
    digest.update(json.dumps([*listing.classes, side]).encode())
    shape = len(labels), 3, side, side
    about = {"shape": shape, "digest": digest.hexdigest(), "unreadable": unreadable}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _imap(
    pool: ThreadPool, read: Callable[[str], T], files: Sequence[ClassFile]
) -> Iterator[tuple[T | None, str]]:
    """Yield `read(path)` for each file, in order, and "", or None and the reason why it failed.

    It wakes up every second, because Python handles a signal that arrives just before a wait only
    after that wait.
    """

    def result_and_reason(file: ClassFile) -> tuple[T | None, str]:
        try:
            return read(file.path), ""
        except DataError as error:
            return None, str(error)

    results = pool.imap(result_and_reason, files)
    while True:
        try:
            yield results.next(timeout=1)
        except PoolTimeout:
            continue
        except StopIteration:
            return
