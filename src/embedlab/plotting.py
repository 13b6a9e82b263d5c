"""What the figures of both families share: size, resolution, spines, colours."""

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2f6db3", "#e07b39", "#2b8a4b", "#c0392b", "#6b7078"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; nothing of it touches a display."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def tidy(axes) -> None:
    """Two spines, a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
