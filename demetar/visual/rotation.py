"""Features of a turned system beside the turned features of the system.

An equivariant layer h has h(R x) = D(R) h(x), with the matrices D of Wigner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from demetar import symmetry
from demetar.errors import UserError
from demetar.nn.steerable import Irrep
from demetar.types import Batch, TaskSpec
from demetar.visual import glyphs, sphere
from demetar.visual.glyphs import Chosen
from demetar.visual.inside import Inside, Layer
from demetar.visual.layout import Layout
from demetar.visual.scene import Scene, about, entitle

ANGLES = (0.0, 45.0, 90.0, 135.0)  # degrees, of the still picture

Look = Callable[[Batch], Inside]  # a `Recorder` with its parameters


def wigner(irrep: Irrep, matrix: np.ndarray) -> np.ndarray:
    """How features of an irrep turn with an orthogonal matrix [3, 3]: [2l+1, 2l+1].

    D_ij is the integral of Y_i(R n) Y_j(n) over the sphere, by a quadrature that is
    exact. An irrep whose parity is not that of its harmonics changes its sign if the
    matrix reflects.
    """
    grid = sphere.quadrature(irrep.l)
    before = sphere.harmonics(grid.directions, irrep.l)[irrep.l]
    after = sphere.harmonics(grid.directions @ matrix.T, irrep.l)[irrep.l]
    found: np.ndarray = np.einsum("ipa,jpa,pa->ij", after, before, grid.weights)
    if irrep.p != (-1) ** irrep.l:
        found = found * np.sign(np.linalg.det(matrix))
    return found


def transformed(layer: Layer, matrix: np.ndarray) -> Layer:
    """The features of a layer under D of a matrix [3, 3]."""
    turned = {
        irrep: np.tensordot(wigner(irrep, matrix), values, axes=1)
        for irrep, values in layer.features.items()
    }
    return Layer(layer.number, turned)


def difference(found: Sequence[Layer], expected: Sequence[Layer]) -> float:
    """The largest difference of any feature, relative to the largest of its layer."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        size = max(np.abs(own).max(initial=0) for own in other.features.values())
        for irrep, values in other.features.items():
            error = np.abs(one.features[irrep] - values).max(initial=0)
            worst = max(worst, float(error / size) if size else 0.0)
    return worst


@dataclasses.dataclass(frozen=True)
class Turn:
    """One rotation of the input.

    Attributes:
      degrees: of the rotation.
      matrix: [3, 3].
      layers: features of the turned input.
      expected: the features of the input under Wigner's D.
    """

    degrees: float
    matrix: np.ndarray
    layers: list[Layer]
    expected: list[Layer]

    @property
    def difference(self) -> float:
        """Of both, over all layers."""
        return difference(self.layers, self.expected)


def turns(
    task: TaskSpec,
    batch: Batch,
    look: Look,
    axis: np.ndarray,
    angles: Sequence[float] = ANGLES,
) -> list[Turn]:
    """The input turned about an axis by each of some angles in degrees."""
    first = look(batch).layers
    found = []
    for degrees in angles:
        matrix = about(axis, degrees)
        graph = symmetry.turned(task, batch.graph, matrix)
        layers = look(dataclasses.replace(batch, graph=graph)).layers
        expected = [transformed(layer, matrix) for layer in first]
        found.append(Turn(degrees, matrix, layers, expected))
    return found


@dataclasses.dataclass(frozen=True)
class Shown:
    """Which features a picture shows.

    Attributes:
      layer: its place among the layers.
      irrep: of the features.
      channel: of the features.
      size: the largest |f(n)|.
    """

    layer: int
    irrep: Irrep
    channel: int
    size: float

    def of(self, layers: Sequence[Layer]) -> Chosen:
        """These features among those of some layers."""
        return glyphs.choose(layers[self.layer], self.irrep, self.channel)


