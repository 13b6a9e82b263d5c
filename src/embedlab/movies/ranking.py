"""How well scores rank the held-out likes, how much of the catalogue they show, how popular it is.

In: a `Holdout` and a `Scorer`. Out: a `Ranking`, numbers per user; and their bootstrap intervals.
Every user counts alike: numbers are means over a user's questions first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from embedlab.errors import OptionError
from embedlab.movies.holdout import Holdout

Scorer = Callable[[np.ndarray], np.ndarray]
"""Query movies (n,) -> the score of every movie for each, (n, n_movies), higher is better."""

EXCLUDE = ("query", "likes")
QUESTIONS_AT_ONCE = 512
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ranking:
    """What a scorer made of the questions.

    hit_rate    (n_users,) share of the held-out likes among the best k: each is a case of its own.
    ndcg        (n_users,) NDCG@k with both held-out likes as equally relevant.
    mrr         (n_users,) 1 / rank of the better held-out like, in the whole catalogue.
    popularity  (n_users,) mean number of users who like a recommended movie.
    coverage    share of the catalogue that is recommended to anybody.
    """

    hit_rate: np.ndarray
    ndcg: np.ndarray
    mrr: np.ndarray
    popularity: np.ndarray
    coverage: float

    def means(self) -> dict[str, float]:
        """Each number's mean over users, by name."""
        return {name: float(np.mean(value)) for name, value in vars(self).items()}


def rank_held_out(scorer: Scorer, holdout: Holdout, k: int = 10, exclude: str = "query") -> Ranking:
    """Ask every question of `holdout`.

    exclude  what is never recommended: `query`, the query movie alone, as `recommend` does it, or
             `likes`, all of the user's likes that are known.

    Equal scores are ranked by the lower movie. Raises OptionError for a bad `exclude`, or for k
    above what the catalogue holds.
    """
    if exclude not in EXCLUDE:
        raise OptionError(f"exclude: expected one of {', '.join(EXCLUDE)}, got '{exclude}'")
    n_movies = holdout.likes.shape[1]
    if not 0 < k < n_movies:
        raise OptionError(f"k: expected from 1 to {n_movies - 1}, for {n_movies} movies, got {k}")
    likes_of = np.bincount(holdout.likes.indices, minlength=n_movies)  # (n_movies,)
    shown = np.zeros(n_movies, dtype=bool)
    ranks = np.empty(holdout.answers.shape, dtype=np.int64)  # (n_questions, HELD_OUT), from 1
    popularity = np.empty(len(ranks))
    order = np.argsort(holdout.query, kind="stable")  # equal queries are scored once a block
    for start in range(0, len(order), QUESTIONS_AT_ONCE):
        rows = order[start : start + QUESTIONS_AT_ONCE]
        query, which = np.unique(holdout.query[rows], return_inverse=True)
        scores = np.asarray(scorer(query), dtype=np.float32)[which]  # (n_rows, n_movies)
        scores[np.arange(len(rows)), holdout.query[rows]] = -np.inf
        if exclude == "likes":
            scores[_entries(holdout.likes[holdout.user[rows]])] = -np.inf
        ranks[rows] = _ranks(scores, holdout.answers[rows])
        best = torch.topk(torch.from_numpy(scores), k, dim=1, sorted=False).indices.numpy()
        shown[best] = True
        popularity[rows] = likes_of[best].mean(axis=1)

    # DCG = Σ 1 / log2(1 + rank) over the answers among the best k, the ideal has them first.
    gain = np.where(ranks <= k, 1 / np.log2(1 + ranks), 0).sum(axis=1)  # (n_questions,)
    ideal = (1 / np.log2(2 + np.arange(min(k, ranks.shape[1])))).sum()
    return Ranking(
        hit_rate=_by_user((ranks <= k).mean(axis=1), holdout.user),
        ndcg=_by_user(gain / ideal, holdout.user),
        mrr=_by_user(1 / ranks.min(axis=1), holdout.user),
        popularity=_by_user(popularity, holdout.user),
        coverage=float(shown.mean()),
    )


def _entries(likes: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(likes.shape[0]), np.diff(likes.indptr)), likes.indices


def _ranks(scores: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """scores (n, n_movies), answers (n, a) -> the answers' ranks from 1, (n, a)."""
    ranks = np.empty(answers.shape, dtype=np.int64)
    for column, answer in enumerate(answers.T):
        own = np.take_along_axis(scores, answer[:, None], axis=1)  # (n, 1)
        ranks[:, column] = 1 + np.count_nonzero(scores > own, axis=1)
        tied = np.flatnonzero(np.count_nonzero(scores == own, axis=1) > 1)
        is_before = np.arange(scores.shape[1]) < answer[tied, None]  # (n_tied, n_movies)
        ranks[tied, column] += np.count_nonzero((scores[tied] == own[tied]) & is_before, axis=1)
    return ranks


def _by_user(values: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Means over each user's questions, in the order of the users: (n_users,)."""
    _, which = np.unique(user, return_inverse=True)
    return np.bincount(which, values) / np.bincount(which)


def resample_users(n_users: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """`n` bootstrap samples of users: how often each is drawn, as a share; (n, n_users)."""
    return generator.multinomial(n_users, np.full(n_users, 1 / n_users), size=n) / n_users


def interval(per_user: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `per_user` (n_users,).

    samples  of `resample_users`. One set for all candidates makes comparisons paired: the interval
             of a difference is that of the users' differences.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples @ per_user, [tail, 1 - tail])
    return float(low), float(high)
