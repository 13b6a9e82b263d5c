"""The parameter `ratings`: a release, a folder or a zip is found, or refused in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from file_server import file_server, use_new_cache
from rating_files import GOOD_ZIP, MOVIES, RATINGS, files_under, sha256
from sentences import one_sentence

from embedlab.datasets import cache, movielens
from embedlab.datasets.movielens import Release, check_ratings_argument, locate_ratings
from embedlab.errors import DataError, DownloadError
from embedlab.movies.data.ratings import read_ratings

cached = pytest.fixture(use_new_cache, autouse=True)


@pytest.fixture
def server():
    with file_server() as server:
        yield server


def test_a_release_is_fetched_unpacked_and_kept(server, cached, monkeypatch):
    release = Release(
        url=f"{server.url}/good",
        sha256=sha256(GOOD_ZIP),
        files={"ratings.csv": sha256(RATINGS), "movies.csv": sha256(MOVIES)},
    )
    monkeypatch.setattr(movielens, "RELEASES", {"ml-latest-small": release})
    for _ in range(2):
        located = locate_ratings("ml-latest-small")
        assert (located.name, located.source) == ("ml-latest-small", release.url)
        assert read_ratings(located.path).n_ratings == 1
    (located.path / "movies.csv").write_bytes(b"tampered")  # restored from the cached archive
    assert (locate_ratings("ml-latest-small").path / "movies.csv").read_bytes() == MOVIES
    assert server.asked == ["good"]


def test_a_release_that_cannot_be_fetched_never_becomes_the_sample(server, cached, monkeypatch):
    release = Release(url=f"{server.url}/404", sha256="0" * 64, files={"ratings.csv": "0" * 64})
    monkeypatch.setattr(movielens, "RELEASES", {"ml-latest-small": release})
    with pytest.raises(DownloadError, match="ratings=<path>"):
        locate_ratings("ml-latest-small")
    assert files_under(cached) == set()


@pytest.mark.parametrize("text", ["own/sample", "own/sample.zip"])
def test_own_ratings_do_not_pass_for_the_built_in_sample(text, tmp_path, monkeypatch):
    folder = tmp_path / "own" / "sample"
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_bytes(RATINGS)
    (folder / "movies.csv").write_bytes(MOVIES)
    folder.with_suffix(".zip").write_bytes(GOOD_ZIP)
    monkeypatch.chdir(tmp_path)
    assert locate_ratings(text).name == "own/sample"
    assert locate_ratings("sample").name == "sample"


def test_a_folder_is_used_where_it_lies(tmp_path, monkeypatch, cached):
    folder = tmp_path / "my ratings"
    folder.mkdir()
    (folder / "ratings.csv").write_bytes(RATINGS)
    (folder / "movies.csv").write_bytes(MOVIES)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in (str(folder), "~/my ratings", "my ratings", "./my ratings/"):
        located = locate_ratings(text)
        assert (located.name, located.path, located.source) == ("my ratings", folder, str(folder))
    assert not cached.exists()


def test_a_zip_is_unpacked_once_by_its_content(tmp_path, cached):
    first = tmp_path / "ml-mine.zip"
    first.write_bytes(GOOD_ZIP)
    located = locate_ratings(str(first))
    assert (located.name, located.source) == ("ml-mine", str(first))
    stamp = (located.path / "ratings.csv").stat().st_mtime_ns
    other = tmp_path / "copy.zip"
    other.write_bytes(GOOD_ZIP)
    assert locate_ratings(str(other)).path == located.path
    assert (located.path / "ratings.csv").stat().st_mtime_ns == stamp
    (located.path / "ratings.csv").write_bytes(b"cut")
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
