"""The index of near texts finds every near text, by comparison with all texts."""

import numpy as np
import pytest
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from embedlab.errors import TitleError
from embedlab_serving.near_texts import NearTextIndex
from embedlab_serving.titles import TitleIndex

LETTERS = list("abcdeé")  # few, so that many texts are near each other


def drawn_texts(rng: np.random.Generator, n: int) -> list[str]:
    lengths = rng.integers(1, 7, (n, 4))
    texts = [" ".join("".join(rng.choice(LETTERS, size)) for size in row) for row in lengths]
    return [text[: rng.integers(1, 30)].strip() for text in texts]


def mistyped(rng: np.random.Generator, text: str) -> str:
    letters = list(text)
    for _ in range(rng.integers(1, 6)):
        at = rng.integers(len(letters) + 1)
        match rng.integers(4):
            case 0:
                letters[at:at] = rng.choice(LETTERS, 1).tolist()
            case 1:
                letters[at : at + 1] = []
            case 2:
                letters[at : at + 1] = rng.choice(LETTERS, 1).tolist()
            case _:
                letters[at : at + 2] = letters[at : at + 2][::-1]
    return " ".join("".join(letters).split()) or "a"


@pytest.mark.parametrize("seed", range(3))
def test_every_text_within_a_distance_is_found(seed):
    rng = np.random.default_rng(seed)
    texts = drawn_texts(rng, 400)
    index = NearTextIndex(texts)
    n_near = n_candidates = 0
    for text in texts[:100]:
        query, distance = mistyped(rng, text), int(rng.integers(1, 4))
        far = process.cdist([query], texts, scorer=OSA.distance)[0]
        near, candidates = np.flatnonzero(far <= distance), index.within(query, distance)
        assert set(near) <= set(candidates)
        n_near, n_candidates = n_near + len(near), n_candidates + len(candidates)
    assert n_near > 50
    assert n_candidates < 0.5 * 100 * len(texts)  # most are left out, even with so few letters


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [80, 85, 95])
@pytest.mark.parametrize(
    ("find", "scorer"),
    [
        (NearTextIndex.alike, fuzz.ratio),
        (NearTextIndex.alike, fuzz.token_sort_ratio),
        (NearTextIndex.partly_alike, fuzz.partial_ratio),
    ],
)
def test_every_text_of_a_likeness_is_found(seed, ratio, find, scorer):
    rng = np.random.default_rng(seed)
    texts = drawn_texts(rng, 400)
    index = NearTextIndex(texts)
    n_near = n_candidates = 0
    for text in texts[:100]:
        query = mistyped(rng, text)
        is_near = process.cdist([query], texts, scorer=scorer)[0] >= ratio
        candidates = find(index, query, ratio)
        assert set(np.flatnonzero(is_near)) <= set(candidates)
        n_near, n_candidates = n_near + is_near.sum(), n_candidates + len(candidates)
    assert n_near > 20
    assert n_candidates < 0.8 * 100 * len(texts)  # some are left out, even with so few letters


@pytest.mark.parametrize("query_is_longer", [True, False])
def test_the_text_that_shares_the_fewest_bigrams_of_its_likeness_is_found(query_is_longer):
    # Of the second text only the beginning is compared, and every deletion changes two bigrams.
    texts = "abcdefghijklmnopqrst", "acegikmoqrst" + 10 * "z"
    query, text = texts if query_is_longer else texts[::-1]
    assert fuzz.partial_ratio(query, text) == pytest.approx(75)
    assert NearTextIndex([text, "xyz"]).partly_alike(query, 75).tolist() == [0]


def test_other_alphabets_and_many_equal_letters_are_counted():
    texts = ["семь самураев", "七人の侍", "z" * 300]
    index = NearTextIndex(texts)
    for position, text in enumerate(texts):
        assert index.within(text[1:], 1).tolist() == [position]
        assert index.alike(text[::-1], 100).tolist() == [position]


def test_unlike_texts_are_left_out():
    texts = ["lord of the rings", "toy story", "wizard of oz", "apollo 13"]
    index = NearTextIndex(texts)
    assert index.within("toy stroy", 1).tolist() == [1]
    assert index.alike("lord of teh ring", 85).tolist() == [0]
    assert index.partly_alike("appollo", 90).tolist() == [3]


def test_an_index_of_nothing_finds_nothing():
    assert NearTextIndex([]).within("toy story", 3).size == 0


@pytest.mark.parametrize("seed", range(2))
def test_suggestions_are_those_of_a_comparison_with_every_title(seed):
    rng = np.random.default_rng(seed)
    titles = list(dict.fromkeys(text for text in drawn_texts(rng, 600) if len(text) > 7))
    titles = [title for title in titles if not title.startswith("a ")]  # no articles
    index = TitleIndex(titles)
    n_unknown = 0
    for title in titles[:80]:
        query = mistyped(rng, mistyped(rng, title))
        try:
            index.find(query)
        except TitleError as error:
            if not error.args[0].startswith("No movie is called") or len(query) < 8:
                continue
            n_unknown += 1
            assert list(error.candidates) == nearest_titles(query, titles)
    assert n_unknown > 20


def nearest_titles(query: str, titles: list[str]) -> list[str]:
    """The eight titles that an error lists, by definition, from all that are long enough."""
    plain = [title.replace("é", "e") for title in titles]
    typed = query.replace("é", "e").removeprefix("a ")
    ratio, sorted_ratio, part = (
        process.cdist([typed], plain, scorer=scorer)[0]
        for scorer in (fuzz.ratio, fuzz.token_sort_ratio, fuzz.partial_ratio)
    )
    full = np.maximum(ratio, sorted_ratio)
    listed, score = np.maximum(full, 0.9 * part), np.maximum(full, 0.8 * part).round()
    listed[[len(title) < 0.6 * len(typed) for title in plain]] = 0
    limit = max(72, listed.max() - 12)
    near = np.flatnonzero(listed >= limit)
    return [titles[i] for i in sorted(near, key=lambda i: (-score[i], i))][:8]
