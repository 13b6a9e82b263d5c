"""Ratings and movies from a folder in MovieLens layout, checked line by line.

In: `ratings.csv` (userId, movieId, rating and optionally timestamp) and `movies.csv` (movieId,
title, genres); UTF-8 with or without a byte-order mark, any line ends, further columns ignored.
Out: `Ratings`, whose arrays number users and movies from 0. Layout:
https://files.grouplens.org/datasets/movielens/ml-latest-small-README.html

Arrow reads `ratings.csv` where it holds nothing but these columns, unquoted, as published. Anything
else, and whatever Arrow refuses, is read by the csv module, which names the first bad line.
"""

import csv
import hashlib
import io
import math
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from embedlab.errors import DataError
from embedlab.wording import counted

MIN_STARS, MAX_STARS = 0.5, 5.0
RATINGS_FILE, MOVIES_FILE = "ratings.csv", "movies.csv"
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


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who gave which movie how many stars, in the order of the file.

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

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_movies(self) -> int:
        return len(self.movies)

    @property
    def n_ratings(self) -> int:
        return len(self.stars)

    @property
    def density(self) -> float:
        """Number of ratings as a fraction of users × movies, 0 to 1."""
        return self.n_ratings / (self.n_users * self.n_movies)


_Columns = tuple[np.ndarray, ...]
"""Per row userId and movieId, (n_rows,) int64, rating, (n_rows,) float32, and timestamp, (n_rows,)
float64, or (0,) without that column."""


def read_ratings(folder: Path, name: str | None = None) -> Ratings:
    """Read `ratings.csv` and `movies.csv` in `folder`; `name` defaults to the folder's.

    Ids are whole numbers from 0 to 2^63 - 1, stars are numbers from 0.5 to 5. Of several ratings
    of one movie by one user the latest counts: by timestamp, then by position in the file. Ratings
    of movies that `movies.csv` does not list are left out.

    Raises DataError (one sentence with file, line and value) if a file is missing, not UTF-8, not a
    table with these columns, or has a value out of range; and if no rating is left.
    """
    folder = Path(folder)
    sha = hashlib.sha256()
    try:
        for file in (RATINGS_FILE, MOVIES_FILE):
            with open(folder / file, "rb") as data:
                hashlib.file_digest(data, lambda: sha)
        movies = _read_movies(folder / MOVIES_FILE)
        path = folder / RATINGS_FILE
        user_id, movie_id, stars, time = read_by_arrow(path) or read_by_lines(path)
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
    del movie_id
    is_known = movie >= 0
    n_known = np.count_nonzero(is_known)
    if n_known == 0:
        raise DataError(
            f"{RATINGS_FILE}: none of its {len(stars)} ratings is of a movie in {MOVIES_FILE}; "
            f"expected two files of the same release."
        )
    if n_known < len(stars):
        user_id, movie, stars = user_id[is_known], movie[is_known], stars[is_known]
        time = time[is_known] if len(time) else time
    user_ids = np.sort(pd.unique(user_id))
    user = _positions(user_ids, user_id)
    del user_id
    pair = user.astype(np.int64)
    pair *= len(movies)
    pair += movie
    is_latest = _latest(pair, time)
    n_latest = np.count_nonzero(is_latest)
    if n_latest < n_known:
        user, movie, stars = user[is_latest], movie[is_latest], stars[is_latest]
    return Ratings(
        name=name or folder.resolve().name,
        movies=movies,
        user_ids=user_ids,
        user=user,
        movie=movie,
        stars=stars,
        dropped={
            "unknown_movie": int(len(is_known) - n_known),
            "duplicate_rating": int(n_known - n_latest),
        },
        digest=sha.hexdigest(),
    )


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position in `ids` (ascending) of each of `wanted`: (len(wanted),) int32, -1 if absent."""
    index, n_pieces = pd.Index(ids), 1 + len(wanted) // ROWS_AT_ONCE  # pandas gives int64
    pieces = np.array_split(wanted, n_pieces)
    return np.concatenate([index.get_indexer(piece).astype(np.int32) for piece in pieces])


def _latest(pair: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Mask (n_rows,) of the latest row of each pair, an int64 (n_rows,) for user and movie."""
    if np.all(pair[1:] > pair[:-1]):  # in order and unique, as published
        return np.ones(len(pair), bool)
    order = np.argsort(time, kind="stable") if len(time) else np.arange(len(pair))
    is_latest = np.empty(len(pair), bool)
    is_latest[order] = ~pd.Series(pair[order]).duplicated(keep="last")
    return is_latest


def _empty_columns() -> tuple[array, array, array, array]:
    """Growing arrays of the types of `_Columns`."""
    return array("q"), array("q"), array("f"), array("d")


