"""The few files we want out of a zip that somebody else made.

In: a zip file and the base names wanted. Out: those files, flat in a folder. The names inside the
archive never become paths here; an archive that looks hostile or damaged is refused whole.
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

# The largest release, ml-32m, unpacks to about 0.9 GB, at four bytes for one.
MAX_BYTES = 8 << 30  # of one file, unpacked
MAX_RATIO = 100  # unpacked bytes for one packed; a run of zeros reaches 1000
# What zipfile raises while it reads a damaged archive, by what the damage makes of it.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,  # an undecodable name, a seek to before the start
    NotImplementedError,  # a compression or version that zipfile does not know
    OverflowError,
)


def unpack(zip_path: Path, members: Iterable[str], destination: Path) -> dict[str, Path]:
    """Write the files named `members` from `zip_path` into the folder `destination`.

    `members` are base names (`ratings.csv`), looked for in every folder of the archive. Returns
    base name -> path written. After an error `destination` may hold part of a file: give a
    temporary folder (`cache.build_folder`).

    Raises DataError for all that `find_members` refuses and for a file that does not unpack to
    its checksum.
    """
    written = {}
    with _opened(zip_path) as archive:
        for name, info in _find(archive, zip_path, members).items():
            written[name] = destination / name
            # zipfile gives no more than info.file_size bytes and compares their CRC at the end.
            with archive.open(info) as source, open(written[name], "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return written


def find_members(zip_path: Path, members: Iterable[str]) -> dict[str, zipfile.ZipInfo]:
    """Base name -> entry of the archive, for each of `members`; nothing is unpacked.

    Raises DataError where the archive is damaged, has an entry with an absolute path or `..`,
    lacks a member or has it twice, or where a member is a link, encrypted, packed in an unusual
    way or too large (`MAX_BYTES`, `MAX_RATIO`).
    """
    with _opened(zip_path) as archive:
        return _find(archive, zip_path, members)


@contextmanager
def _opened(zip_path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(zip_path) as archive:
            yield archive
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: such a seek too
            raise
        raise DataError(
            f"{zip_path} is not a zip archive or is damaged ({error}); fetch it again."
        ) from error


def _find(
    archive: zipfile.ZipFile, zip_path: Path, members: Iterable[str]
) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    for info in entries:
        _refuse_escape(info, zip_path)
    found = {}
    for name in members:
        named = [e for e in entries if not e.is_dir() and PurePosixPath(e.filename).name == name]
        if not named:
            raise DataError(
                f"{zip_path} holds no {name}; expected a MovieLens archive with {name} in it."
            )
        if len(named) > 1:
            places = " and ".join(repr(e.filename) for e in named[:2])
            raise DataError(
                f"{zip_path} holds {name} {len(named)} times ({places}); "
                f"unpack it and pass the folder you mean."
            )
        _refuse_odd(named[0], zip_path)
        found[name] = named[0]
    return found


def _refuse_escape(info: zipfile.ZipInfo, zip_path: Path) -> None:
    # Backslashes and drive letters count on every system, for the archive may come from any.
    path = PureWindowsPath(info.filename)
    if path.is_absolute() or path.root or path.drive or ".." in path.parts:
        raise DataError(
            f"{zip_path} has an entry that points outside of the archive ({info.filename!r}); "
            f"it is not safe to unpack, so fetch it from its official place."
        )


def _refuse_odd(info: zipfile.ZipInfo, zip_path: Path) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        found = "a link or device, not a plain file"
    elif info.flag_bits & 0x1:
        found = "encrypted"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = f"packed with method {info.compress_type}, not with deflate"
    elif info.file_size > MAX_BYTES:
        found = f"{info.file_size} bytes unpacked, more than {MAX_BYTES}"
    elif info.file_size > MAX_RATIO * max(info.compress_size, 1):
        found = f"packed more than {MAX_RATIO} to 1, as no real ratings are"
    else:
        return
    raise DataError(
        f"{zip_path}: {info.filename!r} is {found}; unpack it by hand and pass the folder."
    )
