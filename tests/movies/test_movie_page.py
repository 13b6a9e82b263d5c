"""The movie map and `explore.html`: its lists are the served model's, and a browser shows them."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from browser import needs_chromium, run_in_page
from movie_embeddings import embedding_of, sample_embedding

from embedlab.movies.movie_map import MIN_MAPPED, map_movies
from embedlab.movies.options import NORM_EXPONENTS
from embedlab.movies.page import MAX_POSITION, N_NEIGHBOURS, explorer_page, nearest_movies
from embedlab_serving.neighbours import Neighbours

MAX_BYTES = 3_000_000  # of the page of ml-latest-small

sample = pytest.fixture(sample_embedding, scope="module")


def page_of(vectors, movies, index, n: int = 10_000) -> str:
    movie_map = map_movies(vectors, movies, "pca", n)
    return explorer_page(movie_map, vectors, "sample, exact, dim 20")


def assert_served(vectors, index, rows) -> None:
    """Assert that lists of the first and last exponent are those of `Neighbours`, up to ties."""
    served = Neighbours(vectors)
    duplicates = [index.duplicates_of([row]) for row in range(len(vectors))]
    lists = nearest_movies(vectors, duplicates)
    for row in rows:
        for score, column in (("dot", 0), ("cosine", len(NORM_EXPONENTS) - 1)):
            expected = served.top([row], N_NEIGHBOURS, score, exclude=index.duplicates_of([row]))
            scores = served.scores([row], score)
            nearest = lists[row, column].tolist()
            assert row not in nearest and len({*nearest}) == N_NEIGHBOURS
            largest = np.abs(scores).max()
            np.testing.assert_allclose(
                scores[nearest], [item.score for item in expected], rtol=0, atol=3e-6 * largest
            )


def test_every_list_of_the_sample_is_the_served_models(sample):
    vectors, _, index = sample
    assert_served(vectors, index, range(len(vectors)))


@pytest.mark.real
def test_lists_of_real_movies_are_the_served_models(real_movielens):
    vectors, movies, index = embedding_of(str(real_movielens), 100)
    liked = np.flatnonzero(movies["likes"])  # a zero vector has only equal scores
    assert_served(vectors, index, liked[::20])
    page = page_of(vectors, movies, index)
    assert len(page.encode()) < MAX_BYTES


def test_between_the_ends_scores_are_divided_by_a_power_of_the_length(sample):
    vectors, *_ = sample
    lists = nearest_movies(vectors, [[]] * len(vectors))
    norms = np.linalg.norm(vectors.astype(float), axis=1)
    row = int(norms.argmax())
    for column, exponent in enumerate(NORM_EXPONENTS):
        power = np.where(norms > 0, norms, np.inf) ** -exponent
        scores = (vectors.astype(float) @ vectors[row]) * power
        scores[row] = -np.inf
        expected = np.sort(scores)[::-1][:N_NEIGHBOURS]
        np.testing.assert_allclose(scores[lists[row, column]], expected, rtol=1e-5)


def test_movies_that_are_left_out_are_in_no_list(sample):
    vectors, *_ = sample
    none = [[]] * len(vectors)
    first = int(nearest_movies(vectors, none)[0, 0, 0])
    assert first not in nearest_movies(vectors, [[first], *none[1:]])[0]
    # Nine of eleven movies are left, and no list is filled up with excluded ones.
    lists = nearest_movies(vectors[:11], [[5], *none[1:11]])
    assert lists.shape[2] == 9
    assert not {0, 5} & {*lists[0].ravel().tolist()}


def test_the_map_has_the_most_liked_first_and_places_the_others_among_them(monkeypatch, sample):
    vectors, movies, _ = sample
    monkeypatch.setattr("embedlab.movies.movie_map.MAX_PROJECTED", 40)
    movie_map = map_movies(vectors, movies, "tsne", n=60)
    assert movie_map.movies["likes"].is_monotonic_decreasing
    assert movie_map.movies["title"].tolist() == movies["title"].iloc[movie_map.rows].tolist()
    assert (movie_map.positions.shape, movie_map.n_projected) == ((60, 2), 40)
    projected = movie_map.positions[:40]
    assert (movie_map.positions.min(0) >= projected.min(0)).all()
    assert (movie_map.positions.max(0) <= projected.max(0)).all()
    assert 0.8 < movie_map.trustworthiness <= 1


@pytest.mark.parametrize(
    "vectors",
    [np.ones((30, 1)), np.zeros((30, 5)), np.eye(MIN_MAPPED - 1)],
    ids=["one direction", "zeros", "few movies"],
)
def test_there_is_no_map_of_too_few_directions(vectors):
    n = len(vectors)
    movies = pd.DataFrame({"title": [f"m{i}" for i in range(n)], "genres": "", "likes": range(n)})
    assert map_movies(vectors.astype(np.float32), movies, "tsne") is None


def test_places_are_rounded_to_a_ten_thousandth_of_the_map(sample):
    vectors, movies, _ = sample
    movie_map = map_movies(vectors, movies, "pca")
    page = explorer_page(movie_map, vectors, "sample")
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    placed = np.array([data["x"], data["y"]]).T
    shifted = movie_map.positions - movie_map.positions.min(0)
    step = shifted.max() / MAX_POSITION
    assert np.abs(placed * step - shifted).max() <= 0.51 * step
    assert data["titles"] == movie_map.movies["title"].tolist()


def test_the_page_needs_nothing_from_outside_and_says_what_it_leaves_out(sample):
    page = page_of(*sample)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(""", page)
    assert "most liked are shown" not in page
    assert "the 60 most liked are shown" in re.sub(r"\s+", " ", page_of(*sample, n=60))


