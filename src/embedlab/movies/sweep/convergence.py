"""Convergence of recommendations: a fit's lists at some epochs against the exact solver's.

Lists change most in the first epochs, so the epochs are spaced evenly on a logarithmic axis.
Besides the movies asked for, N_SAMPLED are drawn at random, since a few famous movies are not
representative.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from embedlab.movies.data.weighting import WeightedLikes
from embedlab.movies.solvers.fit import fit_likes
from embedlab.movies.solvers.result import FitResult
from embedlab.movies.sweep.grid import Job
from embedlab.progress import OnEpoch
from embedlab_serving.titles import TitleIndex

N_SNAPSHOTS = 16
N_SAMPLED = 200
MIN_MOVIE_LIKES = 5  # of a movie that is drawn: vectors of less liked ones say little
LISTS_FILE = "lists.npz"

ListsByEpoch = Mapping[int, np.ndarray]  # epoch -> (n_queries, k) int32 rows of movies, or -1


@dataclass(frozen=True)
class Queries:
    """The query movies of a comparison: those that the user asked for, and a random sample.

    rows      (n_queries,) int64 rows of movies: those asked for, then those drawn at random.
    n_asked   number of those asked for.
    excluded  for each query, the other rows of the same movie, which are not recommended.
    k         length of the lists.
    """

    rows: np.ndarray
    n_asked: int
    excluded: Sequence[Sequence[int]]
    k: int

    @property
    def n_sampled(self) -> int:
        """Number of those drawn at random."""
        return len(self.rows) - self.n_asked

    def recommend(self, embedding: np.ndarray) -> np.ndarray:
        """(n_queries, k) int32: the rows with the largest inner products, largest first.

        embedding  (n_movies, dim) float32.
        """
        v = torch.from_numpy(np.ascontiguousarray(embedding, np.float32))
        scores = v[self.rows] @ v.T  # (n_queries, n_movies)
        own = zip(self.rows, self.excluded, strict=True)
        pairs = [(i, row) for i, (query, others) in enumerate(own) for row in (query, *others)]
        scores[tuple(np.transpose(pairs))] = -torch.inf
        return scores.topk(self.k).indices.int().numpy()


def choose_queries(
    index: TitleIndex, popularity: np.ndarray, asked: Sequence[int], k: int
) -> Queries:
    """The movies asked for, and N_SAMPLED at random of those with at least MIN_MOVIE_LIKES likes.

    popularity  (n_movies,) number of each movie's likes.
    asked       rows of movies.
    k           wanted length of the lists; `Queries.k` is less if a query has fewer other movies.
    """
    eligible = np.flatnonzero(popularity >= MIN_MOVIE_LIKES)
    sampled = np.random.default_rng(0).permutation(eligible)[:N_SAMPLED]
    rows = np.array([*asked, *sampled], np.int64)
    excluded = [index.duplicates_of([query]) for query in rows]
    others = len(popularity) - 1 - max(map(len, excluded))
    return Queries(rows, len(asked), excluded, max(0, min(k, others)))


def snapshot_epochs(n_epochs: int) -> frozenset[int]:
    """Epoch 0, the last epoch, and up to N_SNAPSHOTS - 2 between them, evenly spaced by ratio."""
    between = np.geomspace(1, max(n_epochs, 1), N_SNAPSHOTS - 1).round().astype(int)
    return frozenset([0, *between.tolist()])


def fit_with_snapshots(
    weighted: WeightedLikes, queries: Queries, job: Job, device: str, on_epoch: OnEpoch
) -> tuple[FitResult, ListsByEpoch]:
    """Fit; return the fit and its lists at some epochs (exact solver: only at the last)."""
    options, seed = job
    lists: dict[int, np.ndarray] = {}
    epochs_before_last = snapshot_epochs(options.epochs) - {options.epochs}

    def on_vectors(epoch: int, vectors: torch.Tensor) -> None:
        if epoch in epochs_before_last:
            lists[epoch] = queries.recommend(weighted.to_embedding(vectors.cpu().numpy()))

    fit = fit_likes(weighted, options, seed, device, on_epoch, on_vectors=on_vectors)
    if not fit.has_diverged:
        lists[fit.epochs] = queries.recommend(fit.embedding)
    return fit, lists


def save_lists(folder: Path, queries: Queries, lists: ListsByEpoch) -> None:
    """Write LISTS_FILE: rows (n_queries,) int64, epochs (n,) and lists (n, n_queries, k) int32."""
    epochs = sorted(lists)
    np.savez_compressed(
        folder / LISTS_FILE,
        rows=queries.rows,
        epochs=np.array(epochs, np.int32),
        lists=[lists[epoch] for epoch in epochs],
    )


def read_lists(content: bytes, queries: Queries) -> ListsByEpoch:
    """The saved lists of a finished fit for these queries.

    The fit may have had other queries: a query that it did not have gets a list of -1. If the saved
    lists are shorter than k, the result is empty.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        epochs, rows, lists = stored["epochs"], stored["rows"], stored["lists"]
    if lists.shape[2] < queries.k:
        return {}
    position_of = {row: position for position, row in enumerate(rows.tolist())}
    positions = np.array([position_of.get(row, -1) for row in queries.rows.tolist()])
    lists = lists[:, positions, : queries.k]
    lists[:, positions < 0] = -1
    return dict(zip(epochs.tolist(), lists, strict=True))
