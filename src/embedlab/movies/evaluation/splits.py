"""Leave-two-out split of each user's likes, by seed.

In: L. Out: the likes to learn from, and queries. A query is a movie that the user likes; its
targets are the user's two held-out movies. Validation splits `holdout.matrix` in the same way.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from embedlab.errors import DataError

MIN_USER_LIKES = 5  # to take part in the split
HELD_OUT = 2  # likes of each user
MAX_USER_QUERIES = 10  # of each user, from the other likes


@dataclass(frozen=True, eq=False)
class Holdout:
    """The likes to learn from, and the queries, user by user.

    matrix   (n_users, n_movies) CSR: L without the held-out likes.
    user     (n_queries,) rows of L.
    query    (n_queries,) movies that the user likes, in `matrix`.
    targets  (n_queries, HELD_OUT) the user's held-out movies, the same for all queries of a
             user.
    """

    matrix: sp.csr_matrix
    user: np.ndarray
    query: np.ndarray
    targets: np.ndarray


def check_enough_likes(matrix: sp.csr_matrix, min_likes: int = MIN_USER_LIKES) -> None:
    """Raises DataError if no user has `min_likes` likes."""
    most = np.diff(matrix.indptr).max(initial=0)
    if most < min_likes:
        raise DataError(
            f"evaluation needs users with at least {min_likes} likes, but the most that a user has "
            f"is {most}: use more ratings, or a like rule that more ratings pass."
        )


def choose_users(
    matrix: sp.csr_matrix, generator: np.random.Generator, max_users: int
) -> np.ndarray:
    """Rows of the users with at least MIN_USER_LIKES; at most `max_users`, drawn at random."""
    users = np.flatnonzero(np.diff(matrix.indptr) >= MIN_USER_LIKES)
    if len(users) <= max_users:
        return users
    return generator.choice(users, max_users, replace=False)


def hold_out(
    matrix: sp.csr_matrix, generator: np.random.Generator, users: np.ndarray | None = None
) -> Holdout:
    """Hold out HELD_OUT random likes of every user with at least MIN_USER_LIKES.

    Up to MAX_USER_QUERIES of the user's other likes, drawn at random, are queries.

    matrix  (n_users, n_movies) CSR, an entry per like.
    users   rows of `matrix` to hold out from; None for all.

    Raises DataError if no user has enough likes.
    """
    check_enough_likes(matrix)
    n_likes = np.diff(matrix.indptr)  # (n_users,)
    user = np.repeat(np.arange(len(n_likes)), n_likes)  # (n_entries,)
    # Every user's likes in random order; `position` counts them from 0, user by user.
    order = np.lexsort((generator.random(len(user)), user))
    movie = matrix.indices[order]
    position = np.arange(len(user)) - matrix.indptr[user]
    is_chosen = n_likes >= MIN_USER_LIKES  # (n_users,)
    if users is not None:
        is_chosen &= np.isin(np.arange(len(n_likes)), users)
    is_chosen = is_chosen[user]  # (n_entries,)
    is_target = is_chosen & (position < HELD_OUT)
    is_query = is_chosen & ~is_target & (position < HELD_OUT + MAX_USER_QUERIES)
    targets = np.zeros((len(n_likes), HELD_OUT), dtype=np.int64)  # (n_users, HELD_OUT)
    targets[user[is_target], position[is_target]] = movie[is_target]
    is_kept = ~is_target
    entries = matrix.data[order][is_kept], (user[is_kept], movie[is_kept])
    kept = sp.csr_matrix(entries, shape=matrix.shape).sorted_indices()
    query_user = user[is_query]  # (n_queries,)
    return Holdout(kept, query_user, movie[is_query].astype(np.int64), targets[query_user])
