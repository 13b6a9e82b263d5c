"""The movie part from ml-latest-small's size to ml-32m's: time and memory of every stage.

    python -m benchmarks.scale --folder <where the synthetic ratings go> --figure scaling.png

The ratings are synthetic (`benchmarks.synthetic_ratings`): 0.1, 1, 10 and 32 million. Each size is
read in one process and fitted in another, so that each has its own peak resident memory. The
exponent of a stage is the slope of its time against the number of ratings on logarithmic axes.
"""

import argparse
import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from matplotlib.ticker import EngFormatter

from benchmarks.movie_fits import DIM, adam_epoch, timed_exact_fit
from benchmarks.synthetic_ratings import LARGEST, SMALLEST, folder_of_size
from benchmarks.timing import in_a_process, machine, print_table, seconds_of_calls, timed
from embedlab.movies.data.cooccurrence import likes_per_movie
from embedlab.movies.data.likes import find_likes
from embedlab.movies.data.ratings import read_ratings
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.solvers.objective import Factored
from embedlab.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, TEAL, new_figure, tidy
from embedlab.process import peak_memory
from embedlab_serving.errors import TitleError
from embedlab_serving.neighbours import Neighbours
from embedlab_serving.titles import TitleIndex

SIZES = (SMALLEST, 1_000_000, 10_000_000, LARGEST)
N_EPOCHS, N_TITLES = 5, 200
LIKES, TITLES = "likes.npz", "titles.json"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, TEAL, GREY, "#b8860b", "#222222")
UNITS = {"memory of reading": "GiB", "memory of fitting": "GiB"}
UNITS |= {"a title": "ms", "a missing title": "ms"}


def read(folder: Path) -> dict[str, float]:
    ratings, reading = timed(lambda: read_ratings(folder))
    likes, liking = timed(lambda: find_likes(ratings, "user_mean"))
    sp.save_npz(folder / LIKES, likes.matrix, compressed=False)
    (folder / TITLES).write_text(json.dumps(likes.movies["title"].tolist()))
    return {
        "ratings": ratings.n_ratings,
        "likes found": likes.matrix.nnz,
        "reading": reading,
        "likes": liking,
        "memory of reading": peak_memory() / 2**30,
    }


def fit(folder: Path) -> dict[str, float]:
    likes = sp.load_npz(folder / LIKES)
    weighted = weight_likes(likes)
    _, squares = timed(lambda: weighted.off_diagonal_squares)

    epochs = seconds_of_calls(adam_epoch(Factored(weighted)), N_EPOCHS, warm_up=1)
    exact = timed_exact_fit(weighted)
    memory = peak_memory() / 2**30

    titles = json.loads((folder / TITLES).read_text())
    popularity = likes_per_movie(likes)
    index, indexing = timed(lambda: TitleIndex(titles, popularity))
    neighbours = Neighbours(exact.fit.embedding)

    def ask(title: str) -> object:
        return neighbours.top([index.find(title)], 10)

    rows = np.random.default_rng(0).choice(len(titles), N_TITLES)
    typed = [titles[row].rpartition(" (")[0].lower() for row in rows]
    title_seconds = [timed(partial(ask, title))[1] for title in typed]
    mistyped = ["".join(letter for i, letter in enumerate(title) if i % 4) for title in typed]
    missing_seconds = [timed(partial(not_found, index, title))[1] for title in mistyped]
    return {
        "‖X‖²": squares,
        "an Adam epoch": float(np.median(epochs)),
        "exact, to 1e-3 of its end": squares + exact.near_seconds,
        "exact, whole": squares + exact.seconds,
        "memory of fitting": memory,
        "index of titles": indexing,
        "a title": 1e3 * float(np.median(title_seconds)),
        "a missing title": 1e3 * float(np.median(missing_seconds)),
        "rounds": len(exact.history) - 1,
        "rounds to 1e-3": exact.near_round,
        "products": exact.history[-1].metrics["train/products"],
    }


def not_found(index: TitleIndex, title: str) -> None:
    """Look up a missing title, which includes making the error that lists the nearest titles."""
    with suppress(TitleError):
        index.find(title)


def exponent(ratings: list[float], values: list[float]) -> float:
    return float(np.polyfit(np.log(ratings), np.log(values), 1)[0])


def show(rows: list[dict[str, float]]) -> None:
    ratings = [row["ratings"] for row in rows]
    lines = []
    for stage in list(rows[0])[1:]:
        values = [row[stage] for row in rows]
        unit = UNITS.get(stage, "" if isinstance(values[0], int) else "s")
        cells = [f"{v:,} {unit}" if isinstance(v, int) else f"{v:,.3g} {unit}" for v in values]
        slope = f"{exponent(ratings, values):.2f}" if unit and len(rows) > 1 else ""
        lines.append([stage, *cells, slope])
    sizes = (f"{n / 1e6:.3g} M ratings" for n in ratings)
    print_table(f"Movies by size, dim {DIM}", ("stage", *sizes, "exponent"), lines)
    print(json.dumps({"machine": machine(), "rows": rows}))


def draw(rows: list[dict[str, float]], path: Path) -> None:
    figure = new_figure(13, 4.2)
    ratings = [row["ratings"] for row in rows]
    seconds, memory = figure.subplots(1, 2)
    for axes in (seconds, memory):
        axes.set_prop_cycle(color=COLOURS)
    for stage in list(rows[0])[1:]:
        values = [row[stage] for row in rows]
        if isinstance(values[0], int):
            continue
        axes = memory if UNITS.get(stage) == "GiB" else seconds
        values = [v / 1e3 for v in values] if UNITS.get(stage) == "ms" else values
        label = f"{stage}, ∝ n$^{{{exponent(ratings, values):.2f}}}$"
        axes.plot(ratings, values, marker="o", linewidth=2, label=label)
    seconds.set(title="Time", ylabel="seconds", yscale="log")
    seconds.yaxis.set_major_formatter("{x:g}")
    memory.set(title="Peak resident memory of the process", ylabel="GiB", ylim=(0, None))
    for axes in (seconds, memory):
        axes.set(xscale="log", xlabel="ratings")
        axes.xaxis.set_major_formatter(EngFormatter())
        tidy(axes)
        # The legend is beside the lines, in their order from the top.
        lines = sorted(axes.lines, key=lambda line: -line.get_ydata()[-1])
        axes.legend(
            handles=lines, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the synthetic ratings, 1.5 GB"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="in ratings")
    parser.add_argument("--figure", type=Path, help="where to draw it")
    args = parser.parse_args()
    rows = []
    for size in args.sizes:
        folder = folder_of_size(args.folder, size)
        rows.append(in_a_process(read, folder) | in_a_process(fit, folder))
        show(rows)
    if args.figure and len(rows) > 1:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
