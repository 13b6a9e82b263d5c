"""The style that all figures share: size, resolution, spines, colours, fonts."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

BLUE, ORANGE, GREEN, RED, GREY = "#2f6db3", "#e07b39", "#2b8a4b", "#c0392b", "#6b7078"
PURPLE, TEAL = "#8e44ad", "#17a2b8"


class PlainTextFigure(Figure):
    """A figure that shows text literally: a `$` in a class's name does not start a formula."""

    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)


def new_figure(width: float, height: float, kind: type[Figure] = Figure) -> Figure:
    """An empty figure, `width` by `height` inches; it needs no display."""
    return kind(figsize=(width, height), dpi=120, layout="constrained")


def add_fonts_for(texts: Sequence[str]) -> list[str]:
    """Let figures fall back to installed fonts for the characters that their own font lacks.

    Returns the texts with a character that no installed font has. Figures show a box for such a
    character, and matplotlib's warnings about these characters are filtered.
    """
    missing = {char for text in texts for char in text if char.isprintable() and char != " "}
    families = list(matplotlib.rcParams["font.family"])
    for family in families:
        missing -= _glyphs(font_manager.findfont(FontProperties(family=[family])), missing)
    # Ask the system: matplotlib's stored list lacks fonts that were installed after it was made.
    paths = sorted(font_manager.findSystemFonts(), key=_preference) if missing else []
    glyphs = {path: _glyphs(path, missing) for path in paths}
    for path in sorted(paths, key=lambda path: -len(glyphs[path])):
        if glyphs[path] & missing:
            font_manager.fontManager.addfont(path)
            families.append(FT2Font(path).family_name)
            missing -= glyphs[path]
    matplotlib.rcParams["font.family"] = families
    # Hides warnings that a font has no bold face, which are harmless.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    if missing:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    return [text for text in texts if missing & set(text)]


def _preference(path: str) -> tuple[bool, bool, str]:
    """Sort key that puts regular sans-serif faces first."""
    name = Path(path).name
    return "Sans" not in name, "Regular" not in name, path


def _glyphs(path: str, characters: set[str]) -> set[str]:
    """The characters that matplotlib can draw with this font; none for a colour font."""
    try:
        font = FT2Font(path)
        font.set_size(12, 72)
        return {char for char in characters if font.get_char_index(ord(char))}
    except (OSError, RuntimeError):
        return set()


def tidy(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Keep two spines, and draw a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)


def new_panel(width: float, height: float, **properties: object) -> tuple[Figure, Axes]:
    """A figure of one tidy panel with these axes properties: title, labels, scales, limits."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    axes.set(**properties)
    tidy(axes)
    return figure, axes


def heat_map(
    size: tuple[float, float],
    values: np.ndarray,
    label: str,
    norm: Normalize | None = None,
    texts: np.ndarray | None = None,
    names: Sequence[str] = (),
) -> tuple[Figure, Axes]:
    """A figure of `values`, (n_rows, n_columns), nan in grey, with a colour bar named `label`.

    texts  (n_rows, n_columns) str: the text of each cell.
    names  of the rows, and also of the columns; without names, cells need not be square.
    """
    figure = new_figure(*size)
    axes = figure.subplots()
    axes.set_facecolor("#d5d8dc")
    axes.spines[:].set_visible(False)
    shown = np.ma.masked_invalid(values)
    image = axes.imshow(shown, "viridis", norm=norm, aspect="equal" if names else "auto")
    is_dark = np.ma.filled(image.norm(shown), 1) < 0.55
    figure.colorbar(image, ax=axes, shrink=0.7 if names else 1.0, label=label)
    if texts is not None:
        for (row, column), text in np.ndenumerate(texts):
            colour = "white" if is_dark[row, column] else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, size=8)
    if names:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    return figure, axes
