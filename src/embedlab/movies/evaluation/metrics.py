"""How well scores rank the held-out likes, how much of the catalogue they show, how popular it is.

In: a `Holdout` and a `Scorer`. Out: a `Ranking`, numbers per user; and their bootstrap intervals.
Every user counts alike: numbers are means over a user's questions first.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch

from embedlab.errors import OptionError
from embedlab.movies.evaluation.splits import Holdout

Scorer = Callable[[np.ndarray], np.ndarray]
"""Query movies (n,) -> the score of every movie for each, (n, n_movies), higher is better."""

EXCLUDE = ("query", "likes")
QUERIES_AT_ONCE = 512
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ranking:
    """What a scorer made of the questions: of the k best movies that it gives for each.

    hit_rate    (n_users,) share of the held-out likes among them: each is a case of its own.
    ndcg        (n_users,) NDCG@k with both held-out likes equally relevant.
    mrr         (n_users,) 1 / place of the first held-out like, 0 where none is among them.
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

    Raises OptionError for a bad `exclude`, or for k above what is then left of the catalogue.
    """
    best = recommend_for(scorer, holdout, k, exclude)  # (n_questions, k)
    n_movies = holdout.likes.shape[1]
    likes_of = np.bincount(holdout.likes.indices, minlength=n_movies)  # (n_movies,)
    is_hit = best[:, :, None] == holdout.targets[:, None, :]  # (n_questions, k, HELD_OUT)
    at = is_hit.any(axis=2)  # (n_questions, k), places of the list that hold an answer
    place = np.arange(1, k + 1)
    # DCG = Σ 1 / log2(1 + place) over the answers in the list; the ideal list has them first.
    gain = 1 / np.log2(1 + place)
    return Ranking(
        hit_rate=_by_user(is_hit.any(axis=1).mean(axis=1), holdout.user),
        ndcg=_by_user(at @ gain / gain[: is_hit.shape[2]].sum(), holdout.user),
        mrr=_by_user((at / place).max(axis=1), holdout.user),
        popularity=_by_user(likes_of[best].mean(axis=1), holdout.user),
        coverage=len(np.unique(best)) / n_movies,
    )


def recommend_for(scorer: Scorer, holdout: Holdout, k: int, exclude: str) -> np.ndarray:
    """The `k` best movies for every question, best first: (n_questions, k). See `rank_held_out`."""
    if exclude not in EXCLUDE:
        raise OptionError(f"exclude: expected one of {', '.join(EXCLUDE)}, got '{exclude}'")
    most = holdout.likes.shape[1] - (1 if exclude == "query" else _most_known(holdout))
    if not 0 < k <= most:
        raise OptionError(f"k: expected from 1 to {most}, the movies that are left, got {k}")
    best = np.empty((len(holdout.query), k), dtype=np.int64)
    order = np.argsort(holdout.query, kind="stable")  # a query of several users is scored once
    for start in range(0, len(order), QUERIES_AT_ONCE):
        rows = order[start : start + QUERIES_AT_ONCE]
        query, which = np.unique(holdout.query[rows], return_inverse=True)
        scores = np.array(scorer(query), dtype=np.float32)  # (n_queries, n_movies)
        scores[np.arange(len(query)), query] = -np.inf
        if exclude == "query":
            best[rows] = _top(scores, k)[which]
        else:
            scores = scores[which]  # (n_rows, n_movies)
            known = holdout.likes[holdout.user[rows]]
            scores[np.repeat(np.arange(len(rows)), np.diff(known.indptr)), known.indices] = -np.inf
            best[rows] = _top(scores, k)
    return best


def _most_known(holdout: Holdout) -> int:
    return int(np.diff(holdout.likes.indptr)[holdout.user].max())


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest scores of each row, highest first: (n, k)."""
    return torch.topk(torch.from_numpy(scores), k, dim=1).indices.numpy()


def _by_user(values: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Means over each user's questions, in the order of the users: (n_users,)."""
    _, which = np.unique(user, return_inverse=True)
    return np.bincount(which, values) / np.bincount(which)


def average(rankings: Sequence[Ranking]) -> Ranking:
    """Of the same users, over several splits."""
    return Ranking(
        *(np.mean(values, axis=0) for values in zip(*map(astuple, rankings), strict=True))
    )


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
