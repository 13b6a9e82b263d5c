"""The listing of a folder of images: which file is of which class. No file is opened.

In: a folder with `<class>/`, or with `train/<class>/` and `test/<class>/`. Out: a `Listing`. Files
count at any depth of a class, links are followed, hidden files and folders are ignored.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from embedlab.errors import DataError
from embedlab.wording import printable

TRAIN, TEST = "train", "test"
VALIDATION = ("val", "valid", "validation")  # of others' layouts; here a share of train/ validates
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")  # metadata and previews: of macOS in a zip, of Synology

Found = tuple[str, os.stat_result]  # a path, and what is there, links followed


class LeftOut(NamedTuple):
    """A file or folder that gives no image; `name` is its path in the data set's folder."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class ClassFile:
    """A regular file of a class; `name` is its path in the data set's folder, as it is shown."""

    path: str
    name: str
    label: int
    is_train: bool
    size: int
    changed: int  # ns


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    classes    names, by label.
    files      the training files before the test files, by label and path.
    has_split  whether it has train/ and test/.
    left_out   what gives no image, by path.
    notes      sentences about folders that are not read although a user may expect it.
    """

    classes: tuple[str, ...]
    files: tuple[ClassFile, ...]
    has_split: bool
    left_out: tuple[LeftOut, ...]
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
    parts = [name for name in (TRAIN, TEST) if name in top]
    others = [printable(name) for name in top if name not in parts]
    if len(parts) == 1:
        raise DataError(_one_part(root, parts[0], others))
    by_part = [_subfolders(top[part], reasons) for part in parts] or [top]
    # A link to one of these would go in circles, or give the images of one class to another.
    folders = [str(root), *map(str, root.resolve().parents), *(top[part] for part in parts)]
    folders += [path for classes in by_part for path in classes.values()]
    known = {_identity(os.stat(folder)) for folder in folders}

    found: list[dict[str, list[Found]]] = [{} for _ in by_part]
    for files_of, paths in zip(found, by_part, strict=True):
        for name, path in paths.items():
            n_before = len(reasons)
            files = list(_files_under(path, set(known), reasons))
            if files or len(reasons) > n_before:
                files_of[name] = files
            else:
                reasons[path] = "an empty folder"
    left_out = tuple(LeftOut(_name(path, root), reasons[path]) for path in sorted(reasons))
    _check_classes(root, [list(files_of) for files_of in found], left_out)
    class_files = tuple(
        ClassFile(path, _name(path, root), label, part == 0, about.st_size, about.st_mtime_ns)
        for part, files_of in enumerate(found)
        for label, name in enumerate(found[0])
        for path, about in files_of[name]
    )
    notes = (_not_read(root, others),) if parts and others else ()
    return Listing(tuple(map(printable, found[0])), class_files, bool(parts), left_out, notes)


def _subfolders(folder: str, reasons: dict[str, str]) -> dict[str, str]:
    """Name -> path."""
    found = _entries(folder, reasons)
    return {os.path.basename(path): path for path, about in found if stat.S_ISDIR(about.st_mode)}


def _files_under(
    folder: str, known: set[tuple[int, int]], reasons: dict[str, str]
) -> Iterator[Found]:
    """The files of a folder, then those of each folder in it that is not `known` yet."""
    below = []
    try:
        for path, about in _entries(folder, reasons):
            if stat.S_ISREG(about.st_mode):
                yield path, about
            elif _identity(about) in known:
                reasons[path] = "a folder that is read under another name"
            else:
                known.add(_identity(about))
                below.append(path)
    except OSError as error:
        reasons[folder] = error.strerror or str(error)
    for path in below:
        yield from _files_under(path, known, reasons)


def _entries(folder: str, reasons: dict[str, str]) -> Iterator[Found]:
    """Regular files and folders, by name, without hidden ones."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        try:
            about = os.stat(path)
        except OSError as error:
            link = "a link that leads nowhere: " if os.path.islink(path) else ""
            reasons[path] = f"{link}{error.strerror}"
            continue
        if name in SYSTEM_FOLDERS:
            reasons[path] = "the system's metadata and previews"
        elif stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode):
            yield path, about
        else:
            reasons[path] = "a FIFO, socket or device; expected a regular file"


def _identity(about: os.stat_result) -> tuple[int, int]:
    """The same for a folder and for every link to it."""
    return about.st_dev, about.st_ino


def _name(path: str, root: Path) -> str:
    return printable(os.path.relpath(path, root))


def _check_classes(root: Path, names: list[list[str]], left_out: tuple[LeftOut, ...]) -> None:
    """`names` of the classes in each part."""
    why = f" ({'; '.join(map(str, left_out[:5]))})" if left_out else ""
    if len(names[0]) < 2:
        raise DataError(
            f"dataset: expected a folder for each of at least two classes in "
            f"{root / TRAIN if len(names) > 1 else root}, found {len(names[0])}{why}: put the "
            "images in <class>/, or in train/<class>/ and test/<class>/."
        )
    odd = sorted(map(printable, set(names[0]) ^ set(names[-1])))
    if odd:
        raise DataError(
            f"dataset: train/ and test/ in {root} need images of the same classes; in one of "
            f"them only: {', '.join(odd[:5])}{why}: add what is missing, or remove these."
        )


def _one_part(root: Path, part: str, others: list[str]) -> str:
    val = next((name for name in VALIDATION if name in others and part == TRAIN), None)
    rename = f"; to test on {val}/, rename it {TEST}/" if val else ""
    return (
        f"dataset: {root} has {part}/ alone; expected train/<class>/ and test/<class>/, or "
        f"<class>/ folders alone, which are split by seed (then pass {root / part}){rename}."
    )


def _not_read(root: Path, others: list[str]) -> str:
    ignored = ", ".join(f"{name}/" for name in others)
    return (
        f"Of {root.name} only train/ and test/ are read, not {ignored}: a share of train/, drawn "
        "by seed, validates. To use other images, move them to train/<class>/."
    )
