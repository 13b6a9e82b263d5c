"""Metrics of rankings by held-out likes, and their bootstrap intervals.

In: a `Holdout` and a score function. Out: `RankingMetrics` of each scorer.
Every user has the same weight: values are averaged over each user's queries first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch

from embedlab.errors import OptionError
from embedlab.movies.data.cooccurrence import likes_per_movie
from embedlab.movies.evaluation.splits import Holdout

# Query movies (n,) -> by name, the score of every movie for each, (n, n_movies), higher is better.
ScoreFunction = Callable[[np.ndarray], Iterator[tuple[str, np.ndarray]]]

QUERIES_AT_ONCE = 512
RESAMPLES_AT_ONCE = 50
CONFIDENCE = 0.95


def inner_products(vectors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> ScoreFunction:
    """Scorers by name, each from the vectors of a query and of a movie: both (n_movies, dim)."""

    def score_queries(query: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        for name, (of_query, of_movie) in vectors.items():
            yield name, of_query[query] @ of_movie.T

    return score_queries


def unit_rows(vectors: np.ndarray, power: float = 1.0) -> np.ndarray:
    """The vectors, (n_movies, dim), divided by their lengths^power; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms**power, out=np.zeros_like(vectors), where=norms > 0)


@dataclass(frozen=True)
class RankingMetrics:
    """Metrics of the k best movies of every query.

    hit_rate    (n_users,) recall@k: the fraction of the held-out likes that are among them.
    ndcg        (n_users,) NDCG@k with both held-out likes equally relevant.
    mrr         (n_users,) 1 / position of the first held-out like, 0 if none is among them.
    popularity  (n_users,) mean number of users who like a recommended movie.
    coverage    fraction of the catalogue that is recommended at all.
    """

    hit_rate: np.ndarray
    ndcg: np.ndarray
    mrr: np.ndarray
    popularity: np.ndarray
    coverage: float

    def means(self) -> dict[str, float]:
        """Mean over users of every metric, by name."""
        return {name: float(np.mean(value)) for name, value in vars(self).items()}


def held_out_metrics(
    score_queries: ScoreFunction, holdout: Holdout, k: int = 10, exclude: str = "query"
) -> dict[str, RankingMetrics]:
    """Metrics of the recommendations for every query of `holdout`, by name of the scorer.

    exclude  what is never recommended: `query`, the query movie alone, as in `recommend`, or
             `likes`, all of the user's known likes.

    Raises OptionError for a k above the number of movies that remain.
    """
    recommended = recommend_for(score_queries, holdout, k, exclude)
    return {name: _metrics_of(best, holdout) for name, best in recommended.items()}


def _metrics_of(best: np.ndarray, holdout: Holdout) -> RankingMetrics:
    """The metrics of recommended movies `best`, (n_queries, k), the best first."""
    n_movies, k = holdout.matrix.shape[1], best.shape[1]
    popularity = likes_per_movie(holdout.matrix)
    is_hit = best[:, :, None] == holdout.targets[:, None, :]  # (n_queries, k, HELD_OUT)
    is_relevant = is_hit.any(axis=2)  # (n_queries, k), whether a held-out like is there
    position = np.arange(1, k + 1)
    # DCG = Σ 1 / log2(1 + position) of the held-out likes; in the ideal list they come first
    gain = 1 / np.log2(1 + position)
    return RankingMetrics(
        hit_rate=_by_user(is_hit.any(axis=1).mean(axis=1), holdout.user),
        ndcg=_by_user(is_relevant @ gain / gain[: is_hit.shape[2]].sum(), holdout.user),
        mrr=_by_user((is_relevant / position).max(axis=1), holdout.user),
        popularity=_by_user(popularity[best].mean(axis=1), holdout.user),
        coverage=len(np.unique(best)) / n_movies,
    )


def recommend_for(
    score_queries: ScoreFunction, holdout: Holdout, k: int, exclude: str
) -> dict[str, np.ndarray]:
    """The `k` best movies for every query by each scorer, best first: name -> (n_queries, k).

    See `held_out_metrics` for `exclude` and the error.
    """
    n_known = np.diff(holdout.matrix.indptr)[holdout.user]  # (n_queries,)
    max_k = holdout.matrix.shape[1] - (1 if exclude == "query" else int(n_known.max()))
    if not 0 < k <= max_k:
        raise OptionError(
            f"k: expected a whole number from 1 to {max_k}, the movies that are left, got {k}"
        )
    best: dict[str, np.ndarray] = {}
    order = np.argsort(holdout.query, kind="stable")  # scores a movie once for several users
    for start in range(0, len(order), QUERIES_AT_ONCE):
        rows = order[start : start + QUERIES_AT_ONCE]
        query, query_of_row = np.unique(holdout.query[rows], return_inverse=True)
        for name, by_scorer in score_queries(query):
            scores = np.array(by_scorer, dtype=np.float32)  # (different queries, n_movies)
            scores[np.arange(len(query)), query] = -np.inf
            if exclude == "query":
                top = _top(scores, k)[query_of_row]
            else:
                scores = scores[query_of_row]  # (n_rows, n_movies)
                scores[holdout.matrix[holdout.user[rows]].nonzero()] = -np.inf
                top = _top(scores, k)
            if name not in best:
                best[name] = np.empty((len(order), k), np.int64)
            best[name][rows] = top
    return best


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest scores of each row, highest first: (n, k)."""
    return torch.topk(torch.from_numpy(scores), k, dim=1).indices.numpy()


def _by_user(values: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Mean over each user's queries, in order of the users: (n_users,)."""
    _, position = np.unique(user, return_inverse=True)
    return np.bincount(position, values) / np.bincount(position)


def mean_metrics(rankings: Sequence[RankingMetrics]) -> RankingMetrics:
    """Mean of the rankings of several splits with the same users."""
    columns = zip(*map(astuple, rankings), strict=True)
    return RankingMetrics(*(np.mean(values, axis=0) for values in columns))


def bootstrap_intervals(
    per_user: np.ndarray, n_resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Percentile bootstrap intervals of the means of `per_user`, (n_users, m): low, high, (2, m).

    All m share the resamples, which makes comparisons paired: the interval of a difference is that
    of the users' differences.
    """
    n_users = len(per_user)
    chances = np.full(n_users, 1 / n_users)
    means = []
    for start in range(0, n_resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, n_resamples - start)
        counts = generator.multinomial(n_users, chances, size)  # (size, n_users)
        means.append(counts @ per_user / n_users)  # (size, m)
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
