"""The folder where downloads, unpacked archives and built-in samples are kept between runs.

In: the environment variable `EMBEDLAB_CACHE`, or nothing. Out: folders that are either whole or
not there, also when a run is killed half-way or two runs build the same one at once.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from embedlab.errors import DataError

CACHE_VARIABLE = "EMBEDLAB_CACHE"


def cache_folder() -> Path:
    """The absolute path of the cache, made if it is not there yet.

    It is `$EMBEDLAB_CACHE` where that is set and not empty, else the platform's own place for
    caches (platformdirs). Raises DataError where the folder cannot be made or written.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        folder = Path(os.path.abspath(os.path.expanduser(chosen)))
    else:
        import platformdirs

        folder = platformdirs.user_cache_path("embedlab")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error
    return folder


def build_folder(
    final: Path, fill: Callable[[Path], object], is_whole: Callable[[Path], bool]
) -> Path:
    """Return the folder `final`, first built by `fill` where `is_whole(final)` is not true.

    `fill(folder)` gets an empty temporary folder beside `final` and writes plain files into it;
    only when it returns are they moved into place, so whoever finds `final` finds all of it.
    `final` must name its content (a digest or a version): of two processes that build it at the
    same time either may win. A folder that has lost a file is mended file by file, each in one
    step, so that a process that reads it meanwhile is not disturbed.

    Raises DataError where the disk is full or not writable, and whatever `fill` raises; in both
    cases `final` is as it was.
    """
    if is_whole(final):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=final.parent) as work:
            # One level down, for the temporary folder itself is closed to other users.
            built = Path(work) / "built"
            built.mkdir()
            fill(built)
            try:
                os.rename(built, final)
            except OSError:
                if not final.is_dir():
                    raise
                for file in built.iterdir():
                    os.replace(file, final / file.name)
    except OSError as error:
        raise _not_writable(final, error) from error
    return final


def _not_writable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"The cache folder {folder} cannot be written ({error.strerror or error}); "
        f"make room or set {CACHE_VARIABLE} to a folder that can."
    )
