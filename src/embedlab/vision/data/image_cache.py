"""Decode the image files of a folder once, and keep the decoded images in the cache.

A cache of more than 1 GiB is mapped into memory.
"""

import hashlib
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import TimeoutError as PoolTimeout
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from embedlab.datasets.cache import DAMAGED_ARRAY, build_folder, cache_folder
from embedlab.datasets.folder import ClassFile, LeftOutFile, Listing
from embedlab.errors import DataError
from embedlab.progress import OnProgress
from embedlab_serving.decode import decode_image, shorter_side

SIDE_QUANTILE = 0.9  # of the shorter sides: a few large images do not decide
MAX_SIDE = 256  # pixels; larger images are stored at this size, at which torchvision crops
MAX_BYTES_IN_MEMORY = 1 << 30  # bytes; a larger cache is mapped instead of read
DECODING_BATCH = 256
DECODING_THREADS = (os.cpu_count() or 1) + 4  # some wait for the disk while others decode
CACHE_VERSION = 3  # goes up with every change of the decoding
IMAGES_FILE, FINGERPRINTS_FILE, ABOUT_FILE = "images.u8", "fingerprints.npy", "about.json"

T = TypeVar("T")


class CachedImages(NamedTuple):
    """Decoded images, (n, 3, side, side) uint8, and the other contents of their cache folder."""

    pixels: np.ndarray
    mapped: mmap.mmap | None
    fingerprints: np.ndarray
    digest: str
    unreadable: list[tuple[int, str]]  # position of the file, reason


def decoded_images(root: Path, listing: Listing, on_progress: OnProgress) -> CachedImages:
    """The images of the folder `root`, from the cache or decoded and cached.

    Raises DataError if a class has no readable image.
    """
    folder = cache_folder() / "pictures" / _listing_digest(root, listing)
    cached = _load(folder)
    # Perhaps a file that could not be read before can be read now.
    if cached is None or any(_can_be_read(listing.files[i]) for i, _ in cached.unreadable):
        build_folder(folder, lambda work: _decode_all(root, listing, work, on_progress))
        cached = _load(folder)
        assert cached is not None
    return cached


def _can_be_read(file: ClassFile) -> bool:
    try:
        decode_image(file.path, 8)
    except DataError:
        return False
    return True


def _load(folder: Path) -> CachedImages | None:
    """The images of a folder of the cache; None if a file is missing or damaged."""
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        pixels, mapped = _load_pixels(folder / IMAGES_FILE, about["shape"])
        fingerprints = np.load(folder / FINGERPRINTS_FILE, allow_pickle=False)
        fingerprints = fingerprints.reshape(len(pixels))
        return CachedImages(pixels, mapped, fingerprints, about["digest"], about["unreadable"])
    except (*DAMAGED_ARRAY, TypeError):  # or if the files differ in the number of images
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
        read = [side for side, _ in sides if side is not None]
        side = min(MAX_SIDE, int(np.quantile(read, SIDE_QUANTILE, method="nearest"))) if read else 0
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
                fingerprints.append(fingerprint(pixels))
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

    The main thread wakes up every second, because Python handles a signal that arrives just before
    a wait only after that wait.
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


def fingerprint(pixels: bytes) -> int:
    """A 64-bit hash: among a million different images, a collision has a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "little")
