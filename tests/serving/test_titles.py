"""Titles as people type them, and queries for which a guess would be another movie."""

import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from rapidfuzz.distance import OSA

from embedlab.errors import TitleError
from embedlab.movies.data.ratings import read_ratings
from embedlab_serving.titles import (
    MAX_QUERY,
    MAX_TITLES,
    TitleIndex,
    canonical,
    normalise,
    repeated_titles,
)

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
    "Wizard of Oz, The (1939)": 55,
    "Wrath of the Titans (2012)": 7,
    "Like Water for Chocolate (Como agua para chocolate) (1992)": 14,
    "Water for Elephants (2011)": 6,
    "Lie, The (1992)": 1,
    "Man with the Golden Arm, The (1955)": 5,
    "Gun Crazy (1949)": 4,
    "Colombiana (2011)": 8,
    "Delta Force 2 (Delta Force 2: The Colombian Connection) (1990)": 2,
    "Ocean's Twelve (2004)": 33,
    "Spider-Man (2002)": 80,
    "Birdman: Or (The Unexpected Virtue of Ignorance) (2014)": 45,
    "Death Race 2000 (1975)": 5,
    "Malcolm X (1992)": 9,
    "E.T. the Extra-Terrestrial (1982)": 85,
    "Apollo 13 (1995)": 88,
    "Vitamin C (2000)": 1,
    "Birdman of Alcatraz (1962)": 13,
    "Italian Job, The (2003)": 15,
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
        ("TOY STORY (1995)", "Toy Story (1995)"),
        ("Toy Story 1995", "Toy Story (1995)"),
        ("toy story, 1995", "Toy Story (1995)"),
        ("Shawshank Redemption, The", "Shawshank Redemption, The (1994)"),
        ("the shawshank redemption (1994)", "Shawshank Redemption, The (1994)"),
        ("shawshank redemtion", "Shawshank Redemption, The (1994)"),
        ("Cité des enfants perdus, La", TITLES[4]),
        ("city of lost children", TITLES[4]),
        ("Seven", "Seven (a.k.a. Se7en) (1995)"),
        ("Se7en (1995)", "Seven (a.k.a. Se7en) (1995)"),
        ("Fast & Furious", "Fast & Furious (2009)"),
        ("AMÉLIE!", "Amélie (2001)"),
        ("oceans 12", "Ocean's Twelve (2004)"),
        ("Ocean’s Twelve", "Ocean's Twelve (2004)"),
        ("spiderman", "Spider-Man (2002)"),
        ("spider man", "Spider-Man (2002)"),
        ("birdman", "Birdman: Or (The Unexpected Virtue of Ignorance) (2014)"),
        ("death race 2000", "Death Race 2000 (1975)"),
        ("et the extra terrestrial", "E.T. the Extra-Terrestrial (1982)"),
        ("apollo 13", "Apollo 13 (1995)"),
        ("Teh Wizard of Oz", "Wizard of Oz, The (1939)"),
        ("oThe Wizard of Oz", "Wizard of Oz, The (1939)"),
        ("Wrath f the Titans", "Wrath of the Titans (2012)"),
        ("Lie Water for Chocolate", TITLES[22]),
        ("Colombiana", "Colombiana (2011)"),
        ("Colombian Connection", TITLES[28]),
    ],
)
def test_titles_are_found_the_way_people_type_them(typed, title):
    assert TITLES[INDEX.find(typed)] == title


@pytest.mark.parametrize(
    "typed",
    [
        "Toy Story 7", "Rocky IV", "Rocky 4", "Babylon 6", "Apollo 14", "Ocean's Eleven",
        "Bad Toys", "Malcolm Y", "Vitamin D", "The Man with the Golden Gun",
        "Ut", "Iy", "N", "Upp", "Alian", "Aleins", "a", "X",
    ],
)  # fmt: skip
def test_another_movie_is_never_guessed(typed):
    with pytest.raises(TitleError, match="No movie is called"):
        INDEX.find(typed)


def test_several_movies_of_a_name_are_listed_the_most_popular_first():
    with pytest.raises(TitleError, match="fits 2 movies") as error:
        INDEX.find("hamlet")
    assert error.value.candidates == ("Hamlet (2000)", "Hamlet (1996)")


