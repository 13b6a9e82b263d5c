"""`compare.html`: a browser shows the lists of every fit as they were at each epoch."""

import re

import numpy as np
import pytest
from browser import needs_chromium, run_in_page

from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import FitResult
from embedlab.movies.sweep.convergence import choose_queries
from embedlab.movies.sweep.page import comparison_page
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.progress import EpochRecord
from embedlab_serving.titles import TitleIndex

TITLES = ["<b>A", "B", "C", "D", "E", "F"]
EXACT = np.array([[5, 0], [4, 0], [3, 0], [2, 0], [1, 0], [0.5, 0]], np.float32)
QUERIES = choose_queries(TitleIndex(TITLES), np.full(6, 9), [0, 1], 3)


def fit(optimizer, embedding, diverged_at=None, lists=None) -> SweepFit:
    options = FitOptions(optimizer, None if optimizer == "exact" else 0.1, dim=2, epochs=4)
    result = FitResult(np.array(embedding, np.float32), 20.0, 4, 0.5, diverged_at)
    costs = [4000.0, 200.0, 100.0, 50.0, 20.0]
    history = [EpochRecord(e, {"train/cost": cost}, 0.125) for e, cost in enumerate(costs)]
    last = {} if diverged_at else {4: QUERIES.recommend(result.embedding)}
    return SweepFit(options, 0, result, history, {**(lists or {}), **last}, optimizer)


@pytest.fixture
def page() -> str:
    early = {0: QUERIES.recommend(EXACT[::-1]), 2: QUERIES.recommend(EXACT[[0, 1, 4, 5, 2, 3]])}
    fits = [fit("exact", EXACT), fit("adam", EXACT, lists=early), fit("sgd", EXACT, diverged_at=2)]
    fits += [fit("rmsprop", EXACT[::-1])]  # a reused fit without earlier lists
    return comparison_page(OptimizerComparison(fits, TitleIndex(TITLES), QUERIES), "toy")


def test_the_page_loads_nothing_from_outside_and_escapes_titles(page):
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(""", page)
    assert "<b>A" not in page


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_fits_of_very_many_epochs(tmp_path):
    long = [fit("exact", EXACT), *(fit("adam", EXACT[::-1]) for _ in range(16))]
    for item in long[1:]:
        item.history[:] = [
            EpochRecord(e, {"train/cost": 4000.0 / (e + 1)}, 0.1) for e in range(10_000)
        ]
    page = comparison_page(OptimizerComparison(long, TitleIndex(TITLES), QUERIES), "toy")
    script = 'return document.querySelectorAll("#fit li").length;'
    assert run_in_page(page, script, tmp_path) == 3


@needs_chromium
@pytest.mark.slow
def test_a_browser_moves_through_the_epochs_of_a_fit(page, tmp_path):
    script = """
      const byId = (id) => document.getElementById(id);
      const texts = (id) => [...byId(id).children].map((item) => item.textContent);
      const rows = [...document.querySelectorAll("#rates tr")];
      const press = (name) => rows.find((row) => row.textContent.startsWith(name))
        .querySelector("button").click();
      const seen = (at) => {
        byId("epoch").value = at; byId("epoch").dispatchEvent(new Event("input"));
        return {epoch: byId("at").textContent, exact: texts("exact"), fit: texts("fit"),
          marked: [...document.querySelectorAll("#fit .new")].map((item) => item.textContent),
          lines: document.querySelectorAll("#links line").length, words: byId("words").textContent};
      };
      press("adam");
      const adam = [0, 1, 2].map(seen);
      byId("title").value = "1"; byId("title").dispatchEvent(new Event("change"));
      const other = seen(2);
      document.querySelector("[value=seconds]").click();
      const paths = document.querySelectorAll("#chart .fit").length;
      press("rmsprop");
      const known = byId("epoch").max;
      press("sgd");
      return {adam, other, paths, known, diverged: byId("words").textContent, none: texts("fit")};
    """
    seen = run_in_page(page, script, tmp_path)
    start, middle, end = seen["adam"]
    assert [one["epoch"] for one in seen["adam"]] == ["epoch 0", "epoch 2", "epoch 4"]
    assert start["exact"] == end["exact"] == end["fit"] == ["B", "C", "D"]
    assert start["fit"] == ["F", "E", "D"]
    assert (start["marked"], start["lines"]) == (["F", "E"], 1)
    assert start["words"].startswith("Cost 19,900% above the exact one. 1 of 3 movies in common")
    assert (middle["fit"], middle["marked"]) == (["B", "E", "F"], ["E", "F"])
    assert (end["marked"], end["lines"]) == ([], 3)
    assert "over 6 other movies 100%" in end["words"]
    assert seen["other"]["fit"] == ["<b>A", "C", "D"]
    assert (seen["paths"], seen["known"]) == (3, "0")
    assert seen["diverged"] == "This fit diverged and recommends nothing."
    assert seen["none"] == []
