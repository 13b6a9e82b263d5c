"""Figures of rows of images, each with a caption."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from embedlab.plotting import GREY, PlainTextFigure

COLUMNS = 12
TILE_HEIGHT = 1.42  # of an image and its caption, in widths of an image


class Tile(NamedTuple):
    """An image (3, side, side) uint8 and up to two lines of text under it, or in its place."""

    image: np.ndarray | None
    caption: str
    colour: str = GREY


Row = tuple[str, Sequence[Tile | None]]  # a name at the left, and images; None is a gap
Heading = tuple[float, str]  # x of its middle, in widths of an image, and its text


def wrap_tiles(name: str, tiles: Sequence[Tile], columns: int = COLUMNS) -> list[Row]:
    """Rows of images, the first row with that name; without images, one empty row."""
    starts = range(0, max(1, len(tiles)), columns)
    return [(name if i == 0 else "", tiles[i : i + columns]) for i in starts]


def draw_rows(rows: Sequence[Row], title: str, headings: Sequence[Heading] = ()) -> Figure:
    """A figure of rows of images; the unit of its axes is an image's width."""
    n_columns = max(1, *(len(tiles) for _, tiles in rows))
    has_names = any(name for name, _ in rows)
    left = 1.9 if has_names else 0.1  # room for a name of 18 letters a line
    top = 0.45 if headings else 0.1
    title_width = (0.105 * len(title) + 0.3) / 0.95 - left  # in widths of an image
    n_columns = max(n_columns, math.ceil(title_width))
    size = 0.95 * (n_columns + left), 0.95 * (TILE_HEIGHT * len(rows) + top) + 0.4  # inches
    figure = PlainTextFigure(figsize=size, dpi=120)
    figure.suptitle(title, y=1 - 0.1 / size[1], va="top")
    axes = figure.add_axes((0, 0, 1, 1 - 0.4 / size[1]))
    axes.set(xlim=(-left, n_columns + 0.05), ylim=(TILE_HEIGHT * len(rows), -top))
    axes.axis("off")
    for x, text in headings:
        axes.text(x, -0.12, text, ha="center", va="bottom", color=GREY, weight="bold")
    shown = [tile for _, tiles in rows for tile in tiles if tile and tile.image is not None]
    n_letters = max((len(line) for tile in shown for line in _caption(tile).split("\n")), default=0)
    for i, (name, tiles) in enumerate(rows):
        y = TILE_HEIGHT * i
        axes.text(-0.15, y + 0.5, textwrap.fill(name, 18), ha="right", va="center", size=11)
        for x, tile in enumerate(tiles):
            if tile is not None:
                _draw_tile(axes, x, y, tile, caption_size=8 if n_letters > 11 else 10)
    return figure


def _caption(tile: Tile) -> str:
    """The tile's text, with long lines shortened in the middle."""
    lines = tile.caption.split("\n")
    return "\n".join(t if len(t) <= 14 else f"{t[:7]}…{t[-6:]}" for t in lines)


def _draw_tile(axes: Axes, x: float, y: float, tile: Tile, caption_size: int) -> None:
    """Draw a tile whose upper left corner is at (x, y)."""
    if tile.image is None:
        text = axes.text(x + 0.5, y + 0.5, tile.caption, ha="center", va="center")
        text.set(size=9, color=tile.colour)
        return
    box = (x + 0.03, x + 0.97, y + 0.97, y + 0.03)  # left, right, bottom, top
    axes.imshow(tile.image.transpose(1, 2, 0), extent=box, interpolation="bicubic", aspect="auto")
    caption = axes.text(x + 0.5, y + 1, _caption(tile), ha="center", va="top")
    caption.set(size=caption_size, color=tile.colour)
