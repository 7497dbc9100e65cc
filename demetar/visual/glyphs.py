"""Steerable features as glyphs: functions on the sphere, at the nodes that have them.

The radius of a glyph is |f(n)|, its colour f(n): red if it is positive, blue if not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demetar.errors import UserError
from demetar.nn.steerable import Irrep
from demetar.visual import sphere
from demetar.visual.inside import Inside, Layer
from demetar.visual.layout import Layout
from demetar.visual.scene import Scene, entitle

_SIGNED = colormaps["RdBu_r"]
_BRIGHT = 0.84  # of the colours that are used; the ends are nearly black
MOST_FACES = 150_000  # of a figure; glyphs get coarser beyond
_FINEST, _COARSEST = 32, 10  # polar steps of a glyph


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One channel of the features of a layer.

    Attributes:
      irrep: of the channel.
      channel: its number; count: of how many.
      values: [2l + 1, n].
    """

    irrep: Irrep
    channel: int
    count: int
    values: np.ndarray

    @property
    def size(self) -> float:
        """The largest |f(n)| of any node, about: the largest norm of harmonics."""
        scale = np.sqrt((2 * self.irrep.l + 1) / (4 * np.pi))
        return float(scale * np.linalg.norm(self.values, axis=0).max(initial=0))


def choose(layer: Layer, irrep: Irrep, channel: int | None = None) -> Chosen:
    """One channel of a layer; the strongest over all nodes unless one is named.

    Raises:
      UserError: there is no such channel.
    """
    values = layer.features[irrep]  # [2l + 1, n, C]
    count = values.shape[-1]
    if channel is None:
        channel = int(np.argmax(np.square(values).sum(axis=(0, 1))))
    if not 0 <= channel < count:
        raise UserError(
            f"expected --channel from 0 to {count - 1}, of the {count} channels of "
            f"{irrep} in layer {layer.number}, found {channel}"
        )
    return Chosen(irrep, channel, count, values[..., channel])


def irreps_of(layers: Sequence[Layer]) -> list[Irrep]:
    """All irreps of some layers, by degree."""
    found = {irrep for layer in layers for irrep in layer.features}
    return sorted(found, key=lambda irrep: (irrep.l, -irrep.p))


def require_layers(inside: Inside, model: str) -> list[Layer]:
    """The layers with steerable features.

    Raises:
      UserError: there are none; it tells what there is.
    """
    if not inside.layers:
        raise UserError(
            f"expected steerable features in {model}, found none; it records "
            f"{inside.describe()}; try --what=equivariance, which any model has"
        )
    return inside.layers


def resolution(num_glyphs: int) -> int:
    """Polar steps of each of many glyphs."""
    steps = int(np.sqrt(MOST_FACES / max(num_glyphs, 1) / 2))
    return int(np.clip(steps, _COARSEST, _FINEST))


def add_features(
    picture: Scene,
    places: np.ndarray,
    chosen: Chosen,
    radius: float,
    steps: int,
    size: float | None = None,
) -> None:
    """The glyph of every node.

    Args:
      picture: to which they are added.
      places: [n, 3] where they stand.
      chosen: the features.
      radius: length that stands for `size`.
      steps: polar steps of a glyph.
      size: value that the radius and the strongest colour stand for; None for the
        largest of these features.
    """
    directions = sphere.surface(steps, 2 * steps)
    degree = chosen.irrep.l
    harmonics = sphere.harmonics(directions, degree)
    functions = sphere.evaluate(chosen.values, harmonics, degree)  # [n, P, A]
    largest = np.abs(functions).max(initial=0) if size is None else size
    if largest == 0:
        return
    for place, function in zip(places, functions / largest, strict=True):
        add_function(picture, place, directions, function, radius)


def add_function(
    picture: Scene,
    place: np.ndarray,
    directions: np.ndarray,
    function: np.ndarray,
    radius: float,
) -> None:
    """One glyph: of a function [P, A] whose colours span -1 to 1."""
    picture.add_glyph(place, directions, radius * np.abs(function), colors(function))


def colors(function: np.ndarray) -> np.ndarray:
    """RGB colours [..., 3] of values from -1 to 1."""
    found: np.ndarray = _SIGNED(0.5 + 0.5 * _BRIGHT * np.clip(function, -1, 1))
    return found[..., :3]


def figure(
    inside: Inside, layout: Layout, title: str, channel: int | None = None
) -> Figure:
    """Features of all nodes: a row for each layer, a column for each irrep.

    Args:
      inside: what the model computed; it has layers.
      layout: how the system is drawn.
      title: of the figure.
      channel: which one; None for the strongest of each panel.
    """
    layers, irreps = inside.layers, irreps_of(inside.layers)
    cell = layout.panel(2.3)
    drawn = Figure(
        figsize=(cell[0] * len(irreps) + 0.9, cell[1] * len(layers) + 1.0),
        dpi=110,
        layout="constrained",
    )
    panels = drawn.subplots(len(layers), len(irreps), squeeze=False)
    steps = resolution(len(layers) * len(irreps) * len(inside.positions))
    for row, layer in zip(panels, layers, strict=True):
        for axes, irrep in zip(row, irreps, strict=True):
            picture = layout.scene()
            if irrep in layer.features:
                chosen = choose(layer, irrep, channel)
                place = layout.positions
                add_features(picture, place, chosen, layout.radius, steps)
                told = f"channel {chosen.channel} of {chosen.count}, up to "
                axes.set_title(f"{told}{chosen.size:.2g}", fontsize=7, color="0.35")
            layout.add_names(picture)
            picture.draw(axes, layout.limits)
    for axes, irrep in zip(panels[0], irreps, strict=True):
        axes.text(0.5, 1.16, describe(irrep), **_beside(axes), ha="center")
    for axes, layer in zip(panels[:, 0], layers, strict=True):
        told = f"layer {layer.number}"
        axes.text(-0.04, 0.5, told, **_beside(axes), rotation=90, va="center")
    entitle(
        drawn,
        title,
        "radius |f(n)|; red: f(n) > 0, blue: f(n) < 0; each panel has its own scale",
    )
    return drawn


def describe(irrep: Irrep) -> str:
    """An irrep as a person of the field calls it: '1o, vectors'."""
    natural = irrep.p == (-1) ** irrep.l
    names = {(0, True): "scalars", (0, False): "pseudoscalars", (1, True): "vectors"}
    names[1, False] = "axial vectors"
    kind = names.get((irrep.l, natural), "" if natural else "pseudotensors")
    return f"{irrep}, {kind}" if kind else f"{irrep}, degree {irrep.l}"


def _beside(axes: Axes) -> dict[str, Any]:
    """Style of a text in the coordinates of a panel."""
    return dict(transform=axes.transAxes, fontsize=9, fontweight="bold")
