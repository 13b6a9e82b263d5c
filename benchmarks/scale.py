"""The movie half from a laptop's data to ml-32m's size: time and memory of every stage.

    python -m benchmarks.scale --folder <where the synthetic ratings go> --figure scaling.png

The ratings are synthetic (`benchmarks.synthetic_ratings`): 0.1, 1, 10 and 32 million. Each size is
read in one process and fitted in another, each with its own peak resident memory. A stage's
exponent is the slope of its time against the number of ratings on logarithmic axes.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic_ratings import LARGEST, SMALLEST, write
from benchmarks.timing import in_a_process, machine
from embedlab.movies.data.cooccurrence import likes_per_movie
from embedlab.movies.data.likes import find_likes
from embedlab.movies.data.ratings import read_ratings
from embedlab.movies.data.weighting import WeightedLikes, weight_likes
from embedlab.movies.solvers.minres import fit_minres
from embedlab.movies.solvers.objective import Factored
from embedlab.plotting import BLUE, GREEN, GREY, ORANGE, RED, new_figure, tidy
from embedlab.process import peak_memory
from embedlab.progress import EpochRecord
from embedlab_serving.errors import TitleError
from embedlab_serving.neighbours import Neighbours
from embedlab_serving.titles import TitleIndex

T = TypeVar("T")
SIZES = (SMALLEST, 1_000_000, 10_000_000, LARGEST)
DIM, EPOCHS, ASKED = 100, 5, 200
NEAR_LIMIT = 1e-3
LIKES, TITLES = "likes.npz", "titles.json"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#8e44ad", "#17a2b8", GREY, "#b8860b", "#222222")
UNITS = {"memory of reading": "GiB", "memory of fitting": "GiB"}
UNITS |= {"a title": "ms", "a missing title": "ms"}


def peak_gib() -> float:
    return peak_memory() / 2**30


def timed(call: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    found = call()
    return found, time.perf_counter() - started


def read(folder: Path) -> dict[str, float]:
    ratings, reading = timed(lambda: read_ratings(folder))
    likes, liking = timed(lambda: find_likes(ratings, "user_mean"))
    sp.save_npz(folder / LIKES, likes.matrix, compressed=False)
    (folder / TITLES).write_text(json.dumps(likes.movies["title"].tolist()))
    found = {"reading": reading, "likes": liking, "memory of reading": peak_gib()}
    return {"ratings": ratings.n_ratings, "likes found": likes.matrix.nnz, **found}


def seconds_of_epochs(weighted: WeightedLikes) -> list[float]:
    objective = Factored(weighted)
    v = torch.randn((objective.n_movies, DIM), requires_grad=True)
    optimizer = torch.optim.Adam([v], lr=1.0, fused=True)

    def epoch() -> None:
        with torch.no_grad():
            _, v.grad = objective.cost_and_gradient(v.detach())
        optimizer.step()

    return [timed(epoch)[1] for _ in range(EPOCHS + 1)][1:]


def fit(folder: Path) -> dict[str, float]:
    likes = sp.load_npz(folder / LIKES)
    weighted = weight_likes(likes)
    _, squares = timed(lambda: weighted.off_diagonal_squares)

    epochs = seconds_of_epochs(weighted)
    history: list[EpochRecord] = []
    exact, whole = timed(
        lambda: fit_minres(
            weighted, DIM, np.random.default_rng(0), tolerance=1e-5, on_epoch=history.append
        )
    )
    costs = np.array([record.metrics["train/cost"] for record in history])
    spent = np.cumsum([record.seconds or 0.0 for record in history])
    # The time outside the rounds, `whole - spent[-1]`, counts as well.
    first = int(np.argmax(costs <= exact.cost * (1 + NEAR_LIMIT)))
    near = whole - spent[-1] + spent[first]
    memory = peak_gib()

    titles = json.loads((folder / TITLES).read_text())
    popularity = likes_per_movie(likes)
    index, indexing = timed(lambda: TitleIndex(titles, popularity))
    neighbours = Neighbours(exact.embedding)

    def ask(title: str) -> object:
        return neighbours.top([index.find(title)], 10)

    rows = np.random.default_rng(0).choice(len(titles), ASKED)
    typed = [titles[row].rpartition(" (")[0].lower() for row in rows]
    asked = [timed(partial(ask, title))[1] for title in typed]
    missing = [timed(partial(not_found, index, f"{title} {title[::-1]}"))[1] for title in typed]
    return {
        "‖X‖²": squares,
        "an Adam epoch": float(np.median(epochs)),
        "exact, to 1e-3 of its end": squares + near,
        "exact, whole": squares + whole,
        "memory of fitting": memory,
        "index of titles": indexing,
        "a title": 1e3 * float(np.median(asked)),
        "a missing title": 1e3 * float(np.median(missing)),
        "rounds": len(history) - 1,
        "rounds to 1e-3": first,
        "products": history[-1].metrics["train/products"],
    }


def not_found(index: TitleIndex, title: str) -> None:
    """Look up a missing title; its error, which lists the nearest titles, is part of the time."""
    with suppress(TitleError):
        index.find(title)


def exponent(ratings: list[float], values: list[float]) -> float:
    return float(np.polyfit(np.log(ratings), np.log(values), 1)[0])


def show(found: list[dict[str, float]]) -> None:
    ratings = [row["ratings"] for row in found]
    table = Table(title=f"Movies by size, dim {DIM}", title_justify="left")
    table.add_column("stage")
    for n in ratings:
        table.add_column(f"{n / 1e6:.3g} M ratings", justify="right")
    table.add_column("exponent", justify="right")
    for stage in list(found[0])[1:]:
        values = [row[stage] for row in found]
        unit = UNITS.get(stage, "" if isinstance(values[0], int) else "s")
        cells = [f"{v:,} {unit}" if isinstance(v, int) else f"{v:,.3g} {unit}" for v in values]
        slope = f"{exponent(ratings, values):.2f}" if unit and len(found) > 1 else ""
        table.add_row(stage, *cells, slope)
    Console(width=120).print(table)
    print(json.dumps({"machine": machine(), "rows": found}))


def draw(found: list[dict[str, float]], path: Path) -> None:
    figure = new_figure(13, 4.2)
    ratings = [row["ratings"] for row in found]
    seconds, memory = figure.subplots(1, 2)
    for axes in (seconds, memory):
        axes.set_prop_cycle(color=COLOURS)
    for stage in list(found[0])[1:]:
        values = [row[stage] for row in found]
        if isinstance(values[0], int):
            continue
        axes = memory if UNITS.get(stage) == "GiB" else seconds
        values = [v / 1e3 for v in values] if UNITS.get(stage) == "ms" else values
        label = f"{stage}, ∝ n$^{{{exponent(ratings, values):.2f}}}$"
        axes.plot(ratings, values, marker="o", linewidth=2, label=label)
    seconds.set(title="time", ylabel="seconds")
    memory.set(title="peak resident memory of the process", ylabel="GiB")
    for axes in (seconds, memory):
        axes.set(xscale="log", yscale="log", xlabel="ratings")
        tidy(axes)
        # Beside the lines, in their order from the top.
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
    found = []
    for size in args.sizes:
        folder = args.folder / str(size)
        if not (folder / "movies.csv").exists():
            write(folder, size)
        found.append(in_a_process(read, folder) | in_a_process(fit, folder))
        show(found)
    if args.figure and len(found) > 1:
        draw(found, args.figure)


if __name__ == "__main__":
    main()