def read_by_arrow(path: Path) -> _Columns | None:
    """The columns of a file in published form, or None if Arrow cannot read it or a value is bad.

    Peak memory is that of the columns, 28 bytes a rating, and of a few blocks.
    """
    with open(path, "rb") as lines:
        header = lines.readline().decode("utf-8-sig", errors="replace").strip().split(",")
    if sorted({*header, _TIME_COLUMN}) != sorted(_RATING_TYPES) or len(set(header)) < len(header):
        return None
    columns = _empty_columns()
    try:
        with arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(quote_char=False),
            convert_options=arrow_csv.ConvertOptions(column_types=_RATING_TYPES, null_values=[]),
        ) as batches:
            for batch in batches:
                ids = [batch[name].to_numpy() for name in ("userId", "movieId")]
                stars = batch["rating"].to_numpy()
                time = batch[_TIME_COLUMN].to_numpy() if _TIME_COLUMN in header else np.empty(0)
                in_range = (stars >= MIN_STARS) & (stars <= MAX_STARS)
                if not (in_range.all() and np.isfinite(time).all() and np.min(ids, initial=0) >= 0):
                    return None
                values = (*ids, stars.astype(np.float32), time)
                for column, of_batch in zip(columns, values, strict=True):
                    column.frombytes(of_batch.tobytes())
    except pa.ArrowInvalid:
        return None
    return tuple(map(np.asarray, columns)) if columns[0] else None


# --- Line by line: any file, or the first fault --------------------------------------------------


def read_by_lines(path: Path) -> _Columns:
    """Every row by the csv module. Raises DataError for the first bad one."""
    user_id, movie_id, stars, time = columns = _empty_columns()
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            for where, row in _rows(lines, path.name, _RATING_COLUMNS):
                user_id.append(_id(where, "userId", row))
                movie_id.append(_id(where, "movieId", row))
                value = _number(row["rating"])
                if not MIN_STARS <= value <= MAX_STARS:
                    expected = f"a number from {MIN_STARS:g} to {MAX_STARS:g}"
                    raise _fault(where, "rating", row, expected)
                stars.append(value)
                if _TIME_COLUMN in row:
                    time.append(_number(row[_TIME_COLUMN]))
                    if math.isinf(time[-1]):
                        raise _fault(where, _TIME_COLUMN, row, "seconds since 1970")
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    if not stars:
        raise DataError(f"{path.name} has a header but no ratings; expected one rating a line.")
    return tuple(map(np.asarray, columns))


def _read_movies(path: Path) -> pd.DataFrame:
    """The table `Ratings.movies`. Raises DataError for the first bad line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    movies: dict[int, tuple[str, str, str]] = {}  # line, title, genres by id
    for where, row in _rows(io.StringIO(text, newline=""), path.name, _MOVIE_COLUMNS):
        movie_id = _id(where, "movieId", row)
        if movie_id in movies:
            first = movies[movie_id][0].rpartition(", ")[2]
            raise _fault(where, "movieId", row, f"an id not used before ({first})")
        if not row["title"].strip():
            raise _fault(where, "title", row, "a title")
        movies[movie_id] = (where, row["title"], row["genres"])
    if not movies:
        raise DataError(f"{path.name} has a header but no movies; expected one movie a line.")
    _, titles, genres = zip(*movies.values(), strict=True)
    frame = pd.DataFrame({"movie_id": np.array(list(movies)), "title": titles, "genres": genres})
    return frame.sort_values("movie_id", ignore_index=True)


def _rows(
    lines: Iterable[str], file: str, required: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, str]]]:
    """`<file>, line <n>` (from 1; where the row starts) and the fields of each row by column.

    Raises DataError for a bad header, a row of another length, or bad quoting.
    """
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    while True:
        where = f"{file}, line {reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(
                f"{where}: {error}; expected comma-separated fields, quoted where they hold a "
                "comma."
            ) from error
        if not any(map(str.strip, row)) and len(row) <= 1:
            continue  # a blank line
        if not header:
            header = [name.strip() for name in row]
            _check_header(where, header, required)
        elif len(row) != len(header):
            raise DataError(
                f"{where}: {counted(len(row), 'field')}, starting with {_shown(row[0])}; expected "
                f"{len(header)}, as in the header (a field that holds a comma needs quotes)."
            )
        else:
            yield where, dict(zip(header, row, strict=True))
    if not header:
        raise DataError(f"{file} is empty; expected a header with {', '.join(required)}.")


def _check_header(where: str, header: list[str], required: tuple[str, ...]) -> None:
    faults = [f"no {name}" for name in required if name not in header]
    faults += [f"{name} twice" for name in (*required, _TIME_COLUMN) if header.count(name) > 1]
    if faults:
        raise DataError(
            f"{where}: the header {_shown(','.join(header))} has {' and '.join(faults)}; expected "
            "each column once, comma-separated."
        )


def _id(where: str, column: str, row: dict[str, str]) -> int:
    match = _WHOLE.fullmatch(row[column].strip())
    # The length first: int() refuses very long texts by an error of its own.
    if match is None or len(match[1].lstrip("0")) > 19 or int(match[1]) > _MAX_ID:
        raise _fault(where, column, row, f"a whole number from 0 to {_MAX_ID}")
    return int(match[1])


def _number(text: str) -> float:
    """The number that `text` writes; infinity if it writes none."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else math.inf


def _fault(where: str, column: str, row: dict[str, str], expected: str) -> DataError:
    return DataError(f"{where}: {column} is {_shown(row[column])}; expected {expected}.")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _not_utf8(path: Path) -> DataError:
    """Names the first line with a byte that is not UTF-8."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path.name}, line {number}: the byte 0x{line[error.start]:02x} is not UTF-8; "
                    f"expected text in UTF-8, so save or convert the file as that."
                )
    raise ValueError(f"{path} is UTF-8")
