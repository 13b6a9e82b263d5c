"""The checksum of a file, by which downloads, caches and models are held. Standard library only."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """In hexadecimal. Raises OSError where the file cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
