"""A tiny archive of ratings, and helpers for tests that write and list files."""

import hashlib
import io
import zipfile
from pathlib import Path

RATINGS = b"userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n"
MOVIES = b"movieId,title,genres\r\n1,Toy Story (1995),Comedy\r\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zip_bytes(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    return buffer.getvalue()


def files_under(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


GOOD_ZIP = zip_bytes({"ml-small/ratings.csv": RATINGS, "ml-small/movies.csv": MOVIES})
