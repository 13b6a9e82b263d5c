"""The built-in sample: 82 films, 240 users with known tastes, in MovieLens' own layout.

In: nothing, not even a network. Out: `ratings.csv` (userId, movieId, rating, timestamp) and
`movies.csv` (movieId, title, genres), the same bytes on every machine.

THE RATINGS ARE INVENTED. The films are real (titles, years and genres are general knowledge, in
MovieLens' style of writing), but the ids, users, ratings and times are drawn here from a seeded
generator; no line comes from MovieLens. A result on this sample shows that the code finds the
taste groups that were put in, and says nothing about films.
"""

import csv
import io
from functools import cache
from pathlib import Path

import numpy as np

SAMPLE_VERSION = 1  # goes up with every change of the bytes; it is part of the cache's key
SAMPLE_NOTE = "Built-in sample: the films are real, the users and their ratings are invented."

_SEED = 1994
_N_USERS = 240

# Taste group -> its films, the best known first. That order is the popularity inside the group.
_FILMS: dict[str, tuple[tuple[str, str], ...]] = {
    "family": (
        ("Toy Story (1995)", "Animation|Children|Comedy"),
        ("Lion King, The (1994)", "Animation|Children|Musical"),
        ("Home Alone (1990)", "Children|Comedy"),
        ("Toy Story 2 (1999)", "Animation|Children|Comedy"),
        ("Aladdin (1992)", "Animation|Children|Musical"),
        ("Finding Nemo (2003)", "Animation|Children|Comedy"),
        ("Shrek (2001)", "Animation|Children|Comedy"),
        ("Monsters, Inc. (2001)", "Animation|Children|Comedy"),
        ("Babe (1995)", "Children|Comedy"),
        ("Incredibles, The (2004)", "Action|Animation|Children"),
        ("Mary Poppins (1964)", "Children|Musical"),
        ("Bug's Life, A (1998)", "Animation|Children|Comedy"),
        ("Jungle Book, The (1967)", "Animation|Children|Musical"),
        ("Pinocchio (1940)", "Animation|Children|Fantasy"),
        ("Bambi (1942)", "Animation|Children|Drama"),
        ("Chicken Run (2000)", "Animation|Children|Comedy"),
    ),
    "science fiction": (
        ("Star Wars: Episode IV - A New Hope (1977)", "Action|Adventure|Sci-Fi"),
        ("Matrix, The (1999)", "Action|Sci-Fi"),
        ("Terminator 2: Judgment Day (1991)", "Action|Sci-Fi"),
        ("Star Wars: Episode V - The Empire Strikes Back (1980)", "Action|Adventure|Sci-Fi"),
        ("Back to the Future (1985)", "Adventure|Comedy|Sci-Fi"),
        ("Star Wars: Episode VI - Return of the Jedi (1983)", "Action|Adventure|Sci-Fi"),
        ("Blade Runner (1982)", "Sci-Fi|Thriller"),
        ("Aliens (1986)", "Action|Sci-Fi"),
        ("Terminator, The (1984)", "Action|Sci-Fi"),
        ("2001: A Space Odyssey (1968)", "Sci-Fi"),
        ("Fifth Element, The (1997)", "Action|Sci-Fi"),
        ("Total Recall (1990)", "Action|Sci-Fi"),
        ("Gattaca (1997)", "Drama|Sci-Fi"),
        ("Star Trek II: The Wrath of Khan (1982)", "Adventure|Sci-Fi"),
        ("Close Encounters of the Third Kind (1977)", "Drama|Sci-Fi"),
        ("Forbidden Planet (1956)", "Sci-Fi"),
    ),
    "drama": (
        ("Shawshank Redemption, The (1994)", "Crime|Drama"),
        ("Forrest Gump (1994)", "Comedy|Drama|Romance"),
        ("Schindler's List (1993)", "Drama|War"),
        ("Apollo 13 (1995)", "Adventure|Drama"),
        ("Saving Private Ryan (1998)", "Drama|War"),
        ("Green Mile, The (1999)", "Crime|Drama"),
        ("Good Will Hunting (1997)", "Drama"),
        ("Rain Man (1988)", "Drama"),
        ("Dances with Wolves (1990)", "Adventure|Drama|Western"),
        ("Dead Poets Society (1989)", "Drama"),
        ("Cast Away (2000)", "Drama"),
        ("Philadelphia (1993)", "Drama"),
        ("Few Good Men, A (1992)", "Crime|Drama"),
        ("Beautiful Mind, A (2001)", "Drama"),
        ("12 Angry Men (1957)", "Drama"),
        ("Gandhi (1982)", "Drama"),
    ),
    "horror": (
        ("Silence of the Lambs, The (1991)", "Crime|Horror|Thriller"),
        ("Shining, The (1980)", "Horror"),
        ("Alien (1979)", "Horror|Sci-Fi"),
        ("Psycho (1960)", "Horror|Thriller"),
        ("Jaws (1975)", "Horror|Thriller"),
        ("Exorcist, The (1973)", "Horror"),
        ("Scream (1996)", "Horror|Thriller"),
        ("Halloween (1978)", "Horror"),
        ("Nightmare on Elm Street, A (1984)", "Horror"),
        ("Blair Witch Project, The (1999)", "Horror"),
        ("Carrie (1976)", "Horror"),
        ("Birds, The (1963)", "Horror|Thriller"),
        ("Poltergeist (1982)", "Horror"),
        ("Rosemary's Baby (1968)", "Horror|Thriller"),
        ("Omen, The (1976)", "Horror"),
        ("Evil Dead, The (1981)", "Horror"),
    ),
    "romance": (
        ("Pretty Woman (1990)", "Comedy|Romance"),
        ("Titanic (1997)", "Drama|Romance"),
        ("Ghost (1990)", "Drama|Fantasy|Romance"),
        ("Sleepless in Seattle (1993)", "Comedy|Romance"),
        ("Four Weddings and a Funeral (1994)", "Comedy|Romance"),
        ("When Harry Met Sally... (1989)", "Comedy|Romance"),
        ("Notting Hill (1999)", "Comedy|Romance"),
        ("Amelie (Fabuleux destin d'Amélie Poulain, Le) (2001)", "Comedy|Romance"),
        ("You've Got Mail (1998)", "Comedy|Romance"),
        ("Love Actually (2003)", "Comedy|Romance"),
        ("Dirty Dancing (1987)", "Drama|Musical|Romance"),
        ("Bridget Jones's Diary (2001)", "Comedy|Romance"),
        ("Sense and Sensibility (1995)", "Drama|Romance"),
        ("Casablanca (1942)", "Drama|Romance"),
        ("Roman Holiday (1953)", "Comedy|Romance"),
        ("Clueless (1995)", "Comedy|Romance"),
    ),
}
# Nobody rated these; the real sets have such films too, and the code must keep them.
_UNRATED = (("Metropolis (1927)", "Sci-Fi"), ("City Lights (1931)", "Comedy|Romance"))

