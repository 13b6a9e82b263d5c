"""Figures of ratings, likes, fits and maps: arrays in, matplotlib Figures out; no display."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox
from matplotlib.typing import ColorType
from scipy.cluster.hierarchy import leaves_list, linkage

from embedlab.formatting import cost_as_text, counted, shortened
from embedlab.movies.data.cooccurrence import most_liked_first
from embedlab.movies.data.likes import Likes
from embedlab.movies.data.ratings import Ratings
from embedlab.movies.genres import GENRE_COLOURS, GENRE_GROUPS
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import relative_gap
from embedlab.plotting import BLUE, GREY, heat_map, new_figure, new_panel
from embedlab.progress import EpochRecord

if TYPE_CHECKING:  # it imports scikit-learn, which takes half a second
    from embedlab.movies.movie_map import MovieMap

ROUNDOFF = 1e-15
_large_numbers = FuncFormatter(lambda value, _: cost_as_text(value))


def plot_ratings(ratings: Ratings, likes: Likes) -> Figure:
    """Histogram of the stars, and of those that count as likes."""
    # A rating is a like if L has an entry for its user and movie; L's rows are the users, in order.
    is_like = np.asarray(likes.matrix[ratings.user, ratings.movie]).ravel() > 0
    by_stars = pd.Series(is_like).groupby(ratings.stars)
    n_ratings, n_likes = by_stars.size(), by_stars.sum()
    figure, axes = new_panel(
        width=7,
        height=4,
        title=f"{likes.name}: {ratings.n_ratings:,} ratings, {likes.matrix.nnz:,} likes",
        xlabel="stars",
        ylabel="ratings",
        xticks=n_ratings.index,
    )
    axes.bar(n_ratings.index, n_ratings, width=0.36, color="#c9d7e8", label="ratings")
    axes.bar(n_likes.index, n_likes, width=0.36, color=BLUE, label=f"likes ({likes.like_rule})")
    axes.yaxis.set_major_formatter(_large_numbers)
    axes.legend(frameon=False)
    return figure


def plot_popularity(likes: Likes) -> Figure:
    """Likes of each movie, most liked first, and the number of movies with half of all likes."""
    counts = np.sort(likes.popularity)[::-1]  # (n_movies,)
    position = np.arange(1, len(counts) + 1)
    is_liked = counts > 0
    half = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1
    n_unliked = np.count_nonzero(~is_liked)
    figure, axes = new_panel(
        width=7,
        height=4,
        title=f"{likes.name}: popularity, {n_unliked:,} of {len(counts):,} movies liked by nobody",
        xlabel="movie, most liked first",
        ylabel="users who like it",
        xscale="log",
        yscale="log",
    )
    axes.plot(position[is_liked], counts[is_liked], color=BLUE, linewidth=2)
    bottom = max(0.8, 0.7 * counts[is_liked].min()) if is_liked.any() else 0.8
    axes.fill_between(position[:half], counts[:half], bottom, color=BLUE, alpha=0.15, linewidth=0)
    axes.annotate(
        f"half of all likes are of {counted(half, 'movie')}",
        (max(half / 2, 1), bottom),
        xytext=(0, 10),
        textcoords="offset points",
        ha="right" if half > 2 else "left",
        color=BLUE,
    )
    axes.set_ylim(bottom, None)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(_large_numbers)
        axis.set_minor_formatter(NullFormatter())
    return figure


def plot_top_block(likes: Likes, n_top: int = 40) -> Figure:
    """Heat map of the `n_top` most liked movies: users who like both, relative to chance.

    Similar movies are adjacent. The diagonal, which the cost leaves out, is grey.
    """
    top = most_liked_first(likes.matrix)[:n_top]
    top_likes = likes.matrix[:, top].astype(float)  # (n_users, n_top)
    counts, liked = (top_likes.T @ top_likes).toarray(), likes.popularity[top]
    # If x_i and x_j of U users like i and j independently, x_i x_j / U like both.
    lift = counts * likes.matrix.shape[0] / np.outer(liked, liked).clip(1)  # (n_top, n_top)
    order = _by_cluster(lift)
    lift = lift[np.ix_(order, order)]
    np.fill_diagonal(lift, np.nan)
    names = [shortened(likes.movies["title"].iloc[row]) for row in top[order]]
    label = "users who like both, over what chance would give"
    figure, axes = heat_map((11, 10), lift, label, names=names)
    axes.set_title(f"{likes.name}: liked together, the {len(top)} most liked movies by cluster")
    return figure


def _by_cluster(similarity: np.ndarray) -> np.ndarray:
    """An order of the rows, (n,), in which similar ones are neighbours."""
    if len(similarity) < 3:
        return np.arange(len(similarity))
    distance = 1 / (1 + similarity)
    condensed = distance[np.triu_indices(len(similarity), 1)]
    return leaves_list(linkage(condensed, "average", optimal_ordering=True))


def plot_fit(
    history: Sequence[EpochRecord],
    options: FitOptions,
    title: str,
    reference_cost: float | None = None,
) -> Figure:
    """Plot the cost before each epoch's update, with the exact solver's cost as a dashed line.

    The cost of the exact solver hardly changes, so for that solver the figure shows how far the
    cost of each round is above the final cost.
    """
    costs = np.array([record.metrics["train/cost"] for record in history])
    end = cost_as_text(costs[-1]) if history else "no finite cost"
    figure, axes = new_panel(8, 4.8, title=title)
    if options.is_exact and len(costs) > 2 and costs[-1] > 0:
        above = [max(relative_gap(cost, costs[-1]), ROUNDOFF) for cost in costs[:-1]]
        axes.plot(above, "o-", color=BLUE, linewidth=2)
        axes.set(yscale="log", xlabel="round", ylabel=f"cost above the last round's, {end}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure
    draw_costs(axes, history, BLUE, f"{options.label}: {end}")
    finish_costs(axes, None if options.is_exact else reference_cost)
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_costs(
    axes: Axes,
    history: Sequence[EpochRecord],
    colour: ColorType,
    label: str,
    in_seconds: bool = False,
) -> None:
    """Draw the cost before each epoch's update as a line, by epoch or by seconds of computing."""
    costs = [record.metrics["train/cost"] for record in history]
    x = np.array([record.epoch for record in history], float)
    if in_seconds:  # epoch e has the cost before update e, so only earlier updates count
        x = np.cumsum([0.0, *(record.seconds or 0.0 for record in history)])[: len(costs)]
    marker = "o" if len(history) < 3 else None
    axes.plot(x, costs, color=colour, label=label, linewidth=2, marker=marker)


