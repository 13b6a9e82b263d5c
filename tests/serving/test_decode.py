"""An image file is decoded to a square of pixels, or refused with a reason."""

import contextlib
import gc
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import PROJECT
from image_files import (
    BLUE,
    GREEN,
    JPEG,
    NOISE,
    RED,
    WHITE,
    encoded,
    painted,
    pixels,
)
from PIL import Image

from embedlab.errors import DataError
from embedlab_serving import decode
from embedlab_serving.decode import MAX_PIXELS, decode_image, shorter_side


def png_that_claims(width: int, height: int) -> bytes:
    """A well-formed PNG of one grey pixel whose header says something else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


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
        # The EXIF standard defines the place of the first row and the first column of the file.
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
    # A JPEG of this quality differs by at most one level, since its steps are 1.
    pixel = decode_image(encoded(red, "JPEG", quality=100), 1).ravel().astype(int)
    assert np.abs(pixel - RED).max() <= 1


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
    """A TIFF of two grey pixels, in a format that Pillow cannot write."""
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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"a text, whatever its name is", "not an image"),
        (png_that_claims(0, 5), "not an image"),
        (JPEG[:200], r"\w"),  # any message of Pillow
        (JPEG[: len(JPEG) // 2], "image file is truncated"),
        (encoded(Image.fromarray(NOISE))[:5000], r"\w"),
        (png_that_claims(8, 8), "image file is truncated"),
    ],
    ids=["0 bytes", "text", "no width", "JPEG's header", "half a JPEG", "half a PNG", "no rows"],
)
def test_a_file_that_is_not_an_image_has_a_reason(tmp_path, data, reason):
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
    # Decoding would fail with another reason, because there is no second row.
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
    """Two threads read a header; the one that begins first ends first."""
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
