"""List a folder of images: which file belongs to which class. No file is opened.

In: a folder with `<class>/`, or with `train/<class>/` and `val/<class>/`, `test/<class>/` or both.
Out: a `Listing`. Files count at any depth below their class, links are followed, and hidden files
and folders are ignored.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from embedlab.errors import DataError
from embedlab.formatting import printable

# The folder names that are read as each part of a data set, in the order of the parts.
PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
OTHER_PARTS = ("training", "dev", "testing")  # named like parts, but not read as any
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".jp2", ".j2k", ".webp", ".avif", ".gif", ".bmp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
)  # fmt: skip
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")  # metadata and previews, by macOS and Synology


class LeftOutFile(NamedTuple):
    """A file or folder that gives no image; `name` is its path in the data set's folder."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class ClassFile:
    """A regular file of a class.

    name     its path in the data set's folder, as it is shown.
    label    position of its class in `Listing.classes`.
    part     a key of PARTS; "" in a folder without parts.
    size     in bytes.
    mtime    modification time, in ns since 1970.
    """

    path: str
    name: str
    label: int
    part: str
    size: int
    mtime: int


@dataclass(frozen=True)
class Listing:
    """The classes and files of a folder.

    classes   names, by label.
    files     by part, label and path.
    parts     the parts that the folder has: keys of PARTS, in their order.
    left_out  what gives no image, by path.
    notes     sentences about parts and folders that are not read as a user may expect.
    """

    classes: tuple[str, ...]
    files: tuple[ClassFile, ...]
    parts: tuple[str, ...]
    left_out: tuple[LeftOutFile, ...]
    notes: tuple[str, ...]


class _Contents(NamedTuple):
    """What a folder holds, by path: status of regular files, folders, why the rest is left out."""

    files: dict[str, os.stat_result]
    folders: list[str]
    left_out: dict[str, str]


def list_files(root: Path) -> Listing:
    """The files of `root` by class. Raises DataError if it has another layout or cannot be read."""
    try:
        return _list_files(root)
    except OSError as error:
        raise DataError(
            f"dataset: {printable(error.filename)} cannot be read ({error.strerror}); "
            "pass a folder that can."
        ) from error


def _list_files(root: Path) -> Listing:
    """The listing of `list_files`; errors of the file system are raised as they are."""
    top = _contents(str(root))
    names = [os.path.basename(folder) for folder in top.folders]
    parts = _parts_of(root, names)
    contents = {part: _contents(str(root / name)) for part, name in parts.items()} or {"": top}
    # A link to one of these would go in circles, or give the images of one class to another.
    read: list[str | Path] = [root, *root.resolve().parents]
    read += [root / name for name in parts.values()]
    left_out = dict(top.left_out)
    for of_part in contents.values():
        read += of_part.folders
        left_out |= of_part.left_out
    for path in chain(top.files, *(of_part.files for of_part in contents.values())):
        if path.lower().endswith(IMAGE_SUFFIXES):
            left_out[path] = "not in the folder of a class"
    visited = set(map(_identity, read))

    files: dict[str, dict[str, dict[str, os.stat_result]]] = {}  # by part, class and path
    for part, of_part in contents.items():
        files[part] = {}
        for folder in of_part.folders:
            below = _contents_below(folder, visited)
            left_out |= below.left_out
            if below.files or below.left_out:
                files[part][os.path.basename(folder)] = below.files
            else:
                left_out[folder] = "an empty folder"
    items = tuple(LeftOutFile(_name(path, root), left_out[path]) for path in sorted(left_out))
    _check_classes(root, list(parts.values()), list(map(set, files.values())), items)
    classes = list(next(iter(files.values())))
    class_files = tuple(
        ClassFile(path, _name(path, root), label, part, status.st_size, status.st_mtime_ns)
        for part, of_class in files.items()
        for label, name in enumerate(classes)
        for path, status in of_class[name].items()
    )
    notes = tuple(_notes(root, parts, names))
    return Listing(tuple(map(printable, classes)), class_files, tuple(parts), items, notes)


