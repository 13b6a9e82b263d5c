"""Integrity of a served model: the sha256 of its data and code files.

The digests are written into the model's MLmodel when it is logged, and compared when it is loaded.
This detects files that are damaged, truncated, mixed up or edited, but not forgery: whoever can
write to the store can write new digests, too.
"""

from collections.abc import Mapping
from pathlib import Path

from mlflow.models import Model, ModelSignature

from embedlab_serving.errors import DataError
from embedlab_serving.hashing import sha256_of

DIGESTS = "sha256"  # in the metadata of MLmodel: file, relative to the model's folder -> hex
REMEDY = "copy the model from its store again, or log it anew"


def digests_of(files: Mapping[str, Path]) -> dict[str, str]:
    """The digest of each of these files, by the name that it has in a model's folder."""
    return {name: sha256_of(path) for name, path in files.items()}


def _check_model(folder: Path, signature: ModelSignature) -> None:
    """Raises DataError if a file of the model in `folder` is not the one that was logged.

    Also raises DataError if the signature in MLmodel, the file with the digests, is not that of the
    code.
    """
    model = Model.load(folder)
    digests = (model.metadata or {}).get(DIGESTS)
    if not isinstance(digests, dict) or not digests or model.signature != signature:
        raise DataError(
            "the model's MLmodel is not the one that was logged (expected the sha256 of every file "
            f"and this model's signature): {REMEDY}"
        )
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"the model's file {name} is missing: {REMEDY}")
        if (found := sha256_of(path)) != expected:
            raise DataError(
                f"the model's file {name} is not the one that was logged (expected sha256 "
                f"{str(expected)[:12]}…, found {found[:12]}…): {REMEDY}"
            )


# Bound last: a file that is cut has no check, instead of one that checks less.
check_model = _check_model
