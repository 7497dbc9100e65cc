"""How far a model is from its symmetries, layer by layer.

The error of a recorded value is ||T v(x) - v(T x)|| / ||v(x)||, for a random T of each
group; features turn by Wigner's D, vectors by T, and everything else not at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from demetar import symmetry
from demetar.precision import DTYPES, precision
from demetar.types import Batch, Params, TaskSpec
from demetar.visual import inside as of_model
from demetar.visual import rotation
from demetar.visual.inside import Inside, Recorder, Value
from demetar.visual.scene import entitle

_MARKS = {"float32": ("o", "#d9603b"), "float64": ("s", "#3b78c9")}
_FLOOR = 1e-17  # where an error of 0 is drawn

# {dtype: {group: {name: error}}}, of what is recorded and then of the heads.
Errors = dict[str, dict[str, dict[str, float]]]


def errors(recorder: Recorder, params: Params, batch: Batch, seed: int = 0) -> Errors:
    """The errors of everything that a model records, and of its heads.

    Args:
      recorder: of the model.
      params: of one replica.
      batch: of one system.
      seed: of the moves.
    """
    found: Errors = {}
    for dtype in DTYPES:
        with precision(dtype):
            own, weights = symmetry.cast((batch, params), dtype)
            first = recorder(weights, own)
            found[dtype] = {}
            for group, move in symmetry.moves(recorder.task, own, seed).items():
                other = recorder(weights, move.batch)
                found[dtype][group] = _compare(recorder.task, first, other, move)
    return found


def _compare(
    task: TaskSpec, first: Inside, other: Inside, move: symmetry.Move
) -> dict[str, float]:
    """The error of every value and head."""
    found = {}
    orders = _orders(first, other, move)
    for value, moved in zip(first.values, other.values, strict=True):
        back = _moved_back(moved, move.matrix, orders)
        found[value.name] = symmetry.relative_norm(back - value.array, value.array)
    for head in task.heads:
        array = other.outputs[head.name]
        if head.kind != "graph_scalar":
            array = array[orders[of_model.NODE]]
        if head.kind == "node_vector":
            array = array @ move.matrix
        expected = first.outputs[head.name]
        found[f"head {head.name}"] = symmetry.relative_norm(array - expected, expected)
    return found


def _orders(first: Inside, other: Inside, move: symmetry.Move) -> dict[str, np.ndarray]:
    """The new number of each old entry, by what the entries of an axis belong to."""
    nodes = move.nodes[: len(first.positions)]
    places = {frozenset(ends): k for k, ends in enumerate(other.bonds.tolist())}
    bonds = [places[frozenset(ends)] for ends in nodes[first.bonds].tolist()]
    return {
        of_model.NODE: nodes,
        of_model.TOKEN: np.concatenate([[0], nodes + 1]),
        of_model.EDGE: move.edges[: len(first.senders)],
        of_model.BOND: np.array(bonds, int),
    }


def _moved_back(
    value: Value, matrix: np.ndarray, orders: Mapping[str, np.ndarray]
) -> np.ndarray:
    """A value of a moved system as that of the system would be."""
    array = value.array.astype(np.float64)
    for number, axis in enumerate(value.axes):
        if axis in orders:
            array = np.take(array, orders[axis], axis=number)
    if value.irrep is not None:
        array = np.tensordot(rotation.wigner(value.irrep, matrix).T, array, axes=1)
    return array @ matrix if value.axes[-1] == of_model.XYZ else array


def table(found: Errors) -> str:
    """The errors as text: a row for each value, columns by precision and group."""
    names = list(next(iter(found[DTYPES[0]].values())))
    width = max(map(len, names))
    heads = [f"{group} {dtype[5:]}" for group in symmetry.GROUPS for dtype in found]
    lines = [" ".join([" " * width, *(head.rjust(14) for head in heads)])]
    for name in names:
        cells = [
            f"{found[dtype][group][name]:.1e}".rjust(14)
            for group in symmetry.GROUPS
            for dtype in found
        ]
        lines.append(" ".join([name.ljust(width), *cells]))
    return "\n".join(lines)


def figure(found: Errors, title: str) -> Figure:
    """A panel for each group: errors of all values in both precisions."""
    names = list(next(iter(found[DTYPES[0]].values())))
    drawn = Figure(
        figsize=(11.5, 0.22 * len(names) + 1.9), dpi=110, layout="constrained"
    )
    panels = drawn.subplots(1, len(symmetry.GROUPS), sharey=True)
    places = np.arange(len(names))
    for axes, group in zip(panels, symmetry.GROUPS, strict=True):
        for dtype, (mark, color) in _MARKS.items():
            values = [max(found[dtype][group][name], _FLOOR) for name in names]
            axes.plot(values, places, mark, color=color, markersize=4.5, label=dtype)
        axes.set_xscale("log")
        axes.set_xlim(_FLOOR / 3, 30)
        axes.axvline(1, color="0.7", linewidth=0.8, zorder=0)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
        axes.set_title(group, fontsize=10)
    panels[0].set_yticks(places, names, fontsize=7, parse_math=False)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=8)
    entitle(
        drawn,
        title,
        "relative error; rounding falls with the precision, what does not is no "
        "rounding",
    )
    return drawn