def _parts_of(root: Path, names: list[str]) -> dict[str, str]:
    """Part -> the name of its folder; empty if `root` holds folders of classes only."""
    parts: dict[str, str] = {}
    for part, allowed in PARTS.items():
        present = [name for name in allowed if name in names]
        if len(present) > 1:
            raise DataError(
                f"dataset: {root} has {_listed(present)}, of which each may hold the validation "
                "images: keep one of them."
            )
        if present:
            parts[part] = present[0]
    names_of_parts = set(OTHER_PARTS).union(*PARTS.values())
    misnamed = [name for name in names if name.casefold() in names_of_parts]
    if not parts and len(misnamed) > 1:
        raise DataError(
            f"dataset: {root} has {_listed(misnamed)}, which would be read as classes: expected "
            "train/<class>/ and val/<class>/, test/<class>/ or both; rename them."
        )
    if parts and ("train" not in parts or len(parts) == 1):
        raise DataError(
            f"dataset: {root} has {_listed(parts.values())} alone; expected train/<class>/ and "
            "val/<class>/, test/<class>/ or both, or <class>/ folders alone, which are split by "
            f"seed (then pass {root / next(iter(parts.values()))})."
        )
    return parts


def _contents(folder: str) -> _Contents:
    """The contents of one folder, in order of their names, without hidden files and folders."""
    contents = _Contents({}, [], {})
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            link = "a link that leads nowhere: " if os.path.islink(path) else ""
            contents.left_out[path] = f"{link}{error.strerror}"
            continue
        if name in SYSTEM_FOLDERS:
            contents.left_out[path] = "the system's metadata and previews"
        elif stat.S_ISREG(status.st_mode):
            contents.files[path] = status
        elif stat.S_ISDIR(status.st_mode):
            contents.folders.append(path)
        else:
            contents.left_out[path] = "a FIFO, socket or device; expected a regular file"
    return contents


def _contents_below(folder: str, visited: set[tuple[int, int]]) -> _Contents:
    """The contents of a folder and of those in it that are not `visited`, each of them once."""
    below = _Contents({}, [], {})
    visited, unread = set(visited), [folder]
    while unread:
        folder = unread.pop()
        try:
            contents = _contents(folder)
        except OSError as error:
            below.left_out[folder] = error.strerror or str(error)
            continue
        below.files.update(contents.files)
        below.left_out.update(contents.left_out)
        new = []
        for path in contents.folders:
            if _identity(path) in visited:
                below.left_out[path] = "a folder that is read under another name"
            else:
                visited.add(_identity(path))
                new.append(path)
        unread += reversed(new)
    return below


def _identity(folder: str | Path) -> tuple[int, int]:
    """A key that a folder shares with every link to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _name(path: str, root: Path) -> str:
    return printable(os.path.relpath(path, root))


def _check_classes(
    root: Path, parts: list[str], classes: list[set[str]], left_out: tuple[LeftOutFile, ...]
) -> None:
    """Raises DataError for fewer than two classes, or for parts whose classes differ.

    classes  names, by part; of the whole folder if it has no parts.
    """
    why = f" ({'; '.join(map(str, left_out[:5]))})" if left_out else ""
    if len(classes[0]) < 2:
        raise DataError(
            f"dataset: expected a folder for each of at least two classes in "
            f"{root / parts[0] if parts else root}, found {len(classes[0])}{why}: put the "
            "images in <class>/, or in train/<class>/ and test/<class>/."
        )
    absent = classes[0].union(*classes) - classes[0].intersection(*classes)
    if absent:
        raise DataError(
            f"dataset: {_listed(parts)} in {root} need images of the same classes; not in each of "
            f"them: {', '.join(sorted(map(printable, absent))[:5])}{why}: add what is missing, or "
            "remove these."
        )


def _notes(root: Path, parts: dict[str, str], names: list[str]) -> Iterator[str]:
    if parts and "test" not in parts:
        yield (
            f"{root.name} has no test/: a sixth of train/, drawn by seed, is the test set, and "
            f"{parts['val']}/ validates."
        )
    ignored = [printable(name) for name in names if name not in parts.values()]
    if parts and ignored:
        yield (
            f"Of {root.name} only {_listed(parts.values())} are read, not {_listed(ignored)}. To "
            "use other images, move them to train/<class>/."
        )


def _listed(folders: Iterable[str]) -> str:
    """The folders as a phrase: `train/, val/ and test/`."""
    *others, last = (f"{name}/" for name in folders)
    return f"{', '.join(others)} and {last}" if others else last
