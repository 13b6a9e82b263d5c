"""List a folder of images: which file belongs to which class. No file is opened.

In: a folder with `<class>/`, or with `train/<class>/` and `val/<class>/`, `test/<class>/` or both.
Out: a `Listing`. Files count at any depth below their class, links are followed, and hidden files
and folders are ignored.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from embedlab.errors import DataError
from embedlab.formatting import printable

# The folder names that are read as each part of a data set, in the order of the parts.
PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
OTHER_PARTS = ("training", "dev", "testing")  # named like parts, but not read as any
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")  # metadata and previews, by macOS and Synology

Entry = tuple[str, os.stat_result]  # a path, and the status of what it leads to, links followed


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
    reasons: dict[str, str] = {}  # by path: why it is left out
    top = _subfolders(str(root), reasons)
    parts = _parts_of(root, list(top))
    class_folders = {part: _subfolders(top[name], reasons) for part, name in parts.items()}
    class_folders = class_folders or {"": top}
    # A link to one of these would go in circles, or give the images of one class to another.
    read = [
        str(root),
        *map(str, root.resolve().parents),
        *(top[name] for name in parts.values()),
    ]
    read += [path for folders in class_folders.values() for path in folders.values()]
    visited = {_identity(os.stat(folder)) for folder in read}

    entries: dict[str, dict[str, list[Entry]]] = {}  # by part and class
    for part, folders in class_folders.items():
        entries[part] = {}
        for name, path in folders.items():
            n_reasons = len(reasons)
            files = list(_files_under(path, set(visited), reasons))
            if files or len(reasons) > n_reasons:
                entries[part][name] = files
            else:
                reasons[path] = "an empty folder"
    left_out = tuple(LeftOutFile(_name(path, root), reasons[path]) for path in sorted(reasons))
    classes, *others = map(list, entries.values())
    _check_classes(root, list(parts.values()), classes, others, left_out)
    class_files = tuple(
        ClassFile(path, _name(path, root), label, part, status.st_size, status.st_mtime_ns)
        for part, entries_of in entries.items()
        for label, name in enumerate(classes)
        for path, status in entries_of[name]
    )
    notes = tuple(_notes(root, parts, list(top)))
    return Listing(tuple(map(printable, classes)), class_files, tuple(parts), left_out, notes)


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


def _subfolders(folder: str, reasons: dict[str, str]) -> dict[str, str]:
    """Name -> path of the folders in `folder`; adds to `reasons` what is left out."""
    entries = _entries(folder, reasons)
    return {os.path.basename(p): p for p, status in entries if stat.S_ISDIR(status.st_mode)}


def _files_under(
    folder: str, visited: set[tuple[int, int]], reasons: dict[str, str]
) -> Iterator[Entry]:
    """The files of a folder, then those of each folder in it that is not `visited` yet.

    Adds to `visited` the folders that are read, and to `reasons` what is left out.
    """
    below = []
    try:
        for path, status in _entries(folder, reasons):
            if stat.S_ISREG(status.st_mode):
                yield path, status
            elif _identity(status) in visited:
                reasons[path] = "a folder that is read under another name"
            else:
                visited.add(_identity(status))
                below.append(path)
    except OSError as error:
        reasons[folder] = error.strerror or str(error)
    for path in below:
        yield from _files_under(path, visited, reasons)


def _entries(folder: str, reasons: dict[str, str]) -> Iterator[Entry]:
    """The regular files and the folders in `folder`, in order of their names, but no hidden ones.

    Adds to `reasons`, by path, why anything else is left out.
    """
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            link = "a link that leads nowhere: " if os.path.islink(path) else ""
            reasons[path] = f"{link}{error.strerror}"
            continue
        if name in SYSTEM_FOLDERS:
            reasons[path] = "the system's metadata and previews"
        elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            yield path, status
        else:
            reasons[path] = "a FIFO, socket or device; expected a regular file"


def _identity(status: os.stat_result) -> tuple[int, int]:
    """A key that a folder shares with every link to it."""
    return status.st_dev, status.st_ino


def _name(path: str, root: Path) -> str:
    return printable(os.path.relpath(path, root))


def _check_classes(
    root: Path,
    parts: list[str],
    classes: list[str],
    others: list[list[str]],
    left_out: tuple[LeftOutFile, ...],
) -> None:
    """Raises DataError for fewer than two classes, or for parts whose classes differ.

    classes  of the first part; `others` has those of each other part.
    """
    why = f" ({'; '.join(map(str, left_out[:5]))})" if left_out else ""
    if len(classes) < 2:
        raise DataError(
            f"dataset: expected a folder for each of at least two classes in "
            f"{root / parts[0] if parts else root}, found {len(classes)}{why}: put the "
            "images in <class>/, or in train/<class>/ and test/<class>/."
        )
    absent = {name for other in others for name in set(classes) ^ set(other)}
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
    """`train/, val/ and test/`"""
    *others, last = (f"{name}/" for name in folders)
    return f"{', '.join(others)} and {last}" if others else last
