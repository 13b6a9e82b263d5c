"""Where files come from: the cache, downloads that go wrong, hostile archives, the sample."""

import csv
import hashlib
import http.server
import io
import os
import random
import ssl
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from embedlab.datasets import archive, cache, download, movielens, sample
from embedlab.datasets.archive import unpack
from embedlab.datasets.cache import build_folder, cache_folder
from embedlab.datasets.download import fetch
from embedlab.datasets.movielens import Release, check_ratings_argument, locate_ratings
from embedlab.errors import DataError, DownloadError
from embedlab.movies.data.ratings import read_ratings

RATINGS = b"userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n"
MOVIES = b"movieId,title,genres\r\n1,Toy Story (1995),Comedy\r\n"


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    """Each test has a cache of its own, asks no proxy for 127.0.0.1, and does not wait."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMBEDLAB_CACHE", str(folder))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    return folder


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


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?")), text
    return text


GOOD_ZIP = zip_bytes({"ml-small/ratings.csv": RATINGS, "ml-small/movies.csv": MOVIES})


# --- a server whose behaviour is the path -------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.strip("/")
        self.server.asked.append(kind)
        if kind == "flaky":  # fails once, then answers
            kind = "good" if self.server.asked.count("flaky") > 1 else "500"
        if kind.isdigit():
            self.send_error(int(kind))
            return
        self.send_response(200)
        if kind != "truncated-without-length":
            self.send_header("Content-Length", str(len(GOOD_ZIP)))
        self.end_headers()
        body = {
            "good": GOOD_ZIP,
            "tampered": GOOD_ZIP[:-1] + b"!",
            "truncated": GOOD_ZIP[:-10],
            "truncated-without-length": GOOD_ZIP[:-10],
            "silent": b"",
        }[kind]
        self.wfile.write(body)
        if kind == "silent":
            self.server.released.wait(5)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.released = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def test_a_good_file_is_fetched_once_with_one_line(server, cached, capsys):
    for _ in range(2):
        path = fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
        assert path == cached / "downloads" / "a.zip"
        assert path.read_bytes() == GOOD_ZIP
    assert server.asked == ["good"]
    assert capsys.readouterr().err == f"Downloading {server.url}/good\n"


def test_a_damaged_file_in_the_cache_is_fetched_again(server):
    path = fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
    path.write_bytes(b"half")
    assert fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip").read_bytes() == GOOD_ZIP


def test_a_server_error_that_passes_is_tried_again(server):
    assert fetch(f"{server.url}/flaky", sha256(GOOD_ZIP), "a.zip").read_bytes() == GOOD_ZIP
    assert server.asked == ["flaky", "flaky"]


@pytest.mark.parametrize(
    ("kind", "attempts", "reason"),
    [
        ("404", 1, "the server answered 404 Not Found"),
        ("500", 3, "the server answered 500 Internal Server Error"),
        ("truncated", 3, "the connection broke off before the file was complete"),
        ("truncated-without-length", 1, "the downloaded file has another checksum"),
        ("tampered", 1, "the downloaded file has another checksum"),
        ("silent", 3, "the server did not answer in time"),
    ],
)
def test_a_bad_answer_is_one_sentence_and_leaves_nothing(
    server, cached, monkeypatch, kind, attempts, reason
):
    monkeypatch.setattr(download, "TIMEOUT", (2, 0.3))
    url = f"{server.url}/{kind}"
    with pytest.raises(DownloadError) as error:
        fetch(url, sha256(GOOD_ZIP), "a.zip", option="weights")
    text = one_sentence(error)
    assert url in text and reason in text and "weights=<path>" in text
    assert server.asked == [kind] * attempts
    assert files_under(cached) == set()
    fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")  # the next run goes well


def test_no_network_is_one_sentence():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/good"
    with pytest.raises(DownloadError) as error:
        fetch(url, sha256(GOOD_ZIP), "a.zip")
    assert "could not be reached" in one_sentence(error)


@pytest.mark.parametrize(
    "why", ["certificate has expired", "self-signed certificate", None], ids=str
)
def test_a_bad_certificate_is_one_sentence_and_tried_once(monkeypatch, why):
    """As requests words it; a server with an expired certificate is more than a test needs."""
    import requests

    calls = []

    def get(url, **_):
        calls.append(url)
        inner = ssl.SSLCertVerificationError(1, f"certificate verify failed: {why} (_ssl.c:1006)")
        raise requests.exceptions.SSLError(inner if why else "EOF occurred")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(DownloadError) as error:
        fetch("https://example.org/a.zip", "0" * 64, "a.zip")
    assert f"not accepted ({why or 'the secure connection failed'})" in one_sentence(error)
    assert len(calls) == 1


def test_an_interrupted_download_leaves_nothing(server, cached, monkeypatch):
    def interrupt(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rich.progress.Progress.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
    assert files_under(cached) == set()


def test_the_bar_on_a_terminal_counts_to_the_end(server, monkeypatch):
    from rich.console import Console

    shown = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **_: Console(file=shown, force_terminal=True, width=100),
    )
    fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
    assert f"{len(GOOD_ZIP)}/{len(GOOD_ZIP)} bytes" in shown.getvalue()


# --- the cache ----------------------------------------------------------------------------------


def test_the_cache_is_where_the_variable_says(cached, monkeypatch, tmp_path):
    assert cache_folder() == cached and cached.is_dir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMBEDLAB_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("EMBEDLAB_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().name == "embedlab" and cache_folder() != tmp_path / "mine"


def test_a_cache_that_cannot_be_made_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBEDLAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError) as error:
        cache_folder()
    assert "Not a directory" in one_sentence(error) and "EMBEDLAB_CACHE" in str(error.value)


def has_two(folder: Path) -> bool:
    return (folder / "a").is_file() and (folder / "b").is_file()


def fill_two(folder: Path) -> None:
    (folder / "a").write_text("A")
    (folder / "b").write_text("B")


def test_a_folder_is_built_once_and_mended_when_a_file_is_gone(tmp_path):
    final = tmp_path / "deep" / "final"
    fills = []

    def fill(folder):
        fills.append(folder)
        fill_two(folder)

    for _ in range(2):
        assert build_folder(final, fill, has_two) == final
    (final / "b").unlink()
    build_folder(final, fill, has_two)
    assert len(fills) == 2
    assert files_under(tmp_path) == {"deep/final/a", "deep/final/b"}


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "a").write_text("A")
        raise DataError("no more.")

    with pytest.raises(DataError, match="no more"):
        build_folder(tmp_path / "final", fail, has_two)
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"] or not list(tmp_path.iterdir())

    def full_disk(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError) as error:
        build_folder(tmp_path / "final", full_disk, has_two)
    assert "No space left on device" in one_sentence(error)


def test_builders_at_the_same_time_all_get_a_whole_folder(tmp_path):
    final, gate, faults = tmp_path / "final", threading.Barrier(8), []

    def fill(folder):
        gate.wait(10)  # every builder has seen that the folder is not there
        fill_two(folder)

    def run():
        try:
            assert has_two(build_folder(final, fill, has_two))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert files_under(tmp_path) == {"final/a", "final/b"}


# --- archives -----------------------------------------------------------------------------------


def write_zip(path: Path, entries: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    return path


def test_an_archive_that_points_before_its_start_is_one_sentence(tmp_path):
    data = bytearray(GOOD_ZIP)
    data[-6:-2] = (2**31).to_bytes(4, "little")  # where the directory is said to begin
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="is not a zip archive or is damaged") as error:
        unpack(tmp_path / "a.zip", ["ratings.csv"], tmp_path)
    one_sentence(error)


def test_only_the_wanted_files_come_out_flat(tmp_path):
    path = write_zip(
        tmp_path / "a.zip",
        {
            "deep/er/ratings.csv": RATINGS,
            "movies.csv": MOVIES,
            "deep/tags.csv": b"x",
            "__MACOSX/deep/._ratings.csv": b"x",
        },
    )
    out = tmp_path / "out"
    out.mkdir()
    unpack(path, ["ratings.csv", "movies.csv"], out)
    assert files_under(out) == {"ratings.csv", "movies.csv"}
    assert (out / "ratings.csv").read_bytes() == RATINGS
    assert (out / "movies.csv").read_bytes() == MOVIES


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"../ratings.csv": RATINGS}, "points outside"),
        ({"ratings.csv": RATINGS, "a/../../evil": b"x"}, "points outside"),
        ({"ratings.csv": RATINGS, "..\\evil": b"x"}, "points outside"),
        ({"/etc/ratings.csv": RATINGS}, "points outside"),
        ({"C:\\ratings.csv": RATINGS}, "points outside"),
        ({link("ratings.csv"): b"/etc/passwd"}, "a link or device"),
        ({"ratings.csv": bytes(5_000_000)}, "packed more than 100 to 1"),
        ({"movies.csv": MOVIES}, "holds no ratings.csv"),
        ({"ratings.csv/": b"", "movies.csv": MOVIES}, "holds no ratings.csv"),
        ({"a/ratings.csv": RATINGS, "b/ratings.csv": RATINGS}, "2 times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_archive_is_refused_and_nothing_written(tmp_path, entries, problem):
    path = write_zip(tmp_path / "a.zip", entries)
    out = tmp_path / "in" / "out"
    out.mkdir(parents=True)
    with pytest.raises(DataError) as error:
        unpack(path, ["ratings.csv"], out)
    assert problem in one_sentence(error)
    assert files_under(tmp_path) == {"a.zip"}


def test_a_file_too_large_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", len(RATINGS) - 1)
    with pytest.raises(DataError, match="bytes unpacked, more than"):
        unpack(write_zip(tmp_path / "a.zip", {"ratings.csv": RATINGS}), ["ratings.csv"], tmp_path)


def test_ml_32m_is_within_the_bounds():
    # Its ratings.csv is about 0.9 GB, at four bytes for one packed; a factor of two to spare.
    assert archive.MAX_BYTES > 2 * 0.9e9
    assert archive.MAX_RATIO > 2 * 4


def test_an_encrypted_file_is_refused(tmp_path):
    data = bytearray(zip_bytes({"ratings.csv": RATINGS}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1  # the flag; the content does not matter
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        unpack(tmp_path / "a.zip", ["ratings.csv"], tmp_path)


def test_a_damaged_archive_is_one_sentence_or_its_true_content(tmp_path):
    """200 seeded damages: a flipped byte or a cut. Never another exception, never other bytes."""
    rng = random.Random(0)
    content = b"".join(b"%d,%d,4.0,9\n" % (i, rng.randrange(9999)) for i in range(300))
    good = zip_bytes({"ml/ratings.csv": content})
    out = tmp_path / "out"
    out.mkdir()
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / "a.zip"
        path.write_bytes(data)
        try:
            unpack(path, ["ratings.csv"], out)
        except DataError:
            refused += 1
        else:
            assert (out / "ratings.csv").read_bytes() == content
    assert refused > 150


# --- what a user writes after ratings= ----------------------------------------------------------


def test_a_release_is_fetched_unpacked_and_kept(server, cached, monkeypatch):
    release = Release(
        url=f"{server.url}/good",
        sha256=sha256(GOOD_ZIP),
        files={"ratings.csv": sha256(RATINGS), "movies.csv": sha256(MOVIES)},
    )
    monkeypatch.setattr(movielens, "RELEASES", {"ml-latest-small": release})
    for _ in range(2):
        found = locate_ratings("ml-latest-small")
        assert (found.name, found.source) == ("ml-latest-small", release.url)
        assert read_ratings(found.path).n_ratings == 1
    (found.path / "movies.csv").write_bytes(b"tampered")  # mended from the archive kept
    assert (locate_ratings("ml-latest-small").path / "movies.csv").read_bytes() == MOVIES
    assert server.asked == ["good"]


def test_a_release_that_cannot_be_fetched_never_becomes_the_sample(server, cached, monkeypatch):
    release = Release(url=f"{server.url}/404", sha256="0" * 64, files={"ratings.csv": "0" * 64})
    monkeypatch.setattr(movielens, "RELEASES", {"ml-latest-small": release})
    with pytest.raises(DownloadError, match="ratings=<path>"):
        locate_ratings("ml-latest-small")
    assert files_under(cached) == set()


def test_a_folder_is_used_where_it_lies(tmp_path, monkeypatch, cached):
    folder = tmp_path / "my ratings"
    folder.mkdir()
    (folder / "ratings.csv").write_bytes(RATINGS)
    (folder / "movies.csv").write_bytes(MOVIES)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in (str(folder), "~/my ratings", "my ratings", "./my ratings/"):
        found = locate_ratings(text)
        assert (found.name, found.path, found.source) == ("my ratings", folder, str(folder))
    assert not cached.exists()


def test_a_zip_is_unpacked_once_by_its_content(tmp_path, cached):
    first = tmp_path / "ml-mine.zip"
    first.write_bytes(GOOD_ZIP)
    found = locate_ratings(str(first))
    assert (found.name, found.source) == ("ml-mine", str(first))
    stamp = (found.path / "ratings.csv").stat().st_mtime_ns
    other = tmp_path / "copy.zip"
    other.write_bytes(GOOD_ZIP)
    assert locate_ratings(str(other)).path == found.path
    assert (found.path / "ratings.csv").stat().st_mtime_ns == stamp
    (found.path / "ratings.csv").write_bytes(b"cut")
    assert (locate_ratings(str(first)).path / "ratings.csv").read_bytes() == RATINGS


def test_a_path_that_does_not_exist_is_explained(tmp_path, monkeypatch, cached):
    monkeypatch.chdir(tmp_path)
    for ask in (locate_ratings, check_ratings_argument):
        for text in ("ml-latest-smal", "", "~nobody/x", "a\0b", "https://example.org/a.zip"):
            with pytest.raises(DataError) as error:
                ask(text)
            sentence = one_sentence(error)
            assert "sample, ml-latest-small" in sentence
            assert str(tmp_path) in sentence and "absolute path" in sentence
    assert not cached.exists()


def test_an_argument_is_passed_as_it_is(tmp_path):
    for text in ("sample", "ml-latest-small", str(tmp_path)):
        assert check_ratings_argument(text) == text


def test_a_folder_without_the_files_says_which(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError, match=r"has no ratings\.csv and no movies\.csv; it needs"):
        locate_ratings(str(folder))
    (folder / "ratings.csv").write_bytes(RATINGS)
    with pytest.raises(DataError, match=r"has no movies\.csv; it needs") as error:
        locate_ratings(str(folder))
    one_sentence(error)
    (folder / "movies.csv").write_bytes(MOVIES)
    with pytest.raises(DataError) as error:
        locate_ratings(str(tmp_path))
    assert f"did you mean {folder}?" in one_sentence(error)
    with pytest.raises(DataError, match="is one file; pass the folder"):
        locate_ratings(str(folder / "ratings.csv"))


def test_a_file_that_is_not_a_zip_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError) as error:
        locate_ratings(str(tmp_path / "a.zip"))
    assert "is not a zip archive or is damaged" in one_sentence(error)


def test_the_check_of_an_argument_imports_nothing_heavy():
    code = (
        "import sys; from embedlab.datasets.movielens import check_ratings_argument as check;"
        "check('sample'); heavy = {'numpy', 'pandas', 'requests', 'rich', 'platformdirs'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    source = str(Path(cache.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


# --- the built-in sample ------------------------------------------------------------------------

# If these change, SAMPLE_VERSION has to go up: the cache is keyed by it.
SAMPLE_DIGESTS = {
    1: {
        "ratings.csv": "3e689a266d0b03ef25025a2fb4d45503e3ab90286d3dc0e3d0486acd63c7b1b0",
        "movies.csv": "1d8a15623775027945c094c1c03048f41fde8336c255b6ef07dceec1c5ac0600",
    }
}


def test_the_sample_has_the_bytes_of_its_version(cached):
    found = locate_ratings("sample")
    assert (found.name, found.source) == ("sample", "built-in sample")
    digests = {p.name: sha256(p.read_bytes()) for p in found.path.iterdir()}
    assert digests == SAMPLE_DIGESTS[sample.SAMPLE_VERSION]
    sample.sample_files.cache_clear()
    assert {n: sha256(d) for n, d in sample.sample_files().items()} == digests


def test_a_changed_sample_in_the_cache_is_written_again():
    path = locate_ratings("sample").path / "ratings.csv"
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    assert locate_ratings("sample").path / "ratings.csv" == path
    assert path.read_bytes() == good


def test_the_sample_has_the_groups_it_names():
    ratings = read_ratings(locate_ratings("sample").path)
    titles = ratings.movies["title"].tolist()
    assert len(set(titles)) == len(titles) == 82
    films_with_group = sample.sample_films().query("group != ''")
    group_of = dict(zip(films_with_group["title"], films_with_group["group"], strict=True))
    films: dict[str, list[str]] = {}
    for title, group in group_of.items():
        films.setdefault(group, []).append(title)
    assert [len(titles) for titles in films.values()] == [16] * 5
    assert set(group_of) < set(titles)
    for title in ("Apollo 13 (1995)", "Toy Story (1995)", "Shawshank Redemption, The (1994)"):
        assert title in group_of

    # The oracle: each user's stars, group by group, by a dictionary.
    stars: dict[int, dict[str, list[float]]] = {}
    rated: dict[str, int] = dict.fromkeys(titles, 0)
    for user, movie, given in zip(ratings.user, ratings.movie, ratings.stars, strict=True):
        rated[titles[movie]] += 1
        stars.setdefault(int(user), {}).setdefault(group_of[titles[movie]], []).append(given)
    assert len(stars) == 240
    groups = list(films)
    for user, by_group in stars.items():
        own = groups[user % 5]
        assert 20 <= sum(map(len, by_group.values())) <= 40
        others = [s for group, given in by_group.items() if group != own for s in given]
        # 11 in 12 ratings follow the taste, so 0.8 stars between the means is far below the 2.1
        # expected, and no user comes near it.
        mean = sum(by_group[own]) / len(by_group[own])
        assert mean - sum(others) / len(others) > 0.8
    assert sorted(title for title, n in rated.items() if n == 0) == [
        "City Lights (1931)",
        "Metropolis (1927)",
    ]
    for of_group in films.values():  # the long tail
        assert rated[of_group[0]] > 1.8 * rated[of_group[-1]]


def test_the_sample_is_in_the_layout_of_movielens():
    folder = locate_ratings("sample").path
    with open(folder / "ratings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["userId", "movieId", "rating", "timestamp"]
    assert {row["rating"] for row in rows} <= {str(half / 2) for half in range(1, 11)}
    order = [(int(row["userId"]), int(row["movieId"])) for row in rows]
    assert order == sorted(set(order))
    movies = (folder / "movies.csv").read_text(encoding="utf-8")
    assert '"Lion King, The (1994)",Animation|Children|Musical' in movies
    assert "INVENTED" in sample.__doc__
