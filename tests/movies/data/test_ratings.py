"""Reading ratings: every bad file is refused in one sentence, every good one is read as by csv."""

import csv
import hashlib
import io
import re
import shutil
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from embedlab.errors import DataError
from embedlab.movies.data import ratings as ratings_module
from embedlab.movies.data.ratings import Ratings, read_ratings

MOVIES = "movieId,title,genres\n1,Toy Story (1995),Comedy\n2,Heat (1995),Crime\n7,Alien (1979),\n"
HEADER = "userId,movieId,rating,timestamp\n"
RATINGS = HEADER + "5,1,4.0,100\n5,7,0.5,101\n3,1,5,102\n"


def write(folder: Path, ratings: str | bytes = RATINGS, movies: str | bytes = MOVIES) -> Path:
    for name, content in (("ratings.csv", ratings), ("movies.csv", movies)):
        data = content.encode("utf-8") if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    return folder


def triples(ratings: Ratings) -> list[tuple[int, int, float]]:
    """(user id, movie id, stars) in the order of the file."""
    movie_ids = ratings.movies["movie_id"].to_numpy()
    return list(
        zip(
            ratings.user_ids[ratings.user].tolist(),
            movie_ids[ratings.movie].tolist(),
            ratings.stars.tolist(),
            strict=True,
        )
    )


def check_types(ratings: Ratings) -> None:
    assert ratings.user_ids.dtype == np.int64
    assert (ratings.user.dtype, ratings.movie.dtype) == (np.int32, np.int32)
    assert ratings.stars.dtype == np.float32
    assert list(ratings.movies.columns) == ["movie_id", "title", "genres"]
    assert ratings.movies["movie_id"].dtype == np.int64
    assert ratings.movies.index.equals(type(ratings.movies.index)(range(ratings.n_movies)))
    assert np.all(np.diff(ratings.user_ids) > 0)
    assert np.all(np.diff(ratings.movies["movie_id"].to_numpy()) > 0)


# --- good files ---------------------------------------------------------------------------------


def test_a_small_set_is_read_as_it_stands(tmp_path):
    ratings = read_ratings(write(tmp_path), name="toy")
    check_types(ratings)
    assert ratings.name == "toy"
    assert read_ratings(tmp_path).name == tmp_path.name
    assert ratings.movies["title"].tolist() == ["Toy Story (1995)", "Heat (1995)", "Alien (1979)"]
    assert ratings.movies["genres"].tolist() == ["Comedy", "Crime", ""]
    assert triples(ratings) == [(5, 1, 4.0), (5, 7, 0.5), (3, 1, 5.0)]
    assert (ratings.n_users, ratings.n_movies, ratings.n_ratings) == (2, 3, 3)
    assert ratings.dropped == {"unknown_movie": 0, "duplicate_rating": 0}
    assert ratings.digest == hashlib.sha256((RATINGS + MOVIES).encode()).hexdigest()


