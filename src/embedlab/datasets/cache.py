"""The folder where downloads, unpacked archives, weights, decoded images, features, checkpoints,
built-in samples and what could not be logged are kept between runs.

In: the environment variable `EMBEDLAB_CACHE`, or nothing. Out: folders whose files are complete,
even when a run is killed halfway or two runs build the same folder at once. Unfinished files of a
killed run stay in the cache, and `find_unfinished` finds them.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

from embedlab.datasets.archive import DAMAGED
from embedlab.errors import DataError
from embedlab.formatting import counted
from embedlab.process import has_ended, this_host

CACHE_VARIABLE = "EMBEDLAB_CACHE"
BUILDING = ".building-"
WORKING_FOLDER = re.compile(rf"{re.escape(BUILDING)}(\d+)@(.+)-\w+")
UNFINISHED = (f"{BUILDING}*", "*.partial")  # *.partial: torch's downloads under way
MIN_IDLE_HOURS = 1.0
# The errors of reading a damaged `.npy`, or an array of a damaged `.npz`, whose name may be the
# damage; TokenError from Python 3.12 on.
DAMAGED_ARRAY = (*DAMAGED, OSError, KeyError, SyntaxError, TokenError)


def absolute_path(text: str) -> Path:
    """The absolute path that a user means by `text`, which may start with `~`."""
    return Path(os.path.abspath(os.path.expanduser(text)))


def cache_folder() -> Path:
    """The absolute path of the cache, made if it is not there yet.

    It is `$EMBEDLAB_CACHE` if that is set and not empty, else the platform's own folder for caches
    (platformdirs). Raises DataError if the folder cannot be made or written.
    """
    import platformdirs

    chosen = os.environ.get(CACHE_VARIABLE)
    folder = absolute_path(chosen) if chosen else platformdirs.user_cache_path("embedlab")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error
    return folder


def build_folder(
    final: Path,
    fill: Callable[[Path], object],
    is_complete: Callable[[Path], bool] = lambda _: False,
) -> Path:
    """Return the folder `final`, built by `fill` unless `is_complete(final)`.

    `fill(folder)` gets an empty temporary folder beside `final` and writes plain files into it.
    Each file is then moved into `final` in one step, so a concurrent reader keeps the old file, and
    a folder that lacks a file because its process was killed counts as incomplete. The name of
    `final` must identify its content (by a digest or a version), because if two processes build it
    at the same time, the files of either may end up there.

    Raises DataError if the disk is full or not writable, and whatever `fill` raises; if `fill`
    failed, `final` is unchanged.
    """
    if is_complete(final):
        return final
    try:
        with working_folder(final.parent) as work:
            fill(work)
            final.mkdir(exist_ok=True)
            for file in work.iterdir():
                os.replace(file, final / file.name)
    except OSError as error:
        raise _not_writable(final, error) from error
    return final


@contextmanager
def working_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty temporary folder in `parent`, whose name identifies this process.

    What is written there can be moved into place in one step.
    """
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{BUILDING}{os.getpid()}@{this_host()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as work:
        yield Path(work)


@dataclass(frozen=True)
class UnfinishedFile:
    """A file or folder that no process will finish, and how that is known."""

    path: Path
    reason: str

    def remove(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def find_unfinished(hours: float) -> list[UnfinishedFile]:
    """Files and folders in the cache that killed processes left unfinished.

    An entry whose process on this host has ended counts after an hour without a change. An entry of
    another host, or of no known process, counts after `hours` (at least one).
    """
    unfinished = []
    for path in sorted(path for name in UNFINISHED for path in cache_folder().rglob(name)):
        try:
            changed_at = max(item.lstat().st_mtime for item in (path, *path.rglob("*")))
        except OSError:  # finished, or removed, since
            continue
        idle_hours = (time.time() - changed_at) / 3600
        owner = WORKING_FOLDER.fullmatch(path.name)
        pid, host = (int(owner[1]), owner[2]) if owner else (0, "")
        if idle_hours < MIN_IDLE_HOURS:
            continue
        if owner and has_ended(host, pid, changed_at):
            unfinished.append(UnfinishedFile(path, f"its process {pid} has ended"))
        elif idle_hours >= hours and host != this_host():
            by_host = f" by {host}" if host else ""
            reason = f"not touched{by_host} for {counted(round(idle_hours), 'hour')}"
            unfinished.append(UnfinishedFile(path, reason))
    return unfinished


def _not_writable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"The cache folder {folder} cannot be written ({error.strerror or error}); "
        f"make room or set {CACHE_VARIABLE} to a folder that can."
    )
