"""How far a model is from its symmetries: layer by layer, and by direction.

The error of a recorded value is ||T v(x) - v(T x)|| / ||v(x)||, for a random T of each
group; features turn by Wigner's D, vectors by T, and everything else not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demetar import symmetry
from demetar.precision import DTYPES, precision
from demetar.types import Batch, Params, TaskSpec
from demetar.visual import glyphs, rotation, sphere
from demetar.visual import inside as of_model
from demetar.visual.inside import Inside, Recorder, Value
from demetar.visual.scene import OBLIQUE, Scene

LMAX = sphere.MOST_DEGREE  # of the error by direction
_SPINS = 6  # rotations about each direction
_AT_ONCE = 64  # systems of one call
_MARKS = {"float32": ("o", "#d9603b"), "float64": ("s", "#3b78c9")}
_FLOOR = 1e-17  # where an error of 0 is drawn

# {dtype: {group: {name: error}}}, of what is recorded and then of the heads.
Errors = dict[str, dict[str, dict[str, float]]]


def errors(
    net: hk.Transformed, task: TaskSpec, params: Params, batch: Batch, seed: int = 0
) -> Errors:
    """The errors of everything that a model records, and of its heads.

    Args:
      net, task, params: of the model.
      batch: of one system.
      seed: of the moves.
    """
    found: Errors = {}
    for dtype in DTYPES:
        with precision(dtype):
            own, weights = symmetry.cast((batch, params), dtype)
            recorder = Recorder(net, task)
            first = recorder(weights, own)
            found[dtype] = {}
            for group, move in symmetry.moves(task, own, seed).items():
                other = recorder(weights, move.batch)
                found[dtype][group] = _compare(task, first, other, move)
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


def errors_figure(found: Errors, title: str, stated: str) -> Figure:
    """A panel for each group: errors of all values in both precisions."""
    names = list(next(iter(found[DTYPES[0]].values())))
    drawn = Figure(
        figsize=(11.5, 0.22 * len(names) + 1.9), **dict(dpi=110, layout="constrained")
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
    panels[0].legend(fontsize=7, loc="lower left")
    drawn.suptitle(f"{title}; it states {stated}", fontsize=11, parse_math=False)
    drawn.supxlabel(
        "relative error; rounding falls with the precision, what does not is no "
        "rounding",
        **dict(fontsize=8, color="0.35"),
    )
    return drawn


# --- By direction -------------------------------------------------------------------


class Directions(NamedTuple):
    """How the output of a head changes with the direction of a system in space.

    Attributes:
      axis: [3] the direction in the system that is turned to every direction.
      grid: of the directions.
      function: [P, A] by how much the output is larger than its mean over all
        rotations, relative to that: what is along the mean, in the frame of the
        system, averaged over the turns about the direction.
      error: root mean square of the whole change, relative too.
      coefficients: {l: [2l + 1]} of the function.
    """

    axis: np.ndarray
    grid: sphere.Grid
    function: np.ndarray
    error: float
    coefficients: dict[int, np.ndarray]

    @property
    def shares(self) -> np.ndarray:
        """The share of each degree from 1 in the function's variance: [lmax]."""
        power = sphere.power(self.coefficients)[1:]
        return power / max(float(power.sum()), 1e-300)

    @property
    def cubic(self) -> float:
        """The share of what has the symmetry of the cube in degree 4."""
        grid = self.grid
        cube = sphere.cubic(grid.directions)
        own = sphere.expand(cube, grid, 4)[4]
        found = self.coefficients[4]
        size = np.linalg.norm(found) * np.linalg.norm(own)
        return float((found @ own / size) ** 2) if size else 0.0


def directions(
    net: hk.Transformed, task: TaskSpec, params: Params, batch: Batch, lmax: int = LMAX
) -> Directions:
    """The output of the first head under rotations that take an axis everywhere.

    The axis is that of the closest pair of nodes, along which most happens.

    Args:
      net, task, params: of the model.
      batch: of one system; computed in its precision.
      lmax: degree up to which the function is expanded.
    """
    head, graph = task.heads[0], batch.graph
    count = int(graph.n_node[0])
    axis = closest_pair(np.asarray(graph.nodes.positions, np.float64)[:count])
    grid = sphere.quadrature(lmax)
    matrices = _matrices(axis, grid.directions)  # [P, A, S, 3, 3]
    rows = 1 if head.kind == "graph_scalar" else count

    def output(matrix: Any) -> jax.Array:
        turned = symmetry.turned(task, graph, matrix)
        found = net.apply(params, None, turned, False)[head.name][:rows]
        return found @ matrix if head.kind == "node_vector" else found

    flat = jnp.asarray(matrices.reshape(-1, 3, 3), graph.nodes.positions.dtype)
    run = jax.jit(lambda own: jax.lax.map(output, own, batch_size=_AT_ONCE))
    values = np.asarray(run(flat), np.float64).reshape(*matrices.shape[:3], -1)
    weights = grid.weights / (4 * np.pi)
    mean = np.einsum("pask,pa->k", values, weights) / values.shape[2]
    change = values - mean
    squares = np.einsum("pask,pask,pa->", change, change, weights) / values.shape[2]
    size = float(mean @ mean)
    function = (change.mean(axis=2) @ mean) / size
    error = float(np.sqrt(squares / size))
    return Directions(axis, grid, function, error, sphere.expand(function, grid, lmax))