@pytest.mark.parametrize(
    ("ratings", "movies"),
    [
        pytest.param(RATINGS.replace("\n", "\r\n"), MOVIES.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(RATINGS.replace("\n", "\r"), MOVIES.replace("\n", "\r"), id="CR"),
        pytest.param("\ufeff" + RATINGS, "\ufeff" + MOVIES, id="byte-order mark"),
        pytest.param(RATINGS.rstrip(), MOVIES.rstrip(), id="no last line end"),
        pytest.param(RATINGS.replace("\n", "\n\n"), "\n" + MOVIES + "  \n", id="blank lines"),
        pytest.param(re.sub(r"[^,\n]+", r'"\g<0>"', RATINGS), MOVIES, id="quotes"),
        pytest.param(re.sub(r",\d*\n", "\n", RATINGS).replace(",timestamp", ""), MOVIES, id="time"),
        pytest.param(RATINGS.replace("\n", ",x\n"), MOVIES.replace("\n", ",x\n"), id="extra text"),
        pytest.param(RATINGS.replace("\n", ",1\n"), MOVIES.replace("\n", ",1\n"), id="extra ones"),
        pytest.param(
            "rating,timestamp,userId,movieId\n4,1,5,1\n.5,1,5,7\n5.0,1,3,1\n", MOVIES, id="order"
        ),
        pytest.param(RATINGS.replace(",7,", ", 7 ,"), MOVIES, id="spaces"),
        pytest.param(RATINGS.replace("5,7,", "5.0,7.,"), MOVIES, id="ids of a spreadsheet"),
        pytest.param(RATINGS.replace("0.5", "+5e-1"), MOVIES, id="exponent"),
    ],
)
def test_other_spellings_of_a_file_read_alike(tmp_path, ratings, movies):
    loaded = read_ratings(write(tmp_path, ratings, movies))
    check_types(loaded)
    assert triples(loaded) == [(5, 1, 4.0), (5, 7, 0.5), (3, 1, 5.0)]
    assert loaded.movies["movie_id"].tolist() == [1, 2, 7]


def test_movies_are_sorted_and_titles_kept_as_written(tmp_path):
    movies = 'movieId,title,genres\n7,"Lion ""King"", The (1994)",A|B\n2,Amélie\u2028 (2001),\n'
    ratings = read_ratings(write(tmp_path, RATINGS, movies + '1,"Two\nlines",C\n'))
    assert ratings.movies["title"].tolist() == [
        "Two\nlines",
        "Amélie\u2028 (2001)",
        'Lion "King", The (1994)',
    ]


@pytest.mark.parametrize(
    ("rows", "kept", "dropped"),
    [
        # The latest by time counts, whatever its row; the last row if times are equal or absent.
        ("5,1,1,200\n5,1,2,300\n5,1,3,100\n", [(5, 1, 2.0)], (0, 2)),
        ("5,1,1,200\n5,2,3,1\n5,1,2,200\n", [(5, 2, 3.0), (5, 1, 2.0)], (0, 1)),
        ("5,1,1,-1.5\n5,1,2,-1.7e0\n", [(5, 1, 1.0)], (0, 1)),
        ("5,9,1,1\n5,1,2,1\n4,9,1,1\n", [(5, 1, 2.0)], (2, 0)),
        ("5,9,1,1\n5,9,2,1\n5,1,2,1\n5,1,3,1\n", [(5, 1, 3.0)], (2, 1)),
    ],
)
def test_what_is_dropped_is_counted(tmp_path, rows, kept, dropped):
    ratings = read_ratings(write(tmp_path, HEADER + rows))
    assert triples(ratings) == kept
    assert tuple(ratings.dropped[k] for k in ("unknown_movie", "duplicate_rating")) == dropped


def test_without_times_the_last_row_counts(tmp_path):
    rows = "userId,movieId,rating\n5,1,1\n4,1,5\n5,1,2\n"
    ratings = read_ratings(write(tmp_path, rows))
    assert triples(ratings) == [(4, 1, 5.0), (5, 1, 2.0)]
    assert ratings.dropped["duplicate_rating"] == 1


def test_ids_up_to_the_last_are_exact(tmp_path):
    big = 2**63 - 1
    movies = f"movieId,title,genres\n{big},A,\n{big - 1},B,\n0,C,\n"
    for rows in (
        f"{big},{big},1,1\n{big - 1},{big - 1},2,1\n0,0,3,1\n",
        "9007199254740993,0.0,3,1\n",
    ):
        expected = [
            (int(u), int(m.removesuffix(".0")), float(s)) for u, m, s, _ in csv.reader(rows.split())
        ]
        assert triples(read_ratings(write(tmp_path, HEADER + rows, movies))) == expected


# --- bad files ----------------------------------------------------------------------------------

STARS = "expected a number from 0.5 to 5."
WHOLE = "expected a whole number from 0 to 9223372036854775807."


@pytest.mark.parametrize(
    ("ratings", "sentence"),
    [
        ("", "ratings.csv is empty; expected a header with userId, movieId, rating."),
        ("\n \n", "ratings.csv is empty; expected a header with userId, movieId, rating."),
        (HEADER, "ratings.csv has a header but no ratings; expected one rating a line."),
        (
            "userId,movieId,stars\n1,1,1\n",
            "ratings.csv, line 1: the header 'userId,movieId,stars' has no rating; "
            "expected each column once, comma-separated.",
        ),
        (
            "userId;movieId;rating\n1;1;1\n",
            "ratings.csv, line 1: the header 'userId;movieId;rating' has no userId "
            "and no movieId and no rating; "
            "expected each column once, comma-separated.",
        ),
        (
            "userId,movieId,rating,rating\n1,1,1,1\n",
            "ratings.csv, line 1: the header 'userId,movieId,rating,rating' has rating twice; "
            "expected each column once, comma-separated.",
        ),
        (
            "userId,userId,rating\n1,1,1\n",
            "ratings.csv, line 1: the header 'userId,userId,rating' has no movieId and userId "
            "twice; expected each column once, comma-separated.",
        ),
        (
            "1,1,4.0,100\n" * 3,
            "ratings.csv, line 1: the header '1,1,4.0,100' has no userId and no "
            "movieId and no rating; "
            "expected each column once, comma-separated.",
        ),
        (RATINGS + "5,2,five,1\n", f"ratings.csv, line 5: rating is 'five'; {STARS}"),
        (RATINGS + "5,2,,1\n", f"ratings.csv, line 5: rating is ''; {STARS}"),
        (RATINGS + "5,2,nan,1\n", f"ratings.csv, line 5: rating is 'nan'; {STARS}"),
        (RATINGS + "5,2,inf,1\n", f"ratings.csv, line 5: rating is 'inf'; {STARS}"),
        (RATINGS + "5,2,True,1\n", f"ratings.csv, line 5: rating is 'True'; {STARS}"),
        (HEADER + "5,2,True,1\n", f"ratings.csv, line 2: rating is 'True'; {STARS}"),
        (RATINGS + "5,2,1_0,1\n", f"ratings.csv, line 5: rating is '1_0'; {STARS}"),
        (RATINGS + "5,2,٣,1\n", f"ratings.csv, line 5: rating is '٣'; {STARS}"),
        (RATINGS + "5,2,0,1\n", f"ratings.csv, line 5: rating is '0'; {STARS}"),
        (RATINGS + "5,2,5.5,1\n", f"ratings.csv, line 5: rating is '5.5'; {STARS}"),
        (RATINGS + "5,2,-1,1\n", f"ratings.csv, line 5: rating is '-1'; {STARS}"),
        (RATINGS + "5,2,1e999,1\n", f"ratings.csv, line 5: rating is '1e999'; {STARS}"),
        (RATINGS + "1.5,2,1,1\n", f"ratings.csv, line 5: userId is '1.5'; {WHOLE}"),
        (RATINGS + "-1,2,1,1\n", f"ratings.csv, line 5: userId is '-1'; {WHOLE}"),
        (RATINGS + ",2,1,1\n", f"ratings.csv, line 5: userId is ''; {WHOLE}"),
        (RATINGS + "5,tt0114709,1,1\n", f"ratings.csv, line 5: movieId is 'tt0114709'; {WHOLE}"),
        (HEADER + "True,True,1,1\n", f"ratings.csv, line 2: userId is 'True'; {WHOLE}"),
        (
            RATINGS + f"5,{2**63},1,1\n",
            f"ratings.csv, line 5: movieId is '9223372036854775808'; {WHOLE}",
        ),
        (
            RATINGS + f"{'9' * 5000},1,1,1\n",
            f"ratings.csv, line 5: userId is '{'9' * 40}…'; {WHOLE}",
        ),
        (
            RATINGS + "5,2,1,soon\n",
            "ratings.csv, line 5: timestamp is 'soon'; expected seconds since 1970.",
        ),
        (
            RATINGS + "5,2,1,\n",
            "ratings.csv, line 5: timestamp is ''; expected seconds since 1970.",
        ),
        (
            RATINGS + "5,2,1\n",
            "ratings.csv, line 5: 3 fields, starting with '5'; expected 4, as in the header "
            "(a field that holds a comma needs quotes).",
        ),
        (
            HEADER + "5,2,3,5,1\n",
            "ratings.csv, line 2: 5 fields, starting with '5'; expected 4, as in the header "
            "(a field that holds a comma needs quotes).",
        ),
        (
            RATINGS + "5\n",
            "ratings.csv, line 5: 1 field, starting with '5'; expected 4, as in the header "
            "(a field that holds a comma needs quotes).",
        ),
        # The line is right after blank lines, quoted line ends and CRLF too.
        ("\n\n" + RATINGS + "\n5,2,x,1\n", f"ratings.csv, line 8: rating is 'x'; {STARS}"),
        (
            'userId,movieId,rating,note\n1,1,1,"a\nb\r\nc"\n1,2,x,\n',
            f"ratings.csv, line 5: rating is 'x'; {STARS}",
        ),
        (
            RATINGS.replace("\n", "\r\n") + "5,2,x,1\r\n",
            f"ratings.csv, line 5: rating is 'x'; {STARS}",
        ),
        (
            RATINGS + '5,2,"4.0,1\n6,2,4.0,1\n',
            "ratings.csv, line 5: unexpected end of data; expected comma-separated fields, "
            "quoted where they hold a comma.",
        ),
        (
            RATINGS.encode() + b"5,2,\xff,1\n",
            "ratings.csv, line 5: the byte 0xff is not UTF-8; "
            "expected text in UTF-8, so save or convert the file as that.",
        ),
        (
            RATINGS.encode("utf-16"),
            "ratings.csv, line 1: the byte 0xff is not UTF-8; "
            "expected text in UTF-8, so save or convert the file as that.",
        ),
        (
            HEADER + "5,8,1,1\n5,9,1,1\n",
            "ratings.csv: none of its 2 ratings is of a movie in movies.csv; "
            "expected two files of the same release.",
        ),
    ],
)
def test_bad_ratings_are_named_with_line_and_value(tmp_path, ratings, sentence):
    with pytest.raises(DataError) as error:
        read_ratings(write(tmp_path, ratings))
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("movies", "sentence"),
    [
        ("", "movies.csv is empty; expected a header with movieId, title, genres."),
        (
            "movieId,title,genres\n",
            "movies.csv has a header but no movies; expected one movie a line.",
        ),
        (
            "movieId,title\n1,A\n",
            "movies.csv, line 1: the header 'movieId,title' has no genres; "
            "expected each column once, comma-separated.",
        ),
        (
            MOVIES + "2,Casino (1995),Crime\n",
            "movies.csv, line 5: movieId is '2'; expected an id not used before (line 3).",
        ),
        (MOVIES + "8, ,Crime\n", "movies.csv, line 5: title is ' '; expected a title."),
        (MOVIES + "8.5,A,Crime\n", f"movies.csv, line 5: movieId is '8.5'; {WHOLE}"),
        (
            MOVIES + "8,Lion King, The (1994),Drama\n",
            "movies.csv, line 5: 4 fields, starting with '8'; expected 3, as in the header "
            "(a field that holds a comma needs quotes).",
        ),
        (
            MOVIES + '8,"Two\nlines",\n9,,\n',
            "movies.csv, line 7: title is ''; expected a title.",
        ),
        (
            MOVIES + '8,"Casino (1995),Crime\n9,"Lion King, The (1994)",Drama\n',
            "movies.csv, line 5: ',' expected after '\"'; expected comma-separated fields, "
            "quoted where they hold a comma.",
        ),
        (
            MOVIES.encode() + "8,Amélie (2001),Romance\n".encode("latin-1"),
            "movies.csv, line 5: the byte 0xe9 is not UTF-8; "
            "expected text in UTF-8, so save or convert the file as that.",
        ),
    ],
)
def test_bad_movies_are_named_with_line_and_value(tmp_path, movies, sentence):
    with pytest.raises(DataError) as error:
        read_ratings(write(tmp_path, RATINGS, movies))
    assert str(error.value) == sentence


def test_a_refused_file_is_closed_while_its_error_is_kept(tmp_path):
    folder = write(tmp_path, RATINGS, MOVIES + "8,Lion King, The (1994),Drama\n")
    with pytest.raises(DataError) as error:
        read_ratings(folder)
    assert error.traceback  # keeps the frames that have read the file
    assert not [file for file in psutil.Process().open_files() if Path(file.path).parent == folder]


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    sentence = f"{tmp_path / name} is missing; expected a folder with ratings.csv and movies.csv."
    with pytest.raises(DataError) as error:
        read_ratings(tmp_path)
    assert str(error.value) == sentence
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / name} cannot be read (Is a dir")):
        read_ratings(tmp_path)


def test_random_bytes_are_one_sentence(tmp_path):
    rng = np.random.default_rng(0)
    for n in (1, 10, 1000, 300_000):
        for start in (b"", HEADER.encode(), MOVIES.encode()):
            data = start + rng.bytes(n)
            for files in ((data, MOVIES), (RATINGS, data)):
                with pytest.raises(DataError) as error:
                    read_ratings(write(tmp_path, *files))
                assert len(str(error.value).splitlines()) == 1
                assert len(str(error.value)) < 400


# --- any file: the csv module and dictionaries as the oracle --------------------------------------


def oracle(text: str, movie_ids: set[int]) -> tuple[list, dict] | None:
    """Read `text` slowly: the ratings kept and the counts of those dropped; None if it is bad."""
    try:
        table = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, *rows = [row for row in table if len(row) > 1 or "".join(row).strip()]
    except (csv.Error, ValueError):
        return None
    latest: dict[tuple[int, int], tuple] = {}
    unknown = 0
    for position, row in enumerate(rows):
        if len(row) != len(header):
            return None
        field = dict(zip(header, row, strict=True))
        try:
            user, movie = (whole(field[name]) for name in ("userId", "movieId"))
            stars, time = decimal(field["rating"]), decimal(field.get("timestamp", "0"))
        except (ValueError, InvalidOperation):
            return None
        if not Decimal("0.5") <= stars <= 5:
            return None
        if movie not in movie_ids:
            unknown += 1
        elif (user, movie) not in latest or latest[user, movie][0] <= time:
            latest[user, movie] = (time, position, float(stars))
    if not latest:
        return None
    kept = sorted((position, user, movie, s) for (user, movie), (_, position, s) in latest.items())
    dropped = {"unknown_movie": unknown, "duplicate_rating": len(rows) - unknown - len(kept)}
    return [row[1:] for row in kept], dropped


def decimal(text: str) -> Decimal:
    if not set(text) <= set("0123456789.+-eE ") or not Decimal(text.strip()).is_finite():
        raise ValueError(text)
    return Decimal(text.strip())


def whole(text: str) -> int:
    value = decimal(text)
    if set(text) & set("+-eE") or value != int(value) or value >= 2**63 or text.strip()[0] == ".":
        raise ValueError(text)
    return int(value)


IDS = st.sampled_from(["1", "2", "3", "7", "9", "007"])
GOOD_STARS = st.sampled_from(["0.5", "1", "3.5", "4.0", "5", "4.", ".75"])
TIMES = st.sampled_from(["0", "964982703", "964982704", "12.5"])
WORDS = (
    "1.0 2.0 1.5 -1 +1 1e0 True nan inf NA x 6 0 1,1 1.2.3 9007199254740993 "
    "9223372036854775807 9223372036854775808"
)
ODD = st.sampled_from(["", " ", '"3"', *WORDS.split()])
GOOD_ROW = st.tuples(IDS, IDS, GOOD_STARS, TIMES).map(list)


@st.composite
def tables(draw) -> str:
    """Mostly good tables; some rows have lost or gained a field, or have another value."""
    has_time = draw(st.booleans())
    rows = [row if has_time else row[:3] for row in draw(st.lists(GOOD_ROW, max_size=12))]
    for _ in range(draw(st.integers(0, 2)) if rows else 0):
        row = draw(st.sampled_from(rows))
        position = draw(st.integers(0, max(len(row) - 1, 0)))
        change = draw(st.sampled_from(["set", "set", "set", "cut", "add"]))
        if change == "set" and row:
            row[position] = draw(ODD)
        elif change == "cut":
            del row[position:]
        else:
            row.insert(position, draw(IDS))
    header = ["userId", "movieId", "rating", "timestamp"][: 3 + has_time]
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    text = end.join(",".join(row) for row in [header, *rows])
    return text + draw(st.sampled_from(["", end]))


@pytest.mark.filterwarnings("error")  # pandas' and numpy's too: a user would see them
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=tables(), block=st.sampled_from([40, 60, 1000]))
@example(text=HEADER + "1,2,4,5\n1,2\n3,7,4,5,1,2\n", block=1)  # as many commas as there should be
@example(text="userId,movieId,rating\n1,2,4,5\n1,7,4,5\n", block=1000)  # pandas makes an index
@example(text="userId,movieId,rating\n9007199254740993,1,4\n1.0,1,4\n", block=1000)
@example(text="userId,movieId,rating\n9223372036854775807.0,1,4\n", block=1)
@example(text="userId,movieId,rating\n \n1,1,4\n", block=1)  # a line of spaces is a blank one
def test_any_table_is_read_right_or_refused_in_one_sentence(tmp_path, monkeypatch, text, block):
    monkeypatch.setattr(ratings_module, "BLOCK_BYTES", block)  # few rows per block
    folder = write(tmp_path, text)
    expected = oracle(text, {1, 2, 7})
    if expected is None:
        with pytest.raises(DataError) as error:
            read_ratings(folder)
        assert len(str(error.value).splitlines()) == 1
    else:
        loaded = read_ratings(folder)
        check_types(loaded)
        assert (triples(loaded), loaded.dropped) == expected