def finish_costs(axes: Axes, reference_cost: float | None, x: str = "epoch") -> None:
    """Draw the exact solver's cost as a dashed line, and set the axes for lines of `draw_costs`.

    The cost's axis is logarithmic if costs span more than a factor of ten.
    """
    if reference_cost is not None:
        label = f"exact solver: {cost_as_text(reference_cost)}"
        axes.axhline(reference_cost, color=GREY, linestyle="--", linewidth=1, label=label)
    costs = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    costs = costs[costs > 0]
    if costs.max(initial=0) > 10 * costs.min(initial=np.inf):
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter(_large_numbers)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=x, ylabel="cost")


def plot_movie_map(movie_map: "MovieMap", title: str, n_names: int = 30) -> Figure:
    """The projected movies: area by likes, colour by genre, the best known by name."""
    n, popularity = movie_map.n_projected, movie_map.movies["likes"].to_numpy(float)
    positions, groups = movie_map.positions[:n], movie_map.groups[:n]
    areas = 2 + 120 * popularity[:n] / max(popularity.max(), 1)
    figure = new_figure(10, 9)
    axes = figure.subplots()
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for group, (name, colour) in enumerate(zip(GENRE_GROUPS, GENRE_COLOURS, strict=True)):
        is_in_group = groups == group
        if is_in_group.any():
            x, y = positions[is_in_group].T
            axes.scatter(x, y, areas[is_in_group], colour, alpha=0.75, linewidths=0)
            axes.scatter([], [], 40, colour, label=name)  # for the legend, all of one size
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0))
    figure.draw_without_rendering()  # computes the layout: names have sizes in pixels
    _name_points(axes, positions, movie_map.movies["title"][:n].tolist(), n_names)
    return figure


def _name_points(axes: Axes, positions: np.ndarray, titles: Sequence[str], n_names: int) -> None:
    """Name up to `n_names` points, the most liked first, except where names would overlap."""
    taken: list[Bbox] = []
    for position, title in zip(positions, titles, strict=True):
        text = axes.annotate(
            shortened(title.rsplit(" (", 1)[0], 28),
            position,
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            parse_math=False,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        box = text.get_window_extent().padded(2)
        if len(taken) < n_names and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            text.remove()
        if len(taken) == n_names:
            return
