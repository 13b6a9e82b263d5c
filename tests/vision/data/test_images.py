"""Images from a user's word to rows of three parts: found, decoded, kept in the cache, split."""

import contextlib
import errno
import gc
import hashlib
import http.server
import io
import itertools
import mmap
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embedlab.datasets import download
from embedlab.datasets import images as places
from embedlab.datasets.cache import cache_folder
from embedlab.datasets.images import (
    CIFAR10,
    FOLDER,
    SAMPLE,
    ImageSource,
    check_dataset_argument,
    locate_images,
)
from embedlab.errors import DataError, DownloadError, OptionError
from embedlab.vision.data import images as module
from embedlab.vision.data.images import ImageDataset, read_images
from embedlab.vision.data.splits import Split, duplicates_across_parts, split_images
from embedlab.vision.inference import iter_batches
from embedlab_serving import decode
from embedlab_serving.decode import MAX_PIXELS, decode_image, shorter_side

RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?")), text
    return text


def encoded(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def painted(*rows: list[tuple[int, int, int]]) -> Image.Image:
    """An image of these pixels, row by row."""
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def pixels(image: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """The opposite of `painted`, for what `decode_image` returns."""
    assert image.dtype == np.uint8 and image.shape[0] == 3
    return [[tuple(pixel) for pixel in row] for row in image.transpose(1, 2, 0).tolist()]


def png_that_claims(width: int, height: int) -> bytes:
    """A well-formed PNG of one grey pixel whose header says something else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# --- what a user writes after dataset= ----------------------------------------------------------


def test_an_argument_is_passed_as_it_is(tmp_path):
    for text in ("sample", "cifar10", f"folder:{tmp_path}"):
        assert check_dataset_argument(text) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cifar100", "got 'cifar100'; relative"),
        ("", "got ''; relative"),
        ("mine", "got 'mine' (did you mean 'folder:mine'?); relative"),
        ("folder:", "there is no folder ''"),
        ("folder:other", "there is no folder 'other'"),
        ("folder:~nobody/x", "there is no folder '~nobody/x'"),
    ],
)
def test_a_wrong_argument_is_explained(tmp_path, monkeypatch, text, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for ask in (check_dataset_argument, locate_images):
        with pytest.raises(DataError) as error:
            ask(text)
        sentence = one_sentence(error)
        assert "expected sample, cifar10 or folder:<path of a folder of images>" in sentence
        assert found in sentence
        assert str(tmp_path) in sentence and "absolute path" in sentence


@pytest.mark.parametrize(("name", "shown"), [("caf\udce9", r"caf\xe9"), ("a\0b", r"a\x00b")])
def test_a_path_that_mlflow_cannot_record_has_its_remedy(tmp_path, monkeypatch, name, shown):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        check_dataset_argument(f"folder:{name}")
    sentence = one_sentence(error)
    assert "expected a path in UTF-8" in sentence and f"got {shown};" in sentence


def test_a_folder_is_used_where_it_lies(tmp_path, monkeypatch):
    folder = tmp_path / "my images"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    expected = ImageSource(FOLDER, "my images", folder, str(folder))
    for path in (str(folder), "~/my images", "my images", "./my images/"):
        assert locate_images(f"folder:{path}") == expected


def test_the_check_of_an_argument_imports_nothing_heavy():
    code = (
        "import sys; from embedlab.datasets.images import check_dataset_argument as check;"
        "check('cifar10'); heavy = {'numpy', 'PIL', 'torch', 'torchvision', 'requests', 'rich'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


# --- CIFAR-10, from an archive of twelve images -----------------------------------------------

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def cifar_pixels(batch: int) -> np.ndarray:
    """Two images a batch; as in CIFAR-10 a row is 1,024 red, then green, then blue bytes."""
    return np.random.default_rng(batch).integers(0, 256, (2, 3072), dtype=np.uint8)


@pytest.fixture
def small_cifar(monkeypatch) -> bytes:
    """The archive, which stands for the real one until the test ends; nothing answers its URL."""
    from torchvision.datasets import CIFAR10 as Torchvision

    contents = {
        name: pickle.dumps({"data": cifar_pixels(batch), "labels": [batch, 9 - batch]})
        for batch, name in enumerate(BATCHES)
    }
    contents["batches.meta"] = pickle.dumps({"label_names": [f"kind {k}" for k in range(10)]})
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in contents.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in [*contents.items(), ("readme.html", b"<html>")]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    archive = buffer.getvalue()

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/cifar-10-python.tar.gz"
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(places, "CIFAR10_URL", url)
    monkeypatch.setattr(places, "CIFAR10_SHA256", hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(Torchvision, "train_list", [[name, md5[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(Torchvision, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(Torchvision, "meta", meta)
    return archive


def put_by_hand(archive: bytes) -> Path:
    path = cache_folder() / "downloads" / "cifar-10-python.tar.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(archive)
    return path


def test_a_download_that_fails_says_where_to_put_the_file(small_cifar):
    with pytest.raises(DownloadError) as error:
        locate_images("cifar10")
    target = cache_folder() / "downloads" / "cifar-10-python.tar.gz"
    sentence = one_sentence(error)
    assert places.CIFAR10_URL in sentence
    assert sentence.endswith(f"fetch it by hand and save it as {target}.")
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []
    assert put_by_hand(small_cifar) == target  # whoever follows the advice is served
    found = locate_images("cifar10")
    assert (found.kind, found.name, found.source) == (CIFAR10, "CIFAR-10", places.CIFAR10_URL)


def test_cifar10_is_read_with_its_own_test_images(small_cifar):
    put_by_hand(small_cifar)
    source = locate_images("cifar10")
    folder = source.path / "cifar-10-batches-py"
    assert {path.name for path in folder.iterdir()} == {*BATCHES, "batches.meta"}
    images = read_images(source)
    rows = np.concatenate([cifar_pixels(batch) for batch in range(6)])
    assert np.array_equal(images.pixels, rows.reshape(12, 3, 32, 32))
    assert images.pixels.dtype == np.uint8 and images.pixels.flags.c_contiguous
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
    assert images.classes == tuple(f"kind {k}" for k in range(10))
    assert (images.given_parts, images.side) == ({"train": 10, "test": 2}, 32)
    assert images.left_out == ()


def test_a_damaged_file_of_cifar10_is_mended_from_the_archive(small_cifar):
    put_by_hand(small_cifar)
    folder = locate_images("cifar10").path / "cifar-10-batches-py"
    good = (folder / "data_batch_3").read_bytes()
    (folder / "data_batch_3").write_bytes(good[:-1] + b"!")
    (folder / "batches.meta").unlink()
    digest = read_images(locate_images("cifar10")).digest
    assert (folder / "data_batch_3").read_bytes() == good

    stamp = (folder / "data_batch_3").stat().st_mtime_ns
    put_by_hand(b"no longer needed")
    assert read_images(locate_images("cifar10")).digest == digest
    assert (folder / "data_batch_3").stat().st_mtime_ns == stamp


# --- one image --------------------------------------------------------------------------------


def test_pixels_stay_as_they_are_where_the_size_fits(tmp_path):
    image = painted([RED, GREEN], [BLUE, WHITE])
    decoded = decode_image(encoded(image), 2)
    assert decoded.shape == (3, 2, 2)
    assert pixels(decoded) == [[RED, GREEN], [BLUE, WHITE]]
    image.save(tmp_path / "a.png")
    assert np.array_equal(decode_image(tmp_path / "a.png", 2), decoded)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        # The standard says where the first row and the first column of the file belong.
        (1, [[RED, GREEN], [BLUE, WHITE]]),  # top, left
        (2, [[GREEN, RED], [WHITE, BLUE]]),  # top, right
        (3, [[WHITE, BLUE], [GREEN, RED]]),  # bottom, right
        (4, [[BLUE, WHITE], [RED, GREEN]]),  # bottom, left
        (5, [[RED, BLUE], [GREEN, WHITE]]),  # left, top
        (6, [[BLUE, RED], [WHITE, GREEN]]),  # right, top
        (7, [[WHITE, GREEN], [BLUE, RED]]),  # right, bottom
        (8, [[GREEN, WHITE], [RED, BLUE]]),  # left, bottom
    ],
)
def test_an_image_is_turned_upright(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = painted([RED, GREEN], [BLUE, WHITE])
    assert pixels(decode_image(encoded(image, exif=exif), 2)) == upright


def test_exif_that_is_garbage_does_not_matter():
    data = encoded(Image.new("RGB", (2, 2), "white"), "JPEG", exif=b"Exif\0\0garbage garbage")
    assert pixels(decode_image(data, 1)) == [[WHITE]]


@pytest.mark.parametrize(
    ("size", "middle"), [((12, 4), (4, 0, 8, 4)), ((4, 12), (0, 4, 4, 8))], ids=["wide", "tall"]
)
def test_the_middle_square_is_taken(size, middle):
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, middle)
    assert pixels(decode_image(encoded(image), 4)) == [[GREEN] * 4] * 4


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)], ids=str)
def test_one_colour_stays_that_colour_at_any_size(size):
    image = decode_image(encoded(Image.new("RGB", size, (1, 2, 3))), 8)
    assert pixels(image) == [[(1, 2, 3)] * 8] * 8


def grey(*rows: list[int]) -> list[list[tuple[int, int, int]]]:
    return [[(value,) * 3 for value in row] for row in rows]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_upper_bits(kind):
    image = Image.fromarray(np.array([[0x0000, 0x80FF], [0x1234, 0xFFFF]], dtype=np.uint16))
    assert pixels(decode_image(encoded(image, kind), 2)) == grey([0, 0x80], [0x12, 0xFF])


def test_cmyk_becomes_rgb():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert pixels(decode_image(encoded(red, "TIFF"), 1)) == [[RED]]
    # A JPEG at this quality is one grey away at most: its steps are 1.
    found = decode_image(encoded(red, "JPEG", quality=100), 1).ravel().astype(int)
    assert np.abs(found - RED).max() <= 1


def palette() -> Image.Image:
    image = Image.new("P", (2, 2))
    image.putpalette([*RED, *GREEN, *BLUE])
    for place, colour in enumerate((0, 1, 2, 0)):
        image.putpixel((place % 2, place // 2), colour)
    return image


def one_grey_pixel(mode: str, *levels: int) -> Image.Image:
    return Image.new(mode, (1, 1), levels if len(levels) > 1 else levels[0])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(palette()), [[RED, GREEN], [BLUE, RED]]),
        (encoded(palette(), transparency=1), [[RED, WHITE], [BLUE, RED]]),
        (encoded(palette(), "GIF", transparency=1), [[RED, WHITE], [BLUE, RED]]),
        (
            encoded(palette(), transparency=b"\xff\x00\x80"),
            [[RED, WHITE], [(127, 127, 255), RED]],
        ),
        (encoded(one_grey_pixel("RGBA", 0, 0, 0, 0)), [[WHITE]]),
        (encoded(one_grey_pixel("RGBA", 0, 0, 0, 128)), [[(127, 127, 127)]]),
        (encoded(one_grey_pixel("RGBA", 255, 0, 0, 255)), [[RED]]),
        (encoded(one_grey_pixel("LA", 0, 128)), [[(127, 127, 127)]]),
        (encoded(one_grey_pixel("L", 0), transparency=0), [[WHITE]]),
        (encoded(one_grey_pixel("L", 9), transparency=0), [[(9, 9, 9)]]),
        (encoded(one_grey_pixel("1", 1)), [[WHITE]]),
    ],
    ids=[
        "palette",
        "palette with one transparent colour",
        "GIF with one transparent colour",
        "palette with alpha",
        "transparent",
        "half black",
        "opaque red",
        "half black grey",
        "transparent grey",
        "grey beside the transparent one",
        "one bit",
    ],
)
def test_what_is_transparent_becomes_white(data, expected):
    assert pixels(decode_image(data, len(expected))) == expected


def tiff(bits: int, sample_format: int, data: bytes) -> bytes:
    """Two grey pixels; of such samples Pillow writes none."""
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, 1), (273, 134), (277, 1), (278, 1)]
    tags += [(279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize(
    ("data", "depth"),
    [
        (encoded(Image.fromarray(np.array([[0, 255]], dtype=np.int32)), "TIFF"), "32-bit or"),
        (encoded(Image.fromarray(np.array([[0, 255]], dtype=np.float32)), "TIFF"), "floating"),
        (tiff(32, 1, struct.pack("<2I", 0, 255)), "32-bit or"),
        (tiff(16, 2, struct.pack("<2h", 0, 255)), "32-bit or signed"),
        (tiff(12, 1, bytes([0xFF, 0xF0, 0x00])), "12-bit"),
        (b"Pf 2 1 -1.0\n" + struct.pack("<2f", 0, 1), "floating"),
    ],
    ids=["int32", "float32", "uint32", "int16", "12 bits", "portable float map"],
)
def test_greys_whose_white_is_not_known_are_refused(tmp_path, data, depth):
    (tmp_path / "a").write_bytes(data)
    for ask in (shorter_side, lambda path: decode_image(path, 8)):
        with pytest.raises(DataError, match=f"{depth}.* grey; expected 8 or 16 bits, so convert"):
            ask(tmp_path / "a")


@pytest.mark.parametrize("header", ["P5 2 1 65535\n", "P5 2 1 1023\n"])
def test_a_portable_grey_map_says_what_is_white(header):
    white = int(header.split()[-1])
    data = header.encode() + struct.pack(">2H", 0, white)
    assert pixels(decode_image(data, 2))[0][0] < pixels(decode_image(data, 2))[0][1]
    assert pixels(decode_image(header.encode() + struct.pack(">2H", white, white), 1)) == [[WHITE]]


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
JPEG = encoded(Image.fromarray(NOISE), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"a text, whatever its name is", "not an image"),
        (png_that_claims(0, 5), "not an image"),
        (JPEG[:200], r"\w"),  # Pillow's own words, whatever they are
        (JPEG[: len(JPEG) // 2], "image file is truncated"),
        (encoded(Image.fromarray(NOISE))[:5000], r"\w"),
        (png_that_claims(8, 8), "image file is truncated"),
    ],
    ids=["0 bytes", "text", "no width", "JPEG's header", "half a JPEG", "half a PNG", "no rows"],
)
def test_what_is_no_image_has_a_reason(tmp_path, data, reason):
    (tmp_path / "a.png").write_bytes(data)
    for file in (data, tmp_path / "a.png"):
        with pytest.raises(DataError, match=reason) as error:
            decode_image(file, 8)
        assert "\n" not in str(error.value) and len(str(error.value)) <= 100


def test_a_file_that_cannot_be_opened_has_a_reason(tmp_path):
    for ask in (shorter_side, lambda path: decode_image(path, 8)):
        with pytest.raises(DataError, match=r"^No such file or directory$"):
            ask(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"^Is a directory$"):
            ask(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((8001, 8000), "8,001 × 8,000 pixels, more than 64,000,000"),
        ((10_000, 10_000), "10,000 × 10,000 pixels, more than 64,000,000"),  # Pillow warns
        ((20_000, 20_000), "more than 64,000,000 pixels"),  # Pillow refuses
    ],
    ids=str,
)
def test_an_image_that_is_too_large_is_refused_by_its_header(tmp_path, size, reason):
    # Decoding would find that there is no second row, and say so.
    path = tmp_path / "a.png"
    path.write_bytes(png_that_claims(*size))
    for ask in (shorter_side, lambda path: decode_image(path, 8)):
        with pytest.raises(DataError) as error:
            ask(path)
        assert str(error.value) == reason


def test_an_image_at_the_limit_is_decoded(monkeypatch):
    assert MAX_PIXELS == 64_000_000
    monkeypatch.setattr(decode, "MAX_PIXELS", 20)
    assert decode_image(encoded(Image.new("RGB", (5, 4))), 2).shape == (3, 2, 2)
    with pytest.raises(DataError, match="7 × 3 pixels, more than 20"):
        decode_image(encoded(Image.new("RGB", (7, 3))), 2)


def test_a_refused_image_is_closed_and_pillow_does_not_warn_of_it(tmp_path):
    (tmp_path / "a.png").write_bytes(png_that_claims(10_000, 10_000))
    code = (
        "import sys, pathlib; from embedlab_serving.decode import shorter_side;"
        "shorter_side(pathlib.Path(sys.argv[1]))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, str(tmp_path / "a.png")],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
    )
    assert "10,000 × 10,000 pixels" in result.stderr and "Warning" not in result.stderr


def test_threads_leave_the_warnings_of_the_process_alone(monkeypatch):
    """Two threads read a header; the one that comes first leaves first."""
    first_is_in, second_is_in, first_has_left = (threading.Event() for _ in range(3))
    really_open = Image.open

    def open_in_turn(file, **options):
        if first_is_in.is_set():
            second_is_in.set()
            first_has_left.wait(10)
        else:
            first_is_in.set()
            second_is_in.wait(10)
        return really_open(file, **options)

    data = encoded(Image.new("RGB", (1, 1)))
    monkeypatch.setattr(Image, "open", open_in_turn)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(decode_image, data, 1)
        first_is_in.wait(10)
        second = pool.submit(decode_image, data, 1)
        first.result()
        first_has_left.set()
        second.result()
    assert warnings.filters == before


@pytest.mark.filterwarnings("always::ResourceWarning")
def test_no_file_stays_open(tmp_path, recwarn):
    for name, data in (("good.png", encoded(Image.new("RGB", (9, 9)))), ("bad.jpg", JPEG[:3000])):
        (tmp_path / name).write_bytes(data)
        for ask in (shorter_side, lambda path: decode_image(path, 8)):
            with contextlib.suppress(DataError):
                ask(tmp_path / name)
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_the_shorter_side_is_that_of_the_file(tmp_path):
    for size in ((30, 20), (20, 30)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        assert shorter_side(tmp_path / "a.png") == 20


# --- the sample ---------------------------------------------------------------------------------


def test_the_sample_is_the_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = locate_images("sample")
    assert source == ImageSource(SAMPLE, "digits sample", None, "built-in sample")
    images = read_images(source)
    assert images.pixels.shape == (1797, 3, 8, 8) and images.pixels.dtype == np.uint8
    assert images.labels.dtype == np.int64
    assert images.classes == tuple("0123456789")
    assert (images.given_parts, images.left_out) == ({}, ())
    assert str(images) == "digits sample: 1,797 images of 10 classes, 8 px a side"
    digits = load_digits()
    assert np.array_equal(images.labels, digits.target)
    for colour in range(3):
        # 17 greys over 0..255 lie 15.94 apart: half a level off is the most that rounding does.
        off = np.abs(images.pixels[:, colour] - digits.images * 255 / 16)
        assert off.max() <= 0.5
    assert (images.pixels.min(), images.pixels.max()) == (0, 255)
    assert read_images(source).digest == images.digest


# --- a folder -----------------------------------------------------------------------------------


def fill(root: Path, files: dict[str, tuple[int, int, int] | bytes]) -> ImageSource:
    """Write a 4 × 4 image of each colour (or the bytes) under its path."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_bytes = isinstance(content, bytes)
        path.write_bytes(content if is_bytes else encoded(Image.new("RGB", (4, 4), content)))
    return locate_images(f"folder:{root}")


def colours(images: ImageDataset) -> list[tuple[int, int, int]]:
    """Of images that have one colour each."""
    first = images.pixels[:, :, :1, :1]
    assert (images.pixels == first).all()
    return [tuple(pixel) for pixel in first[:, :, 0, 0].tolist()]


def same(one: ImageDataset, other: ImageDataset) -> bool:
    arrays = ((one.pixels, other.pixels), (one.labels, other.labels))
    arrays += ((one.fingerprints, other.fingerprints),)
    rest = [(p.name, p.classes, p.given_parts, p.digest, p.files, p.left_out) for p in (one, other)]
    return all(np.array_equal(a, b) for a, b in arrays) and rest[0] == rest[1]


def no_decoding(*_):
    raise AssertionError("an image was decoded")


ANIMALS = {"cat/1.png": RED, "cat/2.png": GREEN, "dog/1.png": BLUE, "dog/2.png": BLACK}


def test_a_folder_of_classes_has_no_test_pictures_of_its_own(tmp_path):
    images = read_images(fill(tmp_path / "animals", ANIMALS))
    assert images.name == "animals"
    assert images.classes == ("cat", "dog")
    assert colours(images) == [RED, GREEN, BLUE, BLACK]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert (images.pixels.dtype, images.labels.dtype) == (np.uint8, np.int64)
    assert (images.given_parts, images.side, images.left_out) == ({}, 4, ())
    assert str(images) == "animals: 4 images of 2 classes, 4 px a side"


def test_training_images_come_before_validation_and_test_images(tmp_path):
    files = {
        "valid/cat/1.png": GREEN,
        "valid/dog/1.png": BLACK,
        "test/cat/1.png": RED,
        "test/dog/1.png": GREEN,
        "train/cat/1.png": BLUE,
        "train/dog/1.png": WHITE,
        "train/dog/2.png": BLACK,
        "train/dog/3.png": b"broken",
    }
    images = read_images(fill(tmp_path, files))
    assert colours(images) == [BLUE, WHITE, BLACK, GREEN, BLACK, RED, GREEN]
    assert images.labels.tolist() == [0, 1, 1, 0, 1, 0, 1]
    # Of those that can be read.
    assert images.given_parts == {"train": 3, "val": 2, "test": 2}
    assert images.notes == ()
    assert images.left_out == (("train/dog/3.png", "not an image"),)


def test_folders_in_a_class_are_its_images_and_hidden_files_are_none(tmp_path):
    files = {
        **ANIMALS,
        "cat/old/b.png": WHITE,
        "cat/old/a.png": BLACK,
        "cat/young/1.png": RED,
        "cat/lost/1.png": GREEN,
        "cat/big/1.png": BLUE,
        "cat/.DS_Store": b"x",
        ".git/config": b"x",
        "readme.txt": b"beside the classes",
    }
    images = read_images(fill(tmp_path, files))
    assert images.classes == ("cat", "dog")
    big, lost, old, young = [BLUE], [GREEN], [BLACK, WHITE], [RED]
    assert colours(images) == [RED, GREEN, *big, *lost, *old, *young, BLUE, BLACK]
    assert images.left_out == ()


def test_files_that_cannot_be_read_are_named_and_counted(tmp_path):
    files = {**ANIMALS, "cat/0.png": b"", "cat/half.jpg": JPEG[: len(JPEG) // 2], "dog/z.txt": b"z"}
    images = read_images(fill(tmp_path / "animals", files))
    assert [name for name, _ in images.left_out] == ["cat/0.png", "cat/half.jpg", "dog/z.txt"]
    assert str(images.left_out[0]) == "cat/0.png: not an image"
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.files == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")


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
    images = read_images(fill(tmp_path, files))
    assert images.pixels.shape == (2, 3, side, side) and images.side == side
    assert colours(images) == [(1, 2, 3)] * 2


def test_progress_is_told_after_every_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DECODING_BATCH", 2)
    told = []
    source = fill(tmp_path, {**ANIMALS, "dog/3.png": WHITE})
    images = read_images(source, lambda *count: told.append(count))
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert colours(images) == [RED, GREEN, BLUE, BLACK, WHITE]


# --- what a folder holds besides -----------------------------------------------------------------


def test_what_is_no_regular_file_is_left_out(tmp_path):
    source = fill(tmp_path, {**ANIMALS, "elsewhere.png": WHITE})
    os.mkfifo(tmp_path / "cat" / "fifo.png")
    (tmp_path / "cat" / "null.png").symlink_to("/dev/null")
    (tmp_path / "dog" / "linked.png").symlink_to(tmp_path / "elsewhere.png")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(tmp_path / "dog"):
        listener.bind("socket.png")  # relative: such an address is short
    with ended_every(5, tmp_path / "cat" / "fifo.png"):
        images = read_images(source)
    assert colours(images) == [RED, GREEN, BLUE, BLACK, WHITE]
    reason = "a FIFO, socket or device; expected a regular file"
    names = ("cat/fifo.png", "cat/null.png", "dog/socket.png")
    assert images.left_out == tuple((name, reason) for name in names)


@contextlib.contextmanager
def ended_every(seconds: float, fifo: Path) -> Iterator[None]:
    """Who reads the FIFO comes to its end after that time, and the test with it."""
    is_over = threading.Event()

    def end() -> None:
        while not is_over.wait(seconds):
            with contextlib.suppress(OSError):  # nobody reads
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


BLOCKED = """
import os, sys
from embedlab.datasets.images import locate_images
from embedlab.tracking.signals import raise_first_signal
from embedlab.vision.data import images

def wait(*_):
    os.write(1, b"blocked\\n")
    return os.read(os.pipe()[0], 1)  # as from a file system that does not answer

setattr(images, sys.argv[2], wait)
with raise_first_signal():
    images.read_images(locate_images(f"folder:{sys.argv[1]}"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("function", ["shorter_side", "decode_image"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_decoding_is_stopped_while_a_file_blocks(tmp_path, function, number, code):
    fill(tmp_path, ANIMALS)
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


def test_hidden_folders_are_ignored_at_every_depth(tmp_path):
    copies = [".ipynb_checkpoints/1.png", "dog/.ipynb_checkpoints/1.png", "dog/old/.thumbs/1.png"]
    images = read_images(fill(tmp_path, {**ANIMALS, **dict.fromkeys(copies, WHITE)}))
    assert colours(images) == [RED, GREEN, BLUE, BLACK]
    assert (images.classes, images.left_out) == (("cat", "dog"), ())


def test_empty_folders_lost_links_and_those_of_the_system_are_left_out(tmp_path):
    files = {"__MACOSX/cat/1.png": WHITE, "dog/@eaDir/1.png": WHITE, "cat/b/__MACOSX/1": WHITE}
    source = fill(tmp_path, {**ANIMALS, **files})
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
    source = fill(tmp_path, {**ANIMALS, "dog/closed/1.png": WHITE})
    really_list = os.listdir

    def listdir(path):  # for root, too
        if os.path.basename(path) == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really_list(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert read_images(source).left_out == (("dog/closed", "Permission denied"),)


def test_a_class_and_a_folder_in_it_may_be_links(tmp_path):
    fill(tmp_path / "else", {"cats/1.png": WHITE, "old/1.png": GREEN})
    source = fill(tmp_path / "mine", {"dog/1.png": BLUE})
    (tmp_path / "mine" / "cat").symlink_to(tmp_path / "else" / "cats")
    (tmp_path / "mine" / "dog" / "old").symlink_to(tmp_path / "else" / "old")
    images = read_images(source)
    assert (images.classes, colours(images)) == (("cat", "dog"), [WHITE, BLUE, GREEN])
    assert images.left_out == ()


def test_a_link_to_a_folder_that_is_read_already_is_left_out(tmp_path):
    source = fill(tmp_path / "mine", {**ANIMALS, "cat/old/1.png": WHITE})
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
    source = fill(tmp_path, {**ANIMALS, "dog/a\nb.png": b"no image"})
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
    images = read_images(fill(tmp_path / "mine", files))
    assert len(images.labels) == 4
    (note,) = images.notes
    assert note.startswith("Of mine only train/ and test/ are read, not other/. ")
    assert "move them to train/<class>/" in note
    shutil.rmtree(tmp_path / "mine" / "other")
    assert read_images(locate_images(f"folder:{tmp_path / 'mine'}")).notes == ()


# --- the cache ----------------------------------------------------------------------------------


def test_the_second_read_decodes_nothing(tmp_path, monkeypatch):
    source = fill(tmp_path, ANIMALS)
    first = read_images(source)
    monkeypatch.setattr(module, "decode_image", no_decoding)
    assert same(read_images(source), first)


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    """Its permissions, or the disk, may have been put right: neither changes size or time."""
    tried, decode = [], module.decode_image

    def away(path, side):
        tried.append(Path(path).name)
        if path.endswith("1.png"):
            raise DataError("Permission denied")
        return decode(path, side)

    source = fill(tmp_path, ANIMALS)
    monkeypatch.setattr(module, "decode_image", away)
    names = ["cat/1.png", "dog/1.png"]
    assert [name for name, _ in read_images(source).left_out] == names
    tried.clear()
    assert [name for name, _ in read_images(source).left_out] == names
    assert tried == ["1.png", "1.png"]
    monkeypatch.setattr(module, "decode_image", decode)
    assert read_images(source).left_out == ()


def test_a_changed_file_is_decoded_again(tmp_path):
    source = fill(tmp_path, ANIMALS)
    first = read_images(source)
    fill(tmp_path, {"dog/1.png": WHITE})
    # The clock of a file system may tick too slowly for a test.
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
    source = fill(tmp_path, ANIMALS)
    first = read_images(source)
    [folder] = (cache_folder() / "pictures").iterdir()
    good = (folder / name).read_bytes()
    damage(folder / name)
    assert same(read_images(source), first)
    assert (folder / name).read_bytes() == good


def test_a_large_cache_is_mapped_and_a_small_one_read(tmp_path, monkeypatch):
    source = fill(tmp_path, ANIMALS)
    small = read_images(source)
    assert small.mapped is None
    monkeypatch.setattr(module, "MAX_BYTES_IN_MEMORY", small.pixels.nbytes)
    assert read_images(source).mapped is None
    monkeypatch.setattr(module, "MAX_BYTES_IN_MEMORY", small.pixels.nbytes - 1)
    large = read_images(source)
    assert large.mapped is not None and not large.pixels.flags.writeable
    assert same(large, small)


class RecordedMap:
    """A memory map that records for which bytes it was told that they will be needed."""

    def __init__(self):
        self.needed: list[range] = []

    def madvise(self, advice: int, start: int, length: int) -> None:
        assert (advice, start % mmap.PAGESIZE) == (mmap.MADV_WILLNEED, 0)
        self.needed.append(range(start, start + length))


def test_the_next_images_of_a_mapped_file_are_requested_while_some_are_used():
    shape = (7, 3, 40, 40)  # an image is a little more than a page
    pixels = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None], shape)
    mapped, size = RecordedMap(), 3 * 40 * 40
    images = ImageDataset("toy", (), pixels, np.zeros(7), None, "", mapped=mapped)
    parts = [np.array([0, 5]), np.array([3]), np.array([6, 1])]
    taken = iter_batches(images, parts, "cpu")
    for part, following in itertools.zip_longest(parts, parts[1:], fillvalue=()):
        assert next(taken)[:, 0, 0, 0].tolist() == part.tolist()
        for row, needed in zip(following, mapped.needed, strict=True):
            assert row * size in needed and (row + 1) * size - 1 in needed
            assert (row + 1) * size not in needed
        mapped.needed.clear()
    assert next(taken, None) is None


@pytest.mark.parametrize(
    "files",
    [
        {**ANIMALS, "dog/2.png": (0, 0, 1)},
        {"cat/1.png": RED, "dog/0.png": GREEN, "dog/1.png": BLUE, "dog/2.png": BLACK},
        {name.replace("dog", "fox"): colour for name, colour in ANIMALS.items()},
        {**ANIMALS, "dog/3.png": BLACK},
    ],
    ids=["a pixel", "a label", "a class name", "one more"],
)
def test_the_digest_changes_with(tmp_path, files):
    first = read_images(fill(tmp_path / "first", ANIMALS))
    assert read_images(fill(tmp_path / "second", files)).digest != first.digest


def test_the_digest_is_that_of_the_content_wherever_it_lies(tmp_path):
    first = read_images(fill(tmp_path / "here", ANIMALS))
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = read_images(locate_images(f"folder:{tmp_path / 'there'}"))
    assert (moved.name, moved.digest) == ("there", first.digest)
    # As of all versions so far: runs on the same images can be compared.
    assert first.digest == "b82e35beada9b475f3a62e3f68344129832c5daa594406ac94cf2cc03b4a10c7"
    as_bmp = {
        name.replace("png", "bmp"): encoded(Image.new("RGB", (4, 4), colour), "BMP")
        for name, colour in ANIMALS.items()
    }
    assert read_images(fill(tmp_path / "bmp", as_bmp)).digest == first.digest


def test_the_digest_of_arrays_changes_with_pixels_labels_names_and_shape():
    images = np.zeros((50, 3, 1, 1), dtype=np.uint8)
    labels = np.zeros(50, dtype=np.int64)
    changed, relabelled = images.copy(), labels.copy()
    changed[-1, -1] = 1
    relabelled[-1] = 1
    digests = {
        module.from_arrays("toy", classes, given_images, given_labels, None).digest
        for classes, given_labels, given_images in (
            (("a", "b"), labels, images),
            (("a", "b"), labels, changed),
            (("a", "b"), relabelled, images),
            (("a", "c"), labels, images),
            (("a", "b"), labels, images.reshape(50, 1, 3, 1)),
        )
    }
    assert len(digests) == 5


# --- folders that cannot be used ----------------------------------------------------------------


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
        ({"1.png": RED}, "found 0: put the images in <class>/"),
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
    source = fill(tmp_path / "mine", files)
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
    images = read_images(fill(tmp_path / "mine", files))
    assert images.given_parts == {"train": 4, "val": 4}
    (note,) = images.notes
    assert note.startswith("mine has no test/: a sixth of train/, drawn by seed, is the test set")
    assert note.endswith(f"and {name}/ validates.")


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    source = fill(tmp_path / "mine", ANIMALS)
    shutil.rmtree(tmp_path / "mine")
    with pytest.raises(DataError) as error:
        read_images(source)
    assert f"{tmp_path / 'mine'} cannot be read" in one_sentence(error)


# --- training, validation and test --------------------------------------------------------------


def with_labels(labels: np.ndarray | list[int], n_train: int | None = None) -> ImageDataset:
    labels = np.array(labels, dtype=np.int64)
    classes = tuple(f"kind {k}" for k in range(labels.max() + 1))
    images = np.zeros((len(labels), 3, 1, 1), dtype=np.uint8)
    given_parts = {} if n_train is None else {"train": n_train, "test": len(labels) - n_train}
    return ImageDataset("toy", classes, images, labels, given_parts, "digest of the images")


def parts(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return split.train, split.val, split.test


def counts(images: ImageDataset, split: Split) -> list[list[int]]:
    """Images of each class in each part."""
    n_classes = len(images.classes)
    return [np.bincount(images.labels[p], minlength=n_classes).tolist() for p in parts(split)]


def check_rows(images: ImageDataset, split: Split) -> None:
    together = np.concatenate(parts(split))
    assert len(set(together.tolist())) == len(together)  # none twice, none in two parts
    for part in parts(split):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    assert set(together.tolist()) <= set(range(len(images.labels)))


THREE_KINDS = with_labels(np.repeat([0, 1, 2], [60, 120, 180]))


def test_cifar10_is_split_into_42500_7500_and_10000():
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    images = with_labels(np.concatenate([shuffled, np.arange(10_000) % 10]), n_train=50_000)
    split = split_images(images, seed=0)
    assert counts(images, split) == [[4250] * 10, [750] * 10, [1000] * 10]
    assert np.array_equal(split.test, np.arange(50_000, 60_000))
    check_rows(images, split)


def test_without_test_pictures_a_sixth_is_taken_for_them():
    split = split_images(THREE_KINDS, seed=0)
    # 360: a sixth is 60; of the other 300, 15 % are 45; each as 1 : 2 : 3.
    test, val = [10, 20, 30], [7.5, 15, 22.5]
    found = counts(THREE_KINDS, split)
    assert found[2] == test
    assert np.abs(np.subtract(found[1], val)).max() <= 0.5 and sum(found[1]) == 45
    assert np.array_equal(np.sum(found, axis=0), [60, 120, 180])
    check_rows(THREE_KINDS, split)


def test_the_seed_decides():
    one, again, other = (split_images(THREE_KINDS, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(parts(one), parts(again), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(parts(one), parts(other), strict=True))
    assert one.digest == again.digest != other.digest


def test_a_seed_does_not_touch_official_test_images():
    images = with_labels(np.arange(300) % 3, n_train=240)
    one, other = (split_images(images, seed) for seed in (1, 2))
    assert np.array_equal(one.test, np.arange(240, 300)) and np.array_equal(one.test, other.test)
    assert not np.array_equal(one.val, other.val)


def test_a_limit_of_the_training_images_leaves_the_rest_alone():
    whole = split_images(THREE_KINDS, seed=0)
    for limit in (3, 60, 254, 255, 1000):
        less = split_images(THREE_KINDS, seed=0, train_limit=limit)
        assert len(less.train) == min(limit, 255)
        assert set(less.train.tolist()) <= set(whole.train.tolist())
        assert np.array_equal(less.val, whole.val) and np.array_equal(less.test, whole.test)
        assert less.digest == whole.digest


def test_the_digest_is_that_of_what_a_model_is_evaluated_by():
    other_images = ImageDataset(**{**vars(THREE_KINDS), "digest": "other images"})
    digests = {
        split_images(THREE_KINDS, seed=0).digest,
        split_images(other_images, seed=0).digest,
        split_images(THREE_KINDS, seed=0, val_limit=30).digest,
        split_images(THREE_KINDS, seed=0, test_limit=30).digest,
    }
    assert len(digests) == 4


def test_limits_keep_the_shares_of_the_classes():
    split = split_images(THREE_KINDS, seed=0, train_limit=60, val_limit=12, test_limit=6)
    check_rows(THREE_KINDS, split)
    found = counts(THREE_KINDS, split)
    # 1 : 2 : 3, to within the one image by which rounding up may move a class.
    for part, expected in zip(found, ([10, 20, 30], [2, 4, 6], [1, 2, 3]), strict=True):
        assert sum(part) == sum(expected)
        assert np.abs(np.subtract(part, expected)).max() <= 1
    even = with_labels(np.arange(600) % 3)
    split = split_images(even, seed=0, train_limit=90, val_limit=9, test_limit=99)
    assert counts(even, split) == [[30] * 3, [3] * 3, [33] * 3]


def test_a_smaller_limit_takes_some_of_what_a_larger_takes():
    rows = [
        set(split_images(THREE_KINDS, 0, train_limit=n).train.tolist()) for n in (3, 50, 200, 0)
    ]
    assert rows[0] < rows[1] < rows[2] < rows[3]


def test_every_class_is_within_a_limit():
    images = with_labels(np.repeat([0, 1], [100, 8]))  # one image of kind 1 validates
    assert counts(images, split_images(images, 0, 2, 2, 2)) == [[1, 1]] * 3
    found = counts(images, split_images(images, 0, val_limit=13, test_limit=17))
    assert found[1:] == [[12, 1], [16, 1]]


@pytest.mark.parametrize("name", ["train_limit", "val_limit", "test_limit"])
def test_a_limit_below_the_number_of_classes_is_refused(name):
    assert split_images(THREE_KINDS, 0, **{name: 3})
    with pytest.raises(OptionError) as error:
        split_images(THREE_KINDS, 0, **{name: 2})
    text = f"{name}: expected 0 for all, or at least 3, one a class, got 2"
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("labels", "n_train", "problem"),
    [
        ([0, 1] * 3, None, "too few images to split 2 classes"),
        ([0] * 30 + [1], None, "the smallest class is 'kind 1'"),
        ([0] * 30, 30, "has no test image of kind 0"),
        ([0] * 30, 0, "too few images to split 1 classes"),
        ([0, 1] * 30 + [0] * 10, 60, "has no test image of kind 1"),
        ([0] * 30 + [0, 1] * 10, 30, "has no training image of kind 1"),
        ([0] * 100 + [1, 1], None, "image of kind 1"),
    ],
)
def test_a_class_that_is_not_in_every_part_is_one_sentence(labels, n_train, problem):
    with pytest.raises(DataError) as error:
        split_images(with_labels(labels, n_train), seed=0)
    sentence = one_sentence(error)
    assert problem in sentence and "about 20 a class" in sentence


def test_copies_in_another_part_are_found_by_their_pixels(tmp_path):
    """Whatever their format and metadata; those within a part, and those not used, do not count."""
    exif = Image.Exif()
    exif[0x010E] = "a copy"
    as_bmp = encoded(Image.new("RGB", (4, 4), RED), "BMP")
    described = encoded(Image.new("RGB", (4, 4), BLUE), exif=exif)
    files = {
        **{"train/cat/1.png": RED, "train/cat/2.png": RED, "train/dog/1.png": GREEN},
        **{"train/dog/2.png": BLUE, "test/cat/1.bmp": as_bmp, "test/dog/1.png": described},
        **{"test/dog/2.png": BLUE, "test/dog/3.png": BLACK},
    }
    images = read_images(fill(tmp_path, files))
    row = {name: number for number, name in enumerate(images.files)}
    train, val, test = np.array([0, 1]), np.array([2, 3]), np.arange(4, 8)
    found = duplicates_across_parts(images, Split(train, val, test, ""))
    assert {(images.files[a], images.files[b]) for a, b in found} <= {
        ("test/cat/1.bmp", "train/cat/1.png"),
        ("test/cat/1.bmp", "train/cat/2.png"),
        ("test/dog/1.png", "train/dog/2.png"),
        ("test/dog/2.png", "train/dog/2.png"),
    }
    assert [a for a, _ in found] == [
        row[f"test/{name}"] for name in ("cat/1.bmp", "dog/1.png", "dog/2.png")
    ]
    assert duplicates_across_parts(images, Split(train, val[:1], test[1:3], "")) == []


def test_given_validation_images_validate_and_the_test_set_is_a_share_of_the_others():
    images = replace(with_labels(np.arange(150) % 3), given_parts={"train": 120, "val": 30})
    split = split_images(images, seed=0)
    assert split.val.tolist() == list(range(120, 150))
    assert (len(split.train), len(split.test)) == (100, 20)
    whole = replace(images, given_parts={"train": 90, "val": 30, "test": 30})
    assert [*map(len, parts(split_images(whole, seed=0)))] == [90, 30, 30]
    assert np.array_equal(split_images(whole, seed=0).test, np.arange(120, 150))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    n_official=st.integers(0, 30),
    seed=st.integers(0, 2**32 - 1),
    limits=st.tuples(*[st.integers(0, 60)] * 3),
)
def test_any_split_is_whole_or_one_of_our_errors(sizes, n_official, seed, limits):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(seed).permutation(labels)
    official = np.arange(n_official) % len(sizes)
    images = with_labels(
        np.concatenate([labels, official]), n_train=len(labels) if n_official else None
    )
    try:
        split = split_images(images, seed, *limits)
    except (DataError, OptionError):
        return
    check_rows(images, split)
    assert np.min(counts(images, split)) >= 1
    whole = split_images(images, seed)
    for part, all_of_it, limit in zip(parts(split), parts(whole), limits, strict=True):
        assert len(part) == (min(limit, len(all_of_it)) or len(all_of_it))
        assert set(part.tolist()) <= set(all_of_it.tolist())
    assert sum(map(len, parts(whole))) == len(images.labels)
