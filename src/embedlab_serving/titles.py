"""Movie titles, found the way people type them.

In: the titles of a catalogue in row order, as MovieLens writes them: ``Shawshank Redemption, The
(1994)``, ``Seven (a.k.a. Se7en) (1995)``, ``Babylon 5``. Out: the row of the movie that a query
names, or a :class:`~embedlab.errors.TitleError` that lists what may have been meant.

A query goes through stages, strictest first, and the first stage that knows it answers:

1. the title as it stands, whatever its case;
2. the name with its article, then without, then the same for the alternate names in parentheses;
3. the name with numbers in one spelling ("Rocky 3", "Godfather 2"), then without spaces
   ("Spiderman"), then only what stands before a colon ("Birdman"), or the initials that the name
   begins with ("E.T.");
4. a phrase that one movie only contains ("Shawshank");
5. a small typo ("Forest Gump").

A year at the end narrows every stage, and is never ignored: the wrong year is an error.

Only a typo guesses, so it has to be close (:func:`typos_allowed`), the runner-up has to be more
than twice as far, numbers and single letters at the ends have to agree, and the misspelt word must
be none that the catalogue knows, unless one letter is wrong and the other words of the query are
together in that movie alone. All else is answered by an error with suggestions: to ask once more is
cheaper than a wrong movie.

Title format: https://files.grouplens.org/datasets/movielens/ml-latest-small-README.html
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from embedlab_serving.errors import DataError, TitleError

MAX_QUERY = 500  # characters of one title; the longest of MovieLens has about 200
MAX_TITLES = 50  # titles in one query
MAX_LISTED = 8  # titles in one error text
MIN_PART = 3  # characters of a part of a title
MIN_TYPO = 6  # characters of a title with a typo: below, every word is a neighbour of another

# ---------------------------------------------------------------------------------------------
# Text to key
# ---------------------------------------------------------------------------------------------

# Letters and signs that Unicode does not take apart by itself, or takes apart without a space.
_LETTERS = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i"}
    | {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "²": " 2", "³": " 3"}
    | dict.fromkeys("’‘ʼ´`", "'")
)
_ASCII_PUNCTUATION = str.maketrans(
    {c: " " for c in '!"#$%()*,-./:;<=>?@[\\]^_{|}~+'} | {"&": " and ", "'": None, "`": None}
)
_OTHER_PUNCTUATION = re.compile(r"[^\w\s]|_")
_INITIALS = re.compile(r"\b([^\W\d_])\.(?=[^\W\d_]\b)")  # the first dots of "e.t." and "l.a."
_LEADING_INITIALS = re.compile(r"(?:[^\W\d_]\.\s?){2,}")
_YEAR_IN_PARENTHESES = re.compile(r"\s*\(\s*(\d{4})(?:\s*[-–]\s*(\d{4})?)?\s*\)\s*$")
_YEAR_AT_END = re.compile(r"[\s,]+((?:18|19|20)\d\d)\s*$")
_LAST_GROUP = re.compile(r"\s*\(([^()]*)\)\s*$")
_ALSO_KNOWN_AS = re.compile(r"^a\.?\s?k\.?\s?a\.?\s+", re.IGNORECASE)
_LAST_ARTICLE = re.compile(
    r"^(.*\S),\s*(the|an?|l[ea']|les|el|l[oa]s|il|lo|gli|i|der|die|das|den|det|de|het"
    r"|une?|una|eine?|os?)$",
    re.IGNORECASE,
)
_ARTICLE_BEFORE_COLON = re.compile(r"^([^:]*\S),\s*(the|an?)\s*(:.*)$", re.IGNORECASE)
_ARTICLES = ("the ", "a ", "an ")
_SECTIONS = re.compile(r":|\s[-–]\s")

# One spelling for what people write in several ways. A single i, v or x is a numeral only where
# its place says so: see `canonical`.
_ROMAN = {
    **{"ii": 2, "iii": 3, "iv": 4, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "xi": 11, "xii": 12},
    **{"xiii": 13, "xiv": 14, "xv": 15, "xvi": 16, "xvii": 17, "xviii": 18, "xix": 19, "xx": 20},
}
_ENGLISH = {
    **{"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8},
    **{"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13},
}
_SPELLING = {word: str(number) for word, number in (_ROMAN | _ENGLISH).items()} | {
    "doctor": "dr",
    "mister": "mr",
    "versus": "v",
    "vs": "v",
    "n": "and",
}
_PARTS = frozenset(("part", "pt", "episode", "chapter", "volume", "vol"))
_SINGLE_ROMAN = {"i": "1", "v": "5", "x": "10"}


def key(text: str) -> str:
    """The words of `text`: lower case, no accents, no punctuation, "&" as "and", single spaces."""
    text = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
        text = _OTHER_PUNCTUATION.sub(lambda c: c[0] if c[0] in "&.'" else " ", text)
    if "." in text:
        text = _INITIALS.sub(r"\1", text)
    return " ".join(text.translate(_ASCII_PUNCTUATION).split())


def without_article(key: str) -> str:
    """`key` without a leading "the", "a" or "an", unless nothing would be left."""
    for article in _ARTICLES:
        if key.startswith(article):
            return key[len(article) :]
    return key


def article_first(name: str) -> tuple[str, str]:
    """`name` with its article in front, and without: "Trou, Le" is ("Le Trou", "Trou")."""
    if "," not in name:
        return name, name
    if found := _LAST_ARTICLE.match(name):
        body, article = found.groups()
    elif found := _ARTICLE_BEFORE_COLON.match(name):  # "Crow, The: Wicked Prayer"
        body, article = found[1] + found[3], found[2]
    else:
        return name, name
    return (f"{article}{body}" if article.endswith("'") else f"{article} {body}"), body


def numbered(name: str) -> str:
    """The key of `name` with numbers in one spelling.

    "Rocky III" and "Rocky 3" are the same, so are "Godfather: Part II" and "Godfather 2", "Ocean's
    Twelve" and "Oceans 12". A name of one word stays as it is: "Nine" is not the movie "9".
    """
    if " " not in (word := key(name)):
        return word
    words: list[str] = []
    for section in _SECTIONS.split(name):
        tokens = key(section).split()
        for place, token in enumerate(tokens):
            after_part = bool(words) and words[-1] in _PARTS
            if after_part and token in _SINGLE_ROMAN:  # "Episode V", "Part I"
                token = _SINGLE_ROMAN[token]
            elif token == "v" and 0 < place == len(tokens) - 1:  # "Rocky V", "Star Trek V: ..."
                token = "5"
            else:
                token = _SPELLING.get(token, token)
            if after_part and token.isdecimal():
                words.pop()
            words.append(token)
    return " ".join(words)


def canonical(name: str) -> str:
    """As `numbered`, without a leading article."""
    return without_article(numbered(name))


def compact(key: str) -> str:
    """`key` without spaces, except between two digits: "8 1 2" is not "812"."""
    return re.sub(r"(?<!\d) | (?!\d)", "", key)


def marks(key: str) -> list[str]:
    """What tells movies apart, so that no typo may change it: numbers, and single letters that are
    a numeral or stand at an end ("Malcolm X", "Plan B"). In "Wrath f the Titans" one is a typo."""
    words = key.split()
    ends = (words[:1] + words[-1:]) if words else []
    single = (w for w in words if w in _SINGLE_ROMAN or (w in ends and len(w) == 1 and w != "a"))
    return [*re.findall(r"\d+", key), *(w for w in single if w.isalpha())]


def typos_allowed(key: str) -> int:
    """Letters that may be wrong, missing, too many or swapped: about one in seven, at most 3."""
    length = len(key)
    return 0 if length < MIN_TYPO else 1 if length < 12 else 2 if length < 20 else 3


class ParsedTitle(NamedTuple):
    """The parts of a title. `years` is (first, last), or None where the title has no year."""

    whole: str  # all but the year
    name: str
    alternates: tuple[str, ...]
    years: tuple[int, int] | None


def parse_title(title: str) -> ParsedTitle:
    """Takes a title apart: name, alternate names, year or years."""
    whole, years = title.strip(), None
    if found := _YEAR_IN_PARENTHESES.search(whole):
        years = int(found[1]), int(found[2] or found[1])
        whole = whole[: found.start()]
    name, alternates = whole, []
    while name.endswith(")") and (found := _LAST_GROUP.search(name)) and found.start() > 0:
        alternates.insert(0, _ALSO_KNOWN_AS.sub("", found[1].strip()))
        name = name[: found.start()]
    return ParsedTitle(whole, name, tuple(alternates), years)


_Identity = tuple[str, tuple[int, int] | None]  # the same for two rows of the same name and year


def _identity(title: str, parsed: ParsedTitle) -> _Identity:
    return key(article_first(parsed.name)[0]) or title, parsed.years


def repeated_titles(titles: Iterable[str]) -> list[str]:
    """A title for each name and year that stands in several of the rows, in their order."""
    rows: dict[_Identity, list[str]] = {}
    for title in titles:
        rows.setdefault(_identity(title, parse_title(title)), []).append(title)
    return [found[0] for found in rows.values() if len(found) > 1]


# ---------------------------------------------------------------------------------------------
# The index
# ---------------------------------------------------------------------------------------------


class _Query(NamedTuple):
    """One reading of a query: the text, perhaps with a year taken from its end, and its keys."""

    text: str
    year: int | None
    whole: str
    full: str
    bare: str
    canonical: str


def _reading(text: str, year: int | None) -> _Query:
    front, body = article_first(text)
    full = key(front)
    bare = without_article(full) if front == body else key(body)
    return _Query(text, year, key(text), full, bare, canonical(body))


def _readings(text: str) -> list[_Query]:
    """The whole text first ("Death Race 2000"), then with its end as a year ("Hamlet 2000")."""
    if found := _YEAR_IN_PARENTHESES.search(text):
        return [_reading(text[: found.start()].strip(), int(found[1]))]
    readings = [_reading(text, None)]
    if found := _YEAR_AT_END.search(text):
        readings.append(_reading(text[: found.start()].strip(), int(found[1])))
    return readings


class _Phrases:
    """Finds the movies with a phrase in one of their names, by one search in one long string."""

    def __init__(self, names: Iterable[tuple[str, int]]):
        self._starts, self._rows, lines, at = [], [], [], 0
        for name, row in names:
            self._starts.append(at)
            self._rows.append(row)
            lines.append(f" {name} \n")
            at += len(lines[-1])
        self._text = "".join(lines)

    def rows(self, phrase: str) -> list[int]:
        if not phrase:
            return []
        phrase, found, at = f" {phrase} ", {}, -1
        while (at := self._text.find(phrase, at + 1)) >= 0:
            found[self._rows[bisect_right(self._starts, at) - 1]] = None
        return list(found)


class TitleIndex:
    """Finds movies by title; see the module's docstring for the stages.

    `titles`: one title a row, as in MovieLens. `popularity`: likes per movie in the same order; it
    decides between two rows of the same name and year, and orders the titles that errors list
    (without it, the order of the rows does both). Nothing changes after construction, so threads
    may share an index. Raises DataError where there are no titles, or the two differ in length.
    """

    def __init__(self, titles: Sequence[str], popularity: Sequence[int] | np.ndarray | None = None):
        self.titles: tuple[str, ...] = tuple(titles)
        if not self.titles:
            raise DataError(
                "A catalogue needs at least one title, but the list of titles is empty."
            )
        for row, title in enumerate(self.titles):
            if not isinstance(title, str):
                raise DataError(
                    f"Titles must be text, but row {row} holds {title!r}; check the titles' column."
                )
        likes = np.zeros(len(self.titles)) if popularity is None else np.asarray(popularity)
        if likes.shape != (len(self.titles),):
            raise DataError(
                f"Popularity must be one number a title ({len(self.titles)}), but its shape is "
                f"{likes.shape}; give both in the same order."
            )
        order = np.argsort(-likes.astype(np.float64), kind="stable")  # ties: the lower row first
        self._rank = np.empty(len(order), np.int64)
        self._rank[order] = np.arange(len(order))
        self._rank = self._rank.tolist()
        self._example = self.titles[order[0]].strip()
        self._build()

    def _build(self) -> None:
        as_is, whole, full, bare, also, also_bare = ({} for _ in range(6))
        number, joined, head, initials, articled = ({} for _ in range(5))
        self._years: list[tuple[int, int] | None] = []
        self._identity: list[_Identity] = []  # by row
        plain_names: list[tuple[str, int]] = []
        number_names: list[tuple[str, int]] = []

        def add(level: dict[str, list[int]], name: str, row: int) -> None:
            if name:
                rows = level.setdefault(name, [])
                if not rows or rows[-1] != row:
                    rows.append(row)

        for row, title in enumerate(self.titles):
            parsed = parse_title(title)
            self._years.append(parsed.years)
            self._identity.append(_identity(title, parsed))
            add(as_is, " ".join(title.casefold().split()), row)
            add(whole, key(parsed.whole), row)
            for name in (parsed.name, *parsed.alternates):
                primary = name is parsed.name
                front, body = article_first(name)
                name_full = key(front)
                name_bare = without_article(name_full) if front == body else key(body)
                name_number = canonical(body)
                add(full if primary else also, name_full, row)
                add(bare if primary else also_bare, name_bare, row)
                add(number, name_number, row)
                add(joined, compact(name_number), row)
                if primary and (colon := _SECTIONS.search(body)):
                    add(head, canonical(body[: colon.start()]), row)
                if found := _LEADING_INITIALS.match(body):
                    add(initials, compact(key(found[0])), row)
                if (with_article := numbered(front)) != name_number:
                    add(articled, with_article, row)
                plain_names.append((name_full, row))
                number_names.append((name_number, row))

        self._rows_of: dict[_Identity, list[int]] = {}
        for row, identity in enumerate(self._identity):
            self._rows_of.setdefault(identity, []).append(row)

        # Strictest first: where to look, and by which key of the query.
        self._as_is = as_is
        self._levels: tuple[tuple[dict[str, list[int]], Callable[[_Query], str]], ...] = (
            (whole, lambda q: q.whole),
            (full, lambda q: q.full),
            (bare, lambda q: q.bare),
            (also, lambda q: q.full),
            (also_bare, lambda q: q.bare),
            (number, lambda q: q.canonical),
            (joined, lambda q: compact(q.canonical)),
            (head, lambda q: q.canonical),
            (initials, lambda q: compact(q.full)),
        )
        self._phrases = _Phrases(plain_names)
        self._number_phrases = _Phrases(number_names)
        # For typos: every name once and its rows, then the same with articles in front, which are
        # misspelt, too ("Teh Wizard of Oz"); and the rows that each word is in.
        self._names: list[str] = [*number, *articled]
        self._name_rows: list[list[int]] = [*number.values(), *articled.values()]
        self._lengths = np.array([len(name) for name in self._names])
        self._word_rows: dict[str, set[int]] = {}
        for name, rows in number.items():
            for word in name.split():
                self._word_rows.setdefault(word, set()).update(rows)

    # -- public ------------------------------------------------------------------------------

    def find(self, query: str) -> int:
        """The row of the movie that `query` names.

        Raises TitleError where it names none, or several that the exact name cannot tell apart;
        `candidates` then holds the titles that may have been meant, most popular first where they
        fit equally, nearest first where none fits.
        """
        text = self._checked(query)
        if text.count("|"):
            raise TitleError(
                f"One title was expected, but {_quoted(text)} has a '|', which separates titles; "
                "ask for one title at a time."
            )
        if rows := self._as_is.get(" ".join(text.casefold().split())):
            return self._one_of(rows, text)
        readings = [q for q in _readings(text) if q.whole]
        if not readings:
            raise TitleError(
                f"A movie title was expected, but {_quoted(text)} holds no name; write one such as "
                f'"{self._example}".'
            )
        for reading in readings:
            for level, key_of in self._levels:
                if rows := self._of_year(level.get(key_of(reading), ()), reading.year):
                    return self._one_of(rows, text)
        for reading in readings:
            self._refuse_wrong_year(reading)
        for reading in readings:
            if len(reading.full) >= MIN_PART and (rows := self._containing(reading)):
                # "Colombian" is a part of one movie and nearly the whole of another.
                near = self._near(reading, typos_allowed(reading.canonical))
                return self._one_of({*rows, *(r for _, more, _ in near for r in more)}, text)
        for reading in readings:
            if rows := self._misspelt(reading):
                return self._one_of(rows, text)
        raise self._unknown(readings[-1], text)

    def find_all(self, query: str) -> list[int]:
        """The rows of several titles separated by "|": "Apollo 13 | Toy Story".

        In the order of the query, each row once; blank parts are skipped. Raises TitleError as
        `find` does, for the first title that is not found.
        """
        if not isinstance(query, str):
            self._checked(query)
        parts = [part for part in query.split("|") if part.strip()]
        if len(parts) > MAX_TITLES:
            raise TitleError(
                f"At most {MAX_TITLES} titles fit in one query, but found {len(parts)}; ask in "
                "several queries."
            )
        return list(dict.fromkeys(self.find(part) for part in parts or [""]))

    def duplicates_of(self, rows: Iterable[int]) -> list[int]:
        """The other rows of the same name and year as one of `rows`."""
        rows = set(rows)
        return sorted({r for row in rows for r in self._rows_of[self._identity[row]]} - rows)

    # -- stages ------------------------------------------------------------------------------

    def _checked(self, query: object) -> str:
        like = f'such as "{self._example}"'
        if not isinstance(query, str):
            raise TitleError(
                f"A movie title must be text, but found {_short(repr(query))} "
                f"({type(query).__name__}); write a title {like}."
            )
        text = " ".join(query.split())
        if not text:
            raise TitleError(
                f"A movie title was expected, but the text is blank; write one {like}."
            )
        if len(text) > MAX_QUERY:
            raise TitleError(
                f"A movie title has at most {MAX_QUERY} characters, but found {len(text)}; write "
                f"one {like}."
            )
        return text

    def _of_year(self, rows: Iterable[int], year: int | None) -> list[int]:
        if year is None:
            return list(rows)
        return [r for r in rows if (years := self._years[r]) and years[0] <= year <= years[1]]

    def _by_popularity(self, rows: Iterable[int]) -> list[int]:
        """Most popular first, only the first of each name and year."""
        first: dict[tuple, int] = {}
        for row in sorted(rows, key=self._rank.__getitem__):
            first.setdefault(self._identity[row], row)
        return list(first.values())

    def _one_of(self, rows: Iterable[int], text: str) -> int:
        movies = self._by_popularity(rows)
        if len(movies) == 1:
            return movies[0]
        candidates = tuple(self.titles[row].strip() for row in movies)
        raise TitleError(
            f"{_quoted(text)} fits {len(movies)} movies: {_listed(candidates)}; write one of these "
            "titles in full.",
            candidates,
        )

    def _refuse_wrong_year(self, q: _Query) -> None:
        if q.year is None:
            return
        for level, key_of in self._levels:
            if rows := level.get(key_of(q)):
                candidates = tuple(self.titles[row].strip() for row in self._by_popularity(rows))
                raise TitleError(
                    f"No movie of {q.year} is called {_quoted(q.text)}, but there is "
                    f"{_listed(candidates)}; correct the year or leave it out.",
                    candidates,
                )

    def _containing(self, q: _Query) -> list[int]:
        for phrases, phrase in (
            (self._phrases, q.full),
            (self._phrases, q.bare),
            (self._number_phrases, q.canonical),
        ):
            if rows := self._of_year(phrases.rows(phrase), q.year):
                return rows
        return []

    def _near(self, q: _Query, most: int) -> list[tuple[int, list[int], str]]:
        """(distance, rows, name) of the names at most so far from the query, nearest first."""
        found = process.extract(
            q.canonical, self._names, scorer=OSA.distance, score_cutoff=most, limit=None
        )
        return [
            (distance, rows, name)
            for name, distance, i in found
            if marks(name) == marks(q.canonical)
            and (rows := self._of_year(self._name_rows[i], q.year))
        ]

    def _misspelt(self, q: _Query) -> list[int]:
        """The rows of the one name that is close, clearly ahead, and not a different title."""
        if not (allowed := typos_allowed(q.canonical)):
            return []
        near = self._near(q, 2 * allowed)
        if not near or near[0][0] > allowed:
            return []
        best, rows, name = near[0]
        # The runner-up must be more than twice as far away.
        if any(distance <= 2 * best and set(other) != set(rows) for distance, other, _ in near[1:]):
            return []
        # "Bad Toys" is another title, not "Bad Boys" with a typo: "toys" is a word. "Forest Gump"
        # is Forrest Gump all the same: one letter is wrong, and no other movie has a Gump. "The Man
        # with the Golden Gun" is not "... Golden Arm": three letters are.
        right, words = set(name.split()), q.canonical.split()
        if any(w in self._word_rows for w in words if w not in right and len(w) > 1):
            telling = [self._word_rows[w] for w in words if w in right and len(w) > 3]
            if best > 1 or not telling or not set.intersection(*telling) <= set(rows):
                return []
        return rows

    def _unknown(self, q: _Query, text: str) -> TitleError:
        if len(q.full) < MIN_PART:
            rows = self._by_popularity(self._containing(q))
        else:
            # Alike as a whole, or but for the order of words, or in a part, which counts less.
            ratio, sorted_ratio, part = (
                process.cdist([q.canonical], self._names, scorer=scorer)[0]  # (n_names,)
                for scorer in (fuzz.ratio, fuzz.token_sort_ratio, fuzz.partial_ratio)
            )
            whole = np.maximum(ratio, sorted_ratio)
            # A short name is a part of nearly every long query ("Up" of "Cup of Tea"): no news.
            is_short = self._lengths < max(3, 0.6 * len(q.canonical))
            whole[is_short] = part[is_short] = 0
            # A part is enough to be listed, but comes after a whole that is as near.
            listed, score = np.maximum(whole, 0.9 * part), np.maximum(whole, 0.8 * part)
            near = np.flatnonzero(listed >= max(72, listed.max() - 12))
            scored = [(score[i], row) for i in near for row in self._name_rows[i]]
            rows = [r for _, r in sorted(scored, key=lambda s: (-round(s[0]), self._rank[s[1]]))]
        candidates = tuple(dict.fromkeys(self.titles[row].strip() for row in rows))[:MAX_LISTED]
        if not candidates:
            return TitleError(
                f'No movie is called {_quoted(text)}; titles look like "{self._example}", with or '
                "without the year."
            )
        noun = "titles are" if len(candidates) > 1 else "title is"
        return TitleError(
            f"No movie is called {_quoted(text)}, but the nearest {noun} {_listed(candidates)}; "
            "write one in full.",
            candidates,
        )


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _quoted(text: str) -> str:
    return f'"{_short(text)}"'


def _listed(titles: Sequence[str]) -> str:
    shown = "; ".join(titles[:MAX_LISTED])
    rest = len(titles) - MAX_LISTED
    return f"{shown} and {rest} more" if rest > 0 else shown
