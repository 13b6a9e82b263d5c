"""Figures of image classifiers: arrays in, matplotlib Figures out, without a display."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, repeat
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from embedlab.formatting import shortened
from embedlab.plotting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    PlainTextFigure,
    add_fonts_for,
    new_figure,
    tidy,
)
from embedlab.progress import EpochRecord
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation.metrics import ClassificationReport, Predictions, wilson_interval
from embedlab.vision.evaluation.tiles import Row, Tile, draw_rows, wrap_tiles

# Of runs, in turn; those without a name are brown, pink and olive.
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY, PURPLE, "#795548", "#e377c2", TEAL, "#9a9a00")
PALE = "#d5d8dc"
CLASSES_ON_A_PAGE = 25
TEXTS_NAMED = 3  # in the warning of missing characters
MAX_NAME = 24  # characters of a class
MAX_NAMED_CLASSES = 30  # in the map and its legend
MAP_RATIO = 1.2  # width of the map over its height
ROWS_OF_THUMBNAILS = 18


def _short_name(name: str) -> str:
    return shortened(name, MAX_NAME)


def prepare_fonts(images: ImageDataset) -> list[str]:
    """Let figures show the names of the classes; returns a warning if some cannot be shown."""
    boxes = add_fonts_for([images.name, *images.classes])
    if not boxes:
        return []
    more = f" and {len(boxes) - TEXTS_NAMED:,} more" if len(boxes) > TEXTS_NAMED else ""
    return [
        f"No installed font has every character of {', '.join(boxes[:TEXTS_NAMED])}{more}: figures "
        "show boxes instead. Install one that has, such as Noto (for Chinese, Japanese and Korean "
        "on Debian: fonts-noto-cjk)."
    ]


def plot_curves(runs: Mapping[str, tuple[Sequence[EpochRecord], int]], title: str) -> Figure:
    """Loss and accuracy by epoch: training dashed, validation solid, one colour per run.

    runs  by label: its epochs, and the one that validation chose, which is marked.
    """
    figure = new_figure(10, 4, PlainTextFigure)
    figure.suptitle(title)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for (label, (history, chosen)), colour in zip(runs.items(), cycle(COLOURS), strict=False):
            for part, style in (("train", "--"), ("val", "-")):
                metric = f"{part}/{name}"
                curve = {r.epoch: r.metrics[metric] for r in history if metric in r.metrics}
                style += "o" if len(curve) < 4 else ""
                line: dict[str, Any] = {
                    "color": colour,
                    "label": f"{label} {part}".strip(),
                    "linewidth": 2,
                }
                if part == "train":
                    line["markerfacecolor"] = "white"
                axes.plot(list(curve), list(curve.values()), style, **line)
                if part == "val" and chosen in curve:
                    star = {"color": colour, "markersize": 15, "markeredgecolor": "white"}
                    axes.plot(chosen, curve[chosen], "*", **star)
        axes.set(xlabel="epoch (★: chosen by validation)", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    _cut_first_losses(panels[0])
    panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    legend = panels[0].get_legend_handles_labels()  # below: names of runs would hide the curves
    figure.legend(*legend, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _cut_first_losses(axes: Axes) -> None:
    """End the axis above the later losses if the first loss of a curve would flatten them."""
    values = (np.asarray(line.get_ydata(), float) for line in axes.lines)
    curves = [curve for curve in values if curve.size]  # epoch 0 has no training loss
    later = max((curve[1:].max() for curve in curves if len(curve) > 2), default=np.inf)
    if max((curve.max() for curve in curves), default=0) > 3 * later:
        axes.set_ylim(0, 1.3 * later)


def plot_confusion(report: ClassificationReport, title: str) -> Figure:
    """Confusion matrix, coloured by the share of the true class; up to 25 classes have counts."""
    classes, counts = report.per_class["class"].map(_short_name), report.confusion
    share = counts / counts.sum(1, keepdims=True).clip(1)  # (classes, classes)
    side = float(np.clip(1.5 + 0.62 * len(classes), 5, 16))
    figure = new_figure(side + 0.8, side, PlainTextFigure)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true class", title=title)
    if len(classes) <= 25:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.5 else ("#333333" if count else "#c8ccd1")
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, size=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def plot_top_predictions(top: pd.DataFrame, images: ImageDataset, title: str) -> Iterator[Figure]:
    """One row per class: its most confident right predictions, then its most confident wrong ones.

    Yields one figure for every 25 classes.

    top  as `metrics.top_predictions` returns it.
    """
    k = max(3, int(top["rank"].max()) if len(top) else 0)  # at least as wide as the headings
    headings = [(-0.6, "true class"), (k / 2, "most confident, right")]
    headings.append((1.5 * k + 1, "most confident, wrong"))
    pages = range(0, len(images.classes), CLASSES_ON_A_PAGE)
    for start in pages:
        classes = images.classes[start : start + CLASSES_ON_A_PAGE]
        page_range = "" if len(pages) == 1 else f" ({start + 1} to {start + len(classes)})"
        rows: list[Row] = []
        for name in classes:
            tiles: list[Tile | None] = [None] * (2 * k + 1)
            class_rows = top[top["class"] == name]
            n_wrong = (class_rows["kind"] == "wrong").sum()
            if n_wrong < k:
                text = "no more\nmistakes" if n_wrong else "no\nmistakes"
                tiles[k + 1 + n_wrong] = Tile(None, text)
            for item in class_rows.itertuples():
                first, colour = (0, GREEN) if item.kind == "right" else (k + 1, RED)
                taken_for = "" if item.kind == "right" else f"{item.predicted}\n"
                caption = f"{taken_for}{item.confidence:.0%}"
                tiles[first + item.rank - 1] = Tile(images.pixels[item.row], caption, colour)
            rows.append((name, tiles))
        yield draw_rows(rows, f"{title}{page_range}", headings)


def plot_image_grid(
    images: np.ndarray,
    captions: Sequence[str],
    title: str,
    colours: Iterable[str] = repeat(GREY),
    columns: int | None = None,
) -> Figure:
    """Images (n, 3, side, side) uint8 in rows, by default in a square, a caption under each."""
    columns = columns or max(1, math.ceil(math.sqrt(len(images))))
    return draw_rows(wrap_tiles("", list(map(Tile, images, captions, colours)), columns), title)


def plot_predictions(
    predictions: Predictions, pixels: np.ndarray, classes: tuple[str, ...], title: str
) -> Figure:
    """The predicted class and its confidence under each image, in a square; green if it is right.

    pixels  (n, 3, side, side) uint8, one image per prediction.
    """
    names = [classes[label] for label in predictions.predicted]
    captions = [f"{n}\n{c:.0%}" for n, c in zip(names, predictions.confidence, strict=True)]
    colours = [GREEN if is_right else RED for is_right in predictions.is_right]
    return plot_image_grid(pixels, captions, title, colours)


def plot_embedding_map(
    points: np.ndarray, predictions: Predictions, images: ImageDataset, title: str
) -> Figure:
    """Map of images: one dot per image, one colour per class, and thumbnails where there is room.

    A black ring or frame marks a misclassified image. The name of a class is at the median of its
    images. Far outliers lie outside of the axes.

    points       (n, 2).
    predictions  for these n images.
    """
    labels, is_wrong = predictions.labels, ~predictions.is_right
    classes = list(map(_short_name, images.classes))
    figure = new_figure(11, 8.5, PlainTextFigure)
    axes = figure.subplots()
    n = len(classes)
    if n <= 10:
        colours = matplotlib.colormaps["tab10"](np.arange(n))  # (classes, 4); it has ten colours
    else:
        colours = matplotlib.colormaps["turbo"](np.arange(n) / n)
    order = np.random.default_rng(0).permutation(len(points))  # no class lies on top of the others
    x, y = points[order].T
    axes.scatter(x, y, s=14, c=colours[labels[order]], alpha=0.5, linewidths=0)
    dots = [axes.scatter([], [], s=40, color=colour) for colour in colours[:MAX_NAMED_CLASSES]]
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": "black"}
    x, y = points[is_wrong].T
    axes.scatter(x, y, s=22, linewidths=0.5, alpha=0.6, **ring)
    dots.append(axes.scatter([], [], s=40, **ring))
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    margin = 0.08 * (high - low)
    (left, bottom), (right, upper) = low - margin, high + margin
    axes.set(title=title, xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, upper))
    # Names are passed as an argument, because matplotlib omits labels of dots that begin with _
    names = classes[:MAX_NAMED_CLASSES]
    if n > MAX_NAMED_CLASSES:
        names[-1] += f", and {n - MAX_NAMED_CLASSES} more"
    names.append(f"misclassified ({is_wrong.mean():.1%})")
    axes.legend(dots, names, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.spines[:].set_color(PALE)
    _add_thumbnails(axes, points[order], predictions.take(order), images, colours)
    shown = np.unique(labels) if n <= MAX_NAMED_CLASSES else np.empty(0, int)
    for label in shown:
        x, y = np.median(points[labels == label], axis=0)
        halo = [withStroke(linewidth=3.5, foreground="white")]
        text = axes.text(x, y, classes[label], size=12, weight="bold", zorder=4)
        text.set(ha="center", va="center", path_effects=halo)
    return figure


def _add_thumbnails(
    axes: Axes,
    points: np.ndarray,
    predictions: Predictions,
    images: ImageDataset,
    colours: np.ndarray,
) -> None:
    """Draw the first image in each cell of a grid, framed in the colour of its class."""
    is_wrong = ~predictions.is_right
    (left, right), (bottom, upper) = axes.get_xlim(), axes.get_ylim()
    height = (upper - bottom) / ROWS_OF_THUMBNAILS
    width = height * (right - left) / (upper - bottom) / MAP_RATIO
    cells = np.floor((points - (left, bottom)) / (width, height)).astype(int)  # (n, 2)
    _, first = np.unique(cells, axis=0, return_index=True)
    for zorder, i in zip(np.linspace(2, 3, len(first)), first, strict=True):
        x, y = points[i]
        box = (x - 0.4 * width, x + 0.4 * width, y - 0.4 * height, y + 0.4 * height)
        if left < box[0] and box[1] < right and bottom < box[2] and box[3] < upper:
            pixels = images.pixels[predictions.rows[i]].transpose(1, 2, 0)
            axes.imshow(pixels, extent=box, aspect="auto", zorder=zorder)
            frame = Rectangle((box[0], box[2]), 0.8 * width, 0.8 * height, zorder=zorder)
            frame.set(fill=False, edgecolor=colours[predictions.labels[i]], linewidth=1.6)
            if is_wrong[i]:
                frame.set_path_effects([withStroke(linewidth=4.5, foreground="black")])
            axes.add_patch(frame)


def plot_neighbours(
    queries: np.ndarray, neighbours: np.ndarray, images: ImageDataset, title: str
) -> Figure:
    """One row per query image, its nearest images beside it; green if the class is the same.

    queries (q,) and neighbours (q, k): rows of `images.pixels`.
    """
    names = np.array(images.classes, dtype=object)[images.labels]
    rows = []
    for query, nearest in zip(queries, neighbours, strict=True):
        colours = [GREEN if name == names[query] else RED for name in names[nearest]]
        tiles = map(Tile, images.pixels[nearest], names[nearest], colours)
        rows.append(("", [Tile(images.pixels[query], names[query], "black"), None, *tiles]))
    headings = [(0.5, "image"), (neighbours.shape[1] / 2 + 2, "nearest in the embedding")]
    return draw_rows(rows, title, headings)


def plot_disagreements(
    only_first: Predictions,
    only_second: Predictions,
    names: tuple[str, str],
    images: ImageDataset,
    title: str,
) -> Figure:
    """Images that one model gets right and the other wrong: the class, and the wrong answer.

    only_first   the second model's predictions of images that only the first gets right.
    only_second  the first model's predictions of images that only the second gets right.
    """
    rows: list[Row] = []
    for name, wrong in zip(names, (only_first, only_second), strict=True):
        confusions = zip(wrong.labels, wrong.predicted, strict=True)
        captions = [f"{images.classes[k]}\nnot {images.classes[other]}" for k, other in confusions]
        rows += wrap_tiles(
            f"only {name} is right", list(map(Tile, images.pixels[wrong.rows], captions))
        )
    return draw_rows(rows, title)


def plot_accuracies(table: pd.DataFrame, title: str) -> Figure:
    """One dot per run with its 95% interval; `table` has run, accuracy, low, high."""
    label = "test accuracy, with 95% interval"
    figure, axes, y = _row_axes(table["run"], 1.4 + 0.6 * len(table), title, label)
    accuracies = table["accuracy"]
    errors = [accuracies - table["low"], table["high"] - accuracies]
    axes.errorbar(accuracies, y, xerr=errors, fmt="o", color=BLUE, capsize=4, markersize=8)
    for accuracy, row_y in zip(accuracies, y, strict=True):
        text, dot, offset = f"{accuracy:.1%}", (accuracy, row_y), (0, 9)
        axes.annotate(text, dot, offset, textcoords="offset points", ha="center", weight="bold")
    axes.set_ylim(-0.6, len(table) - 0.3)
    axes.margins(x=0.08)
    return figure


def plot_class_differences(table: pd.DataFrame, labels: np.ndarray, title: str) -> Figure:
    """Recall of each class with its 95% interval, one dot per run; `table` is class by run.

    labels  (n,) true classes of the test images.
    """
    counts = np.bincount(labels, minlength=len(table))  # (classes,)
    label = "right predictions of the class (recall), with 95% interval"
    height = 0.2 + 0.17 * len(table.columns)  # of a class
    figure, axes, y = _row_axes(
        table.index.map(_short_name), 1.6 + height * len(table), title, label
    )
    for i, name in enumerate(table):
        recall = table[name].to_numpy()
        n_right = np.rint(recall * counts).astype(int)
        pairs = zip(n_right, counts, strict=True)
        intervals = [wilson_interval(k, n) if n else (0.0, 1.0) for k, n in pairs]
        errors = np.abs(np.transpose(intervals) - recall)
        run_y = y + 0.5 - (i + 1) / (len(table.columns) + 1)
        colour = COLOURS[i % len(COLOURS)]
        axes.errorbar(recall, run_y, xerr=errors, fmt="o", color=colour, elinewidth=1.2, label=name)
    for line_y in y[:-1] - 0.5:
        axes.axhline(line_y, color=PALE, linewidth=0.8)
    axes.set_xlim(None, 1.01)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    return figure


def as_pixels(figure: Figure) -> np.ndarray:
    """Render a figure to pixels, (height, width, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _row_axes(
    names: Sequence[str], height: float, title: str, label: str
) -> tuple[Figure, Axes, np.ndarray]:
    """A figure with one row per name from the top, and the y of each row; x is a percentage."""
    figure = new_figure(8, height, PlainTextFigure)
    axes = figure.subplots()
    y = np.arange(len(names))[::-1]
    axes.set_yticks(y, names)
    axes.set(title=title, xlabel=label)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes, y
