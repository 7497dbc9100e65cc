"""Pictures of predicted motion, made without a global state."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from demetar.types import Array

_MOST = 1e30  # where points beyond it are drawn; no axis reaches the largest number


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
    shown = np.stack([start, true, predicted]).astype(np.float64)
    shown = np.clip(shown, -_MOST, _MOST)
    error = np.mean((shown[2] - shown[1]) ** 2)
    figure = Figure(figsize=(9.0, 5.2), dpi=100, layout="constrained")
    for axes, plane in zip(figure.subplots(1, 2), ((0, 1), (0, 2)), strict=True):
        _draw_plane(axes, shown[..., plane])
        labels = [f"{'xyz'[axis]} / {unit}" if unit else "xyz"[axis] for axis in plane]
        # Names are shown as they are: a dollar sign begins no formula.
        axes.set_xlabel(labels[0], parse_math=False)
        axes.set_ylabel(labels[1], parse_math=False)
    square = f" {unit}²" if unit else ""
    title = f"{title}: mean squared error {error:.2g}{square}"
    figure.suptitle(title, parse_math=False)
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
