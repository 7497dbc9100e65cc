"""Pictures of molecules that a network drew, as balls and sticks.

Bonds are those of the table that stability is measured by (`generation.stability`):
two sticks for a double bond, three for a triple one. An atom whose bonds do not add up
to its valence has a red spot behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from demetar import elements
from demetar.generation import stability
from demetar.generation.structures import Structures
from demetar.visual import layout, scene
from demetar.visual.balls import Canvas
from demetar.visual.scene import entitle

_BALL = 0.14, 0.34  # radius in Å: a constant, and a share of the covalent radius
_STICKS = (0.105, 0.075, 0.060)  # radii in Å, by the order of the bond
_APART = (0.0, 0.115, 0.150)  # of the outer sticks from the axis, in Å
_STICK_COLOR = np.array([0.62, 0.64, 0.68])
_SPOT, _SPOT_COLOR = 1.55, np.array([1.0, 0.80, 0.78])  # radius in balls
_STABLE, _UNSTABLE = "#2e8b57", "#c0392b"
_MOST_USUAL = 1.8  # times the median extent, beyond which a molecule fell apart
_ROOM = 0.25  # in Å around a molecule
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_WIDTH, _NARROW = 2.5, 1.75  # inches of a panel of a gallery, and of one of a strip
_BELOW, _AROUND = 0.3, 0.8  # inches of the words at a panel, and of those of a figure
_TURN, _STILL = 48, 900  # pictures of a turn, and milliseconds of one that stands
_UPRIGHT = np.array([0.0, 1.0, 0.0])
_SHARP = 1.5  # pixels of an image for one of the figure

Frame: TypeAlias = tuple[float, Structures]  # a time, and one molecule


def gallery(
    structures: Structures, title: str = "", caption: str = "", columns: int = 4
) -> Figure:
    """Molecules in a grid, with formulas; those that are stable have a green mark.

    They have one scale, but for those that fell apart: these are made to fit.

    Args:
      structures: from one to some tens of molecules.
      title: of the figure.
      caption: below it.
      columns: of the grid.

    Raises:
      UserError: an element that the table does not know.
    """
    molecules = structures.split()
    views = [layout.view_of(own.positions) for own in molecules]
    flat = [_flat(own, view) for own, view in zip(molecules, views, strict=True)]
    extents = np.stack([np.ptp(points, axis=0) for points in flat]) / 2 + _reach()
    usual = np.minimum(extents.max(axis=0), _MOST_USUAL * np.median(extents, axis=0))
    height = _WIDTH * usual[1] / usual[0] + _BELOW
    drawn, panels = _grid(len(molecules), columns, _WIDTH, height)
    every = zip(panels, molecules, views, flat, extents, strict=False)
    for axes, own, view, points, extent in every:
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        half = usual * max(1, (extent / usual).max())
        draw(axes, own, view, np.stack([middle - half, middle + half]))
        _tell(axes, own)
    entitle(drawn, title, caption)
    return drawn


def forming(
    frames: Sequence[Frame], title: str = "", caption: str = "", columns: int = 8
) -> Figure:
    """A molecule as it forms from noise, in one view and at one scale.

    Args:
      frames: times, and the molecule at each; the last is the finished one.
      title: of the figure.
      caption: below it.
      columns: of the grid.

    Raises:
      UserError: an element that the table does not know.
    """
    frames = _centred(frames)
    stage = _stage(frames)
    height = _NARROW * _ratio(stage.limits) + _BELOW
    drawn, panels = _grid(len(frames), columns, _NARROW, height)
    for axes, (time, own) in zip(panels, frames, strict=False):
        draw(axes, own, stage.view, stage.limits)
        axes.set_title(f"t = {time:.2f}", fontsize=9, color="0.35")
    _tell(panels[len(frames) - 1], frames[-1][1])
    entitle(drawn, title, caption)
    return drawn


def _grid(
    count: int, columns: int, width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """A figure with room for some panels of a size in inches, and its panels."""
    columns = min(columns, count)
    rows = -(-count // columns)
    size = width * columns, height * rows + _AROUND
    drawn = Figure(figsize=size, dpi=120, layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.set_axis_off()
    return drawn, panels


def film(
    frames: Sequence[Frame], title: str = "", milliseconds: int = 60
) -> tuple[Iterator[Figure], list[int]]:
    """The pictures of a film of a molecule that forms, and how long each is shown.

    When it is finished it turns once about its upright axis.

    Args:
      frames: of `forming`, some tens of them.
      title: of the film.
      milliseconds: of a picture.

    Returns:
      What `animation.encode` takes.

    Raises:
      UserError: an element that the table does not know.
    """
    frames = _centred(frames)
    time, last = frames[-1]
    stage = _stage(frames, is_turned=True)
    turns = [scene.about(_UPRIGHT, 360 * k / _TURN) for k in range(1, _TURN)]
    steps = [(time, own, stage.view) for time, own in frames]
    steps += [(time, last, turn @ stage.view) for turn in turns]
    times = [milliseconds] * len(steps)
    times[0] = times[len(frames) - 1] = _STILL
    figures = (_picture(*step, stage.limits, title) for step in steps)
    return figures, times


def _picture(
    time: float, molecule: Structures, view: np.ndarray, limits: np.ndarray, title: str
) -> Figure:
    """One picture of a film."""
    width, above = 4.2, 0.55
    high = width * _ratio(limits)
    drawn = Figure(figsize=(width, high + above), dpi=90)
    share = high / (high + above)
    draw(drawn.add_axes((0.0, 0.0, 1.0, share)), molecule, view, limits)
    drawn.text(0.5, 0.985, title, ha="center", va="top", fontsize=10, parse_math=False)
    told: dict[str, Any] = dict(ha="center", va="bottom", fontsize=9, color="0.35")
    drawn.text(0.5, share, f"t = {time:.2f}", **told)
    return drawn


class _Stage(NamedTuple):
    """How all frames of a molecule are seen: `view` and `limits` of `draw`."""

    view: np.ndarray
    limits: np.ndarray


def _stage(frames: Sequence[Frame], is_turned: bool = False) -> _Stage:
    """Room for all frames in the view of the last, and for that as it turns."""
    _, last = frames[-1]
    view = layout.view_of(last.positions)
    flat = np.concatenate([_flat(own, view) for _, own in frames])
    limits = np.stack([flat.min(axis=0), flat.max(axis=0)])
    if is_turned:
        reach = np.hypot(*(view[[0, 2]] @ last.positions.T)).max()
        limits[:, 0] = np.array([-1, 1]) * max(reach, np.abs(limits[:, 0]).max())
    return _Stage(view, limits + np.array([[-1], [1]]) * _reach())


def _centred(frames: Sequence[Frame]) -> list[Frame]:
    """Every molecule about the origin."""
    return [
        (time, own._replace(positions=own.positions - own.positions.mean(axis=0)))
        for time, own in frames
    ]


def _ratio(limits: np.ndarray) -> float:
    """Height by width."""
    width, height = limits[1] - limits[0]
    return float(height / width)


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
    scale = axes.bbox.width / (limits[1, 0] - limits[0, 0])
    canvas = Canvas(limits, _SHARP * scale)
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
    style: dict[str, Any] = dict(transform=axes.transAxes, fontsize=9, va="top")
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
