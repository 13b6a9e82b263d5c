"""Selective extraction from an untrusted zip archive.

In: a zip file and the base names wanted. Out: those files, flat in a folder. The names inside the
archive never become paths here; an archive that looks hostile or damaged is refused as a whole.
"""

import errno
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from embedlab.errors import DataError

# The largest release, ml-32m, unpacks to about 0.9 GB, four times its packed size.
MAX_BYTES = 8 << 30  # of one file, unpacked
MAX_RATIO = 100  # unpacked bytes per packed byte; a run of zeros reaches 1000
# What zipfile raises for a damaged archive, depending on the damage: for example, ValueError for a
# name that cannot be decoded, RuntimeError for an encrypted file or an unknown version.
BAD_CONTENT = (ValueError, RuntimeError, OverflowError, EOFError, struct.error, zlib.error)
DAMAGED = (zipfile.BadZipFile, *BAD_CONTENT)
Entries = dict[str, zipfile.ZipInfo]  # by base name


def unpack(zip_path: Path, members: Iterable[str], destination: Path) -> None:
    """Write the files named `members` from `zip_path` into the folder `destination`.

    `members` are base names (`ratings.csv`), searched for in every folder of the archive. After an
    error `destination` may hold part of a file, so pass a temporary folder (`cache.build_folder`).

    Raises DataError for everything that `find_members` refuses, and for a file whose unpacked bytes
    do not match its checksum.
    """
    with _open_zip(zip_path, members) as (archive, entries):
        for name, info in entries.items():
            # zipfile reads no more than info.file_size bytes and compares their CRC at the end.
            with archive.open(info) as source, open(destination / name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def find_members(zip_path: Path, members: Iterable[str]) -> Entries:
    """Base name -> entry of the archive, for each of `members`; nothing is unpacked.

    Raises DataError if the archive is damaged, has an entry with an absolute path or `..`, lacks a
    member or has it twice, or if a member is a link, packed in an unusual way or too large
    (`MAX_BYTES`, `MAX_RATIO`).
    """
    with _open_zip(zip_path, members) as (_, entries):
        return entries


@contextmanager
def _open_zip(zip_path: Path, members: Iterable[str]) -> Iterator[tuple[zipfile.ZipFile, Entries]]:
    try:
        with zipfile.ZipFile(zip_path) as archive:
            for info in archive.infolist():
                # Also refuses backslashes and drive letters: any system may have made the archive.
                path = PureWindowsPath(info.filename)
                if path.root or path.drive or ".." in path.parts:
                    raise DataError(
                        f"{zip_path} has an entry that points outside of the archive "
                        f"({info.filename!r}); it is not safe to unpack, so fetch it from its "
                        "official place."
                    )
            yield archive, {name: _find_entry(archive, zip_path, name) for name in members}
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a seek before the start
            raise
        raise DataError(
            f"{zip_path} is not a zip archive or is damaged ({error}); fetch it again."
        ) from error


def _find_entry(archive: zipfile.ZipFile, zip_path: Path, name: str) -> zipfile.ZipInfo:
    """The entry of this name, in any folder. Raises DataError if there is none, or several."""
    entries = [
        info
        for info in archive.infolist()
        if not info.is_dir() and PurePosixPath(info.filename).name == name
    ]
    if not entries:
        raise DataError(
            f"{zip_path} holds no {name}; expected a MovieLens archive with {name} in it."
        )
    if len(entries) > 1:
        paths = " and ".join(repr(info.filename) for info in entries[:2])
        raise DataError(
            f"{zip_path} holds {name} {len(entries)} times ({paths}); "
            f"unpack it and pass the folder you mean."
        )
    (entry,) = entries
    if reason := _refusal_reason(entry):
        raise DataError(
            f"{zip_path}: {entry.filename!r} is {reason}; unpack it by hand and pass the folder."
        )
    return entry


def _refusal_reason(info: zipfile.ZipInfo) -> str | None:
    """Why an entry is not unpacked; None if it may be."""
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link or device, not a plain file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"packed with method {info.compress_type}, not with deflate"
    if info.file_size > MAX_BYTES:
        return f"{info.file_size} bytes unpacked, more than {MAX_BYTES}"
    if info.file_size > MAX_RATIO * max(info.compress_size, 1):
        return f"packed more than {MAX_RATIO} to 1, as no real ratings are"
    return None
