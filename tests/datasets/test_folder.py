"""Folders of images: which files are left out, and which folders are refused."""

import contextlib
import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_files import ANIMALS, BLACK, BLUE, GREEN, RED, WHITE, colours, encoded, write_images
from PIL import Image
from sentences import one_sentence

from embedlab.datasets.cache import cache_folder
from embedlab.datasets.image_source import locate_images
from embedlab.errors import DataError
from embedlab.vision.data.images import read_images


def test_what_is_not_a_regular_file_is_left_out(tmp_path):
    source = write_images(tmp_path, {**ANIMALS, "elsewhere.png": WHITE})
    os.mkfifo(tmp_path / "cat" / "fifo.png")
    (tmp_path / "cat" / "null.png").symlink_to("/dev/null")
    (tmp_path / "dog" / "linked.png").symlink_to(tmp_path / "elsewhere.png")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(tmp_path / "dog"):
        listener.bind("socket.png")  # relative, because the address must be short
    with ended_every(5, tmp_path / "cat" / "fifo.png"):
        images = read_images(source)
    assert colours(images) == [RED, GREEN, BLUE, BLACK, WHITE]
    reason = "a FIFO, socket or device; expected a regular file"
    names = ("cat/fifo.png", "cat/null.png", "dog/socket.png")
    beside = ("elsewhere.png", "not in the folder of a class")
    assert images.left_out == (*((name, reason) for name in names), beside)


@contextlib.contextmanager
def ended_every(seconds: float, fifo: Path) -> Iterator[None]:
    """End every read of the FIFO after `seconds`, so that the test cannot hang."""
    is_over = threading.Event()

    def end() -> None:
        while not is_over.wait(seconds):
            with contextlib.suppress(OSError):  # no process reads it
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_images_beside_the_folders_of_classes_are_left_out(tmp_path):
    files = {
        f"{part}/{name}": colour for part in ("train", "val") for name, colour in ANIMALS.items()
    }
    files |= {"a.jpg": WHITE, "train/b.png": WHITE, "README.md": b"text", "train/labels.csv": b"a"}
    images = read_images(write_images(tmp_path, files))
    reason = "not in the folder of a class"
    assert images.left_out == (("a.jpg", reason), ("train/b.png", reason))


def test_hidden_folders_are_ignored_at_every_depth(tmp_path):
    copies = [".ipynb_checkpoints/1.png", "dog/.ipynb_checkpoints/1.png", "dog/old/.thumbs/1.png"]
    images = read_images(write_images(tmp_path, {**ANIMALS, **dict.fromkeys(copies, WHITE)}))
    assert colours(images) == [RED, GREEN, BLUE, BLACK]
    assert (images.classes, images.left_out) == (("cat", "dog"), ())


def test_empty_folders_lost_links_and_those_of_the_system_are_left_out(tmp_path):
    files = {"__MACOSX/cat/1.png": WHITE, "dog/@eaDir/1.png": WHITE, "cat/b/__MACOSX/1": WHITE}
    source = write_images(tmp_path, {**ANIMALS, **files})
    (tmp_path / "fox" / "deeper").mkdir(parents=True)
    (tmp_path / "cat" / "lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gnu").symlink_to(tmp_path / "nowhere")
    (tmp_path / "dog" / "itself").symlink_to("itself")
    images = read_images(source)
    assert colours(images) == [RED, GREEN, BLUE, BLACK]
    assert images.classes == ("cat", "dog")
    nothing = "a link that leads nowhere: No such file or directory"
    assert images.left_out == (
        ("__MACOSX", "the system's metadata and previews"),
        ("cat/b/__MACOSX", "the system's metadata and previews"),
        ("cat/lost.png", nothing),
        ("dog/@eaDir", "the system's metadata and previews"),
        ("dog/itself", "a link that leads nowhere: Too many levels of symbolic links"),
        ("fox", "an empty folder"),
        ("gnu", nothing),
    )