SAMPLE_GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(title for title, _ in films) for group, films in _FILMS.items()
}


def write_sample(folder: Path) -> None:
    """Write `ratings.csv` and `movies.csv` into `folder`, which exists."""
    for name, data in sample_files().items():
        (folder / name).write_bytes(data)


@cache
def sample_files() -> dict[str, bytes]:
    """File name -> content: UTF-8, CRLF line ends and quotes as in the MovieLens releases."""
    # Round robin over the groups, so that an id says nothing about a group.
    films = [film for row in zip(*_FILMS.values(), strict=True) for film in row]
    movies = [(row + 1, title, genres) for row, (title, genres) in enumerate((*films, *_UNRATED))]
    return {
        "ratings.csv": _csv(("userId", "movieId", "rating", "timestamp"), _ratings()),
        "movies.csv": _csv(("movieId", "title", "genres"), movies),
    }


def _ratings() -> list[tuple[int, int, float, int]]:
    """Rows of (userId, movieId, rating, timestamp), by user and movie.

    User `u` belongs to group `u % 5`, has seen 10 to 14 of its 16 films and 10 to 26 others, gives
    the former 4 to 5 stars and the latter 1 to 3; one rating in twelve is the other way round.
    Only integers are drawn, so no floating-point unit can change the outcome.
    """
    rng = np.random.default_rng(_SEED)
    n_groups = len(_FILMS)
    n_films = sum(map(len, _FILMS.values()))
    group = np.arange(n_films) % n_groups
    rank = np.arange(n_films) // n_groups  # in popularity, inside the group
    tickets = 60 // (rank + 3)  # the long tail: 20 tickets for the best known, 3 for the last

    rows = []
    for user in range(_N_USERS):
        own = group == user % n_groups
        seen = _draw(rng, np.flatnonzero(own), tickets, rng.integers(10, 15))
        seen += _draw(rng, np.flatnonzero(~own), tickets, rng.integers(10, 27))
        for film in sorted(seen):
            likes = own[film] != (rng.integers(12) == 0)
            half_stars = rng.integers(8, 11) if likes else rng.integers(2, 7)
            time = 946_684_800 + 86_400 * user + int(rng.integers(86_400))  # from 1 January 2000
            rows.append((user + 1, film + 1, int(half_stars) / 2, time))
    return rows


def _draw(rng: np.random.Generator, films: np.ndarray, tickets: np.ndarray, n: int) -> list[int]:
    """`n` different films, each as likely to come early as it has tickets in the shuffled box."""
    box = rng.permutation(np.repeat(films, tickets[films]))
    return list(dict.fromkeys(box.tolist()))[:n]


def _csv(header: tuple[str, ...], rows: list[tuple]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows([header, *rows])
    return text.getvalue().encode("utf-8")
