"""Small or one-sided but valid ratings."""

from pathlib import Path

EVERYBODY, EVERYTHING = range(4), range(5)
# By name: number of movies, ratings as (user, movie, stars), like rule, number of likes.
TOY_RATINGS = {
    "one movie": (1, [(user, 0, 4) for user in EVERYBODY], "user_mean", 4),
    "one user": (5, [(0, movie, 1 + movie) for movie in EVERYTHING], "user_mean", 3),
    "no two likes together": (2, [(0, 0, 5), (1, 1, 5)], "user_mean", 2),
    "one star for all": (5, [(u, m, 1) for u in EVERYBODY for m in EVERYTHING], "user_mean", 20),
    "one likes all, the others nothing": (
        5,
        [(u, m, 5 if u == 0 else 2) for u in EVERYBODY for m in EVERYTHING],
        "threshold:4",
        5,
    ),
    "nobody likes anything": (5, [(0, m, 2) for m in EVERYTHING], "threshold:4", 0),
}


def write(folder: Path, toy: str) -> list[str]:
    """Write the files of one of the toy data sets. Returns them as parameters of an entry point."""
    n_movies, ratings, like_rule, _ = TOY_RATINGS[toy]
    movies = [f"{movie},Movie {'ABCDE'[movie]} (1990),Drama\n" for movie in range(n_movies)]
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(movies))
    rows = [f"{user},{movie},{stars}\n" for user, movie, stars in ratings]
    (folder / "ratings.csv").write_text("userId,movieId,rating\n" + "".join(rows))
    return ["--ratings", str(folder), "--like-rule", like_rule]