def show(layers: Sequence[Layer], channel: int | None, degree: int | None) -> Shown:
    """The features of the highest degree of the last layer, or of the one named.

    Raises:
      UserError: no layer has features of that degree, or there is no such channel.
    """
    irreps = glyphs.irreps_of(layers)
    known = sorted({irrep.l for irrep in irreps})
    degree = known[-1] if degree is None else degree
    if degree not in known:
        raise UserError(
            f"expected --degree of {', '.join(map(str, known))}, which the features "
            f"have, found {degree}"
        )
    irrep = next(own for own in irreps if own.l == degree)
    layer = max(k for k, own in enumerate(layers) if irrep in own.features)
    chosen = glyphs.choose(layers[layer], irrep, channel)
    return Shown(layer, irrep, chosen.channel, chosen.size)


def room(found: Sequence[Turn], layout: Layout) -> Layout:
    """The layout with room for all rotations."""
    return layout.with_room(layout.turned(turn.matrix) for turn in found)


def picture(
    layout: Layout, matrix: np.ndarray, chosen: Chosen, size: float, steps: int
) -> tuple[Scene, Layout]:
    """The turned system with features at its nodes."""
    placed = layout.turned(matrix)
    scene = placed.scene()
    glyphs.add_features(scene, placed.positions, chosen, placed.radius, steps, size)
    placed.add_names(scene)
    return scene, placed


ROWS = ("features of the turned input", "Wigner's D times those of the input")


def figure(found: Sequence[Turn], shown: Shown, layout: Layout, title: str) -> Figure:
    """Above what the model computes of the turned input, below what it should be."""
    layout = room(found, layout)
    width, height = layout.panel(2.6)
    drawn = Figure(
        figsize=(width * len(found) + 0.6, 2 * height + 1.5),
        dpi=110,
        layout="constrained",
    )
    panels = drawn.subplots(2, len(found), squeeze=False)
    steps = glyphs.resolution(2 * len(found) * len(layout.names))
    for column, turn in zip(panels.T, found, strict=True):
        for axes, layers in zip(column, (turn.layers, turn.expected), strict=True):
            scene, placed = picture(
                layout, turn.matrix, shown.of(layers), shown.size, steps
            )
            scene.draw(axes, placed.limits)
        column[0].set_title(f"{turn.degrees:g}°", fontsize=10)
        told = f"largest difference {turn.difference:.1e}"
        column[1].set_title(told, fontsize=8, color="0.35")
    for axes, text in zip(panels[:, 0], ROWS, strict=True):
        style = dict(transform=axes.transAxes, fontsize=9, fontweight="bold")
        axes.text(-0.03, 0.5, text, rotation=90, va="center", ha="right", **style)
    entitle(
        drawn,
        title,
        "differences are over all layers, degrees and channels, relative to the "
        "largest feature of the layer",
    )
    return drawn


def frame(turn: Turn, shown: Shown, layout: Layout, title: str) -> Figure:
    """One picture of a film: both side by side."""
    width, height = layout.panel(3.4)
    drawn = Figure(figsize=(2 * width, height + 1.0), dpi=75)
    panels = drawn.subplots(1, 2)
    drawn.subplots_adjust(left=0.01, right=0.99, top=0.80, bottom=0.09)
    steps = glyphs.resolution(8 * len(layout.names))
    both = turn.layers, turn.expected
    for axes, layers, text in zip(panels, both, ROWS, strict=True):
        scene, placed = picture(
            layout, turn.matrix, shown.of(layers), shown.size, steps
        )
        scene.draw(axes, placed.limits)
        axes.set_title(text, fontsize=9, fontweight="bold")
    drawn.suptitle(title, fontsize=8, parse_math=False)
    told = f"turned by {turn.degrees:.0f}°: largest difference {turn.difference:.1e}"
    drawn.text(0.5, 0.02, told, ha="center", fontsize=8, color="0.35")
    return drawn
