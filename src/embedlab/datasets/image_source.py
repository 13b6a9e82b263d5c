"""The parameter `dataset`: from its text to the images on this machine; `vision` reads them.

In: `sample`, `cifar10`, or `folder:<path>`. Out: where the images are on this machine.
Source of CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html (A. Krizhevsky, "Learning Multiple
Layers of Features from Tiny Images", 2009).

Importing this module is cheap (standard library only), so a parser can use it.
"""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from embedlab.datasets.cache import absolute_path, build_folder, cache_folder
from embedlab.datasets.download import fetch
from embedlab.errors import DataError
from embedlab.formatting import printable

SAMPLE, CIFAR10, FOLDER = "sample", "cifar10", "folder:"

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
# As in Keras' keras/src/datasets/cifar10.py; torchvision has the MD5 of the same file.
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CIFAR10_FOLDER = "cifar-10-batches-py"


@dataclass(frozen=True)
class ImageSource:
    """The location of a data set's images.

    `kind` is SAMPLE, CIFAR10 or FOLDER; `path` the folder, None for the sample. `name` is short
    enough for a figure's title; `source` is the URL, the absolute path or "built-in sample", and
    is what a run records.
    """

    kind: str
    name: str
    path: Path | None
    source: str


def check_dataset_argument(text: str) -> str:
    """Return `text` if it is `sample`, `cifar10`, or `folder:` and a folder that exists.

    Meant as an argparse `type`, so that a typo is reported before heavy imports.
    Raises DataError for any other text.
    """
    path = text.removeprefix(FOLDER)
    if printable(path) != path:
        raise DataError(
            f"dataset: expected a path in UTF-8 without control characters, which MLflow can "
            f"record, got {printable(path)}; rename the folder, or make a link to it (ln -s)."
        )
    is_folder = bool(path) and absolute_path(path).is_dir()
    if text in (SAMPLE, CIFAR10) or (text.startswith(FOLDER) and is_folder):
        return text
    hint = f" (did you mean 'folder:{text}'?)" if is_folder else ""
    found = f"there is no folder {path!r}" if text.startswith(FOLDER) else f"got {text!r}{hint}"
    raise DataError(
        f"dataset: expected sample, cifar10 or folder:<path of a folder of images>, {found}; "
        f"relative paths are looked up in the project's folder {os.getcwd()}, where `mlflow run` "
        f"starts the code, so give an absolute path."
    )


def locate_images(dataset: str) -> ImageSource:
    """Locate the images of `dataset`; CIFAR-10 is downloaded and unpacked first if need be.

    Raises DataError if a folder does not exist, DownloadError if CIFAR-10 cannot be fetched.
    """
    check_dataset_argument(dataset)
    if dataset == SAMPLE:
        return ImageSource(SAMPLE, "digits sample", None, "built-in sample")
    if dataset == CIFAR10:
        return ImageSource(CIFAR10, "CIFAR-10", _cifar10_root(), CIFAR10_URL)
    path = absolute_path(dataset.removeprefix(FOLDER))
    return ImageSource(FOLDER, path.name or str(path), path, str(path))


def _cifar10_root() -> Path:
    """The folder that torchvision calls the root of CIFAR-10."""
    from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10
    from torchvision.datasets.utils import check_integrity

    md5 = dict([*TorchvisionCIFAR10.train_list, *TorchvisionCIFAR10.test_list])
    md5[TorchvisionCIFAR10.meta["filename"]] = TorchvisionCIFAR10.meta["md5"]

    def is_complete(folder: Path) -> bool:
        return all(check_integrity(folder / name, md5[name]) for name in md5)

    def fill(folder: Path) -> None:
        archive = fetch(CIFAR10_URL, CIFAR10_SHA256, Path(CIFAR10_URL).name)
        with tarfile.open(archive) as tar:
            for name in md5:
                member = tar.getmember(f"{CIFAR10_FOLDER}/{name}")
                # Extracted without the folder that it has in the archive.
                tar.extract(member.replace(name=name), folder, filter="data")

    root = cache_folder() / f"cifar10-{CIFAR10_SHA256[:16]}"
    return build_folder(root / CIFAR10_FOLDER, fill, is_complete).parent
