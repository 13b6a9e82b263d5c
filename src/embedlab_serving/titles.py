"""Title index: finds the movie that a typed title names.

In: the titles of a catalogue in row order, in MovieLens' spelling: `Shawshank Redemption, The
(1994)`, `Seven (a.k.a. Se7en) (1995)`, `Babylon 5`. Out: the row of the movie, or a
`TitleError` that lists the titles that may be meant.

A query is looked up by exact keys, strictest level first (`_keys`); the first level that contains
the query decides. Next come names that contain the query as a phrase ("Shawshank"), and last the
nearest name by rapidfuzz, for typos ("Forest Gump"). A year at the end narrows every step and is
never ignored: the wrong year is an error.

Only the correction of a typo is a guess, so the name must be close (`typos_allowed`), and the
runner-up must be more than twice as far away. Numbers and single letters at the ends have to agree,
and the misspelt word must not occur in the catalogue, unless one letter is wrong and the other
words of the query occur together in that movie alone. Everything else is an error with suggestions,
because asking again costs less than a wrong movie.

Title format: https://files.grouplens.org/datasets/movielens/ml-latest-small-README.html
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from embedlab_serving.errors import TitleError
from embedlab_serving.near_texts import NearTextIndex

MAX_QUERY = 500  # characters of one title; the longest of MovieLens has about 200
MAX_TITLES = 50  # titles in one query
MAX_LISTED = 8  # titles in one error text
MIN_PART = 3  # characters of a part of a title
MIN_TYPO = 6  # characters of a title with a typo: below, every word is a neighbour of another
MIN_LIKENESS = 72  # of a suggestion, by rapidfuzz's ratios: 100 is equal
# Weights of the likeness to a part of a name: for being listed, and for the order of the list.
PART_WEIGHT, PART_ORDER_WEIGHT = 0.9, 0.8
LIKENESS_MARGIN = 12  # by which a suggestion may be behind the nearest one
FIRST_COMPARED = 300  # names with the most bigrams in common; the best of them sets the limit

# ---------------------------------------------------------------------------------------------
# Text to key
# ---------------------------------------------------------------------------------------------

# Letters and signs that NFKD does not decompose, or takes apart without a space.
_LETTERS = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i"}
    | {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "²": " 2", "³": " 3"}
    | dict.fromkeys("’‘ʼ´`", "'")
)
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_INITIALS = re.compile(r"\b([^\W\d_])\.(?=[^\W\d_]\b)")  # the first dots of "e.t." and "l.a."
_LEADING_INITIALS = re.compile(r"(?:[^\W\d_]\.\s?){2,}")
_YEAR_IN_PARENTHESES = re.compile(r"\s*\(\s*(\d{4})(?:\s*[-–]\s*(\d{4})?)?\s*\)\s*$")
_YEAR_AT_END = re.compile(r"[\s,]+((?:18|19|20)\d\d)\s*$")
_LAST_GROUP = re.compile(r"\s*\(([^()]*)\)\s*$")
_ALSO_KNOWN_AS = re.compile(r"^a\.?\s?k\.?\s?a\.?\s+", re.IGNORECASE)
_ARTICLE = re.compile(  # at the end of a name, or before its colon: "Crow, The: Wicked Prayer"
    r"^(.*\S),\s*(the|an?|l[ea']|les|el|l[oa]s|il|lo|gli|i|der|die|das|den|det|de|het"
    r"|une?|una|eine?|os?)\s*(:.*)?$",
    re.IGNORECASE,
)
_LEADING_ARTICLE = re.compile(r"^(?:the|an?) (?=.)")
_SECTIONS = re.compile(r":|\s[-–]\s")

# One spelling for what people write in several ways. A single i, v or x is a numeral only in some
# positions: see `numbered`.
_ROMAN = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx"
_ENGLISH = "one two three four five six seven eight nine ten eleven twelve thirteen"
_NUMBERS = {
    word: str(n) for words in (_ROMAN, _ENGLISH) for n, word in enumerate(words.split(), start=1)
}
_SINGLE_ROMAN = {word: _NUMBERS.pop(word) for word in "ivx"}
_SPELLING = _NUMBERS | {"doctor": "dr", "mister": "mr", "versus": "v", "vs": "v", "n": "and"}
_PARTS = frozenset(("part", "pt", "episode", "chapter", "volume", "vol"))


@lru_cache(maxsize=1024)  # a title's keys overlap
def normalise(text: str) -> str:
    """The words of `text`: lower case, no accents, no punctuation, "&" as "and", single spaces."""
    text = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    if not text.replace(" ", "").isalnum():
        text = _INITIALS.sub(r"\1", text.replace("&", " and ").replace("'", "").replace("`", ""))
        text = _PUNCTUATION.sub(" ", text)
    return " ".join(text.split())


def without_article(key: str) -> str:
    """`key` without a leading "the", "a" or "an", unless nothing would be left."""
    return _LEADING_ARTICLE.sub("", key)


def article_first(name: str) -> tuple[str, str]:
    """`name` with its article in front, and without: "Trou, Le" is ("Le Trou", "Trou")."""
    match = _ARTICLE.match(name) if "," in name else None
    if not match:
        return name, name
    body, article = match[1] + (match[3] or ""), match[2]
    return (f"{article}{body}" if article.endswith("'") else f"{article} {body}"), body


def numbered(name: str) -> str:
    """`name`, normalised, with numbers in one spelling.

    "Rocky III" gives the same as "Rocky 3", "Godfather: Part II" as "Godfather 2", and "Ocean's
    Twelve" as "Oceans 12". A name of one word stays as it is: "Nine" is not the movie "9".
    """
    if " " not in (word := normalise(name)):
        return word
    words: list[str] = []
    for section in _SECTIONS.split(name):
        tokens = normalise(section).split()
        for position, token in enumerate(tokens):
            after_part = bool(words) and words[-1] in _PARTS
            if after_part and token in _SINGLE_ROMAN:  # "Episode V", "Part I"
                token = _SINGLE_ROMAN[token]
            elif token == "v" and 0 < position == len(tokens) - 1:  # "Rocky V", "Star Trek V: ..."
                token = "5"
            else:
                token = _SPELLING.get(token, token)
            if after_part and token.isdecimal():
                words.pop()
            words.append(token)
    return " ".join(words)


def canonical(name: str) -> str:
    """`name` as `numbered` spells it, without a leading article."""
    return without_article(numbered(name))


def compact(key: str) -> str:
    """`key` without spaces, except between two digits: "8 1 2" is not "812"."""
    return re.sub(r"(?<!\d) | (?!\d)", "", key)


def fixed_tokens(key: str) -> list[str]:
    """Numbers and significant single letters, which no typo may change.

    Such a letter is a numeral, or the first or last word ("Malcolm X", "Plan B"). The single letter
    in "Wrath f the Titans" is a typo.
    """
    words = key.split()
    ends = (words[:1] + words[-1:]) if words else []
    single = (w for w in words if w in _SINGLE_ROMAN or (w in ends and len(w) == 1 and w != "a"))
    return [*re.findall(r"\d+", key), *(w for w in single if w.isalpha())]


def typos_allowed(key: str) -> int:
    """How many letters may be wrong, missing, extra or swapped: about one in seven, at most 3."""
    length = len(key)
    return 0 if length < MIN_TYPO else 1 if length < 12 else 2 if length < 20 else 3


class ParsedTitle(NamedTuple):
    """The parts of a title. `years` is (first, last), or None if the title has no year."""

    full: str  # all but the year
    name: str
    alternates: tuple[str, ...]
    years: tuple[int, int] | None

    @property
    def identity(self) -> tuple[str, tuple[int, int] | None]:
        """A key that rows of the same name and year share."""
        return normalise(article_first(self.name)[0]) or self.full, self.years


def parse_title(title: str) -> ParsedTitle:
    """Split a title into name, alternate names, and year or years."""
    full, years = title.strip(), None
    if match := _YEAR_IN_PARENTHESES.search(full):
        years = int(match[1]), int(match[2] or match[1])
        full = full[: match.start()]
    name = full
    alternates: list[str] = []
    while name.endswith(")") and (match := _LAST_GROUP.search(name)) and match.start() > 0:
        alternates.insert(0, _ALSO_KNOWN_AS.sub("", match[1].strip()))
        name = name[: match.start()]
    return ParsedTitle(full, name, tuple(alternates), years)


def rows_by_identity(titles: Iterable[str]) -> list[list[int]]:
    """The rows of each name and year, in the order of their first rows."""
    rows: dict[object, list[int]] = {}
    for row, title in enumerate(titles):
        rows.setdefault(parse_title(title).identity, []).append(row)
    return list(rows.values())


def repeated_titles(titles: Sequence[str]) -> list[str]:
    """One title for each name and year that occurs in several rows, in the order of the rows."""
    return [titles[same[0]] for same in rows_by_identity(titles) if len(same) > 1]


# ---------------------------------------------------------------------------------------------
# The index
# ---------------------------------------------------------------------------------------------


def _keys(text: str) -> dict[str, str]:
    """The keys of a query or of a name by level, strictest first."""
    front, body = article_first(text)
    name, number = normalise(front), canonical(body)
    return {
        "full": normalise(text),  # all but the year
        "name": name,  # with its article
        "bare": without_article(name) if front == body else normalise(body),
        "also": name,  # an alternate name
        "number": number,  # any name, with numbers in one spelling: "Rocky 3"
        "joined": compact(number),  # also without spaces: "Spiderman"
        "head": number,  # what precedes a colon: "Birdman"
        "initials": compact(name),  # "E.T."
    }


def _title_keys(title: ParsedTitle) -> Iterator[tuple[str, str]]:
    """Yield (level, key) for every key of a title, and ("article", key) for matching typos."""
    yield "full", normalise(title.full)
    for i, name in enumerate((title.name, *title.alternates)):
        front, body = article_first(name)
        keys = _keys(name)
        levels = ("also",) if i else ("name", "bare")
        yield from ((level, keys[level]) for level in (*levels, "number", "joined"))
        yield "article", numbered(front)
        if i == 0 and (colon := _SECTIONS.search(body)):
            yield "head", canonical(body[: colon.start()])
        if initials := _LEADING_INITIALS.match(body):
            yield "initials", compact(normalise(initials[0]))


class _Reading(NamedTuple):
    """One reading of a query: its text, perhaps with a year taken from the end, and its keys."""

    text: str
    year: int | None
    keys: dict[str, str]


def _readings(text: str) -> list[_Reading]:
    """The readings of a query, in order: as a whole, then with a year at its end taken off.

    "Death Race 2000" is first read as a whole; a year in parentheses is always taken off.
    """
    in_parentheses = _YEAR_IN_PARENTHESES.search(text)
    readings = [] if in_parentheses else [_Reading(text, None, _keys(text))]
    if match := in_parentheses or _YEAR_AT_END.search(text):
        name = text[: match.start()].strip()
        readings.append(_Reading(name, int(match[1]), _keys(name)))
    return [reading for reading in readings if reading.keys["full"]]


class _NearName(NamedTuple):
    """A name of the catalogue, its distance from a query in letters, and the rows that have it."""

    spelling: str
    distance: int
    rows: list[int]


class TitleIndex:
    """Finds movies by title; see the module's docstring.

    titles      a title per row, in MovieLens' spelling.
    popularity  likes per row. It chooses among rows of the same name and year, and orders the
                titles that errors list; by default the order of the rows does both.

    Immutable, so threads may share an index.
    """

    def __init__(self, titles: Sequence[str], popularity: Sequence[int] | np.ndarray | None = None):
        self.titles: tuple[str, ...] = tuple(titles)
        popularity = np.zeros(len(self.titles)) if popularity is None else np.asarray(popularity)
        self._is_unliked = (popularity == 0) & popularity.any()  # (n,); none without popularity
        # Ties: the lower row first.
        order = np.argsort(-popularity.astype(np.float64), kind="stable")
        # By row; 0 for the most popular.
        self._popularity_rank: list[int] = np.argsort(order).tolist()
        self._example = self.titles[order[0]].strip()

        self._parsed = [parse_title(title) for title in self.titles]
        self._rows: dict[tuple[str, object], list[int]] = {}  # by (level, key)
        self._names: dict[str, list[int]] = {}  # rows by name, for matching typos
        phrases_of_rows: list[str] = []  # all names of a row, between spaces and line ends
        self._word_rows: dict[str, set[int]] = {}
        for row, (title, parsed) in enumerate(zip(self.titles, self._parsed, strict=True)):
            keys = dict.fromkeys(pair for pair in _title_keys(parsed) if pair[1])
            names = dict.fromkeys(name for level, name in keys if level in ("number", "article"))
            phrases = [name for level, name in keys if level in ("name", "also", "number")]
            phrases_of_rows.append("".join(f" {name} \n" for name in dict.fromkeys(phrases)))
            as_is = " ".join(title.casefold().split())
            for pair in (*keys, ("as is", as_is), ("identity", parsed.identity)):
                self._rows.setdefault(pair, []).append(row)
            for name in names:
                self._names.setdefault(name, []).append(row)
            for word in " ".join(names).split():
                self._word_rows.setdefault(word, set()).add(row)
        self._phrases = "".join(phrases_of_rows)
        self._phrase_ends = np.cumsum([len(phrases) for phrases in phrases_of_rows])
        self._spellings = list(self._names)
        self._near_texts = NearTextIndex(self._spellings)

    def find(self, query: str) -> int:
        """The row of the movie that `query` names.

        Raises TitleError if it names none, or several; `candidates` then holds the titles that may
        be meant, most popular first if they fit equally, nearest first if none fits.
        """
        text = self._checked(query)
        if rows := self._rows.get(("as is", text.casefold())):
            return self._one_of(rows, text)
        readings = _readings(text)
        if not readings:
            raise TitleError(
                f"A movie title was expected, but {_quoted(text)} holds no name; write one such as "
                f'"{self._example}".'
            )
        for step in (self._by_key, self._check_year, self._by_part, self._by_typo):
            for reading in readings:
                if rows := step(reading):
                    return self._one_of(rows, text)
        raise self._unknown(readings[-1], text)

    def find_all(self, query: str) -> list[int]:
        """The rows of several titles separated by "|": "Apollo 13 | Toy Story".

        In the order of the query, without repetition; blank parts are skipped. Raises TitleError as
        `find` does, for the first title that is not found, and for a movie that no user likes: its
        vector is what the random start has left.
        """
        parts = [query]
        if isinstance(query, str):
            parts = [part for part in query.split("|") if part.strip()]
        if len(parts) > MAX_TITLES:
            raise TitleError(
                f"At most {MAX_TITLES} titles fit in one query, but found {len(parts)}; ask in "
                "several queries."
            )
        rows = list(dict.fromkeys(self.find(part) for part in parts or [""]))
        if unliked := [row for row in rows if self._is_unliked[row]]:
            raise TitleError(
                f'No user likes "{self.titles[unliked[0]].strip()}" in these data, so no movies '
                "are known that the same users like; ask for another."
            )
        return rows

    def duplicates_of(self, rows: Iterable[int]) -> list[int]:
        """The other rows of the same name and year as one of `rows`."""
        rows = set(rows)
        identical = (self._rows["identity", self._parsed[row].identity] for row in rows)
        return sorted(set().union(*identical) - rows)

    def _checked(self, query: object) -> str:
        """`query` with single spaces. Raises TitleError if it is not text, blank or too long."""
        text = " ".join(query.split()) if isinstance(query, str) else ""
        if not isinstance(query, str):
            fault = f"must be text, but found {_short(repr(query))} ({type(query).__name__})"
        elif not text:
            fault = "was expected, but the text is blank"
        elif len(text) > MAX_QUERY:
            fault = f"has at most {MAX_QUERY} characters, but found {len(text)}"
        else:
            return text
        raise TitleError(f'A movie title {fault}; write one such as "{self._example}".')

    def _of_year(self, rows: Iterable[int], year: int | None) -> list[int]:
        """Those of `rows` whose movie is of this year; all of them if `year` is None."""
        spans = ((row, self._parsed[row].years) for row in rows)
        return [row for row, span in spans if year is None or (span and span[0] <= year <= span[1])]

    def _by_popularity(self, rows: Iterable[int]) -> list[int]:
        """`rows`, most popular first, with only the most popular row of each name and year."""
        first: dict[object, int] = {}
        for row in sorted(rows, key=self._popularity_rank.__getitem__):
            first.setdefault(self._parsed[row].identity, row)
        return list(first.values())

    def _titles_of(self, rows: Iterable[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.titles[row].strip() for row in rows))

    def _one_of(self, rows: Iterable[int], text: str) -> int:
        movies = self._by_popularity(rows)
        if len(movies) == 1:
            return movies[0]
        candidates = self._titles_of(movies)
        raise TitleError(
            f"{_quoted(text)} fits {len(movies)} movies: {_listed(candidates)}; write one of these "
            "titles in full.",
            candidates,
        )

    def _by_key(self, reading: _Reading) -> list[int]:
        """The rows of the strictest level that contains the query."""
        for level_and_key in reading.keys.items():
            if rows := self._of_year(self._rows.get(level_and_key, ()), reading.year):
                return rows
        return []

    def _check_year(self, reading: _Reading) -> list[int]:
        """Returns no rows. Raises TitleError if only the query's year is wrong."""
        if rows := self._by_key(reading._replace(year=None)):
            candidates = self._titles_of(self._by_popularity(rows))
            raise TitleError(
                f"No movie of {reading.year} is called {_quoted(reading.text)}, but there is "
                f"{_listed(candidates)}; correct the year or leave it out.",
                candidates,
            )
        return []

    def _by_part(self, reading: _Reading) -> list[int]:
        """The rows with a name that contains the query and, if there are any, those a typo away."""
        rows = self._containing(reading) if len(reading.keys["name"]) >= MIN_PART else []
        # "Colombian" is a part of one movie and nearly the whole of another.
        near = self._near(reading, typos_allowed(reading.keys["number"])) if rows else []
        return [*rows, *(row for name in near for row in name.rows)]

    def _containing(self, reading: _Reading) -> list[int]:
        """The rows with a name that contains the query, with or without its article."""
        keys = reading.keys
        for phrase in filter(None, dict.fromkeys((keys["name"], keys["bare"], keys["number"]))):
            starts = _occurrences(f" {phrase} ", self._phrases)
            rows = dict.fromkeys(np.searchsorted(self._phrase_ends, starts, side="right").tolist())
            if rows_of_year := self._of_year(rows, reading.year):
                return rows_of_year
        return []

    def _near(self, reading: _Reading, max_distance: int) -> list[_NearName]:
        """The names within `max_distance` letters, nearest first."""
        typed = reading.keys["number"]
        spellings = [self._spellings[i] for i in self._near_texts.within(typed, max_distance)]
        distances = process.extract(
            typed, spellings, scorer=OSA.distance, score_cutoff=max_distance, limit=None
        )
        near = [
            _NearName(spelling, distance, self._of_year(self._names[spelling], reading.year))
            for spelling, distance, _ in distances
        ]
        fixed = fixed_tokens(typed)
        return [name for name in near if name.rows and fixed_tokens(name.spelling) == fixed]

    def _by_typo(self, reading: _Reading) -> list[int]:
        """The rows of the one name that is close, clearly ahead, and not a different title."""
        typed = reading.keys["number"]
        allowed = typos_allowed(typed)
        near = self._near(reading, 2 * allowed) if allowed else []
        if not near or near[0].distance > allowed:
            return []
        best, *others = near
        rivals = (name.rows for name in others if name.distance <= 2 * best.distance)
        if any(set(rows) != set(best.rows) for rows in rivals):
            return []
        # "Bad Toys" is another title, not "Bad Boys" with a typo, because "toys" is a word. "Forest
        # Gump" means Forrest Gump all the same: one letter is wrong, and no other movie has a Gump.
        # "The Man with the Golden Gun" does not mean "... Golden Arm": three letters are wrong.
        words, correct = typed.split(), set(best.spelling.split())
        if any(w in self._word_rows for w in words if w not in correct and len(w) > 1):
            rows_of_words = [self._word_rows[w] for w in words if w in correct and len(w) > 3]
            if best.distance > 1 or not rows_of_words:
                return []
            if not set.intersection(*rows_of_words) <= set(best.rows):
                return []
        return best.rows

    def _suggested(self, typed: str) -> list[int]:
        """The rows of the names that are most like a query's, nearest first."""
        # A short name is a part of nearly every long query, as "Up" is of "Cup of Tea".
        is_long = self._near_texts.lengths >= 0.6 * len(typed)
        shared, _ = self._near_texts.shared_bigrams(typed)
        likely = np.argsort(-shared * is_long, kind="stable")[:FIRST_COMPARED]
        listed, _ = self._likeness(typed, likely[is_long[likely]], MIN_LIKENESS)
        limit = max(MIN_LIKENESS, listed.max(initial=0) - LIKENESS_MARGIN)
        parts = self._near_texts.partly_alike(typed, limit / PART_WEIGHT)
        parts = parts[is_long[parts]]
        part_ratios = self._ratios(typed, parts, fuzz.partial_ratio, limit / PART_WEIGHT)
        alike = np.union1d(self._near_texts.alike(typed, limit), parts[part_ratios > 0])
        alike = alike[is_long[alike]]
        listed, score = self._likeness(typed, alike, limit)
        limit = max(MIN_LIKENESS, listed.max(initial=0) - LIKENESS_MARGIN)
        scored = [
            (-score[i], self._popularity_rank[row], row)
            for i in np.flatnonzero(listed >= limit)
            for row in self._names[self._spellings[alike[i]]]
        ]
        return [row for *_, row in sorted(scored)]

    def _likeness(
        self, typed: str, positions: np.ndarray, limit: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The likeness of names to a query, 0 to 100: two arrays (n,).

        The first decides whether a name is listed: it is exact from `limit` on, and a lower bound
        below. The second orders the list.
        """
        ratio = self._ratios(typed, positions, fuzz.ratio)
        full = np.maximum(ratio, self._ratios(typed, positions, fuzz.token_sort_ratio))
        partial_ratio = self._ratios(typed, positions, fuzz.partial_ratio, limit / PART_WEIGHT)
        # A name with a near part is listed, but after a name that is as near as a whole.
        listed = np.maximum(full, PART_WEIGHT * partial_ratio)
        return listed, np.maximum(full, PART_ORDER_WEIGHT * partial_ratio).round()

    def _ratios(
        self, typed: str, positions: np.ndarray, scorer: Callable[..., float], cutoff: float = 0
    ) -> np.ndarray:
        """(n,) a ratio of rapidfuzz between a query and these names; 0 if it is below `cutoff`."""
        spellings = [self._spellings[i] for i in positions.tolist()]
        return process.cdist([typed], spellings, scorer=scorer, score_cutoff=cutoff)[0]

    def _unknown(self, reading: _Reading, text: str) -> TitleError:
        """The error of a query that no movie fits, with the nearest titles by rapidfuzz."""
        if len(reading.keys["name"]) < MIN_PART:
            rows = self._by_popularity(self._containing(reading))
        else:
            rows = self._suggested(reading.keys["number"])
        candidates = self._titles_of(rows)[:MAX_LISTED]
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


def _occurrences(phrase: str, text: str) -> list[int]:
    """Where `phrase` starts in `text`; occurrences may overlap."""
    starts = [text.find(phrase)]
    while starts[-1] >= 0:
        starts.append(text.find(phrase, starts[-1] + 1))
    return starts[:-1]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _quoted(text: str) -> str:
    return f'"{_short(text)}"'


def _listed(titles: Sequence[str]) -> str:
    shown = "; ".join(titles[:MAX_LISTED])
    rest = len(titles) - MAX_LISTED
    return f"{shown} and {rest} more" if rest > 0 else shown
