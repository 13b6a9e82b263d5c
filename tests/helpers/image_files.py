"""Small image files, and folders of them, for tests."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from embedlab.datasets.image_source import (
    ImageSource,
    locate_images,
)
from embedlab.vision.data.images import ImageDataset

RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


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


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


JPEG = encoded(Image.fromarray(NOISE), "JPEG")


def write_images(root: Path, files: dict[str, tuple[int, int, int] | bytes]) -> ImageSource:
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


def is_same_dataset(one: ImageDataset, other: ImageDataset) -> bool:
    arrays = ((one.pixels, other.pixels), (one.labels, other.labels))
    arrays += ((one.fingerprints, other.fingerprints),)
    rest = [(p.name, p.classes, p.part_sizes, p.digest, p.files, p.left_out) for p in (one, other)]
    return all(np.array_equal(a, b) for a, b in arrays) and rest[0] == rest[1]


ANIMALS = {"cat/1.png": RED, "cat/2.png": GREEN, "dog/1.png": BLUE, "dog/2.png": BLACK}
