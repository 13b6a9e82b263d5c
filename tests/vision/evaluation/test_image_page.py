"""`images.html`: a browser shows the images of a cell, with the predictions of the other run."""

import re

import numpy as np
import pytest
from browser import needs_chromium, run_in_page
from toy_dataset import compared_run

from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation import page as page_module
from embedlab.vision.evaluation.comparison import ComparedRun
from embedlab.vision.evaluation.metrics import Predictions
from embedlab.vision.evaluation.page import images_page

CLASSES = ("<i>cat", "dog", "fox")
LABELS = np.array([0, 0, 0, 1, 1, 2])


def dataset(classes=CLASSES) -> ImageDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), np.uint8)
    labels = np.array([9, 9, *LABELS])  # the first two are not test images
    data = {"pixels": pixels, "labels": labels, "classes": classes}
    data["fingerprints"] = np.arange(8)
    return ImageDataset(name="toy", part_sizes={}, digest="", **data)


def run(name: str, predicted: list[int], confidence: list[float]) -> ComparedRun:
    probabilities = np.full((6, 3), 0.0)
    for row, (label, sure) in enumerate(zip(predicted, confidence, strict=True)):
        probabilities[row] = (1 - sure) / 2
        probabilities[row, label] = sure
    test = Predictions(probabilities, LABELS, np.arange(2, 8))
    return compared_run(name, "finetune", test)


RUNS = [
    run("tuned", [0, 1, 1, 1, 1, 2], [0.9, 0.6, 0.8, 0.7, 0.9, 0.5]),
    run("frozen", [0, 0, 1, 1, 0, 2], [0.8, 0.7, 0.9, 0.6, 0.5, 0.4]),
]


def test_the_page_loads_nothing_from_outside_and_escapes_names_of_classes():
    page = images_page(RUNS, dataset())
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import""", page)
    assert "<i>cat" not in page


def test_there_is_no_page_of_more_classes_than_can_be_read():
    assert images_page(RUNS, dataset(tuple(map(str, range(41))))) is None


def test_a_page_of_many_images_has_the_most_confident_of_each_cell(monkeypatch):
    monkeypatch.setattr(page_module, "MAX_SHOWN", 4)
    page = images_page(RUNS[:1], dataset())
    # The cells of `tuned` are (0, 0), (0, 1), (1, 1), (2, 2); one of two images is left out.
    assert '"confidence":[0.9,0.8,0.9,0.5]' in page
    assert "A cell shows up to 1 image," in page


@needs_chromium
@pytest.mark.slow
def test_a_browser_opens_the_images_of_a_cell_for_each_run(tmp_path):
    script = """
      const byId = (id) => document.getElementById(id);
      const seen = () => ({cell: byId("cell").textContent, words: byId("words").textContent,
        tiles: [...document.querySelectorAll("figure")].map((tile) =>
          [tile.querySelector("figcaption").textContent, tile.className]),
        accuracy: byId("accuracy").textContent.slice(0, 19)});
      const first = seen();
      document.querySelectorAll("[name=run]")[1].click();
      const other = seen();
      document.querySelector("[data-truth='1'][data-answer='1']").click();
      const sprite = getComputedStyle(document.querySelector(".pixels")).backgroundImage;
      const counts = [...document.querySelectorAll("#matrix button")].map((b) => b.textContent);
      const isDrawn = sprite.startsWith('url("data:image/webp');
      return {first, other, right: seen(), isDrawn, counts};
    """
    seen = run_in_page(images_page(RUNS, dataset()), script, tmp_path)
    assert seen["first"] == {
        "cell": "<i>cat, taken for dog",  # the largest confusion
        "words": "2 images.",
        "tiles": [["80%frozen: dog 90%", ""], ["60%frozen: <i>cat 70%", "right-elsewhere"]],
        "accuracy": "Test accuracy 66.7%",
    }
    assert seen["other"]["tiles"] == [["90%tuned: dog 80%", ""]]
    assert (seen["right"]["cell"], seen["right"]["words"]) == ("dog, recognised", "1 image.")
    assert seen["counts"] == ["2", "1", "·", "1", "1", "·", "·", "·", "1"]
    assert seen["isDrawn"]