def test_a_part_of_one_movie_that_nearly_names_another_is_a_question():
    with pytest.raises(TitleError, match="fits 2 movies") as error:
        INDEX.find("Colombian")
    assert error.value.candidates == (TITLES[27], TITLES[28])


def test_a_part_of_several_titles_is_ambiguous():
    with pytest.raises(TitleError, match="fits 2 movies") as error:
        INDEX.find("water for")
    assert error.value.candidates == (TITLES[22], TITLES[23])


def test_a_wrong_year_is_an_error_that_names_the_right_one():
    with pytest.raises(TitleError, match=r"No movie of 1999 .* Toy Story \(1995\)"):
        INDEX.find("Toy Story (1999)")


def test_the_year_0_is_a_wrong_year_too():
    with pytest.raises(TitleError, match=r"No movie of 0 .* Toy Story \(1995\)"):
        INDEX.find("Toy Story (0000)")


def test_an_unknown_title_suggests_the_nearest():
    with pytest.raises(TitleError, match="nearest") as error:
        INDEX.find("Toy Storyland")
    assert error.value.candidates == ("Toy Story (1995)", "Toy Story 2 (1999)")


def test_a_whole_name_is_suggested_before_a_part():
    with pytest.raises(TitleError, match="nearest") as error:
        INDEX.find("Alian")
    assert error.value.candidates[0] == "Alien (1979)"


def test_a_common_word_is_not_a_reason_to_suggest():
    with pytest.raises(TitleError, match="nearest") as error:
        INDEX.find("The Wizzard of Az, Part 3")
    assert error.value.candidates == ("Wizard of Oz, The (1939)",)


def test_without_a_near_title_the_error_shows_how_titles_look():
    with pytest.raises(TitleError, match=r'titles look like "Shawshank Redemption, The \(1994\)"'):
        INDEX.find("qqqq wwww zzzz")
    with pytest.raises(TitleError, match="titles look like"):
        INDEX.find("Cup of Tea")  # has "Up" in it


def test_of_two_rows_of_one_name_and_year_the_more_popular_is_meant():
    assert TitleIndex(["Emma (1996)", "Emma (1996)"], [3, 8]).find("Emma") == 1
    assert TitleIndex(["Emma (1996)", "Emma (1996)"]).find("emma (1996)") == 0


def test_several_titles_keep_their_order_and_come_once():
    rows = INDEX.find_all("alien | Toy Story|| Alien (1979)")
    assert [TITLES[row] for row in rows] == ["Alien (1979)", "Toy Story (1995)"]


def test_of_several_titles_the_unknown_one_is_named():
    with pytest.raises(TitleError, match='"Toy Story 7"'):
        INDEX.find_all("alien | Toy Story 7")


def test_as_many_titles_as_are_allowed():
    assert len(INDEX.find_all("|".join(["alien", "aliens"] * (MAX_TITLES // 2)))) == 2


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "blank"),
        ("  ", "blank"),
        (" | ", "blank"),
        ("|", "blank"),
        ("...", "holds no name"),
        (["Alien"], "must be text, but found"),
        (None, "must be text, but found None"),
        (5, "must be text, but found 5"),
        ("x" * (MAX_QUERY + 1), f"at most {MAX_QUERY} characters, but found {MAX_QUERY + 1}"),
        ("alien|" * (MAX_TITLES + 1), f"At most {MAX_TITLES} titles"),
        ("(1995)", "holds no name"),
    ],
)
def test_a_query_without_a_title_is_refused_in_one_sentence(typed, message):
    with pytest.raises(TitleError, match=message) as error:
        INDEX.find_all(typed)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# ---------------------------------------------------------------------------------------------
# The real catalogue
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_movielens):
    ratings = read_ratings(real_movielens)
    titles = ratings.movies["title"].tolist()
    return titles, TitleIndex(titles, np.bincount(ratings.movie, minlength=len(titles)))


def without_year(title):
    return re.sub(r"\s*\(\d{4}(–\d{4})?\)\s*$", "", title)


