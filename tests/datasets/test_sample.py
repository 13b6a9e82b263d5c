"""The built-in sample has the bytes, the taste groups and the layout that it promises."""

import csv

import pytest
from file_server import use_new_cache
from rating_files import sha256

from embedlab.datasets import sample
from embedlab.datasets.movielens import locate_ratings
from embedlab.movies.data.ratings import read_ratings

# If these change, SAMPLE_VERSION has to go up: the cache is keyed by it.
SAMPLE_DIGESTS = {
    1: {
        "ratings.csv": "3e689a266d0b03ef25025a2fb4d45503e3ab90286d3dc0e3d0486acd63c7b1b0",
        "movies.csv": "1d8a15623775027945c094c1c03048f41fde8336c255b6ef07dceec1c5ac0600",
    }
}

cached = pytest.fixture(use_new_cache, autouse=True)


def test_the_sample_has_the_bytes_of_its_version(cached):
    located = locate_ratings("sample")
    assert (located.name, located.source) == ("sample", "built-in sample")
    digests = {p.name: sha256(p.read_bytes()) for p in located.path.iterdir()}
    assert digests == SAMPLE_DIGESTS[sample.SAMPLE_VERSION]
    sample.sample_files.cache_clear()
    assert {n: sha256(d) for n, d in sample.sample_files().items()} == digests


def test_a_changed_sample_in_the_cache_is_written_again():
    path = locate_ratings("sample").path / "ratings.csv"
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    assert locate_ratings("sample").path / "ratings.csv" == path
    assert path.read_bytes() == good


def test_the_sample_has_the_groups_it_names():
    ratings = read_ratings(locate_ratings("sample").path)
    titles = ratings.movies["title"].tolist()
    assert len(set(titles)) == len(titles) == 82
    with_group = sample.sample_movies().query("group != ''")
    group_of = dict(zip(with_group["title"], with_group["group"], strict=True))
    titles_of: dict[str, list[str]] = {}
    for title, group in group_of.items():
        titles_of.setdefault(group, []).append(title)
    assert [len(titles) for titles in titles_of.values()] == [16] * 5
    assert set(group_of) < set(titles)
    for title in ("Apollo 13 (1995)", "Toy Story (1995)", "Shawshank Redemption, The (1994)"):
        assert title in group_of

    # The oracle: each user's stars, group by group, by a dictionary.
    stars: dict[int, dict[str, list[float]]] = {}
    rated: dict[str, int] = dict.fromkeys(titles, 0)
    for user, movie, n_stars in zip(ratings.user, ratings.movie, ratings.stars, strict=True):
        rated[titles[movie]] += 1
        stars.setdefault(int(user), {}).setdefault(group_of[titles[movie]], []).append(n_stars)
    assert len(stars) == 240
    groups = list(titles_of)
    for user, by_group in stars.items():
        favourite = groups[user % 5]
        assert 20 <= sum(map(len, by_group.values())) <= 40
        others = [s for group, values in by_group.items() if group != favourite for s in values]
        # 11 in 12 ratings follow the taste, so 0.8 stars between the means is far below the 2.1
        # expected, and no user comes near it.
        mean = sum(by_group[favourite]) / len(by_group[favourite])
        assert mean - sum(others) / len(others) > 0.8
    assert sorted(title for title, n in rated.items() if n == 0) == [
        "City Lights (1931)",
        "Metropolis (1927)",
    ]
    for of_group in titles_of.values():  # the long tail
        assert rated[of_group[0]] > 1.8 * rated[of_group[-1]]


def test_the_sample_is_in_the_layout_of_movielens():
    folder = locate_ratings("sample").path
    with open(folder / "ratings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["userId", "movieId", "rating", "timestamp"]
    assert {row["rating"] for row in rows} <= {str(half / 2) for half in range(1, 11)}
    order = [(int(row["userId"]), int(row["movieId"])) for row in rows]
    assert order == sorted(set(order))
    movies = (folder / "movies.csv").read_text(encoding="utf-8")
    assert '"Lion King, The (1994)",Animation|Children|Musical' in movies
    assert "INVENTED" in sample.__doc__
