"""The cache is where its variable says, and its folders are complete or absent."""

import threading
from pathlib import Path

import pytest
from file_server import use_new_cache
from rating_files import files_under
from sentences import one_sentence

from embedlab.datasets.cache import build_folder, cache_folder
from embedlab.errors import DataError

cached = pytest.fixture(use_new_cache, autouse=True)


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
        gate.wait(10)  # all builders have found no folder
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