def as_spoken(title):
    """ "Trou, Le (Hole, The) (1960)" is "Le Trou"."""
    name = re.sub(r"(?<=\S)\s*\(.*", "", title)
    return re.sub(r"^(.*), (The|An?|Les?|La|L'|Das|Der|Die|El|Los|Il)$", r"\2 \1", name).replace(
        "L' ", "L'"
    )


def without_accents(text):
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def found_rows(index, typed):
    """The row of each query, or the error's text."""
    results = []
    for query in typed:
        try:
            results.append(index.find(query))
        except TitleError as error:
            results.append(str(error))
    return results


@pytest.mark.real
@pytest.mark.parametrize(
    ("typed", "title"),
    [
        ("Apollo 13", "Apollo 13 (1995)"),
        ("toy story", "Toy Story (1995)"),
        ("The Shawshank Redemption", "Shawshank Redemption, The (1994)"),
        ("shawshank redemtion", "Shawshank Redemption, The (1994)"),
        ("forest gump", "Forrest Gump (1994)"),
        ("se7en", "Seven (a.k.a. Se7en) (1995)"),
        ("the godfather part ii", "Godfather: Part II, The (1974)"),
        ("Empire Strikes Back", "Star Wars: Episode V - The Empire Strikes Back (1980)"),
    ],
)
def test_the_examples_of_the_readme_are_found(real, typed, title):
    titles, index = real
    assert titles[index.find(typed)] == title


@pytest.mark.real
def test_every_real_title_finds_itself(real):
    titles, index = real
    assert len(titles) == 9742
    answers = [titles[index.find(title)].strip() for title in titles]
    assert answers == [title.strip() for title in titles]  # five titles name two rows each


@pytest.mark.real
@pytest.mark.parametrize(
    ("spelling", "n_names"),
    [
        (without_year, 9189),
        (lambda title: without_year(title).lower(), 9189),
        (lambda title: without_accents(without_year(title)), 9189),
        (as_spoken, 9064),
        (lambda title: without_accents(as_spoken(title)).upper(), 9064),
    ],
    ids=["no year", "lower case", "no accents", "article in front", "spoken, upper case"],
)
def test_every_name_that_is_unique_finds_its_movie(real, spelling, n_names):
    titles, index = real
    typed = [spelling(title) for title in titles]
    times = Counter(map(normalise, typed))
    unique = [row for row, text in enumerate(typed) if times[normalise(text)] == 1]
    assert len(unique) == n_names
    wrong = {
        typed[row]: answer
        for row, answer in zip(
            unique, found_rows(index, [typed[row] for row in unique]), strict=True
        )
        if answer != row
    }
    assert wrong == {}


def mistyped(rng, name):
    """`name` with one letter replaced, dropped, inserted, or swapped with the next."""
    at = int(rng.choice([i for i, c in enumerate(name) if c.isalpha()]))
    letter = chr(rng.integers(ord("a"), ord("z") + 1))
    changed = (letter, "", letter + name[at], name[at + 1 : at + 2] + name[at])
    kind = int(rng.integers(4))
    return name[:at] + changed[kind] + name[at + (2 if kind == 3 else 1) :]


def names_of(title):
    whole = without_year(title)
    parts = [as_spoken(part) for part in re.split(r"[()]", whole) if part.strip()]
    return {spelt(part) for part in [*parts, whole] for spelt in (normalise, canonical)}


def letters_apart(typed, title):
    """Wrong letters between `typed` and the nearest name of `title`; 0 for a part of the title."""
    for name in names_of(title):
        if any(f" {spelt(typed)} " in f" {name} " for spelt in (normalise, canonical)):
            return 0
    # Spaces and articles do not count as letters: "Spiderman", "Teh Wizard of Oz".
    return min(
        OSA.distance(spelt(typed).replace(" ", ""), name.replace(" ", ""))
        for name in names_of(title)
        for spelt in (normalise, canonical)
    )


def letters_allowed(typed):
    """0 below 6 letters, where every word is a neighbour of another; then about one in seven, which
    leaves most of each word unchanged; at most 3. The numbers are literal, so that a change of
    `typos_allowed` is noticed."""
    length = len(normalise(typed))
    return 0 if length < 6 else 1 if length < 12 else 2 if length < 20 else 3


