"""The parameter `ratings`: from its text to a folder with `ratings.csv` and `movies.csv`.

In: `sample`, the name of a MovieLens release, or the path of a folder or zip in MovieLens layout.
Out: a folder on this machine that has both files; `movies/data/ratings.py` reads their content.
Source: https://grouplens.org/datasets/movielens/ (F. M. Harper and J. A. Konstan, "The MovieLens
Datasets: History and Context", ACM TiiS 5(4), 2015, doi:10.1145/2827872).

Importing this module is cheap (standard library only), so a parser can use it.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from embedlab.datasets.archive import find_members, unpack
from embedlab.datasets.cache import absolute_path, build_folder, cache_folder
from embedlab.datasets.download import fetch
from embedlab.errors import DataError
from embedlab_serving.hashing import sha256_of

RATINGS_FILE, MOVIES_FILE = FILES = ("ratings.csv", "movies.csv")


@dataclass(frozen=True)
class Release:
    """A release's archive: its URL, its sha256, and the sha256 of each file that is unpacked."""

    url: str
    sha256: str
    files: Mapping[str, str]


# The archive's checksum is the one in TensorFlow Datasets' url_checksums/movielens.txt.
RELEASES = {
    "ml-latest-small": Release(
        url="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        sha256="696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        files={
            "ratings.csv": "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
            "movies.csv": "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
        },
    )
}
SAMPLE = "sample"
RATINGS_NAMES = (SAMPLE, *RELEASES)


@dataclass(frozen=True)
class RatingsFolder:
    """A folder that has the two files.

    `name` is short enough for a plot's title; `source` is the URL, the absolute path, or "built-in
    sample", and is what a run records.
    """

    name: str
    path: Path
    source: str


def check_ratings_argument(text: str) -> str:
    """Return `text` if it is one of `RATINGS_NAMES` or a path that exists; looks at nothing else.

    Meant as an argparse `type`, so that a typo is reported before heavy imports.
    Raises DataError for any other text.
    """
    if text not in RATINGS_NAMES and not os.path.exists(os.path.expanduser(text)):
        raise DataError(
            f"ratings: expected one of {', '.join(RATINGS_NAMES)} or the path of a folder or zip "
            f"that exists, got {text!r}; relative paths are looked up in the project's folder "
            f"{os.getcwd()}, where `mlflow run` starts the code, so give an absolute path."
        )
    return text


def ratings_name(ratings: str) -> str:
    """The name of the data set that `ratings` means, as in `RatingsFolder.name`.

    A path is named by its last part, or by the last two if it would be named as the built-in
    sample, whose name states its licence.
    """
    if ratings in RATINGS_NAMES:
        return ratings
    path = absolute_path(ratings)
    name = path.name or str(path) if path.is_dir() else path.stem
    return f"{path.parent.name}/{name}" if name == SAMPLE else name


def locate_ratings(ratings: str) -> RatingsFolder:
    """Return the folder that `ratings` means; download, unpack or write it first if need be.

    A name in `RATINGS_NAMES` takes precedence over a file of that name (write `./sample` for the
    file). A path may start with `~`. The sample is never a fallback for something else.

    Raises DataError if the path does not exist or lacks a file, DownloadError if the release cannot
    be fetched.
    """
    name = ratings_name(check_ratings_argument(ratings))
    if ratings == SAMPLE:
        return RatingsFolder(name, _sample_folder(), "built-in sample")
    if ratings in RELEASES:
        return RatingsFolder(name, _release_folder(name), RELEASES[name].url)
    path = absolute_path(ratings)
    folder = _checked_folder(path) if path.is_dir() else _unzipped_folder(path)
    return RatingsFolder(name, folder, str(path))


def _sample_folder() -> Path:
    from embedlab.datasets.sample import SAMPLE_VERSION, sample_files

    def fill(folder: Path) -> None:
        for name, data in sample_files().items():
            (folder / name).write_bytes(data)

    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sample_files().items()}
    folder = cache_folder() / f"sample-v{SAMPLE_VERSION}"
    return build_folder(folder, fill, partial(_has_files, digests))


def _release_folder(name: str) -> Path:
    release = RELEASES[name]

    def fill(folder: Path) -> None:
        unpack(fetch(release.url, release.sha256, f"{name}.zip", "ratings"), FILES, folder)

    folder = cache_folder() / f"{name}-{release.sha256[:16]}"
    return build_folder(folder, fill, partial(_has_files, release.files))


def _has_files(digests: Mapping[str, str], folder: Path) -> bool:
    """Whether the folder has these files; `digests` is the sha256 (hex) by file name."""
    files = [(folder / name, digest) for name, digest in digests.items()]
    return all(file.is_file() and sha256_of(file) == digest for file, digest in files)


def _checked_folder(folder: Path) -> Path:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        inner = [f for f in sorted(folder.glob("*/")) if all((f / n).is_file() for n in FILES)]
        remedy = f"did you mean {inner[0]}?" if inner else f"it needs {' and '.join(FILES)}."
        raise DataError(f"The folder {folder} has no {' and no '.join(missing)}; {remedy}")
    return folder


def _unzipped_folder(path: Path) -> Path:
    """The folder of the cache with the files of this zip, unpacked if they are not there yet."""
    if path.suffix.lower() == ".csv":
        raise DataError(
            f"{path} is one file; pass the folder that holds {' and '.join(FILES)}, or its zip."
        )
    try:
        entries = find_members(path, FILES)
        # Keyed by content: the same zip is unpacked once, wherever it is stored.
        folder = cache_folder() / "unpacked" / sha256_of(path)[:32]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); pass a folder or zip that can."
        ) from error

    def is_complete(folder: Path) -> bool:
        files = [(folder / name, entry.file_size) for name, entry in entries.items()]
        return all(file.is_file() and file.stat().st_size == size for file, size in files)

    return build_folder(folder, partial(unpack, path, FILES), is_complete)