def test_a_folder_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    source = write_images(tmp_path, {**ANIMALS, "dog/closed/1.png": WHITE})
    really_list = os.listdir

    def listdir(path):  # in place of permissions, which root ignores
        if os.path.basename(path) == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really_list(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert read_images(source).left_out == (("dog/closed", "Permission denied"),)


def test_a_class_and_a_folder_in_it_may_be_links(tmp_path):
    write_images(tmp_path / "else", {"cats/1.png": WHITE, "old/1.png": GREEN})
    source = write_images(tmp_path / "mine", {"dog/1.png": BLUE})
    (tmp_path / "mine" / "cat").symlink_to(tmp_path / "else" / "cats")
    (tmp_path / "mine" / "dog" / "old").symlink_to(tmp_path / "else" / "old")
    images = read_images(source)
    assert (images.classes, colours(images)) == (("cat", "dog"), [WHITE, BLUE, GREEN])
    assert images.left_out == ()


def test_a_link_to_a_folder_that_is_read_already_is_left_out(tmp_path):
    source = write_images(tmp_path / "mine", {**ANIMALS, "cat/old/1.png": WHITE})
    links = {"again": "old", "circle": ".", "dogs": "../dog", "upwards": "..", "way": "../.."}
    for name, target in links.items():
        (tmp_path / "mine" / "cat" / name).symlink_to(target)
    (tmp_path / "mine" / "cat" / "old" / "circle").symlink_to("../old")
    images = read_images(source)
    assert colours(images) == [RED, GREEN, WHITE, BLUE, BLACK]
    reason = "a folder that is read under another name"
    names = ["circle", "dogs", "old", "again/circle", "upwards", "way"]
    assert set(images.left_out) == {(f"cat/{name}", reason) for name in names}


def test_names_that_are_no_utf_8_and_control_characters_are_escaped(tmp_path):
    source = write_images(tmp_path, {**ANIMALS, "dog/a\nb.png": b"no image"})
    latin = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(latin)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    for name in (b"\xfcbel.png", b"gut\xff.png"):
        Path(os.fsdecode(latin + b"/" + name)).write_bytes(encoded(Image.new("RGB", (4, 4), WHITE)))
    Path(os.fsdecode(latin + b"/\xfc.txt")).write_bytes(b"no image")
    images = read_images(source)
    assert images.classes == (r"caf\xe9", "cat", "dog")
    assert images.files[:2] == (r"caf\xe9/gut\xff.png", r"caf\xe9/\xfcbel.png")
    assert [name for name, _ in images.left_out] == [r"caf\xe9/\xfc.txt", r"dog/a\x0ab.png"]


def test_a_folder_beside_the_parts_is_not_read_and_the_run_says_so(tmp_path):
    files = {f"{part}/{kind}/1.png": RED for part in ("train", "test", "other") for kind in "ab"}
    images = read_images(write_images(tmp_path / "mine", files))
    assert len(images.labels) == 4
    (note,) = images.notes
    assert note.startswith("Of mine only train/ and test/ are read, not other/. ")
    assert "move them to train/<class>/" in note
    shutil.rmtree(tmp_path / "mine" / "other")
    assert read_images(locate_images(f"folder:{tmp_path / 'mine'}")).notes == ()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"train/cat/1.png": RED, "train/dog/1.png": RED}, "has train/ alone; expected"),
        ({"test/cat/1.png": RED, "dog/1.png": RED}, "has test/ alone; expected"),
        (
            {f"{part}/{name}/1.png": RED for part in ("val", "test") for name in "ab"},
            "has val/ and test/ alone; expected",
        ),
        (
            {f"{part}/{name}/1": RED for part in ("train", "val", "valid") for name in "ab"},
            "has val/ and valid/, of which each may hold the validation images: keep one of them.",
        ),
        (
            {f"{part}/{name}/1.png": RED for part in ("train", "test") for name in "ab"}
            | {"val/a/1.png": RED},
            "train/, val/ and test/ in",
        ),
        (
            {f"{part}/{name}/1.png": RED for part in ("Train", "Test") for name in "ab"},
            "has Test/ and Train/, which would be read as classes: expected train/<class>/",
        ),
        (
            {f"{part}/{name}/1.png": RED for part in ("training", "testing") for name in "ab"},
            "has testing/ and training/, which would be read as classes",
        ),
        ({"cat/1.png": RED}, "found 1: put the images in <class>/"),
        (
            {"1.png": RED},
            "found 0 (1.png: not in the folder of a class): put the images in <class>/",
        ),
        ({"train/cat/1.png": RED, "test/cat/1.png": RED}, "found 1: put the images"),
        (
            {"train/a/1.png": RED, "train/b/1.png": RED, "test/b/1.png": RED, "test/c/1": RED},
            "need images of the same classes; not in each of them: a, c: add",
        ),
        (
            {**dict.fromkeys(("cat/0.png", "cat/1.png", "dog/1.png"), b""), "cat/2.png": RED},
            "has no readable image of dog (dog/1.png: not an image): put",
        ),
        ({"cat/1.png": RED, "dog/.hidden": RED}, "found 1 (dog: an empty folder): put"),
        (
            {**{f"train/{name}": RED for name in ("a/1", "b/1", "c/1")}, "test/a/1": RED}
            | {"test/b/1": RED, "test/c/.hidden": RED},
            "not in each of them: c (test/c: an empty folder): add",
        ),
        ({"cat/1.png": b"", "dog/1.png": b""}, "has no readable image of cat, dog (cat/1.png:"),
    ],
    ids=[
        "train alone",
        "test alone",
        "no training part",
        "two validation parts",
        "a class that does not validate",
        "parts in capitals",
        "parts by other names",
        "one class",
        "no class",
        "one class in train and test",
        "different classes",
        "a class of broken images",
        "an empty class",
        "an empty class in test",
        "no image at all",
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path, files, problem):
    source = write_images(tmp_path / "mine", files)
    with pytest.raises(DataError) as error:
        read_images(source)
    sentence = one_sentence(error)
    assert problem in sentence and str(tmp_path / "mine") in sentence
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_without_a_test_folder_the_run_says_where_the_test_set_comes_from(tmp_path, name):
    files = {
        f"{part}/{kind}/{n}.png": RED for part in ("train", name) for kind in "ab" for n in "12"
    }
    images = read_images(write_images(tmp_path / "mine", files))
    assert images.part_sizes == {"train": 4, "val": 4}
    (note,) = images.notes
    assert note.startswith("mine has no test/: a sixth of train/, drawn by seed, is the test set")
    assert note.endswith(f"and {name}/ validates.")


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    source = write_images(tmp_path / "mine", ANIMALS)
    shutil.rmtree(tmp_path / "mine")
    with pytest.raises(DataError) as error:
        read_images(source)
    assert f"{tmp_path / 'mine'} cannot be read" in one_sentence(error)
