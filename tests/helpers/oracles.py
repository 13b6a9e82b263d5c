"""Slow, obvious versions of what the project computes fast, and toy data with known answers."""

import numpy as np
import pandas as pd
import scipy.sparse as sp

from embedlab.movies.data.ratings import Ratings


def likes_by_loop(ratings: Ratings, like_rule: str) -> set[tuple[int, int]]:
    """{(user, movie)} by a loop over users, with Python's own statistics."""
    import statistics

    liked = set()
    for user in range(ratings.n_users):
        rows = [i for i in range(ratings.n_ratings) if ratings.user[i] == user]
        stars = [float(ratings.stars[i]) for i in rows]
        if like_rule == "user_mean":
            bar = statistics.mean(stars)
        elif like_rule == "user_median":
            bar = statistics.median(stars)
        else:
            bar = float(like_rule.partition(":")[2])
        liked |= {(user, int(ratings.movie[i])) for i in rows if ratings.stars[i] >= bar}
    return liked


def cooccurrence_by_loop(likes: np.ndarray) -> np.ndarray:
    """(n_users, n_movies) 0/1 -> (n_movies, n_movies) counts, one user and one pair at a time."""
    n_movies = likes.shape[1]
    counts = np.zeros((n_movies, n_movies), dtype=np.int64)
    for user in likes:
        liked = [movie for movie in range(n_movies) if user[movie]]
        for i in liked:
            for j in liked:
                counts[i, j] += 1
    return counts


def cost_by_loop(v: np.ndarray, counts: np.ndarray) -> float:
    """Σ_{i≠j} (v_i·v_j − X_ij)², one ordered pair at a time, in float64."""
    v = v.astype(np.float64)
    pairs = [(i, j) for i in range(len(v)) for j in range(len(v)) if i != j]
    return sum((v[i] @ v[j] - counts[i, j]) ** 2 for i, j in pairs)


def gradient_by_differences(v: np.ndarray, counts: np.ndarray, h: float = 1e-4) -> np.ndarray:
    """Central differences of `cost_by_loop`; the cost is a quartic, so the error is O(h²)."""
    v = v.astype(np.float64)
    gradient = np.zeros_like(v)
    for index in np.ndindex(*v.shape):
        step = np.zeros_like(v)
        step[index] = h
        gradient[index] = (cost_by_loop(v + step, counts) - cost_by_loop(v - step, counts)) / 2 / h
    return gradient


def random_likes(rng: np.random.Generator, n_users: int, n_movies: int) -> sp.csr_matrix:
    """Likes with a long tail: movie j is liked with a probability that falls with j."""
    chance = 0.7 / np.sqrt(1 + np.arange(n_movies))
    return sp.csr_matrix((rng.random((n_users, n_movies)) < chance).astype(np.int32))


def two_taste_blocks(n_users: int = 40, n_movies: int = 12) -> sp.csr_matrix:
    """Each half of the users likes all movies of one half, and no others."""
    likes = np.zeros((n_users, n_movies), dtype=np.int32)
    likes[: n_users // 2, : n_movies // 2] = 1
    likes[n_users // 2 :, n_movies // 2 :] = 1
    return sp.csr_matrix(likes)


def small_ratings(rng: np.random.Generator, n_users: int = 12, n_movies: int = 9) -> Ratings:
    """Every user rates a random half of the movies, at least one, in half stars."""
    rated = rng.random((n_users, n_movies)) < 0.5
    rated[np.arange(n_users), rng.integers(n_movies, size=n_users)] = True
    user, movie = np.nonzero(rated)
    return Ratings(
        name="small",
        movies=pd.DataFrame(
            {
                "movie_id": np.arange(n_movies, dtype=np.int64) * 10 + 1,
                "title": [f"Movie {chr(65 + i)} (199{i % 10})" for i in range(n_movies)],
                "genres": "Drama",
            }
        ),
        user_ids=np.arange(n_users, dtype=np.int64) + 1,
        user=user.astype(np.int32),
        movie=movie.astype(np.int32),
        stars=rng.integers(1, 11, size=len(user)).astype(np.float32) / 2,
        dropped={},
        digest="0" * 64,
    )
