"""Decode an image file to a square of pixels, for training and for the served model alike.

In: bytes or a path, of any format, size and mode that Pillow reads. Out: (3, side, side) uint8.
Needs Pillow and numpy only.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from embedlab_serving.errors import DataError

MAX_PIXELS = 64_000_000  # of one image; a larger one is refused before it is decoded
# Formats that Pillow reads by itself; for EPS, for example, it would start another program.
FORMATS = ("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA")
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@cache
def prepare_pillow() -> tuple[str, ...]:
    """Load Pillow's plugins and ignore its warning of large images, since MAX_PIXELS is lower.

    This happens once per process, because threads that set and reset a filter at the same time may
    leave it set. Returns the FORMATS that Pillow was built with.
    """
    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def shorter_side(path: Path | str) -> int:
    """The shorter side in pixels, from the header alone. Raises DataError if it is no image."""
    with _opened(path) as image:
        return min(image.size)


def decode_image(file: Path | str | bytes, side: int) -> np.ndarray:
    """Decode to (3, side, side) uint8: upright, in RGB, the centre square scaled to `side`.

    Transparent pixels become white, 16-bit grey keeps its upper 8 bits. Greys of other depths are
    refused: their files do not say which value is white, and a guess would differ by image.
    Raises DataError with the reason, a few words.
    """
    with _opened(file) as opened:
        image = _as_rgb(ImageOps.exif_transpose(opened))
        image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)  # (side, side, 3) -> (3, side, side)


@contextmanager
def _opened(file: Path | str | bytes) -> Iterator[Image.Image]:
    """Open an image. Raises DataError if it is refused, and for whatever Pillow raises inside."""
    try:
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        with Image.open(opened, formats=prepare_pillow()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{width:,} × {height:,} pixels, more than {MAX_PIXELS:,}")
            if depth := _unsupported_depth(image):
                raise DataError(f"{depth} grey; expected 8 or 16 bits, so convert it")
            yield image
    except DataError:
        raise
    except Exception as error:  # each of Pillow's readers raises its own errors
        raise DataError(_reason(error)) from None


def _unsupported_depth(image: Image.Image) -> str | None:
    """The depth, in words, of greys that are not unsigned of 8 or 16 bits; None for others."""
    if image.mode == "F":
        return "floating-point"
    if image.mode == "I" and image.format != "PPM":  # PPM is scaled to 16 bits
        return "32-bit or signed"
    bits = image.tag_v2.get(BITSPERSAMPLE) if isinstance(image, TiffImageFile) else None
    return "12-bit" if bits == (12,) else None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT:
        pixels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    return text.splitlines()[0][:100] if text else type(error).__name__
