"""Likes held out, to be asked for: of each user with enough of them two, by seed.

In: L. Out: the likes that may be learnt from, and questions: a movie that the user likes is the
query, the held-out two are the answers. Validation is the same, applied to what is left: a holdout
of `holdout.likes`.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from embedlab.errors import DataError

MIN_LIKES = 5  # of a user who is asked
HELD_OUT = 2  # of such a user's likes
MAX_QUERIES = 10  # of such a user's other likes


@dataclass(frozen=True)
class Holdout:
    """What may be learnt from, and what is asked; one row a question, user by user.

    likes    (n_users, n_movies) CSR: L without the held-out likes.
    user     (n_questions,) rows of L.
    query    (n_questions,) movies that the user likes, in `likes`.
    answers  (n_questions, HELD_OUT) the user's held-out movies, the same for all of the user's
             questions.
    """

    likes: sp.csr_matrix
    user: np.ndarray
    query: np.ndarray
    targets: np.ndarray

    @property
    def n_users(self) -> int:
        """Users who are asked."""
        return len(np.unique(self.user))


def check_enough(likes: sp.csr_matrix, fewest: int = MIN_LIKES) -> None:
    """Raises DataError where no user has `fewest` likes."""
    most = np.diff(likes.indptr).max(initial=0)
    if most < fewest:
        raise DataError(
            f"evaluation needs users with at least {fewest} likes, but the most that a user has is "
            f"{most}: use more ratings, or a like rule that more pass."
        )


def hold_out(
    likes: sp.csr_matrix, generator: np.random.Generator, most_users: int | None = None
) -> Holdout:
    """Hold out HELD_OUT random likes of every user with MIN_LIKES; up to MAX_QUERIES random
    ones of the others are queries.

    likes       (n_users, n_movies) CSR, an entry a like.
    most_users  who are asked, at random, where there are more of them.

    Raises DataError where no user has enough likes.
    """
    check_enough(likes)
    n_likes = np.diff(likes.indptr)  # (n_users,)
    user = np.repeat(np.arange(len(n_likes)), n_likes)  # (n_entries,)
    # Every user's likes in random order; `place` counts them from 0, user by user.
    order = np.lexsort((generator.random(len(user)), user))
    movie = likes.indices[order]
    place = np.arange(len(user)) - likes.indptr[user]
    asked = np.flatnonzero(n_likes >= MIN_LIKES)
    if most_users is not None and len(asked) > most_users:
        asked = generator.choice(asked, most_users, replace=False)
    is_asked = np.isin(np.arange(len(n_likes)), asked)[user]  # (n_entries,)
    is_held = is_asked & (place < HELD_OUT)
    is_query = is_asked & ~is_held & (place < HELD_OUT + MAX_QUERIES)
    answers = np.zeros((len(n_likes), HELD_OUT), dtype=np.int64)  # (n_users, HELD_OUT)
    answers[user[is_held], place[is_held]] = movie[is_held]
    kept = sp.csr_matrix(
        (likes.data[order][~is_held], (user[~is_held], movie[~is_held])), shape=likes.shape
    )
    kept.sort_indices()
    asked = user[is_query]  # (n_questions,)
    return Holdout(kept, asked, movie[is_query].astype(np.int64), answers[asked])
