"""Benchmark of the movie part: epochs, solvers, matrix, memory and model.

    python -m benchmarks.movies --ratings ml-latest-small

The sides of a comparison take turns in one process, so that a slow spell of the machine affects
both; memory is measured in separate processes.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import mlflow
import numpy as np
import torch

from benchmarks.movie_fits import DIM, EXACT, adam_epoch, first_within, load_likes, seconds_until
from benchmarks.timing import Report, in_a_process, seconds_of_calls, take_turns
from embedlab.movies.data.cooccurrence import cooccurrence, to_dense
from embedlab.movies.data.likes import Likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab.movies.solvers.minres import fit_minres
from embedlab.movies.solvers.objective import Dense, Factored, IncrementalProducts
from embedlab.process import peak_memory
from embedlab.progress import EpochRecord
from embedlab.tracking.lifecycle import start_run
from embedlab.workflows.movies.model import log_movie_model
from embedlab_serving.neighbours import Neighbours
from embedlab_serving.titles import TitleIndex


def notebook_epoch(counts: torch.Tensor) -> Callable[[], float]:
    """The notebook's way: the dense cost by autograd, then Adam."""
    v = torch.randn((len(counts), DIM), requires_grad=True)
    optimizer = torch.optim.Adam([v], lr=1.0)
    off_diagonal = 1 - torch.eye(len(counts))

    def epoch() -> float:
        optimizer.zero_grad()
        cost = (((v @ v.T - counts) * off_diagonal) ** 2).sum()
        cost.backward()
        optimizer.step()
        return cost.item()

    return epoch


def epochs(report: Report, likes: Likes, n: int) -> None:
    counts = cooccurrence(likes.matrix)
    notebook, factored = notebook_epoch(to_dense(counts)), adam_epoch(Factored(likes.weighted))
    recomputed = adam_epoch(Factored(likes.weighted))

    def seconds_if_recomputed() -> list[float]:
        with patch.object(IncrementalProducts, "update", IncrementalProducts.recompute):
            return seconds_of_calls(recomputed, 20, warm_up=1)

    base = "epoch, as in the notebook (dense, autograd)"
    sides: dict[str, Callable[[], list[float]]] = {
        base: partial(seconds_of_calls, notebook),
        "epoch, dense": partial(seconds_of_calls, adam_epoch(Dense(counts))),
        "epoch, factored": partial(seconds_of_calls, factored, 20, warm_up=1),
        "epoch, factored, products recomputed in float64": seconds_if_recomputed,
    }
    take_turns(sides, 1)  # warms up
    seconds = take_turns(sides, n)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, values in seconds.items():
        report.add(name, [1e3 * v for v in values], "ms", medians[base] / medians[name])


def exact_solver(report: Report, likes: Likes, n: int) -> None:
    """Seconds until the cost is within given fractions of the limit that a longer fit reaches."""
    reached: dict[float, list[float]] = {1e-2: [], 1e-4: [], 1e-6: []}
    limit = fit_minres(likes.weighted, EXACT, np.random.default_rng(99), tolerance=1e-13).cost
    totals = []
    for seed in range(n):
        history: list[EpochRecord] = []
        fit = fit_minres(
            likes.weighted, EXACT, np.random.default_rng(seed), on_epoch=history.append
        )
        totals.append(fit.seconds)
        for gap, values in reached.items():
            near = first_within(history, limit, gap)
            if near is not None:
                values.append(seconds_until(history, near))
    for gap, values in reached.items():
        if len(values) < n:
            print(f"{n - len(values)} of {n} exact fits do not come within {gap:.0e}")
            continue
        report.add(f"exact solver to within {gap:.0e} of its limit {limit:,.0f}", values, "s")
    report.add("exact solver to its own stop", totals, "s")


def matrix(report: Report, likes: Likes, n: int) -> None:
    counts = cooccurrence(likes.matrix)
    seconds = seconds_of_calls(lambda: cooccurrence(likes.matrix), n, warm_up=1)
    sparse = report.add("X = LᵀL, sparse", seconds, "s")
    floats = torch.from_numpy(likes.matrix.toarray().astype(np.float32))
    seconds = seconds_of_calls(lambda: floats.T @ floats, n, warm_up=1)
    report.add("X = LᵀL, dense product of dense likes", seconds, "s", np.median(seconds) / sparse)
    seconds = seconds_of_calls(lambda: to_dense(counts), n, warm_up=1)
    report.add("X, sparse to dense", seconds, "s")


def _peak_mib_of_a_fit(ratings: str, objective: str, epochs: int) -> tuple[float, float]:
    """Peak resident memory of this process in MiB, before and after a fit."""
    likes = load_likes(ratings)
    before = peak_memory() / 2**20
    options = FitOptions(objective=objective, epochs=epochs)
    fit_likes(likes.weighted, options, 0, "cpu")
    return before, peak_memory() / 2**20


def memory(report: Report, ratings: str, n: int) -> None:
    """Peak resident memory of whole processes; the dense form reaches its peak in two epochs."""
    for objective, epochs in (("factored", 150), ("dense", 2)):
        runs = [in_a_process(_peak_mib_of_a_fit, ratings, objective, epochs) for _ in range(n)]
        name = f"peak memory of a process, {epochs} epochs {objective}"
        imported, _ = runs[-1]
        peaks = [peak for _, peak in runs]
        report.add(f"{name} ({imported:,.0f} MiB of it imports and likes)", peaks, "MiB")


def model(report: Report, likes: Likes, n: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((likes.n_movies, DIM)).astype(np.float32)
    titles = likes.movies["title"].tolist()
    index, neighbours = TitleIndex(titles, likes.popularity), Neighbours(vectors)
    typed = titles[likes.popularity.argmax()].rpartition(" (")[0].lower()

    def one_title(score: str) -> Callable[[], object]:
        return lambda: neighbours.top([index.find(typed)], 10, score)

    for score in ("dot", "cosine"):
        seconds = seconds_of_calls(one_title(score), 200, warm_up=5)
        report.add(f"one title, {score}, inside Python", [1e3 * s for s in seconds], "ms")
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.create_experiment("benchmark", Path(folder, "artifacts").as_uri())
        mlflow.set_experiment("benchmark")
        with start_run("benchmark", "benchmark", {}) as run:
            uri = log_movie_model(run, vectors, likes.table, {})
        loaded = mlflow.pyfunc.load_model(uri)
        load_seconds = seconds_of_calls(lambda: mlflow.pyfunc.load_model(uri), n, warm_up=1)
        report.add("model load, imports done", load_seconds, "s")
        table = [{"title": typed}]
        seconds = seconds_of_calls(lambda: loaded.predict(table), 50, warm_up=5)
        report.add("one title, through MLflow's predict", [1e3 * s for s in seconds], "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratings", default="ml-latest-small")
    parser.add_argument("--n", type=int, default=5, help="repetitions of the slow parts")
    args = parser.parse_args()
    likes = load_likes(args.ratings)
    report = Report(f"Movies, {likes.name}, dim {DIM}")
    memory(report, args.ratings, 3)
    epochs(report, likes, args.n)
    exact_solver(report, likes, args.n)
    matrix(report, likes, args.n)
    model(report, likes, args.n)
    report.show()


if __name__ == "__main__":
    main()