@needs_chromium
@pytest.mark.slow
def test_a_browser_finds_a_typed_title_and_shows_the_models_list(sample, tmp_path):
    vectors, movies, index = sample
    script = """
      const query = document.getElementById("query"), slider = document.getElementById("exponent");
      const list = () => [...document.querySelectorAll("#list button :nth-child(3)")]
        .map((item) => item.textContent);
      const type = (text) => { query.value = text; query.dispatchEvent(new Event("input")); };
      const press = (key) => query.dispatchEvent(new KeyboardEvent("keydown", {key}));
      type("toy stroy");
      const found = [...document.querySelectorAll("#matches li")].map((item) => item.textContent);
      press("ArrowDown"); press("ArrowUp"); press("Enter");
      const dot = list();
      type("alien"); press("Escape"); press("Enter"); // what is closed is not chosen
      const kept = list();
      slider.value = slider.max; slider.dispatchEvent(new Event("input"));
      const cosine = list();
      document.querySelector("#list button").click();
      const next = document.querySelector("#chosen strong").textContent;
      const focus = document.activeElement.closest("#list") !== null;
      type("no such movie");
      const none = document.getElementById("matches").textContent;
      const canvas = document.getElementById("canvas");
      // A copy is read, again and again: of the page's own canvas Chromium would advise against it.
      const copy = new OffscreenCanvas(canvas.width, canvas.height)
        .getContext("2d", {willReadFrequently: true});
      const isDrawn = () => {
        copy.drawImage(canvas, 0, 0);
        return copy.getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v > 0);
      };
      while (!isDrawn()) await new Promise((done) => setTimeout(done, 50));
      return {found, dot, kept, cosine, next, focus, none};
    """
    seen = run_in_page(page_of(vectors, movies, index), script, tmp_path)
    (row,) = index.find_all("Toy Story")
    titles = movies["title"]
    for score in ("dot", "cosine"):
        top = Neighbours(vectors).top(
            [row], N_NEIGHBOURS, score, exclude=index.duplicates_of([row])
        )
        assert seen[score] == [titles[item.row] for item in top]
    assert seen["found"][0] == titles[row]
    assert seen["kept"] == seen["dot"]
    assert seen["next"] == seen["cosine"][0]
    assert seen["focus"]  # the keyboard can continue from the list
    assert seen["none"] == "No title found: try fewer words."


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(
    "address, chosen", [("Toy%20Story%20%281995%29", "Toy Story (1995)"), ("%", "")]
)
def test_a_link_opens_the_page_at_its_movie(sample, tmp_path, address, chosen):
    linked = f"<body><script>location.hash = '{address}';</script>"
    page = page_of(*sample).replace("<body>", linked, 1)
    script = 'return document.querySelector("#chosen strong")?.textContent ?? ""'
    assert run_in_page(page, script, tmp_path) == chosen


@needs_chromium
@pytest.mark.slow
def test_a_movie_clicked_on_the_map_is_chosen(sample, tmp_path):
    script = """
      const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect();
      while (canvas.width !== Math.floor(box.width * devicePixelRatio)) // until it has its size
        await new Promise((done) => setTimeout(done, 50));
      for (let y = box.top; y < box.bottom; y += 9)
        for (let x = box.left; x < box.right; x += 9) {
          const at = {clientX: x, clientY: y, bubbles: true};
          canvas.dispatchEvent(new PointerEvent("pointermove", at));
          if (document.getElementById("tip").hidden) continue;
          const tip = document.getElementById("tip").textContent;
          canvas.dispatchEvent(new MouseEvent("click", at));
          const chosen = document.querySelector("#chosen strong").textContent;
          const n = document.querySelectorAll("#list li").length;
          for (const genre of document.querySelectorAll("#legend button")) genre.click();
          canvas.dispatchEvent(new PointerEvent("pointermove", at)); // no dot is shown
          return {tip, chosen, n, isHidden: document.getElementById("tip").hidden};
        }
    """
    seen = run_in_page(page_of(*sample), script, tmp_path)
    assert seen["tip"].startswith(seen["chosen"])
    assert seen["n"] == N_NEIGHBOURS
    assert seen["isHidden"]
