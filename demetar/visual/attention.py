"""Attention as matrices with names, and as lines on the system.

A row of a matrix is what asks, a column what is asked; the weights of a row sum to 1
unless the model has no softmax. A pair that a mask silences is hatched.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from demetar.errors import UserError
from demetar.visual import inside as of_model
from demetar.visual.inside import Inside, Value
from demetar.visual.layout import Layout
from demetar.visual.scene import entitle

_WEIGHTS, _SIGNED = colormaps["YlGnBu"], colormaps["RdBu"]  # blue: attends
_NEGATIVE = colormaps["YlOrRd"]
_MOST_HEADS = 8  # that are shown one by one
_MOST_NAMES = 24  # that fit beside a matrix
_TOKEN = "[CLS]"  # the token of the graph
_EDGES_ARE_KEYS = "cross"  # whose keys are edges and not the nodes that send
_WIDEST = 0.55  # of a glyph's radius, of lines if there are
_FEW = 10  # of them; more are thinner


@dataclasses.dataclass(frozen=True)
class Weights:
    """One attention of a model.

    Attributes:
      title: which one.
      rows, columns: names of what asks and of what is asked.
      matrices: [H, rows, columns]; NaN where a mask lets nothing through.
      asked: [n, n] how much node i hears of node j, the mean over heads; 0 without.
      known: [n] how much each node is asked by others than nodes; 0 without.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    matrices: np.ndarray
    asked: np.ndarray
    known: np.ndarray

    @property
    def is_softmax(self) -> bool:
        """Whether the weights of every row that has any sum to 1."""
        sums = np.nansum(self.matrices, axis=-1)
        has_any = ~np.isnan(self.matrices).all(axis=-1)
        return bool(np.allclose(sums[has_any], 1, atol=1e-3))


def find(inside: Inside, layout: Layout, model: str) -> list[Weights]:
    """Every attention of a model.

    Raises:
      UserError: there is none; it tells what there is.
    """
    values = inside.attention
    if not values:
        raise UserError(
            f"expected attention in {model}, found none; it records "
            f"{inside.describe()}; models that attend: demetar, se3_transformer, "
            "torchmd_et, equiformer, set_transformer, graphormer, graphormer_3d, nmp, "
            "and egnn with --set attention=true"
        )
    asking = [own for own in values if own.name.startswith(of_model.READOUT)]
    others = [own for own in values if own not in asking]
    found = [_weights(own, inside, layout) for own in others]
    return [*found, _readout(asking, layout)] if asking else found


def _weights(value: Value, inside: Inside, layout: Layout) -> Weights:
    title = _title(value.name)
    names, count = layout.names, len(layout.names)
    nothing = np.zeros((count, count)), np.zeros(count)
    ends = [
        f"{names[j]}→{names[i]}"
        for j, i in zip(inside.senders, inside.receivers, strict=True)
    ]
    if value.axes == (of_model.EDGE, of_model.HEAD):
        return _of_edges(title, value.array, inside, layout, ends)
    matrices = value.array  # [H, X, X]
    mean = matrices.mean(axis=0)
    kind = value.axes[-1]
    if kind == of_model.NODE:
        return Weights(title, names, names, matrices, mean, nothing[1])
    if kind == of_model.TOKEN:
        both = (_TOKEN, *names)
        return Weights(title, both, both, matrices, mean[1:, 1:], mean[0, 1:])
    total = mean.mean(axis=0)  # by all edges that ask
    asked = nothing[0]
    if kind == of_model.EDGE:
        asked[inside.receivers, inside.senders] = total
        return Weights(title, tuple(ends), tuple(ends), matrices, *nothing)
    for (j, i), own in zip(inside.bonds, total, strict=True):
        asked[i, j] = asked[j, i] = own
    bonds = tuple(f"{names[j]}–{names[i]}" for j, i in inside.bonds)
    return Weights(title, bonds, bonds, matrices, *nothing)


def _of_edges(
    title: str, weights: np.ndarray, inside: Inside, layout: Layout, ends: list[str]
) -> Weights:
    """Of nodes [e, H] that ask along their edges: the others are masked."""
    names, count = layout.names, len(layout.names)
    asked = np.zeros((count, count))
    asked[inside.receivers, inside.senders] = weights.mean(axis=1)
    edges_are_keys = _EDGES_ARE_KEYS in title
    columns = tuple(ends) if edges_are_keys else names
    matrices = np.full((weights.shape[1], count, len(columns)), np.nan)
    keys = np.arange(len(ends)) if edges_are_keys else inside.senders
    matrices[:, inside.receivers, keys] = weights.T
    return Weights(title, names, columns, matrices, asked, np.zeros(count))


def _readout(values: list[Value], layout: Layout) -> Weights:
    """The queries of set2set, one row each."""
    matrix = np.stack([own.array for own in values])[None]  # [1, steps, n]
    rows = tuple(f"query {number}" for number in range(len(values)))
    count = len(layout.names)
    nothing, known = np.zeros((count, count)), matrix[0].mean(axis=0)
    return Weights("readout", rows, layout.names, matrix, nothing, known)


def _title(name: str) -> str:
    words = name.removeprefix(of_model.ATTENTION)
    match = re.fullmatch(r"([a-z]\w*?)_?(\d+)", words)
    if match:
        return f"{match[1]} encoder, layer {match[2]}"
    return f"layer {words}" if words.isdecimal() else f"{words} attention"


