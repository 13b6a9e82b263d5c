"""Titles as people type them, and the traps in which a guess would be another movie."""

import re
import unicodedata

import numpy as np
import pytest
from rapidfuzz.distance import OSA

from embedlab.errors import TitleError
from embedlab.movies.ratings import read_ratings
from embedlab.movies.titles import MAX_QUERY, MAX_TITLES, TitleIndex, key

CATALOGUE = {
    "Toy Story (1995)": 90,
    "Toy Story 2 (1999)": 60,
    "Shawshank Redemption, The (1994)": 100,
    "Seven (a.k.a. Se7en) (1995)": 50,
    "City of Lost Children, The (Cité des enfants perdus, La) (1995)": 20,
    "Fast & Furious (2009)": 10,
    "Amélie (2001)": 30,
    "Hamlet (1996)": 5,
    "Hamlet (2000)": 9,
    "Rocky II (1979)": 12,
    "Rocky III (1982)": 11,
    "Alien (1979)": 70,
    "Aliens (1986)": 65,
    "Bad Boys (1995)": 8,
    "Toys (1992)": 2,
    "It (1990)": 4,
    "Up (2009)": 40,
    "M (1931)": 6,
    "Forrest Gump (1994)": 95,
    "Babylon 5": 3,
}
TITLES = tuple(CATALOGUE)
INDEX = TitleIndex(TITLES, list(CATALOGUE.values()))


@pytest.mark.parametrize(
    ("typed", "title"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("Toy Story", "Toy Story (1995)"),
        ("  toy   STORY ", "Toy Story (1995)"),
        ("toy story 2", "Toy Story 2 (1999)"),
        ("The Shawshank Redemption", "Shawshank Redemption, The (1994)"),
        ("Shawshank Redemption", "Shawshank Redemption, The (1994)"),
        ("Shawshank", "Shawshank Redemption, The (1994)"),
        ("shawshenk redemtion", "Shawshank Redemption, The (1994)"),
        ("se7en", "Seven (a.k.a. Se7en) (1995)"),
        ("La cite des enfants perdus", TITLES[4]),
        ("fast and furious", "Fast & Furious (2009)"),
        ("amelie", "Amélie (2001)"),
        ("Hamlet 2000", "Hamlet (2000)"),
        ("Hamlet (1996)", "Hamlet (1996)"),
        ("rocky 3", "Rocky III (1982)"),
        ("rocky ii", "Rocky II (1979)"),
        ("alien", "Alien (1979)"),
        ("aliens", "Aliens (1986)"),
        ("it", "It (1990)"),
        ("up", "Up (2009)"),
        ("m", "M (1931)"),
        ("forest gump", "Forrest Gump (1994)"),
        ("babylon 5", "Babylon 5"),
    ],
)
def test_titles_are_found_the_way_people_type_them(typed, title):
    assert TITLES[INDEX.find(typed)] == title


@pytest.mark.parametrize("typed", ["Toy Story 7", "Rocky IV", "Bad Toys", "Ut", "Iy", "N", "Upp"])
def test_another_movie_is_never_guessed(typed):
    with pytest.raises(TitleError, match="No movie is called"):
        INDEX.find(typed)


def test_several_movies_of_a_name_are_listed_the_most_popular_first():
    with pytest.raises(TitleError, match="fits 2 movies") as error:
        INDEX.find("hamlet")
    assert error.value.candidates == ("Hamlet (2000)", "Hamlet (1996)")


def test_a_wrong_year_is_an_error_that_names_the_right_one():
    with pytest.raises(TitleError, match=r"No movie of 1999 .* Toy Story \(1995\)"):
        INDEX.find("Toy Story (1999)")


def test_an_unknown_title_suggests_the_nearest():
    with pytest.raises(TitleError, match="nearest") as error:
        INDEX.find("Toy Storyland")
    assert "Toy Story (1995)" in error.value.candidates


def test_nothing_near_says_how_titles_look():
    with pytest.raises(TitleError, match=r'titles look like "Shawshank Redemption, The \(1994\)"'):
        INDEX.find("qqqq wwww zzzz")


def test_of_two_rows_of_one_name_and_year_the_more_popular_is_meant():
    assert TitleIndex(["Emma (1996)", "Emma (1996)"], [3, 8]).find("Emma") == 1
    assert TitleIndex(["Emma (1996)", "Emma (1996)"]).find("emma (1996)") == 0


def test_several_titles_keep_their_order_and_come_once():
    found = INDEX.find_all("alien | Toy Story|| Alien (1979)")
    assert [TITLES[row] for row in found] == ["Alien (1979)", "Toy Story (1995)"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "blank"),
        ("  ", "blank"),
        (" | ", "blank"),
        (None, "must be text, but found None"),
        (5, "must be text, but found 5"),
        ("x" * (MAX_QUERY + 1), f"at most {MAX_QUERY} characters, but found {MAX_QUERY + 1}"),
        ("alien|" * (MAX_TITLES + 1), f"At most {MAX_TITLES} titles"),
        ("(1995)", "holds no name"),
    ],
)
def test_what_is_no_title_gets_one_sentence(typed, message):
    with pytest.raises(TitleError, match=message) as error:
        INDEX.find_all(typed)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def real(real_movielens):
    titles = read_ratings(real_movielens).movies["title"].tolist()
    return titles, TitleIndex(titles)


def named(title):
    return re.sub(r"\s*\(\d{4}\)\s*$", "", title)


@pytest.mark.real
def test_every_real_title_finds_itself(real):
    titles, index = real
    found = [titles[index.find(title)] for title in titles]
    assert [t.strip() for t in found] == [t.strip() for t in titles]
    assert len(titles) == 9742


@pytest.mark.real
def test_real_names_are_found_without_year_case_and_accents(real):
    titles, index = real
    keys = [key(named(title)) for title in titles]
    unique = [row for row, k in enumerate(keys) if k and keys.count(k) == 1]
    assert len(unique) > 9000
    wrong = []
    for row in unique:
        plain = unicodedata.normalize("NFD", named(titles[row]).lower())
        typed = "".join(c for c in plain if not unicodedata.combining(c))
        if index.find(typed) != row:
            wrong.append(titles[row])
    assert wrong == []


@pytest.mark.real
def test_a_wrong_letter_finds_the_movie_or_nothing_far(real):
    titles, index = real
    rng = np.random.default_rng(0)
    names = [named(title) for title in titles]
    long = [row for row, name in enumerate(names) if len(name) >= 8 and "(" not in name]
    right = 0
    for row in rng.choice(long, 500, replace=False):
        name = names[row]
        letters = [i for i, c in enumerate(name) if c.isalpha()]
        at = rng.choice(letters)
        typed = name[:at] + rng.choice(list("abcdefghij")) + name[at + 1 :]
        try:
            found = index.find(typed)
        except TitleError as error:
            right += titles[row].strip() in error.candidates  # offered, if not taken
            continue
        right += titles[found].strip() == titles[row].strip() or key(named(titles[found])) == key(
            name
        )
        # Of at most 3 letters, articles aside: what `typos_allowed` gives the longest titles.
        if titles[found] != titles[row]:
            parts = [key(part) for part in re.split(r"[()]", titles[found])]
            assert min(OSA.distance(key(typed), part) for part in parts) <= 3, (typed, found)
    assert right >= 450, right
