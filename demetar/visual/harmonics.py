"""The spherical harmonics as glyphs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from demetar.visual import glyphs, sphere
from demetar.visual.scene import OBLIQUE, Scene

MOST = 6  # the highest degree that is drawn


def figure(lmax: int) -> Figure:
    """A row for each degree up to lmax, a column for each component."""
    directions = sphere.surface(48, 96)
    values = sphere.harmonics(directions, lmax)
    columns = 2 * lmax + 2  # one more for the names of the rows
    drawn = Figure(
        figsize=(1.25 * columns, 1.35 * (lmax + 1) + 0.6),
        dpi=110,
        layout="constrained",
    )
    panels = drawn.subplots(lmax + 1, columns, squeeze=False)
    for degree, row in enumerate(panels):
        for axes, order in zip(row, range(-lmax - 1, lmax + 1), strict=True):
            axes.set_axis_off()
            if abs(order) > degree:
                continue
            function = values[degree][order + degree]
            scene = Scene(OBLIQUE)
            glyphs.add_function(
                *(scene, np.zeros(3), directions, function / np.abs(function).max()), 1
            )
            scene.draw(axes, np.array([[-1.0, -1.0], [1.0, 1.0]]))
            axes.set_title(f"component {order + degree}", fontsize=7, color="0.35")
        style = dict(transform=row[0].transAxes, fontsize=10, fontweight="bold")
        row[0].text(0.3, 0.5, f"degree {degree}", va="center", **style)
    drawn.suptitle("real spherical harmonics as the features count them", fontsize=11)
    return drawn
