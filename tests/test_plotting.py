"""Fonts of figures: another installed font draws characters that the usual one lacks."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from embedlab.plotting import add_fonts_for
from embedlab.vision.evaluation import plots as figures


@pytest.fixture(autouse=True)
def own_settings():
    with matplotlib.rc_context():
        yield


def font_of(character: str, path: Path) -> str:
    """A font that has only this character, drawn as a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_an_installed_font_draws_what_the_usual_one_lacks(tmp_path, monkeypatch):
    fonts = [font_of("猫", tmp_path / "Cats.ttf"), font_of("犬", tmp_path / "Dogs.ttf")]
    broken = tmp_path / "Broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [*fonts, str(broken)])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    before = list(matplotlib.rcParams["font.family"])
    assert add_fonts_for(["cat", "naïve кот"]) == []
    assert matplotlib.rcParams["font.family"] == before
    assert add_fonts_for(["a 猫", "cat", "犬鳥", "猫"]) == ["犬鳥"]
    assert matplotlib.rcParams["font.family"] == [*before, "Cats", "Dogs"]
    assert add_fonts_for(["猫"]) == []
    assert matplotlib.rcParams["font.family"] == [*before, "Cats", "Dogs"]
    image = np.full((1, 3, 8, 8), 255, dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.as_pixels(figures.plot_image_grid(image, ["猫"], "a 犬"))
