"""Folders of photos as users have them, through the entry points: odd files are left out or shown,
and reported; nothing ends in a traceback."""

import json
import os
from pathlib import Path

import matplotlib
import mlflow
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from embedlab.vision.data.images import from_arrays
from embedlab.vision.evaluation import plots as figures
from embedlab.vision.evaluation.metrics import Predictions
from entrypoints import compare_transfer, extract_features, finetune

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("store")]

FAST = ["--weights", "none", "--resolution", "32", "--epochs", "1"]


@pytest.fixture(autouse=True)
def usual_fonts(monkeypatch):
    """Use only the fonts that come with matplotlib, whatever this machine has."""
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    with matplotlib.rc_context():
        yield


def photos(folder: Path, n: int, seed: int) -> None:
    """Write `n` different photos of one colour with noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 200, 3)
    for number in range(n):
        pixels = colour + rng.integers(0, 56, (16, 16, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")


def run(entry_point, *arguments: str) -> mlflow.entities.Run:
    """Run an entry point in this process; returns its finished run."""
    entry_point.main([*arguments])
    finished = mlflow.last_active_run()
    assert finished.info.status == "FINISHED"
    return finished


def artifact(run: mlflow.entities.Run, path: str) -> str:
    uri = f"runs:/{run.info.run_id}/{path}"
    return Path(mlflow.artifacts.download_artifacts(uri)).read_text(encoding="utf-8")


def rows(run: mlflow.entities.Run, path: str) -> list[tuple[str, ...]]:
    return [tuple(row) for row in json.loads(artifact(run, path))["data"]]


def test_files_left_out_are_in_a_table_and_examples_are_printed(tmp_path, capsys):
    for seed, name in enumerate(("cat", "dog")):
        photos(tmp_path / "pets" / name, 20, seed)
    broken = [f"cat/broken{number}.jpg" for number in range(5)]
    for name in [*broken, os.fsdecode(b"dog/caf\xe9.jpg")]:
        (tmp_path / "pets" / name).write_bytes(b"no image")
    (tmp_path / "pets" / "__MACOSX").mkdir()
    (tmp_path / "pets" / "fox").mkdir()
    ended = run(extract_features, "--dataset", f"folder:{tmp_path / 'pets'}", *FAST)
    expected = [
        ("__MACOSX", "the system's metadata and previews"),
        *[(name, "not an image") for name in broken],
        (r"dog/caf\xe9.jpg", "not an image"),
        ("fox", "an empty folder"),
    ]
    assert rows(ended, "tables/unreadable.json") == expected
    lines = "".join(f"{name}: {reason}\n" for name, reason in expected)
    assert artifact(ended, "unreadable.txt") == lines
    assert ended.data.params["data/unreadable"] == "8"
    said = "8 files and folders left out, such as cat/broken0.jpg and 5 more (not an image), "
    said += "__MACOSX (the system's metadata and previews), fox (an empty folder); tables/unread"
    assert said in capsys.readouterr().out


def test_copies_in_two_parts_are_counted_listed_and_printed(tmp_path, capsys):
    for part, n in (("train", 20), ("test", 4), ("more", 4)):
        for seed, name in enumerate(("cat", "dog")):
            photos(tmp_path / "pets" / part / name, n, seed + 10 * n)
    copies = [f"test/{name}/copy{number}.png" for number, name in enumerate(("cat", "dog"))]
    for number, copy in enumerate(copies):
        copied = (tmp_path / "pets/train/cat" / f"{number:02}.png").read_bytes()
        (tmp_path / "pets" / copy).write_bytes(copied)
    ended = run(extract_features, "--dataset", f"folder:{tmp_path / 'pets'}", *FAST)
    assert ended.data.params["data/unreadable"] == "0"
    assert ended.data.params["data/duplicates_across_parts"] == "2"
    for number, row in enumerate(rows(ended, "tables/duplicates.json")):
        assert row[:3] == (copies[number], "test", f"train/cat/{number:02}.png")
        assert row[3] in ("train", "val")
    out = capsys.readouterr().out
    said = "2 copies of images in other parts (1 with another label), such as test/cat/copy0.png"
    assert said in out
    assert "Of pets only train/ and test/ are read, not more/. To use" in out


NAMES = ("_misc", "$5_to_$", r"100% \$x^$", os.fsdecode(b"caf\xe9"), "猫")


def test_any_name_of_a_class_comes_through_all_entry_points(tmp_path, capsys, recwarn):
    for seed, name in enumerate(NAMES):
        photos(tmp_path / "things" / name, 12, seed)
    dataset = ["--dataset", f"folder:{tmp_path / 'things'}", *FAST]
    trained = run(extract_features, *dataset)
    run(finetune, *dataset)
    run(compare_transfer)
    classes = sorted([*NAMES[:3], "猫", r"caf\xe9"])
    assert [row[0] for row in rows(trained, "tables/per_class.json")] == classes
    sentence = "No installed font has every character of 猫: figures show boxes instead. Install"
    assert capsys.readouterr().out.count(sentence) == 3
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_names_are_shown_as_they_are():
    points = np.random.default_rng(0).normal(size=(20, 2))
    labels = np.arange(20) % 2
    pixels = np.zeros((20, 3, 8, 8), np.uint8)
    right = Predictions(np.eye(2)[labels], labels, np.arange(20))
    images = from_arrays("toy", ("_misc", "$x^$"), pixels, labels, {})
    figure = figures.plot_embedding_map(points, right, images, "of $y^$")
    figures.as_pixels(figure)  # raises if matplotlib reads a formula in a name
    legend = figure.axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["_misc", "$x^$", "misclassified (0.0%)"]
