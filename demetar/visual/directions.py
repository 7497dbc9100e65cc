"""How what a model computes changes with the direction of its system in space.

A system is turned so that one of its axes points to every direction n, and a vector or
number v of the model is taken back to the frame of the system: G(R) = R^T v(R x). It is
constant for an equivariant model. Its change along its mean is a function on the
sphere, f(n), whose symmetry is that of what the model knows of space.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demetar import symmetry
from demetar.nn import capture
from demetar.types import Batch, Params, TaskSpec
from demetar.visual import glyphs, sphere
from demetar.visual.inside import VECTORS
from demetar.visual.scene import OBLIQUE, Scene, about, entitle

LMAX = sphere.MOST_DEGREE  # of the expansion of the function
_FINER = 9  # of the grid: functions with kinks have higher degrees too
_SPINS = 8  # rotations about each direction
_AT_ONCE = 64  # systems of one call
_Z = np.array([0.0, 0.0, 1.0])
_CUBIC = 4  # the first degree with a harmonic that has the symmetry of the cube


class Change(NamedTuple):
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
        own = sphere.expand(cube, grid, _CUBIC)[_CUBIC]
        found = self.coefficients[_CUBIC]
        size = np.linalg.norm(found) * np.linalg.norm(own)
        return float((found @ own / size) ** 2) if size else 0.0


def changes(
    net: hk.Transformed, task: TaskSpec, params: Params, batch: Batch, lmax: int = LMAX
) -> dict[str, Change]:
    """The change of recorded vectors, and of each head, by name.

    The axis is that of the closest pair of nodes, along which most happens.

    Args:
      net, task, params: of the model.
      batch: of one system; computed in its precision.
      lmax: degree up to which the function is expanded.
    """
    graph = batch.graph
    count = int(graph.n_node[0])
    axis = closest_pair(np.asarray(graph.nodes.positions, np.float64)[:count])
    grid = sphere.quadrature(max(_FINER, lmax))
    matrices = _matrices(axis, grid.directions)  # [P, A, S, 3, 3]

    def back(matrix: Any) -> dict[str, jax.Array]:
        turned = symmetry.turned(task, graph, matrix)
        with capture.recording() as values:
            outputs = net.apply(params, None, turned, False)
        found = {
            name: jnp.asarray(values[name])[:count] @ matrix
            for name in VECTORS
            if name in values
        }
        for head in task.heads:
            rows = outputs[head.name][: 1 if head.kind == "graph_scalar" else count]
            turns = head.kind == "node_vector"
            found[f"head {head.name}"] = rows @ matrix if turns else rows
        return found

    flat = jnp.asarray(matrices.reshape(-1, 3, 3), graph.nodes.positions.dtype)
    run = jax.jit(lambda own: jax.lax.map(back, own, batch_size=_AT_ONCE))
    return {
        name: _change(
            np.reshape(own, (*matrices.shape[:3], -1)).astype(np.float64),
            *(axis, grid, lmax),
        )
        for name, own in jax.device_get(run(flat)).items()
    }


def _change(
    values: np.ndarray, axis: np.ndarray, grid: sphere.Grid, lmax: int
) -> Change:
    """The change of values [P, A, S, X] with the direction and the turn about it."""
    weights = grid.weights / (4 * np.pi)
    spins = values.shape[2]
    mean = np.einsum("pask,pa->k", values, weights) / spins
    change = values - mean
    squares = np.einsum("pask,pask,pa->", change, change, weights) / spins
    size = max(float(mean @ mean), np.finfo(float).tiny)
    function = (change.mean(axis=2) @ mean) / size
    error = float(np.sqrt(squares / size))
    return Change(axis, grid, function, error, sphere.expand(function, grid, lmax))


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
    """Rotations that take an axis to directions, with turns: [P, A, S, 3, 3].

    The turns about each direction begin anywhere, or the frames would be seen in the
    average over them.
    """
    flat = places.reshape(-1, 3)
    starts = np.random.default_rng(0).uniform(0, 360, (len(flat), 1))
    angles = starts + 360 / _SPINS * np.arange(_SPINS)
    turns = [
        [_frame(place) @ about(_Z, degrees) @ _frame(axis).T for degrees in own]
        for place, own in zip(flat, angles, strict=True)
    ]
    found: np.ndarray = np.array(turns).reshape(*places.shape[:2], _SPINS, 3, 3)
    return found


def _frame(direction: np.ndarray) -> np.ndarray:
    """A rotation [3, 3] that takes z to a direction."""
    other = np.eye(3)[np.argmin(np.abs(direction))]
    first = np.cross(other, direction)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(direction, first), direction], axis=1)


def describe(name: str, found: Change) -> str:
    """The change by direction in one line."""
    shares = ", ".join(
        f"degree {degree}: {100 * share:.0f} %"
        for degree, share in enumerate(found.shares, 1)
        if share >= 0.005
    )
    return (
        f"{name}: changes with the direction by {found.error:.1e} of its size; of its "
        f"part along the mean, {shares}; of degree 4, {100 * found.cubic:.0f} % have "
        "the symmetry of the cube"
    )


def figure(found: dict[str, Change], title: str, floor: float) -> Figure:
    """A row for each value: a glyph, a sphere that the change bends, and its degrees.

    Args:
      found: of `changes`.
      title: of the figure.
      floor: the error below which all is rounding.
    """
    drawn = Figure(figsize=(10.5, 3.3 * len(found) + 0.9), dpi=82, layout="constrained")
    rows = drawn.subplots(len(found), 3, squeeze=False, width_ratios=(1, 1, 0.95))
    for row, (name, change) in zip(rows, found.items(), strict=True):
        _draw_glyphs(row[:2], change)
        _draw_shares(row[2], change)
        style = dict(transform=row[0].transAxes, rotation=90, va="center")
        row[0].text(-0.06, 0.5, name, fontsize=10, fontweight="bold", **style)
        told = f"error {change.error:.1e}"
        if change.error < floor:
            told += ": this is rounding"
        row[0].set_title(
            f"{told}\nradius |f(n)|; red: larger, blue: smaller", fontsize=9
        )
        row[1].set_title("a sphere that f(n) bends, exaggerated", fontsize=9)
    entitle(
        drawn,
        title,
        "f(n): relative change of the value if the closest pair of the system is "
        "turned to the direction n",
    )
    return drawn


def _draw_glyphs(panels: Any, found: Change) -> None:
    """The function as a glyph, and as the shape of a body."""
    surface = sphere.surface(60, 120)
    values = sphere.harmonics(surface, max(found.coefficients))
    function = np.sum(
        [
            sphere.evaluate(own, values, degree)
            for degree, own in found.coefficients.items()
            if degree
        ],
        axis=0,
    )
    largest = float(np.abs(function).max())
    scaled = function / largest if largest else function
    for axes, radii in zip(panels, (np.abs(scaled), 0.72 + 0.25 * scaled), strict=True):
        scene = Scene(OBLIQUE)
        scene.add_glyph(np.zeros(3), surface, radii, glyphs.colors(scaled))
        _add_axes(scene)
        scene.draw(axes, np.array([[-1.15, -1.15], [1.15, 1.15]]))


def _add_axes(scene: Scene) -> None:
    for name, axis in zip("xyz", np.eye(3), strict=True):
        scene.add_band(np.zeros(3), 1.1 * axis, (0.012, 0.012), "0.5")
        scene.add_name(1.13 * axis, name, fontsize=9)


def _draw_shares(axes: Axes, found: Change) -> None:
    degrees = np.arange(1, len(found.shares) + 1)
    bars = axes.bar(degrees, 100 * found.shares, color="0.6")
    bars[_CUBIC - 1].set_color(colormaps["RdBu_r"](0.85))
    told = f"degree 4: {100 * found.shares[_CUBIC - 1]:.0f} %, of which cubic: "
    axes.set_title(f"{told}{100 * found.cubic:.0f} %", fontsize=9)
    axes.set(xlabel="degree", ylabel="share of the variance of f / %", xticks=degrees)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3, axis="y")
    axes.tick_params(labelsize=8)
