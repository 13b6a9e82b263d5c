"""The sha256 checksum of a file, for downloads, caches and models. Standard library only."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The sha256 in hexadecimal. Raises OSError if the file cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
