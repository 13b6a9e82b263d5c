"""The exact solver beside implicit's ALS on the same likes: time, memory, a top 10, hit rate.

    python -m benchmarks.peers --folder <where the synthetic ratings go> --ratings ml-latest-small

Both use dim 100 and all cores. ALS (Hu, Koren and Volinsky, ICDM 2008) runs with its defaults (15
iterations); the exact solver is timed until its cost is within 1e-3 of its final cost. Two likes of
each user are held out; the hit rate is that of `evaluate_embedding`, with the best of each side's
scores. The sides take turns. Every fit runs in its own process, whose peak resident memory includes
Python, its libraries and the likes.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from matplotlib.ticker import EngFormatter
from threadpoolctl import threadpool_limits

from benchmarks.movie_fits import DIM, load_likes, timed_exact_fit
from benchmarks.synthetic_ratings import LARGEST, folder_of_size
from benchmarks.timing import in_a_process, machine, print_table, timed
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.evaluation.baselines import als_scores
from embedlab.movies.evaluation.metrics import (
    ScoreFunction,
    held_out_metrics,
    inner_products,
    unit_rows,
)
from embedlab.movies.evaluation.splits import Holdout, choose_users, hold_out
from embedlab.plotting import BLUE, GREEN, new_figure, tidy
from embedlab.process import peak_memory
from embedlab_serving.neighbours import Neighbours

N_TOP_10 = 200
SIZES = (1_000_000, 10_000_000, LARGEST)
LIKES, QUERIES = "likes.npz", "queries.npz"
Measured = dict[str, float]


def hold_out_likes(ratings: str, folder: Path, n_users: int) -> dict[str, object]:
    """Write the training likes and the queries to `folder`; return the sizes of the data."""
    likes = load_likes(ratings).matrix
    generator = np.random.default_rng(0)
    holdout = hold_out(likes, generator, choose_users(likes, generator, n_users))
    sp.save_npz(folder / LIKES, holdout.matrix, compressed=False)
    queries = {name: getattr(holdout, name) for name in ("user", "query", "targets")}
    np.savez(folder / QUERIES, **queries)
    return {"users": likes.shape[0], "movies": likes.shape[1], "likes": likes.nnz}


def by_exact_solver(likes: sp.csr_matrix) -> tuple[float, Callable, ScoreFunction]:
    """Fit; return the seconds, a function from a row to its top 10, and the score function.

    The fit is timed until the cost is near its final value (`TimedFit`); the top 10 and the scores
    use the finished fit.
    """
    exact = timed_exact_fit(weight_likes(likes))
    v = exact.fit.embedding
    neighbours, unit = Neighbours(v), unit_rows(v)
    score_queries = inner_products({"dot": (v, v), "cosine": (unit, unit)})
    return exact.near_seconds, lambda row: neighbours.top([row], 10), score_queries


def by_als(likes: sp.csr_matrix) -> tuple[float, Callable, ScoreFunction]:
    """The same for implicit's ALS, with the seconds of the whole fit."""
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(DIM, random_state=0, use_gpu=False)
    with threadpool_limits(1, "blas"):  # as implicit recommends, because it has its own threads
        _, seconds = timed(lambda: model.fit(likes.astype(np.float32), show_progress=False))
    score_queries = als_scores(np.asarray(model.item_factors), model.regularization)
    return seconds, lambda row: model.similar_items(row, 11), score_queries


SIDES = {"exact solver": (by_exact_solver, BLUE), "implicit's ALS": (by_als, GREEN)}


def measure(side: str, folder: Path, is_ranked: bool) -> Measured:
    """Time and memory of a fit, time of a top 10 and, if `is_ranked`, the best hit rate."""
    with np.load(folder / QUERIES) as queries:
        holdout = Holdout(sp.load_npz(folder / LIKES), **queries)
    seconds, top_10, score_queries = SIDES[side][0](holdout.matrix)
    measured = {"fit, s": seconds, "memory, GiB": peak_memory() / 2**30}
    rows = np.random.default_rng(0).choice(holdout.query, N_TOP_10)
    title_seconds = [timed(partial(top_10, row))[1] for row in rows]
    measured["a top 10, ms"] = 1e3 * statistics.median(title_seconds)
    if is_ranked:
        rankings = held_out_metrics(score_queries, holdout).values()
        rates = [ranking.means()["hit_rate"] for ranking in rankings]
        measured["hit rate"] = max(rates)
    return measured


def compare(ratings: str, folder: Path, n: int, n_users: int) -> dict[str, object]:
    """The sizes of the data, and the measurements of `n` fits on each side."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = in_a_process(hold_out_likes, ratings, folder, n_users)
    measured: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for turn in range(n):
        for side in list(SIDES)[:: 1 if turn % 2 == 0 else -1]:
            measured[side].append(in_a_process(measure, side, folder, turn == 0))
    return sizes | measured


def show(rows: list[dict]) -> None:
    lines = []
    for row in rows:
        for side in SIDES:
            cells = [side, f"{row['likes']:,}", str(len(row[side]))]
            for name in row[side][0]:
                values = [fit[name] for fit in row[side] if name in fit]
                spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
                cells.append(f"{statistics.median(values):.3g}{spread}")
            lines.append(cells)
    headings = ("side", "likes", "n", *rows[0]["exact solver"][0])
    print_table(f"dim {DIM}, median (range)", headings, lines)
    packages = {"implicit": version("implicit"), **machine()}
    print(json.dumps({"machine": packages, "rows": rows}), flush=True)


def draw(rows: list[dict], path: Path) -> None:
    figure = new_figure(9, 3.6)
    seconds, rates = figure.subplots(1, 2)
    likes = [row["likes"] for row in rows]
    for side, (_, colour) in SIDES.items():
        line = {"color": colour, "marker": "o", "linewidth": 2, "label": side}
        medians = [statistics.median(fit["fit, s"] for fit in row[side]) for row in rows]
        seconds.plot(likes, medians, **line)
        rates.plot(likes, [row[side][0]["hit rate"] for row in rows], **line)
    seconds.set(title=f"Time to fit, dim {DIM}", ylabel="seconds", yscale="log")
    seconds.yaxis.set_major_formatter("{x:g}")
    rates.set(title="Held-out likes in the top ten", ylabel="fraction", ylim=(0, None))
    for axes in (seconds, rates):
        axes.set(xscale="log", xlabel="likes")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.legend(frameon=False)
        tidy(axes)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the synthetic ratings, 1.5 GB"
    )
    parser.add_argument("--ratings", default="ml-latest-small", help="the first data set")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="*",
        default=SIZES,
        help="sizes of the synthetic data, in ratings",
    )
    parser.add_argument("--n", type=int, default=3, help="fits of each side")
    parser.add_argument(
        "--users", type=int, default=2_000, help="maximum number of users for the hit rate"
    )
    parser.add_argument("--figure", type=Path, help="where to draw it")
    args = parser.parse_args()
    rows = [compare(args.ratings, args.folder / "first", args.n, args.users)]
    show(rows)
    for size in args.sizes:
        folder = folder_of_size(args.folder, size)
        rows.append(compare(str(folder), folder, args.n, args.users))
        show(rows)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
