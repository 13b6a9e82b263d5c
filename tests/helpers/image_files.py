"""Small image files, and folders of them, for tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from embedlab.datasets.image_source import ImageSource, locate_images
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
    """The colour of each image, in a data set of images of one colour."""
    first = images.pixels[:, :, :1, :1]
    assert (images.pixels == first).all()
    return [tuple(pixel) for pixel in first[:, :, 0, 0].tolist()]


ANIMALS = {"cat/1.png": RED, "cat/2.png": GREEN, "dog/1.png": BLUE, "dog/2.png": BLACK}
