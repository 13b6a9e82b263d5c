"""Ratings and movies from a folder in MovieLens layout, checked line by line.

In: `ratings.csv` (userId, movieId, rating and, if it is there, timestamp) and `movies.csv`
(movieId, title, genres); UTF-8 with or without a byte-order mark, any line ends, further columns
ignored. Out: a `Ratings`, whose arrays count users and movies from 0. Layout as in the README of
https://files.grouplens.org/datasets/movielens/ml-latest-small-README.html.

The meaning of a file is what `_read_carefully` says, which names the line of the
first fault. A plain file (numbers and commas only, as published) goes through pandas instead, many
times as fast; wherever that could see a file differently it steps aside.
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
from typing import NamedTuple

import numpy as np
import pandas as pd

from embedlab.errors import DataError

MIN_STARS, MAX_STARS = 0.5, 5.0
RATINGS_FILE, MOVIES_FILE = "ratings.csv", "movies.csv"

_RATING_COLUMNS = ("userId", "movieId", "rating")
_TIME_COLUMN = "timestamp"
_MOVIE_COLUMNS = ("movieId", "title", "genres")
_MAX_ID = np.iinfo(np.int64).max
_WHOLE = re.compile(r"([0-9]+)(?:\.0*)?")  # "31" and the "31.0" of a spreadsheet, not "31.5"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BLOCK = 1 << 20  # bytes
_CHUNK = 1 << 18  # rows


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who gave which movie how many stars, one entry a rating, in the order of the file.

    `movies` has one row a movie in order of `movie_id`, unrated movies included. `dropped` counts
    the rows of `ratings.csv` left out: `unknown_movie` (not in `movies.csv`) and
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
        """The share of the users × movies table that is filled, 0 to 1."""
        return self.n_ratings / (self.n_users * self.n_movies)


def read_ratings(folder: Path, name: str | None = None) -> Ratings:
    """Read `ratings.csv` and `movies.csv` in `folder`; `name` defaults to the folder's.

    Ids are whole numbers from 0 to 2^63 - 1, stars are numbers from 0.5 to 5. Of several ratings
    of one movie by one user the latest counts: by timestamp, and by place in the file where there
    is none or a tie. Ratings of movies that `movies.csv` does not list are left out.

    Raises DataError (one sentence with file, line and value) where a file is missing, not UTF-8,
    not a table with these columns, or holds a value out of range; and where no rating is left.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    try:
        shape = _scan(folder / RATINGS_FILE, digest)
        movies = _read_movies(folder / MOVIES_FILE, digest)
        columns = _read_plain(folder / RATINGS_FILE, shape)
        if columns is None:
            columns = _read_carefully(folder / RATINGS_FILE)
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename} is missing; expected a folder with {RATINGS_FILE} and {MOVIES_FILE}."
        ) from error
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror or error}); "
            f"check its permissions or copy it again."
        ) from error

    user_ids, user, movie, stars, dropped = _encode(columns, movies["movie_id"].to_numpy())
    return Ratings(
        name=name or folder.resolve().name,
        movies=movies,
        user_ids=user_ids,
        user=user,
        movie=movie,
        stars=stars,
        dropped=dropped,
        digest=digest.hexdigest(),
    )


class _Columns(NamedTuple):
    """The columns of ratings.csv, every row that is valid by itself."""

    user_id: np.ndarray  # (n_rows,) int64
    movie_id: np.ndarray  # (n_rows,) int64
    stars: np.ndarray  # (n_rows,) float32
    time: np.ndarray | None  # (n_rows,) float64, seconds; None without the column


