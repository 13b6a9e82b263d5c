"""Images as one array, whatever they were: CIFAR-10, a folder of one's own, the sample.

In: a `ImageSource`. Out: a `ImageDataset`, all images as uint8 squares of one size. A folder is
decoded once and kept in the cache; the next run maps it into memory.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedlab.datasets.cache import build_folder, cache_folder
from embedlab.datasets.images import CIFAR10, SAMPLE, ImageSource
from embedlab.errors import DataError
from embedlab.progress import OnCount
from embedlab_serving.decode import decode_image, shorter_side

MAX_SIDE = 256  # pixels; larger images are stored at this size, as the published transform does
MAX_BYTES_IN_MEMORY = 1 << 30  # bytes; a larger cache is mapped instead of read
DECODED_AT_ONCE = 256
CACHE_VERSION = 1  # goes up with every change of the decoding
IMAGES, LABELS, ABOUT = "images.u8", "labels.npy", "about.json"


@dataclass(frozen=True)
class ImageDataset:
    """All images of a data set.

    name        as in a figure's title.
    classes     names, by label.
    images      (n, 3, side, side) uint8, training images before test images.
    labels      (n,) int64.
    n_train     how many are the official training images; None where there is no such split.
    digest      sha256 over class names, labels and pixels.
    unreadable  files that are no image, each with the reason.
    """

    name: str
    classes: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray
    n_train: int | None
    digest: str
    unreadable: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        return self.pixels.shape[-1]

    def __str__(self) -> str:
        n, many = len(self.labels), len(self.unreadable)
        text = f"{self.name}: {n:,} images of {len(self.classes)} classes, {self.side} px a side"
        return text + (f"; {many:,} unreadable, such as {self.unreadable[0]}" if many else "")


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
    return ImageDataset(name, classes, images, labels, n_train, _digest(classes, labels, images))


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


@dataclass(frozen=True)
class _File:
    path: Path
    label: int
    is_train: bool


def _read_folder(source: ImageSource, on_count: OnCount | None) -> ImageDataset:
    try:
        classes, files, has_split = _list_files(source.path)
        key = _listing_digest(source.path, classes, files)
    except OSError as error:
        raise DataError(
            f"dataset: {error.filename} cannot be read ({error.strerror}); pass a folder that can."
        ) from error
    folder = cache_folder() / "pictures" / key
    build_folder(
        folder, lambda build: _decode_all(source, classes, files, build, on_count), _is_whole
    )

    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    shape = tuple(about["shape"])
    images = np.memmap(folder / IMAGES, dtype=np.uint8, mode="r", shape=shape)
    if images.nbytes <= MAX_BYTES_IN_MEMORY:
        images = np.array(images)
    else:  # a training reads here and there: what lies around an image is not wanted with it
        images._mmap.madvise(mmap.MADV_RANDOM)
    return ImageDataset(
        source.name,
        classes,
        images,
        np.load(folder / LABELS, allow_pickle=False),
        about["n_train"] if has_split else None,
        about["digest"],
        tuple(about["unreadable"]),
    )


def _list_files(root: Path) -> tuple[tuple[str, ...], list[_File], bool]:
    """Class names, files, and whether the folder has train/ and test/ of its own."""
    parts = [name for name in ("train", "test") if (root / name).is_dir()]
    if len(parts) == 1:
        raise DataError(
            f"dataset: {root} has {parts[0]}/ alone; expected train/<class>/ and test/<class>/, or "
            f"<class>/ folders alone, which are split by seed (then pass {root / parts[0]})."
        )
    folders = [root / part for part in parts] or [root]
    names = [_subfolders(folder) for folder in folders]
    classes = names[0]
    if len(classes) < 2:
        raise DataError(
            f"dataset: expected a folder for each of at least two classes in {folders[0]}, found "
            f"{len(classes)}: put the images in <class>/, or in train/<class>/ and test/<class>/."
        )
    if names[-1] != classes:
        odd = sorted(set(classes) ^ set(names[-1]))
        raise DataError(
            f"dataset: train/ and test/ in {root} need the same classes; in one of them only: "
            f"{', '.join(odd[:5])}."
        )
    files = [
        _File(Path(entry), label, part == 0)
        for part, folder in enumerate(folders)
        for label, name in enumerate(classes)
        for entry in _files_under(folder / name)
    ]
    return classes, files, bool(parts)


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    )


def _files_under(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(place, name) for name in sorted(names) if name[0] != ".")


def _listing_digest(root: Path, classes: tuple[str, ...], files: list[_File]) -> str:
    """Names, sizes and times of change: cheap, and different when an image was replaced."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, MAX_SIDE, str(root), *classes]).encode())
    for file in files:
        found = os.stat(file.path)
        line = [os.path.relpath(file.path, root), found.st_size, found.st_mtime_ns]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()[:32]


def _is_whole(folder: Path) -> bool:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        n_bytes = int(np.prod(about["shape"], dtype=np.int64))
        labels = np.load(folder / LABELS, allow_pickle=False)
        return (folder / IMAGES).stat().st_size == n_bytes and len(labels) == about["shape"][0]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return False


def _decode_all(
    source: ImageSource,
    classes: tuple[str, ...],
    files: list[_File],
    folder: Path,
    on_count: OnCount | None,
) -> None:
    """Write the three files of the cache; images go to disk as they come, in bounded memory."""
    unreadable, kept = [], []
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool, open(folder / IMAGES, "wb") as out:
        sides = list(pool.map(_side_or_none, [file.path for file in files], chunksize=64))
        side = min(MAX_SIDE, max((side for side in sides if side), default=0))
        for start in range(0, len(files), DECODED_AT_ONCE):
            batch = files[start : start + DECODED_AT_ONCE]
            decoded = pool.map(lambda file: _decode_or_reason(file.path, side), batch)
            for file, image in zip(batch, decoded, strict=True):
                if isinstance(image, str):
                    unreadable.append(f"{os.path.relpath(file.path, source.path)}: {image}")
                else:
                    kept.append(file)
                    out.write(image.tobytes())
                    digest.update(image.tobytes())
            if on_count is not None:
                on_count(min(start + DECODED_AT_ONCE, len(files)), len(files))

    labels = np.array([file.label for file in kept], dtype=np.int64)
    _check_every_class_is_there(source, classes, kept, unreadable)
    np.save(folder / LABELS, labels, allow_pickle=False)
    digest.update(labels.tobytes() + json.dumps([*classes, side]).encode())
    about = {
        "shape": [len(kept), 3, side, side],
        "n_train": sum(file.is_train for file in kept),
        "digest": digest.hexdigest(),
        "unreadable": unreadable,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _side_or_none(path: Path) -> int | None:
    try:
        return shorter_side(path)
    except DataError:
        return None


def _decode_or_reason(path: Path, side: int) -> np.ndarray | str:
    try:
        return decode_image(path, side)
    except DataError as error:
        return str(error)


def _check_every_class_is_there(
    source: ImageSource, classes: tuple[str, ...], kept: list[_File], unreadable: list[str]
) -> None:
    found = {file.label for file in kept}
    missing = [name for label, name in enumerate(classes) if label not in found]
    if missing:
        why = f"; unreadable: {'; '.join(unreadable[:3])}" if unreadable else ""
        raise DataError(
            f"dataset: {source.path} has no readable image of {', '.join(missing[:5])}{why}."
        )
