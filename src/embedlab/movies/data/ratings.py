"""Ratings and movies from a folder in MovieLens layout, checked line by line.

In: `ratings.csv` (userId, movieId, rating and optionally timestamp) and `movies.csv` (movieId,
title, genres); UTF-8 with or without a byte-order mark, any line ends, further columns ignored.
Out: `Ratings`, whose arrays number users and movies from 0. Layout:
https://files.grouplens.org/datasets/movielens/ml-latest-small-README.html

Arrow reads a `ratings.csv` in MovieLens' own form: these columns alone, unquoted. Anything else,
and whatever Arrow refuses, is read by the csv module, which names the first bad line.
"""

import csv
import hashlib
import math
import re
import sys
from array import array
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from embedlab.datasets.movielens import MOVIES_FILE, RATINGS_FILE
from embedlab.errors import DataError
from embedlab.formatting import counted

MIN_STARS, MAX_STARS = 0.5, 5.0
BLOCK_BYTES = 1 << 20  # that Arrow parses at once
ROWS_AT_ONCE = 1 << 18

_RATING_TYPES = {
    "userId": pa.int64(),
    "movieId": pa.int64(),
    "rating": pa.float64(),
    "timestamp": pa.float64(),
}
_RATING_COLUMNS, _TIME_COLUMN = ("userId", "movieId", "rating"), "timestamp"
_MOVIE_COLUMNS = ("movieId", "title", "genres")
_MAX_ID = np.iinfo(np.int64).max
_WHOLE = re.compile(r"([0-9]+)(?:\.0*)?")  # "31" and the "31.0" of a spreadsheet, not "31.5"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # by Python's error handler "surrogateescape"


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings by user and movie, in the order of the file.

    `movies` has a row for each movie in order of `movie_id`, unrated movies included. `dropped`
    counts the rows of `ratings.csv` left out: `unknown_movie` (not in `movies.csv`) and
    `duplicate_rating` (the same user rated the same movie later). `digest` is the sha256 (hex) of
    the bytes of `ratings.csv` followed by those of `movies.csv`.
    """

    name: str
    movies: pd.DataFrame  # movie_id int64, title str, genres str; RangeIndex
    user_ids: np.ndarray  # (n_users,) int64, ascending
    user: np.ndarray  # (n_ratings,) int32, position in user_ids
    movie: np.ndarray  # (n_ratings,) int32, row of movies
    stars: np.ndarray  # (n_ratings,) float32, 0.5 to 5
    dropped: dict[str, int]
    digest: str

    def __str__(self) -> str:
        """What was read, as a phrase: `sample: 7,196 ratings, 240 users, 82 movies`."""
        dropped = "".join(
            f", {n:,} dropped ({why.replace('_', ' ')})" for why, n in self.dropped.items() if n
        )
        return (
            f"{self.name}: {counted(self.n_ratings, 'rating')}{dropped}, "
            f"{counted(self.n_users, 'user')}, {counted(self.n_movies, 'movie')}"
        )

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_movies(self) -> int:
        return len(self.movies)

    @property
    def n_ratings(self) -> int:
        return len(self.stars)


# Per row userId and movieId, (n_rows,) int64, rating, (n_rows,) float32, and timestamp, (n_rows,)
# float64, or (0,) without that column.
_Columns = tuple[np.ndarray, ...]


def read_ratings(folder: Path, name: str | None = None) -> Ratings:
    """Read `ratings.csv` and `movies.csv` in `folder`; `name` defaults to the folder's.

    Ids are whole numbers from 0 to 2^63 - 1, stars are numbers from 0.5 to 5. If a user rated a
    movie several times, the latest rating counts: by timestamp, then by position in the file.
    Ratings of movies that `movies.csv` does not list are left out.

    Raises DataError (one sentence with file, line and value) if a file is missing, not UTF-8, not a
    table with these columns, or has a value out of range; and if no rating is left.
    """
    folder = Path(folder)
    path = folder / RATINGS_FILE
    try:
        with (
            open(path, "rb") as ratings_file,
            open(folder / MOVIES_FILE, "rb") as movies_file,
            ThreadPoolExecutor(1) as thread,  # hashes while Arrow parses; saves 1 s at 32 M ratings
        ):
            digest = thread.submit(_digest, ratings_file, movies_file)
            movies = _read_movies(folder / MOVIES_FILE)
            user_id, movie_id, stars, time = read_by_arrow(path) or read_by_lines(path)
        sha256 = digest.result()
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename} is missing; expected a folder with {RATINGS_FILE} and {MOVIES_FILE}."
        ) from error
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror or error}); "
            f"check its permissions or copy it again."
        ) from error

    movie = _positions(movies["movie_id"].to_numpy(), movie_id)
    del movie_id  # each column of 32 M ratings takes 0.25 GiB
    is_known = movie >= 0
    if not is_known.any():
        raise DataError(
            f"{RATINGS_FILE}: none of its {len(stars)} ratings is of a movie in {MOVIES_FILE}; "
            f"expected two files of the same release."
        )
    user_ids = np.sort(pd.unique(user_id[is_known]))
    user = _positions(user_ids, user_id)
    del user_id
    pair = np.multiply(user, len(movies) + 1, dtype=np.int64)  # with room for a movie of −1
    pair += movie
    is_kept = is_known & _latest(pair, time)
    del pair, time
    n_known, n_kept = int(is_known.sum()), int(is_kept.sum())
    return Ratings(
        name=name or folder.resolve().name,
        movies=movies,
        user_ids=user_ids,
        user=user[is_kept],
        movie=movie[is_kept],
        stars=stars[is_kept],
        dropped={"unknown_movie": len(is_known) - n_known, "duplicate_rating": n_known - n_kept},
        digest=sha256,
    )


def _digest(*files: BufferedReader) -> str:
    sha = hashlib.sha256()
    for file in files:
        hashlib.file_digest(file, lambda: sha)
    return sha.hexdigest()


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position in `ids` (ascending) of each of `wanted`: (len(wanted),) int32, -1 if absent."""
    index = pd.Index(ids)
    pieces = np.array_split(wanted, 1 + len(wanted) // ROWS_AT_ONCE)  # pandas gives int64
    return np.concatenate([index.get_indexer(piece).astype(np.int32) for piece in pieces])


def _latest(pair: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Mask (n_rows,) of the latest row of each pair, an int64 that encodes user and movie."""
    is_latest = np.ones(len(pair), bool)
    if np.any(pair[1:] <= pair[:-1]):  # unlike MovieLens' own files, not sorted or not unique
        order = np.argsort(time, kind="stable") if len(time) else slice(None)
        is_latest[order] = ~pd.Series(pair[order]).duplicated(keep="last")
    return is_latest


def _empty_columns() -> tuple[array, array, array, array]:
    """Growing arrays of the types of `_Columns`."""
    return array("q"), array("q"), array("f"), array("d")


def read_by_arrow(path: Path) -> _Columns | None:
    """The columns of a file in MovieLens' own form; None if Arrow cannot read it or a value is bad.

    Peak memory is that of the columns, 28 bytes a rating, and of a few blocks.
    """
    columns = _empty_columns()
    try:
        with arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(quote_char=False),
            convert_options=arrow_csv.ConvertOptions(column_types=_RATING_TYPES, null_values=[]),
        ) as batches:
            names = batches.schema.names
            if sorted(names) not in (sorted(_RATING_COLUMNS), sorted(_RATING_TYPES)):
                return None
            for batch in batches:
                ids = [batch[name].to_numpy() for name in ("userId", "movieId")]
                stars = batch["rating"].to_numpy()
                time = batch[_TIME_COLUMN].to_numpy() if _TIME_COLUMN in names else np.empty(0)
                in_range = (stars >= MIN_STARS) & (stars <= MAX_STARS)
                if not (in_range.all() and np.isfinite(time).all() and np.min(ids, initial=0) >= 0):
                    return None
                values = (*ids, stars.astype(np.float32), time)
                for column, batch_values in zip(columns, values, strict=True):
                    column.frombytes(batch_values.tobytes())
    except ValueError:  # Arrow's own errors, and a header that is not UTF-8
        return None
    return tuple(map(np.asarray, columns)) if columns[0] else None


# --- Line by line: any file, or the first fault --------------------------------------------------


def read_by_lines(path: Path) -> _Columns:
    """Read every row with the csv module. Raises DataError for the first bad one."""
    user_id, movie_id, stars, time = columns = _empty_columns()
    for row in _rows(path, _RATING_COLUMNS):
        user_id.append(row.id("userId"))
        movie_id.append(row.id("movieId"))
        expected = f"a number from {MIN_STARS:g} to {MAX_STARS:g}"
        stars.append(row.number("rating", MIN_STARS, MAX_STARS, expected))
        if _TIME_COLUMN in row.fields:
            largest = sys.float_info.max
            time.append(row.number(_TIME_COLUMN, -largest, largest, "seconds since 1970"))
    if not stars:
        raise DataError(f"{path.name} has a header but no ratings; expected one rating a line.")
    return tuple(map(np.asarray, columns))


def _read_movies(path: Path) -> pd.DataFrame:
    """The table `Ratings.movies`. Raises DataError for the first bad line."""
    movies: list[tuple[int, str, str]] = []
    line_of: dict[int, int] = {}  # by id
    for row in _rows(path, _MOVIE_COLUMNS):
        movie_id, title = row.id("movieId"), row.fields["title"]
        if movie_id in line_of:
            raise row.fault("movieId", f"an id not used before (line {line_of[movie_id]})")
        if not title.strip():
            raise row.fault("title", "a title")
        line_of[movie_id] = row.line
        movies.append((movie_id, title, row.fields["genres"]))
    if not movies:
        raise DataError(f"{path.name} has a header but no movies; expected one movie a line.")
    frame = pd.DataFrame(movies, columns=["movie_id", "title", "genres"])
    return frame.sort_values("movie_id", ignore_index=True)


class _Row(NamedTuple):
    """The fields of a row by column, and the line (from 1) where it starts."""

    file: str
    line: int
    fields: dict[str, str]

    def id(self, column: str) -> int:
        match = _WHOLE.fullmatch(self.fields[column].strip())
        # The length first: int() refuses very long texts by an error of its own.
        if match is None or len(match[1].lstrip("0")) > 19 or int(match[1]) > _MAX_ID:
            raise self.fault(column, f"a whole number from 0 to {_MAX_ID}")
        return int(match[1])

    def number(self, column: str, low: float, high: float, expected: str) -> float:
        text = self.fields[column].strip()
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not low <= value <= high:
            raise self.fault(column, expected)
        return value

    def fault(self, column: str, expected: str) -> DataError:
        found = f"{self.file}, line {self.line}: {column} is {_shown(self.fields[column])}"
        return DataError(f"{found}; expected {expected}.")


def _rows(path: Path, required: tuple[str, ...]) -> Iterator[_Row]:
    """The rows. Raises DataError for a bad header, row length or quoting, or if not UTF-8."""
    lines = _lines(path)
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    next_line = 1
    try:
        for fields in reader:
            line, next_line = next_line, reader.line_num + 1
            if len(fields) <= 1 and not "".join(fields).strip():
                continue  # a blank line
            if not header:
                header = [name.strip() for name in fields]
                faults = [f"no {name}" for name in required if name not in header]
                once = (*required, _TIME_COLUMN)
                faults += [f"{name} twice" for name in once if header.count(name) > 1]
                if faults:
                    raise DataError(
                        f"{path.name}, line {line}: the header {_shown(','.join(header))} has "
                        f"{' and '.join(faults)}; expected each column once, comma-separated."
                    )
            elif len(fields) != len(header):
                raise DataError(
                    f"{path.name}, line {line}: {counted(len(fields), 'field')}, starting with "
                    f"{_shown(fields[0])}; expected {len(header)}, as in the header (a field that "
                    "holds a comma needs quotes)."
                )
            else:
                yield _Row(path.name, line, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{path.name}, line {next_line}: {error}; expected comma-separated fields, quoted "
            "where they hold a comma."
        ) from error
    finally:
        lines.close()  # else a fault's traceback would keep the file open
    if not header:
        raise DataError(f"{path.name} is empty; expected a header with {', '.join(required)}.")


def _lines(path: Path) -> Generator[str, None, None]:
    """The lines with their ends. Raises DataError for the first byte that is not UTF-8."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        for line_number, line in enumerate(lines, start=1):
            if escaped := _ESCAPED_BYTE.search(line):
                raise DataError(
                    f"{path.name}, line {line_number}: the byte 0x{ord(escaped[0]) - 0xDC00:02x} "
                    "is not UTF-8; expected text in UTF-8, so save or convert the file as that."
                )
            yield line


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