def closest_pair(positions: np.ndarray) -> np.ndarray:
    """The unit vector [3] between the closest two of points [n, 3]; z of one point."""
    if len(positions) < 2:
        return np.array([0.0, 0.0, 1.0])
    between = positions[:, None] - positions
    lengths = np.linalg.norm(between, axis=-1)
    lengths[lengths == 0] = np.inf
    i, j = np.unravel_index(np.argmin(lengths), lengths.shape)
    found: np.ndarray = between[i, j] / np.linalg.norm(between[i, j])
    return found


def _matrices(axis: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rotations that take an axis to directions, with turns: [P, A, S, 3, 3]."""
    start = _frame(axis).T
    frames = np.stack([_frame(own) for own in places.reshape(-1, 3)])
    angles = 2 * np.pi * np.arange(_SPINS) / _SPINS
    spins = np.stack(
        [rotation.about(np.array([0, 0, 1.0]), a) for a in np.degrees(angles)]
    )
    found = np.einsum("xij,sjk,kl->xsil", frames, spins, start)
    return found.reshape(*places.shape[:2], _SPINS, 3, 3)


def _frame(direction: np.ndarray) -> np.ndarray:
    """A rotation [3, 3] that takes z to a direction."""
    other = np.eye(3)[np.argmin(np.abs(direction))]
    first = np.cross(other, direction)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(direction, first), direction], axis=1)


def describe(found: Directions) -> str:
    """The change by direction in one line."""
    shares = ", ".join(
        f"degree {degree}: {100 * share:.0f} %"
        for degree, share in enumerate(found.shares, 1)
        if share > 0.01
    )
    return (
        f"change of the output with direction: {found.error:.1e} of its size; of its "
        f"part along the mean, {shares}; of degree 4, {100 * found.cubic:.0f} % have "
        "the symmetry of the cube"
    )


def directions_figure(found: Directions, title: str, floor: float) -> Figure:
    """The change as a glyph and on a sphere that it bends, and its degrees.

    Args:
      found: the function.
      title: of the figure.
      floor: the error below which all is rounding.
    """
    drawn = Figure(figsize=(10.5, 4.1), **dict(dpi=110, layout="constrained"))
    left, middle, right = drawn.subplots(1, 3, width_ratios=(1, 1, 0.95))
    surface = sphere.surface(60, 120)
    lmax = max(found.coefficients)
    values = sphere.harmonics(surface, lmax)
    function = sum(
        sphere.evaluate(own, values, degree)
        for degree, own in found.coefficients.items()
    )
    function = np.asarray(function) - found.coefficients[0][0] * values[0][0]
    largest = float(np.abs(function).max())
    scaled = function / largest if largest else function
    for axes, radii, told in (
        (left, np.abs(scaled), "radius |f(n)|, red if larger, blue if smaller"),
        (middle, 0.72 + 0.25 * scaled, "a sphere that f(n) bends, exaggerated"),
    ):
        scene = Scene(OBLIQUE)
        scene.add_glyph(np.zeros(3), surface, radii, glyphs.colors(scaled))
        _add_axes(scene)
        scene.draw(axes, np.array([[-1.15, -1.15], [1.15, 1.15]]))
        axes.set_title(told, fontsize=9)
    _draw_shares(right, found)
    told = f"f(n) is up to {largest:.1e}, the whole error {found.error:.1e}"
    if found.error < 10 * floor:
        told += f"; this is rounding, of about {floor:.0e}"
    drawn.suptitle(f"{title}\n{told}", fontsize=10, parse_math=False)
    drawn.supxlabel(
        "f(n): change of the output with the direction n to which the closest pair of "
        "the system is turned, relative to the mean",
        **dict(fontsize=8, color="0.35"),
    )
    return drawn


def _add_axes(scene: Scene) -> None:
    for name, axis in zip("xyz", np.eye(3), strict=True):
        scene.add_band(np.zeros(3), 1.1 * axis, (0.012, 0.012), "0.5")
        scene.add_name(1.13 * axis, name, fontsize=9)


def _draw_shares(axes: Axes, found: Directions) -> None:
    degrees = np.arange(1, len(found.shares) + 1)
    bars = axes.bar(degrees, 100 * found.shares, color="0.6")
    if len(degrees) >= 4:
        bars[3].set_color(colormaps["RdBu_r"](0.85))
        told = f"degree 4: {100 * found.shares[3]:.0f} %, of it\ncubic: "
        axes.set_title(f"{told}{100 * found.cubic:.0f} %", fontsize=9)
    axes.set(xlabel="degree", ylabel="share of the variance of f / %", xticks=degrees)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3, axis="y")
    axes.tick_params(labelsize=8)
