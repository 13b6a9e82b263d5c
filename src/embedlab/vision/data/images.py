"""Images as one array, whatever they were: CIFAR-10, a folder of one's own, the sample.

In: a `ImageSource`. Out: a `ImageDataset`, all images as uint8 squares of one size. A folder is
decoded once and kept in the cache; the next run maps it into memory.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import TimeoutError as NotYet
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

import numpy as np

from embedlab.datasets.cache import build_folder, cache_folder
from embedlab.datasets.folder import ClassFile, LeftOut, Listing, list_files
from embedlab.datasets.images import CIFAR10, SAMPLE, ImageSource
from embedlab.errors import DataError
from embedlab.progress import OnCount
from embedlab_serving.decode import decode_image, shorter_side

MAX_SIDE = 256  # pixels; larger images are stored at this size, as the published transform does
MAX_BYTES_IN_MEMORY = 1 << 30  # bytes; a larger cache is mapped instead of read
DECODED_AT_ONCE = 256
DECODING_THREADS = (os.cpu_count() or 1) + 4  # some wait for the disk while others decode
CACHE_VERSION = 2  # goes up with every change of the decoding
IMAGES, LABELS, FINGERPRINTS, ABOUT = "images.u8", "labels.npy", "fingerprints.npy", "about.json"

T = TypeVar("T")


@dataclass(frozen=True)
class ImageDataset:
    """All images of a data set.

    name          as in a figure's title.
    classes       names, by label.
    images        (n, 3, side, side) uint8, training images before test images.
    labels        (n,) int64.
    n_train       how many are the official training images; None where there is no such split.
    digest        sha256 over class names, labels and pixels.
    fingerprints  (n,) uint64, a hash of each image's pixels.
    files         (n,) names of files; empty where the images do not come from a folder.
    left_out      files and folders that gave no image, by name.
    notes         sentences about folders that a user may expect to be read, and are not.
    """

    name: str
    classes: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray
    n_train: int | None
    digest: str
    fingerprints: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    files: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        return self.pixels.shape[-1]

    def __str__(self) -> str:
        n = len(self.labels)
        return f"{self.name}: {n:,} images of {len(self.classes)} classes, {self.side} px a side"


def read_images(source: ImageSource, on_count: OnCount | None = None) -> ImageDataset:
    """Raises DataError where a folder has no images, one class only, or no such layout."""
    if source.kind == SAMPLE:
        return _read_digits(source)
    if source.kind == CIFAR10:
        return _read_cifar10(source)
    return _read_folder(source, on_count)


def _read_digits(source: ImageSource) -> ImageDataset:
    """scikit-learn's 1,797 handwritten digits, 8 × 8 pixels of 17 greys."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (n, 8, 8)
    images = np.repeat(grey[:, None], 3, axis=1)  # (n, 3, 8, 8)
    classes = tuple(str(name) for name in digits.target_names)
    return _in_memory(source.name, classes, images, digits.target, None)


def _read_cifar10(source: ImageSource) -> ImageDataset:
    from torchvision.datasets import CIFAR10 as Torchvision

    parts = [Torchvision(source.path, train=is_train) for is_train in (True, False)]
    images = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
    labels = np.concatenate([part.targets for part in parts])
    return _in_memory(source.name, tuple(parts[0].classes), images, labels, len(parts[0]))


def _in_memory(
    name: str, classes: tuple[str, ...], images: np.ndarray, labels: np.ndarray, n_train: int | None
) -> ImageDataset:
    images = np.ascontiguousarray(images)
    labels = labels.astype(np.int64)
    digest = _digest(classes, labels, images)
    fingerprints = np.array([_fingerprint(image.tobytes()) for image in images], dtype=np.uint64)
    return ImageDataset(name, classes, images, labels, n_train, digest, fingerprints)