def _encode(
    columns: _Columns, movie_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """From ids to positions, without unknown movies and duplicates.

    `movie_ids` (n_movies,) is ascending. Returns user_ids, user, movie, stars and dropped, as in
    `Ratings`.
    """
    user_id, movie_id, stars, time = columns
    n_rows = len(stars)
    movie = _positions(movie_ids, movie_id)
    known = movie >= 0
    if not known.any():
        raise DataError(
            f"{RATINGS_FILE}: none of its {n_rows} ratings is of a movie in {MOVIES_FILE}; "
            f"expected two files of the same release."
        )
    n_unknown = n_rows - int(np.count_nonzero(known))
    if n_unknown:
        user_id, movie, stars = user_id[known], movie[known], stars[known]
        time = None if time is None else time[known]

    user_ids = np.sort(pd.unique(user_id))
    user = _positions(user_ids, user_id)
    keep = _latest(user, movie, time, len(movie_ids))
    n_duplicates = 0
    if keep is not None:
        n_duplicates = len(keep) - int(np.count_nonzero(keep))
        user, movie, stars = user[keep], movie[keep], stars[keep]
    return (
        user_ids,
        user,
        movie,
        stars,
        {"unknown_movie": n_unknown, "duplicate_rating": n_duplicates},
    )


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in `ids` (ascending): (len(wanted),) int32, -1 if nowhere."""
    positions = np.empty(len(wanted), np.int32)
    for start in range(0, len(wanted), _CHUNK):  # in pieces: searchsorted gives int64
        piece = wanted[start : start + _CHUNK]
        place = np.searchsorted(ids, piece).clip(max=len(ids) - 1)
        positions[start : start + _CHUNK] = np.where(ids[place] == piece, place, -1)
    return positions


def _latest(
    user: np.ndarray, movie: np.ndarray, time: np.ndarray | None, n_movies: int
) -> np.ndarray | None:
    """A mask (n_rows,) with one row for each (user, movie), the latest; None if all are single."""
    pair = user.astype(np.int64)
    pair *= n_movies
    pair += movie
    if np.all(pair[1:] > pair[:-1]):  # the published files are in this order already
        return None
    # Stable, and the last key leads: by pair, then by time, then by place in the file.
    order = np.lexsort((pair,) if time is None else (time, pair))
    pair = pair[order]
    is_last = np.append(pair[1:] != pair[:-1], True)
    if is_last.all():
        return None
    keep = np.zeros(len(pair), bool)
    keep[order[is_last]] = True
    return keep


# --- movies.csv -------------------------------------------------------------------------------


def _read_movies(path: Path, digest: "hashlib._Hash") -> pd.DataFrame:
    """The table `Ratings.movies`; the bytes of the file are added to `digest`."""
    data = path.read_bytes()
    digest.update(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _not_utf8(path) from None

    line_of: dict[int, int] = {}
    titles, genres = [], []
    for line, (id_text, title, genre) in _rows(
        io.StringIO(text, newline=""), path.name, _MOVIE_COLUMNS
    ):
        movie_id = _id(path.name, line, "movieId", id_text)
        if movie_id in line_of:
            raise _fault(
                path.name,
                line,
                "movieId",
                id_text,
                f"an id not used before (line {line_of[movie_id]})",
            )
        if not title.strip():
            raise _fault(path.name, line, "title", title, "a title")
        line_of[movie_id] = line
        titles.append(title)
        genres.append(genre)
    if not titles:
        raise DataError(f"{path.name} has a header but no movies; expected one movie a line.")

    movie_id = np.fromiter(line_of, np.int64, len(line_of))
    frame = pd.DataFrame({"movie_id": movie_id, "title": titles, "genres": genres})
    return frame.sort_values("movie_id", ignore_index=True)


# --- ratings.csv, the careful way: the definition ----------------------------------------------


def _read_carefully(path: Path) -> _Columns:
    """Every row by the csv module; raises DataError at the first that is wrong."""
    user_id, movie_id, stars, time = array("q"), array("q"), array("f"), array("d")
    has_time = True
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            for line, (user_text, movie_text, stars_text, time_text) in _rows(
                lines, path.name, _RATING_COLUMNS, optional=_TIME_COLUMN
            ):
                user_id.append(_id(path.name, line, "userId", user_text))
                movie_id.append(_id(path.name, line, "movieId", movie_text))
                value = _number(stars_text)
                if value is None or not MIN_STARS <= value <= MAX_STARS:
                    expected = f"a number from {MIN_STARS:g} to {MAX_STARS:g}"
                    raise _fault(path.name, line, "rating", stars_text, expected)
                stars.append(value)
                has_time = time_text is not None
                if has_time:
                    value = _number(time_text)
                    if value is None:
                        raise _fault(path.name, line, _TIME_COLUMN, time_text, "seconds since 1970")
                    time.append(value)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    if not stars:
        raise DataError(f"{path.name} has a header but no ratings; expected one rating a line.")
    return _Columns(
        np.frombuffer(user_id, np.int64),
        np.frombuffer(movie_id, np.int64),
        np.frombuffer(stars, np.float32),
        np.frombuffer(time, np.float64) if has_time else None,
    )


def _rows(
    lines: Iterable[str], file: str, required: tuple[str, ...], optional: str | None = None
) -> Iterator[tuple[int, tuple[str | None, ...]]]:
    """For each row after the header the line where it starts (from 1) and its wanted fields.

    The optional column, where asked for, comes last; its field is None if the file lacks it.
    """
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        # A quoted field may hold line ends, so a row starts after the last line of the one before.
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(
                f"{file}, line {line}: {error}; expected comma-separated fields, quoted where they "
                f"hold a comma."
            ) from error
        if not any(map(str.strip, row)) and len(row) <= 1:
            continue  # a blank line
        if header is None:
            header = [name.strip() for name in row]
            wanted = required + ((optional,) if optional in header else ())
            _check_header(file, line, header, wanted)
            pick = [header.index(name) for name in wanted]
            absent = (None,) if optional and optional not in header else ()
            continue
        if len(row) != len(header):
            raise DataError(
                f"{file}, line {line}: {len(row)} field{'s' * (len(row) != 1)}, starting with "
                f"{_shown(row[0])}; expected {len(header)}, as in the header (a field that holds a "
                f"comma needs quotes)."
            )
        yield line, (*(row[column] for column in pick), *absent)
    if header is None:
        raise DataError(f"{file} is empty; expected a header with {', '.join(required)}.")


def _check_header(file: str, line: int, header: list[str], wanted: tuple[str, ...]) -> None:
    missing = [f"no {name}" for name in wanted if name not in header]
    repeated = [f"{name} twice" for name in wanted if header.count(name) > 1]
    if missing or repeated:
        raise DataError(
            f"{file}, line {line}: the header {_shown(','.join(header))} has "
            f"{' and '.join(missing + repeated)}; expected each column once, comma-separated."
        )


def _id(file: str, line: int, column: str, text: str) -> int:
    match = _WHOLE.fullmatch(text.strip())
    # The length first: int() refuses very long texts by an error of its own.
    if match is None or len(match[1].lstrip("0")) > 19 or int(match[1]) > _MAX_ID:
        raise _fault(file, line, column, text, f"a whole number from 0 to {_MAX_ID}")
    return int(match[1])


def _number(text: str) -> float | None:
    """The finite number that `text` writes, else None."""
    text = text.strip()
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def _fault(file: str, line: int, column: str, text: str, expected: str) -> DataError:
    return DataError(f"{file}, line {line}: {column} is {_shown(text)}; expected {expected}.")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _not_utf8(path: Path) -> DataError:
    line, byte = _first_undecodable(path)
    return DataError(
        f"{path.name}, line {line}: the byte 0x{byte:02x} is not UTF-8; "
        f"expected text in UTF-8, so save or convert the file as that."
    )


def _first_undecodable(path: Path) -> tuple[int, int]:
    """The line (from 1) and the value of the first byte that is not UTF-8."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return number, line[error.start]
    raise ValueError(f"{path} is UTF-8")


# --- ratings.csv, the fast way: for plain files only -------------------------------------------


class _Shape(NamedTuple):
    """What one look at the bytes of ratings.csv tells."""

    header: list[str]
    is_plain: bool  # after the header nothing but digits, points, commas and line ends
    n_commas: int  # after the header
    n_lines: int  # after the header, blank ones included: no fewer than there are rows


def _scan(path: Path, digest: "hashlib._Hash") -> _Shape:
    """Add the file's bytes to `digest` and look at them, a block at a time."""
    with open(path, "rb") as file:
        first = file.readline()
        digest.update(first)
        header = first.decode("utf-8-sig", errors="replace").strip().split(",")
        rest, n_commas, n_lines = b"", 0, 1
        while block := file.read(_BLOCK):
            digest.update(block)
            rest = rest or block.translate(None, b"0123456789.,\r\n")
            n_commas += block.count(b",")
            n_lines += block.count(b"\n") + block.count(b"\r")
    return _Shape(header, not rest, n_commas, n_lines)


def _read_plain(path: Path, shape: _Shape) -> _Columns | None:
    """The columns by pandas, or None: the file is not plain, or something in it is wrong.

    Fills arrays of the final types chunk by chunk, so the memory needed is theirs (28 bytes a
    rating) and one chunk's.
    """
    has_time = _TIME_COLUMN in shape.header
    expected = [*_RATING_COLUMNS, *([_TIME_COLUMN] if has_time else [])]
    if not shape.is_plain or sorted(shape.header) != sorted(expected):
        return None
    types = {"userId": "int64", "movieId": "int64", "rating": "float64", "timestamp": "float64"}
    columns = {
        "userId": np.empty(shape.n_lines, np.int64),
        "movieId": np.empty(shape.n_lines, np.int64),
        "rating": np.empty(shape.n_lines, np.float32),
        "timestamp": np.empty(shape.n_lines if has_time else 0, np.float64),
    }
    n = 0
    try:
        with (
            np.errstate(invalid="ignore"),  # an id of 1e300 on its way to int64; refused below
            pd.read_csv(path, dtype=types, chunksize=_CHUNK, encoding="utf-8") as chunks,
        ):
            for chunk in chunks:
                ids = chunk[["userId", "movieId"]].to_numpy()
                # Next to "31.0" pandas takes all ids through float64, exact up to 2^53 only.
                if ids.min() < 0 or ids.max() >= 2**53:
                    return None
                if not chunk["rating"].between(MIN_STARS, MAX_STARS).all():
                    return None
                if has_time and not np.isfinite(chunk["timestamp"].to_numpy()).all():
                    return None
                for name in expected:
                    columns[name][n : n + len(chunk)] = chunk[name].to_numpy()
                n += len(chunk)
    except (ValueError, OverflowError):  # ParserError and EmptyDataError are ValueErrors
        return None
    # No row is short, for it would have NaN; with this many commas none is long either. (If the
    # first row is, pandas does not complain: it makes an index of the first column.)
    if n == 0 or shape.n_commas != n * (len(expected) - 1):
        return None
    return _Columns(
        columns["userId"][:n],
        columns["movieId"][:n],
        columns["rating"][:n],
        columns["timestamp"][:n] if has_time else None,
    )