@pytest.mark.real
def test_of_500_mistyped_titles_9_in_10_find_their_movie_and_none_a_far_one(real):
    titles, index = real
    rng = np.random.default_rng(0)
    # Only names that find their movie if they are typed right: the others are ambiguous anyway.
    long = [row for row, title in enumerate(titles) if sum(map(str.isalpha, as_spoken(title))) >= 8]
    answers = found_rows(index, [as_spoken(titles[row]) for row in long])
    rows = [row for row, got in zip(long, answers, strict=True) if got == row]
    assert len(rows) > 7500
    chosen = rng.choice(rows, 500, replace=False)
    typed = [mistyped(rng, as_spoken(titles[row])) for row in chosen]
    answers = found_rows(index, typed)
    right = sum(got == row for row, got in zip(chosen, answers, strict=True))
    others = [
        (text, titles[got])
        for row, text, got in zip(chosen, typed, answers, strict=True)
        if isinstance(got, int) and got != row
    ]
    # 91% over 3,000 of them; the standard error of 500 is 1.3%, the seed is fixed.
    assert right >= 450
    # The rest is another movie's own name or part ("Lawless"), or within the limit of a guess.
    assert [pair for pair in others if letters_apart(*pair) > letters_allowed(pair[0])] == []
    assert len(others) <= 5  # 0.2% over 3,000: names that differ in the mistyped letter


@pytest.mark.real
def test_a_missing_movie_is_hardly_ever_taken_for_another(real):
    titles, _ = real
    index = TitleIndex(titles[::2])
    known = {normalise(as_spoken(title)) for title in titles[::2]}
    lacking = [title for title in titles[1::2] if normalise(as_spoken(title)) not in known]
    chosen = np.random.default_rng(0).choice(lacking, 600, replace=False).tolist()

    answers = found_rows(index, [as_spoken(title) for title in chosen])
    guesses = [
        (as_spoken(title), index.titles[got])
        for title, got in zip(chosen, answers, strict=True)
        if isinstance(got, int)
    ]
    guesses = [pair for pair in guesses if letters_apart(*pair) > 0]
    # 0.4% over 4,658: "The Closet" for "Closer"; twice that is 5 of 600.
    assert len(guesses) <= 5, guesses
    assert [pair for pair in guesses if letters_apart(*pair) > letters_allowed(pair[0])] == []


def test_a_number_spelt_out_is_not_the_movie_named_by_the_figure():
    index = TitleIndex(["9 (2009)", "Alien (1979)"])
    assert index.find("9") == 0
    with pytest.raises(TitleError, match="No movie is called"):
        index.find("Nine")


@pytest.mark.parametrize("typed", ["The Crow: Wicked Prayer", "Crow: Wicked Prayer"])
def test_an_article_before_the_colon_may_stand_in_front_or_be_left_out(typed):
    assert TitleIndex(["Crow, The (1994)", "Crow, The: Wicked Prayer (2005)"]).find(typed) == 1


@pytest.mark.parametrize("query", ["E.T.", "ET", "e.t.", "E. T.", "E.T. (1982)"])
def test_initials_at_the_start_of_a_title_name_it(query):
    assert TITLES[INDEX.find(query)] == "E.T. the Extra-Terrestrial (1982)"


def test_initials_that_begin_several_titles_list_all_of_them():
    index = TitleIndex(["L.A. Confidential (1997)", "L.A. Story (1991)", "Haine, La (1995)"])
    with pytest.raises(TitleError) as refused:
        index.find("LA")
    assert set(refused.value.candidates) == {"L.A. Confidential (1997)", "L.A. Story (1991)"}


def test_rows_of_one_name_and_year_are_duplicates_and_listed():
    titles = [
        "Chasing Amy (1997)",
        "Emma (1996)",
        "chasing amy (1997)",
        "Emma (2009)",
        "Emma (1996)",
    ]
    index = TitleIndex(titles)
    assert index.duplicates_of([0]) == [2]
    assert index.duplicates_of([1, 2]) == [0, 4]
    assert index.duplicates_of([0, 2]) == []
    assert index.duplicates_of([3]) == []
    assert repeated_titles(titles) == ["Chasing Amy (1997)", "Emma (1996)"]