def figure(found: list[Weights], layout: Layout, title: str) -> Figure:
    """A row for each attention: on the system, the mean over heads, and every head."""
    heads = min(max(len(own.matrices) for own in found), _MOST_HEADS)
    heads = heads if heads > 1 else 0
    width, height = layout.panel(2.6)
    sizes = [width, 2.6, *[1.25] * heads]
    drawn = Figure(
        figsize=(sum(sizes) + 0.6, max(height, 2.4) * len(found) + 0.9),
        dpi=100,
        layout="constrained",
    )
    grid = drawn.subplots(len(found), 2 + heads, squeeze=False, width_ratios=sizes)
    for row, own in zip(grid, found, strict=True):
        _draw_lines(row[0], own, layout)
        _draw_mean(row[1], own)
        for number, axes in enumerate(row[2:]):
            if number < len(own.matrices) and len(own.matrices) > 1:
                _draw_matrix(axes, own.matrices[number], own.matrices)
                largest = np.nanmax(np.abs(own.matrices[number]))
                told = f"head {number}, up to {largest:.2f}"
                axes.set_title(told, fontsize=7, color="0.35")
            else:
                axes.set_axis_off()
    entitle(
        drawn,
        title,
        "a row asks, a column is asked; hatched: masked.  A line is wide at the node "
        "that the other end hears, a ball as the node is read from elsewhere",
    )
    return drawn


def describe(own: Weights) -> str:
    """One attention in one line."""
    heads, rows, columns = own.matrices.shape
    sums = "rows sum to 1" if own.is_softmax else "no softmax"
    masked = np.isnan(own.matrices[0]).mean()
    mask = f", {100 * masked:.0f} % masked" if masked else ""
    return f"{own.title}: {heads} heads of {rows} x {columns}, {sums}{mask}"


def _colors(values: np.ndarray) -> tuple[Normalize, Any]:
    """Colours that span 0 to the largest weight, or both signs."""
    largest = float(np.nanmax(np.abs(values), initial=1e-12))
    if np.nanmin(values, initial=0.0) < 0:
        return Normalize(-largest, largest), _SIGNED
    return Normalize(0, largest), _WEIGHTS


def _draw_matrix(axes: Axes, matrix: np.ndarray, values: np.ndarray) -> None:
    """A matrix in colours that span `values`."""
    norm, colors = _colors(values)
    axes.patch.set(facecolor="0.93", hatch="//////", edgecolor="0.80", linewidth=0)
    axes.imshow(
        np.ma.masked_invalid(matrix),
        cmap=colors,
        norm=norm,
        aspect="auto",
        interpolation="nearest",
    )
    if matrix.shape[0] == matrix.shape[1]:
        axes.set_box_aspect(1)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="0.7", linewidth=0.6)


def _draw_mean(axes: Axes, own: Weights) -> None:
    """The mean over heads, with names."""
    matrix = own.matrices.mean(axis=0)
    _draw_matrix(axes, matrix, matrix)
    for names, is_row in ((own.rows, True), (own.columns, False)):
        step = -(-len(names) // _MOST_NAMES)
        places, size = range(0, len(names), step), 7 if len(names) <= 12 else 5
        if is_row:
            axes.set_yticks(places, names[::step], fontsize=size, parse_math=False)
        else:
            axes.set_xticks(
                places, names[::step], fontsize=size, rotation=90, parse_math=False
            )
    axes.tick_params(length=0, pad=2)
    mean = "mean of heads" if len(own.matrices) > 1 else "weights"
    axes.set_title(mean, fontsize=7, color="0.35")
    bar = axes.figure.colorbar(axes.images[0], ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_linewidth(0.4)


def _line_color(total: float, share: float) -> Any:
    """The more the darker; red if the weight of a signed attention is negative."""
    return (_WEIGHTS if total >= 0 else _NEGATIVE)(0.25 + 0.55 * share)


def _draw_lines(axes: Axes, own: Weights, layout: Layout) -> None:
    """Lines as wide at node j as node i hears of it."""
    picture = layout.scene(with_sticks=layout.are_bonds)
    asked = np.abs(own.asked)
    off = asked - np.diag(np.diag(asked))
    largest = off.max(initial=0)
    joined = np.argwhere(np.triu(off + off.T, 1) > 0)
    widest = _WIDEST * layout.radius * min(1.0, (_FEW / max(len(joined), 1)) ** 0.5)
    for i, j in joined:
        at_j, at_i = (float(off[a, b] / largest) for a, b in ((i, j), (j, i)))
        color = _line_color(own.asked[i, j] + own.asked[j, i], max(at_i, at_j))
        ends = layout.positions[i], layout.positions[j]
        picture.add_band(*ends, (widest * at_i, widest * at_j), color)
    own_share = np.maximum(own.known, 0)
    share = 0.28 + 0.35 * own_share / max(own_share.max(initial=0), 1e-12)
    layout.add_balls(picture, share if own_share.any() else 0.34)
    layout.add_names(picture, 0.5)
    picture.draw(axes, layout.limits)
    axes.set_title(own.title, fontsize=9, fontweight="bold")
    told = f"widest line: {largest:.2g}" if largest else ""
    axes.text(0.5, -0.02, told, transform=axes.transAxes, fontsize=7, ha="center")
