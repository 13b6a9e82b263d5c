"""Images of a folder are decoded once, cached, and mapped if they are large."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from image_files import ANIMALS, BLACK, BLUE, GREEN, RED, WHITE, colours, encoded, write_images
from PIL import Image

from embedlab.datasets.cache import cache_folder
from embedlab.errors import DataError
from embedlab.vision.data import image_cache
from embedlab.vision.data.images import ImageDataset, read_images


def is_same_dataset(one: ImageDataset, other: ImageDataset) -> bool:
    arrays = ((one.pixels, other.pixels), (one.labels, other.labels))
    arrays += ((one.fingerprints, other.fingerprints),)
    rest = [(p.name, p.classes, p.part_sizes, p.digest, p.files, p.left_out) for p in (one, other)]
    return all(np.array_equal(a, b) for a, b in arrays) and rest[0] == rest[1]


def no_decoding(*_):
    raise AssertionError("an image was decoded")


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(300, 400), (20, 30)], 256),
        ([(12, 30), (50, 10)], 12),
        ([(256, 256), (257, 999)], 256),
        ([(1, 9), (9, 1)], 1),
    ],
    ids=str,
)
def test_images_are_stored_at_the_largest_shorter_side_up_to_256(tmp_path, sizes, side):
    files = {
        f"{name}/1.png": encoded(Image.new("RGB", size, (1, 2, 3)))
        for name, size in zip("ab", sizes, strict=True)
    }
    images = read_images(write_images(tmp_path, files))
    assert images.pixels.shape == (2, 3, side, side) and images.side == side
    assert colours(images) == [(1, 2, 3)] * 2


def test_a_few_large_images_do_not_decide_the_size(tmp_path):
    files = {f"{i % 2}/{i}.png": encoded(Image.new("RGB", (12, 12))) for i in range(20)}
    files["0/large.png"] = encoded(Image.new("RGB", (200, 300)))
    assert read_images(write_images(tmp_path, files)).side == 12


def test_progress_is_told_after_every_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "DECODING_BATCH", 2)
    told = []
    source = write_images(tmp_path, {**ANIMALS, "dog/3.png": WHITE})
    images = read_images(source, lambda *count: told.append(count))
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert colours(images) == [RED, GREEN, BLUE, BLACK, WHITE]


def test_the_second_read_decodes_nothing(tmp_path, monkeypatch):
    source = write_images(tmp_path, ANIMALS)
    first = read_images(source)
    monkeypatch.setattr(image_cache, "decode_image", no_decoding)
    assert is_same_dataset(read_images(source), first)


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    """Permissions or the disk may have been repaired, which changes neither size nor time."""
    tried, decode = [], image_cache.decode_image

    def away(path, side):
        tried.append(Path(path).name)
        if path.endswith("1.png"):
            raise DataError("Permission denied")
        return decode(path, side)

    source = write_images(tmp_path, ANIMALS)
    monkeypatch.setattr(image_cache, "decode_image", away)
    names = ["cat/1.png", "dog/1.png"]
    assert [name for name, _ in read_images(source).left_out] == names
    tried.clear()
    assert [name for name, _ in read_images(source).left_out] == names
    assert tried == ["1.png", "1.png"]
    monkeypatch.setattr(image_cache, "decode_image", decode)
    assert read_images(source).left_out == ()


def test_a_changed_file_is_decoded_again(tmp_path):
    source = write_images(tmp_path, ANIMALS)
    first = read_images(source)
    write_images(tmp_path, {"dog/1.png": WHITE})
    # The time resolution of a file system may be too coarse for a test.
    changed = (tmp_path / "dog" / "1.png").stat().st_mtime_ns + 1
    os.utime(tmp_path / "dog" / "1.png", ns=(changed, changed))
    second = read_images(source)
    assert colours(second) == [RED, GREEN, WHITE, BLACK]
    assert second.digest != first.digest
    (tmp_path / "dog" / "2.png").unlink()
    assert colours(read_images(source)) == [RED, GREEN, WHITE]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.u8", cut),
        ("images.u8", Path.unlink),
        ("images.u8", lambda path: path.write_bytes(b"")),
        ("fingerprints.npy", cut),
        ("fingerprints.npy", Path.unlink),
        ("fingerprints.npy", lambda path: path.write_bytes(b"")),
        ("fingerprints.npy", lambda path: np.save(path, np.zeros(3, dtype=np.uint64))),
        ("about.json", cut),
        ("about.json", Path.unlink),
        ("about.json", lambda path: path.write_text("[]")),
        ("about.json", lambda path: path.write_text("{}")),
    ],
)
def test_a_damaged_cache_is_mended(tmp_path, name, damage):
    source = write_images(tmp_path, ANIMALS)
    first = read_images(source)
    [folder] = (cache_folder() / "pictures").iterdir()
    good = (folder / name).read_bytes()
    damage(folder / name)
    assert is_same_dataset(read_images(source), first)
    assert (folder / name).read_bytes() == good


def test_a_large_cache_is_mapped_and_a_small_one_read(tmp_path, monkeypatch):
    source = write_images(tmp_path, ANIMALS)
    small = read_images(source)
    assert small.mapped is None
    monkeypatch.setattr(image_cache, "MAX_BYTES_IN_MEMORY", small.pixels.nbytes)
    assert read_images(source).mapped is None
    monkeypatch.setattr(image_cache, "MAX_BYTES_IN_MEMORY", small.pixels.nbytes - 1)
    large = read_images(source)
    assert large.mapped is not None and not large.pixels.flags.writeable
    assert is_same_dataset(large, small)


BLOCKED = """
import os, sys
from embedlab.datasets.image_source import locate_images
from embedlab.tracking.signals import raise_first_signal
from embedlab.vision.data import image_cache, images

def wait(*_):
    os.write(1, b"blocked\\n")
    return os.read(os.pipe()[0], 1)  # as from a file system that does not answer

setattr(image_cache, sys.argv[2], wait)
with raise_first_signal():
    images.read_images(locate_images(f"folder:{sys.argv[1]}"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("function", ["shorter_side", "decode_image"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_decoding_is_stopped_while_a_file_blocks(tmp_path, function, number, code):
    write_images(tmp_path, ANIMALS)
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, str(tmp_path), function],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout.readline() == b"blocked\n"
        process.send_signal(number)
        assert process.wait(20) == code
    finally:
        process.kill()
        process.communicate()
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []
