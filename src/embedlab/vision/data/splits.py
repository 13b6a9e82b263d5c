"""Training, validation and test split by a seeded stratified shuffle.

In: an `ImageDataset`. Out: a `Split`, the rows of each part. Parts that the data set has are kept.
If it has no test images, one sixth of the training images become the test set, as in CIFAR-10; if
it has no validation images, 15% of the rest are for validation (7,500 of CIFAR-10's 50,000).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from embedlab.errors import DataError, OptionError
from embedlab.vision.data.images import ImageDataset

VAL_SHARE, TEST_SHARE = 0.15, 1 / 6


@dataclass(frozen=True)
class Split:
    """Rows of `ImageDataset.pixels`, sorted, (n,) int64 each.

    digest  sha256 of the data set and of the rows of validation and test: models with the same
            digest can be compared. It does not depend on the training rows.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    digest: str

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The rows by the name of their part."""
        return {"train": self.train, "val": self.val, "test": self.test}


def split_images(
    images: ImageDataset,
    seed: int,
    train_limit: int = 0,
    val_limit: int = 0,
    test_limit: int = 0,
) -> Split:
    """Split the data set by stratified shuffles from `seed`, unless its parts are given.

    A limit above 0 keeps at most that many images, stratified, at least one per class; 0 keeps all.
    The validation images do not depend on the limit of the training images.
    Raises DataError if a class is too small to be in every part, OptionError if a limit is smaller
    than the number of classes.
    """
    rows, n_classes = np.arange(len(images.labels)), len(images.classes)
    parts, start = {"train": rows}, 0
    for part, size in images.part_sizes.items():
        parts[part] = rows[start : start + size]
        start += size
    try:
        for part, share in (("test", TEST_SHARE), ("val", VAL_SHARE)):
            if part not in parts:
                train = parts["train"]
                strata = images.labels[train]
                both = train_test_split(train, test_size=share, random_state=seed, stratify=strata)
                parts["train"], parts[part] = map(np.sort, both)
    except ValueError:
        smallest = np.bincount(images.labels, minlength=n_classes).argmin()
        raise DataError(
            f"dataset: {images.name} has too few images to split {n_classes} classes into "
            f"training, validation and test; the smallest class is {images.classes[smallest]!r}: "
            "add images (at least about 20 per class)."
        ) from None
    for part, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        if missing := set(range(n_classes)) - set(images.labels[parts[part]].tolist()):
            raise DataError(
                f"dataset: {images.name} has no {name} image of "
                f"{', '.join(images.classes[label] for label in sorted(missing)[:5])}: "
                "add images (at least about 20 per class)."
            )
    for part, limit in (("train", train_limit), ("val", val_limit), ("test", test_limit)):
        if 0 < limit < n_classes:
            raise OptionError(
                f"{part}_limit: expected 0 for all, or at least {n_classes}, one per class, got "
                f"{limit}"
            )
        parts[part] = _limited(parts[part], images.labels, limit, seed)
    evaluated = parts["val"].tobytes() + b"|" + parts["test"].tobytes()
    digest = hashlib.sha256(images.digest.encode() + evaluated).hexdigest()
    return Split(**parts, digest=digest)


def duplicates_across_parts(images: ImageDataset, split: Split) -> list[tuple[int, int]]:
    """(row, earlier row): each validation or test image that is also in a part before its own.

    Images are equal if their stored pixels are, whatever their file format and metadata. The order
    of the parts is train, val, test.
    """
    duplicates: list[tuple[int, int]] = []
    earlier_row: dict[int, int] = {}  # by fingerprint
    for rows in split.parts.values():
        pairs = list(zip(images.fingerprints[rows].tolist(), rows.tolist(), strict=True))
        duplicates += [(row, earlier_row[key]) for key, row in pairs if key in earlier_row]
        earlier_row = dict(pairs) | earlier_row
    return duplicates


def _limited(rows: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    if limit == 0 or limit >= len(rows):
        return rows
    rows = np.random.default_rng(seed).permutation(rows)
    by_class = pd.Series(rows).groupby(labels[rows])
    # For each image, the fraction of its class that comes before it.
    share = by_class.cumcount() / by_class.transform("size")
    return np.sort(rows[np.argsort(share, kind="stable")[:limit]])