@pytest.mark.parametrize("block", [40, 1 << 20])  # bytes: a row, or all
@pytest.mark.parametrize("text", [RATINGS, RATINGS.replace("\n", "\r\n"), "\ufeff" + RATINGS])
def test_files_as_published_are_read_by_arrow(tmp_path, monkeypatch, text, block):
    monkeypatch.setattr(ratings_module, "BLOCK_BYTES", block)
    path = write(tmp_path, text) / "ratings.csv"
    columns = ratings_module.read_by_arrow(path)
    for column, expected in zip(columns, ratings_module.read_by_lines(path), strict=True):
        assert column.dtype == expected.dtype
        np.testing.assert_array_equal(column, expected)


@pytest.mark.parametrize(
    "text",
    [
        RATINGS.replace("\n", ",1\n").replace("timestamp,1", "timestamp,rating"),
        RATINGS.replace("\n", ',"a"b\n'),
        RATINGS.replace("5,1,", '"5"1,1,'),
        RATINGS.replace("102", "nan"),
        RATINGS.replace("3,1,5", "-3,1,5"),
    ],
    ids=["a column twice", "a column of text", "a quote in a field", "no number", "negative"],
)
def test_what_arrow_could_misread_is_left_to_the_csv_module(tmp_path, text):
    assert ratings_module.read_by_arrow(write(tmp_path, text) / "ratings.csv") is None


