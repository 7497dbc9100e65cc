"""Pictures of predicted motion, made without a global state."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from demetar.types import Array


def motion_figure(
    start: Array, true: Array, predicted: Array, title: str, unit: str = ""
) -> Figure:
    """A picture of the true and the predicted motion of one system, in two projections.

    Args:
      start: [n, 3] positions.
      true: [n, 3] later positions.
      predicted: [n, 3] their prediction.
      title: what is shown.
      unit: unit of the positions; '' for none.
    """
    shown = np.stack([np.asarray(start), np.asarray(true), np.asarray(predicted)])
    error = np.mean((shown[2] - shown[1]) ** 2)
    figure = Figure(figsize=(9.0, 5.2), dpi=100, layout="constrained")
    for axes, plane in zip(figure.subplots(1, 2), ((0, 1), (0, 2)), strict=True):
        _draw_plane(axes, shown[..., plane])
        labels = [f"{'xyz'[axis]} / {unit}" if unit else "xyz"[axis] for axis in plane]
        axes.set(xlabel=labels[0], ylabel=labels[1])
    square = f" {unit}²" if unit else ""
    figure.suptitle(f"{title}: mean squared error {error:.2g}{square}")
    figure.legend(handles=_motion_legend(), loc="outside lower center", ncols=3)
    return figure


def _draw_plane(axes: Axes, points: np.ndarray) -> None:
    """One projection; points [3, n, 2] are start, true end and predicted end."""
    for index in range(points.shape[1]):
        color = f"C{index % 10}"
        start, true, predicted = points[:, index]
        for end, style in ((true, "-"), (predicted, "--")):
            arrow = dict(arrowstyle="->", color=color, linestyle=style, linewidth=1.3)
            arrow |= dict(shrinkA=3, shrinkB=4)  # points to the rim of the marks
            axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
        axes.plot(*start, "o", color=color, markerfacecolor="white")
        axes.plot(*true, "o", color=color)
        axes.plot(*predicted, "x", color=color, markersize=8, markeredgewidth=1.8)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.1)
    axes.grid(alpha=0.3)


def _motion_legend() -> list[Line2D]:
    """Marks in gray: the colours belong to the particles."""
    start = Line2D([], [], color="0.3", marker="o", linestyle="", label="start")
    start.set_markerfacecolor("white")
    true = Line2D([], [], color="0.3", marker="o", linestyle="-", label="true")
    predicted = Line2D([], [], color="0.3", marker="x", linestyle="--")
    predicted.set_label("predicted")
    return [start, true, predicted]
