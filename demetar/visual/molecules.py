"""Pictures of molecules that a network drew, as balls and sticks.

Bonds are those of the table that stability is measured by (`generation.stability`):
two sticks for a double bond, three for a triple one. An atom whose bonds do not add up
to its valence has a red spot behind it.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from demetar import elements
from demetar.generation import stability
from demetar.generation.structures import Structures
from demetar.visual import layout
from demetar.visual.balls import Canvas
from demetar.visual.scene import entitle

_BALL = 0.14, 0.34  # radius in Å: a constant, and a share of the covalent radius
_STICKS = (0.105, 0.075, 0.060)  # radii in Å, by the order of the bond
_APART = (0.0, 0.115, 0.150)  # of the outer sticks from the axis, in Å
_STICK_COLOR = np.array([0.62, 0.64, 0.68])
_SPOT, _SPOT_COLOR = 1.55, np.array([1.0, 0.80, 0.78])  # radius in balls
_STABLE, _UNSTABLE = "#2e8b57", "#c0392b"
_ROOM = 0.25  # in Å around a molecule
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_WIDTH, _BELOW = 2.5, 0.3  # inches of a panel, and of the words below it
_SHARP = 1.5  # pixels of an image for one of the figure


def gallery(
    structures: Structures, title: str, caption: str = "", columns: int = 4
) -> Figure:
    """Molecules in a grid, with formulas; those that are stable have a green mark.

    Args:
      structures: up to some tens of molecules.
      title: of the figure.
      caption: below it.
      columns: of the grid.

    Raises:
      UserError: an element that the table does not know.
    """
    molecules = structures.split()
    views = [layout.view_of(own.positions) for own in molecules]
    flat = [_flat(own, view) for own, view in zip(molecules, views, strict=True)]
    half = np.max([np.ptp(points, axis=0) for points in flat], axis=0) / 2 + _reach()
    rows = -(-len(molecules) // columns)
    height = _WIDTH * half[1] / half[0] + _BELOW
    drawn = Figure(
        figsize=(_WIDTH * columns, height * rows + 0.8), dpi=120, layout="constrained"
    )
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, own, view, points in zip(panels, molecules, views, flat, strict=False):
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        draw(axes, own, view, np.stack([middle - half, middle + half]))
        _tell(axes, own)
    entitle(drawn, title, caption)
    return drawn


def draw(
    axes: Axes, molecule: Structures, view: np.ndarray, limits: np.ndarray
) -> None:
    """One molecule in a panel.

    Args:
      axes: of the panel.
      molecule: one.
      view: [3, 3] rows to the right, upwards and to the eye.
      limits: [2, 2] lowest and highest of what is to the right and upwards, in Å.

    Raises:
      UserError: an element that the table does not know.
    """
    figure = axes.figure
    width = axes.get_position().width * figure.get_figwidth() * figure.dpi
    canvas = Canvas(limits, _SHARP * width / (limits[1, 0] - limits[0, 0]))
    places = molecule.positions @ view.T
    symbols = [elements.SYMBOLS[number - 1] for number in molecule.numbers]
    colors = [np.array(to_rgb(layout.color_of(symbol))) for symbol in symbols]
    radii = _radii(molecule.numbers)
    stable = stability.measure(molecule).atoms
    for place, radius in zip(places[~stable], radii[~stable], strict=True):
        canvas.add_disc(place, _SPOT * radius, _SPOT_COLOR)
    bonds = stability.find(molecule)
    for (first, last), order in zip(bonds.ends, bonds.orders, strict=True):
        _add_bond(canvas, places[first], places[last], order)
    for place, radius, color in zip(places, radii, colors, strict=True):
        canvas.add_ball(place, radius, color)
    extent = (*limits[:, 0], *limits[:, 1])
    axes.imshow(canvas.image(), extent=extent, interpolation="antialiased")
    axes.set_axis_off()


def _add_bond(canvas: Canvas, start: np.ndarray, stop: np.ndarray, order: int) -> None:
    """As many sticks beside each other, as they are seen, as the order is high."""
    along = stop - start
    across = np.array([-along[1], along[0], 0.0])
    across /= max(float(np.linalg.norm(across)), 1e-12)
    radius, apart = _STICKS[order - 1], _APART[order - 1]
    for step in np.linspace(-apart, apart, order):
        canvas.add_stick(
            start + step * across, stop + step * across, radius, _STICK_COLOR
        )


def _radii(numbers: np.ndarray) -> np.ndarray:
    """[n] of balls, in Å."""
    least, share = _BALL
    return np.array([least + share * elements.RADII[int(own)] for own in numbers])


def _reach() -> float:
    """Of the largest ball of the known elements and the room beside it, in Å."""
    return float(_radii(np.array(list(stability.VALENCES))).max()) + _ROOM


def _flat(molecule: Structures, view: np.ndarray) -> np.ndarray:
    """[n, 2] where the atoms are seen."""
    return np.asarray(molecule.positions @ view[:2].T)


def _tell(axes: Axes, molecule: Structures) -> None:
    """Formula and stability below a molecule."""
    (stable,) = stability.measure(molecule).molecules
    color, word = (_STABLE, "stable") if stable else (_UNSTABLE, "not stable")
    style = dict(transform=axes.transAxes, fontsize=9, va="top")
    axes.text(0.5, 0.0, f"{formula(molecule.numbers)}  ", ha="right", **style)
    axes.text(0.5, 0.0, f"● {word}", ha="left", color=color, **style)


def formula(numbers: np.ndarray) -> str:
    """The formula of a molecule in Hill's order, as 'C₂H₆O'.

    Args:
      numbers: [n] atomic numbers.
    """
    found = [elements.SYMBOLS[number - 1] for number in numbers]
    first = [symbol for symbol in ("C", "H") if "C" in found and symbol in found]
    order = [*first, *sorted(set(found) - set(first))]
    counts = {symbol: found.count(symbol) for symbol in order}
    return "".join(
        f"{symbol}{str(count).translate(_SUBSCRIPTS) if count > 1 else ''}"
        for symbol, count in counts.items()
    )