# --- the real set -------------------------------------------------------------------------------


@pytest.mark.real
def test_ml_latest_small_is_read_whole(real_movielens):
    ratings = read_ratings(real_movielens, name="ml-latest-small")
    check_types(ratings)
    assert (ratings.n_users, ratings.n_movies, ratings.n_ratings) == (610, 9742, 100836)
    assert ratings.dropped == {"unknown_movie": 0, "duplicate_rating": 0}
    assert ratings.n_movies - len(np.unique(ratings.movie)) == 18  # nobody rated them
    with open(real_movielens / "ratings.csv", newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert triples(ratings) == [(int(u), int(m), float(s)) for u, m, s, _ in rows]
    with open(real_movielens / "movies.csv", newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    rows.sort(key=lambda row: int(row[0]))
    assert ratings.movies["title"].tolist() == [row[1] for row in rows]
    assert ratings.movies["genres"].tolist() == [row[2] for row in rows]


@pytest.mark.real
def test_both_ways_read_ml_latest_small_alike(real_movielens, tmp_path):
    shutil.copy(real_movielens / "movies.csv", tmp_path)
    text = (real_movielens / "ratings.csv").read_bytes()
    (tmp_path / "ratings.csv").write_bytes(text.replace(b",964982703\r\n", b", 964982703\r\n", 1))
    careful, fast = read_ratings(tmp_path), read_ratings(real_movielens)
    assert careful.digest != fast.digest
    for name in ("user_ids", "user", "movie", "stars"):
        np.testing.assert_array_equal(getattr(careful, name), getattr(fast, name))