def _fingerprint(pixels: bytes) -> int:
    """64 bits: any two of a million different images share one with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "little")


def _digest(classes: tuple[str, ...], labels: np.ndarray, images: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps([*classes, *images.shape]).encode())
    digest.update(labels.tobytes())
    for start in range(0, len(images), 4096):  # a mapped array passes through in pieces
        digest.update(images[start : start + 4096].tobytes())
    return digest.hexdigest()


def read_ahead(images: np.ndarray, rows: np.ndarray) -> None:
    """Have the system read those images of a mapped file, and do not wait for it."""
    if not isinstance(images, np.memmap):
        return
    size = images[0].nbytes
    for start in (rows * size).tolist():
        page = start - start % mmap.PAGESIZE
        images._mmap.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def _read_folder(source: ImageSource, on_count: OnCount | None) -> ImageDataset:
    listing = list_files(source.path)
    folder = cache_folder() / "pictures" / _listing_digest(source.path, listing)
    build_folder(folder, lambda build: _decode_all(source, listing, build, on_count), _is_whole)

    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    shape = tuple(about["shape"])
    images = np.memmap(folder / IMAGES, dtype=np.uint8, mode="r", shape=shape)
    if images.nbytes <= MAX_BYTES_IN_MEMORY:
        images = np.array(images)
    else:  # a training reads here and there: what lies around an image is not wanted with it
        images._mmap.madvise(mmap.MADV_RANDOM)
    reasons = dict(about["unreadable"])  # by number of the file
    unreadable = [LeftOut(listing.files[number].name, why) for number, why in reasons.items()]
    return ImageDataset(
        source.name,
        listing.classes,
        images,
        np.load(folder / LABELS, allow_pickle=False),
        about["n_train"] if listing.has_split else None,
        about["digest"],
        np.load(folder / FINGERPRINTS, allow_pickle=False),
        tuple(file.name for number, file in enumerate(listing.files) if number not in reasons),
        tuple(sorted([*listing.left_out, *unreadable])),
        listing.notes,
    )


def _listing_digest(root: Path, listing: Listing) -> str:
    """Names, sizes and times of change: cheap, and different when an image was replaced."""
    about = [CACHE_VERSION, MAX_SIDE, str(root), *listing.classes]
    digest = hashlib.sha256(json.dumps(about).encode())
    for file in listing.files:
        digest.update(json.dumps([file.name, file.size, file.changed]).encode())
    return digest.hexdigest()[:32]


def _is_whole(folder: Path) -> bool:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        n_bytes = int(np.prod(about["shape"], dtype=np.int64))
        labels = np.load(folder / LABELS, allow_pickle=False)
        fingerprints = np.load(folder / FINGERPRINTS, allow_pickle=False)
        is_whole = (folder / IMAGES).stat().st_size == n_bytes
        return is_whole and len(labels) == len(fingerprints) == about["shape"][0]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return False


def _decode_all(
    source: ImageSource, listing: Listing, folder: Path, on_count: OnCount | None
) -> None:
    """Write the files of the cache; images go to disk as they come, in bounded memory."""
    files = listing.files
    unreadable: list[tuple[int, str]] = []
    kept: list[ClassFile] = []
    fingerprints: list[int] = []
    digest = hashlib.sha256()
    # Its threads are daemons: one that waits for a file system does not keep the process alive.
    with ThreadPool(DECODING_THREADS) as pool, open(folder / IMAGES, "wb") as out:
        sides = _in_turn(pool, lambda file: _side_or_none(file.path), files)
        side = min(MAX_SIDE, max((side for side in sides if side), default=0))
        for start in range(0, len(files), DECODED_AT_ONCE):
            batch = files[start : start + DECODED_AT_ONCE]
            decoded = _in_turn(pool, lambda file: _decode_or_reason(file.path, side), batch)
            for number, (file, image) in enumerate(zip(batch, decoded, strict=True), start):
                if isinstance(image, str):
                    unreadable.append((number, image))
                else:
                    kept.append(file)
                    pixels = image.tobytes()
                    out.write(pixels)
                    digest.update(pixels)
                    fingerprints.append(_fingerprint(pixels))
            if on_count is not None:
                on_count(min(start + DECODED_AT_ONCE, len(files)), len(files))

    labels = np.array([file.label for file in kept], dtype=np.int64)
    why = [*(LeftOut(files[number].name, why) for number, why in unreadable), *listing.left_out]
    _check_every_class_is_there(source, listing.classes, kept, why)
    np.save(folder / LABELS, labels, allow_pickle=False)
    np.save(folder / FINGERPRINTS, np.array(fingerprints, dtype=np.uint64), allow_pickle=False)
    digest.update(labels.tobytes() + json.dumps([*listing.classes, side]).encode())
    about = {
        "shape": [len(kept), 3, side, side],
        "n_train": sum(file.is_train for file in kept),
        "digest": digest.hexdigest(),
        "unreadable": unreadable,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _in_turn(
    pool: ThreadPool, do: Callable[[ClassFile], T], files: Sequence[ClassFile]
) -> Iterator[T]:
    """What `do` returns of each file. Waits a second at a time, for a signal that comes just
    before a wait is handled after it only."""
    results = pool.imap(do, files)
    while True:
        try:
            yield results.next(timeout=1)
        except NotYet:
            continue
        except StopIteration:
            return


def _side_or_none(path: str) -> int | None:
    try:
        return shorter_side(path)
    except DataError:
        return None


def _decode_or_reason(path: str, side: int) -> np.ndarray | str:
    try:
        return decode_image(path, side)
    except DataError as error:
        return str(error)


def _check_every_class_is_there(
    source: ImageSource, classes: tuple[str, ...], kept: list[ClassFile], why: list[LeftOut]
) -> None:
    found = {file.label for file in kept}
    missing = [name for label, name in enumerate(classes) if label not in found]
    if missing:
        of_missing = [str(item) for item in why if {*missing} & {*item.name.split(os.sep)}]
        raise DataError(
            f"dataset: {source.path} has no readable image of {', '.join(missing[:5])} "
            f"({'; '.join(of_missing[:3])}): put images there, or remove the folder."
        )
