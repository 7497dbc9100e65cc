"""How a system is drawn: where its nodes stand, their names, what joins them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from matplotlib.colors import to_rgb

from demetar import elements
from demetar.data.species import species_of
from demetar.types import Array, Nodes, TaskSpec
from demetar.visual import scene, sphere
from demetar.visual.scene import INK, Scene, best_view

# As molecules are coloured by most programs; others are violet.
_COLORS = {
    **{"H": "#dddddd", "C": "#606060", "N": "#3b6fd4", "O": "#d43a2f", "F": "#5fb84c"},
    **{"S": "#e0b93a", "P": "#e08a2e", "Cl": "#3fae4a", "Br": "#9c3b2b"},
}
_OTHER, _POSITIVE, _NEGATIVE = "#8a6fb3", "#d9603b", "#3b78c9"
_BONDED = 1.25  # times the sum of covalent radii
_STICK = (0.80, 0.80, 0.83)
_THICK, _FAINT = 0.25, 0.06  # sticks in radii of a glyph: bonds, or all pairs
_FEW = 8  # bodies that are all joined by faint lines
_ASIDE = (np.array([0.5, 1.0, 0.0]), 18.0)  # axis and degrees
_MOST_NAMES = 40  # that can be told apart
_BALL = 14  # polar steps


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a system is drawn.

    Attributes:
      names: of the nodes, as 'C1' or '3+'.
      colors: of the nodes.
      positions: [n, 3].
      sticks: [s, 2] nodes that are joined.
      are_bonds: whether they are the bonds of a molecule, or faint lines for the eye.
      view: of `Scene`.
      radius: of a glyph, so that most do not touch.
      limits: [2, 2] of the axes, for glyphs of that radius.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    positions: np.ndarray
    sticks: np.ndarray
    are_bonds: bool
    view: np.ndarray
    radius: float
    limits: np.ndarray

    def turned(self, matrix: np.ndarray) -> Layout:
        """The system under a rotation [3, 3], in the same view."""
        return dataclasses.replace(self, positions=self.positions @ matrix.T)

    def with_room(self, others: Iterable[Layout]) -> Layout:
        """The system with limits in which others of the same view fit too."""
        flat = np.concatenate([own.positions for own in others]) @ self.view[:2].T
        reach = 1.15 * self.radius
        limits = np.stack([flat.min(axis=0) - reach, flat.max(axis=0) + reach])
        return dataclasses.replace(self, limits=limits)

    def panel(self, area: float) -> tuple[float, float]:
        """Width and height in inches of a panel of about that area's side."""
        width, height = self.limits[1] - self.limits[0]
        ratio = float(np.clip(width / height, 0.6, 1.8))
        return area * ratio**0.5, area / ratio**0.5

    def scene(self, with_sticks: bool = True) -> Scene:
        """A new scene, with the sticks in it."""
        picture = Scene(self.view)
        share = _THICK if self.are_bonds else _FAINT
        widths = (share * self.radius, share * self.radius)
        for first, last in self.sticks if with_sticks else ():
            ends = self.positions[first], self.positions[last]
            picture.add_band(*ends, widths, _STICK)
        return picture

    def add_balls(self, picture: Scene, share: float | np.ndarray = 0.5) -> None:
        """A ball for every node; its radius is a share of that of a glyph."""
        directions = sphere.surface(_BALL, 2 * _BALL)
        shares = np.broadcast_to(share, len(self.names))
        for place, color, own in zip(self.positions, self.colors, shares, strict=True):
            picture.add_glyph(place, directions, own * self.radius, to_rgb(color))

    def add_names(self, picture: Scene, distance: float = 0.75) -> None:
        """The name of every node, to the lower right, in radii of a glyph."""
        if len(self.names) > _MOST_NAMES:
            return
        shift = distance * self.radius * (self.view[0] - self.view[1])
        for place, name in zip(self.positions, self.names, strict=True):
            picture.add_name(place + shift, name, color=INK)


def color_of(symbol: str) -> str:
    """The colour of an element."""
    return _COLORS.get(symbol, _OTHER)


def view_of(positions: np.ndarray) -> np.ndarray:
    """The view [3, 3] in which points [n, 3] are spread most, from a little aside.

    Mirror images would hide each other in the view itself.
    """
    found: np.ndarray = scene.about(*_ASIDE) @ best_view(positions)
    return found


def of_nodes(task: TaskSpec, nodes: Nodes, count: int) -> Layout:
    """How the first system of a batch is drawn.

    Args:
      task: tells species from other scalars.
      nodes: of the batch.
      count: nodes of the system.
    """
    positions = np.asarray(nodes.positions, np.float64)[:count]
    positions = positions - positions.mean(axis=0)
    scalars = np.asarray(nodes.scalars)[:count]
    species = _species(task, scalars)
    if species:
        names = tuple(f"{own}{k}" for k, own in enumerate(species, 1))
        colors = tuple(map(color_of, species))
        sticks = _bonds(species, positions)
    else:
        signs = _signs(task, scalars)
        marks = {1: "+", -1: "−", 0: ""}
        names = tuple(f"{k}{marks[sign]}" for k, sign in enumerate(signs, 1))
        kinds = {1: _POSITIVE, -1: _NEGATIVE, 0: _OTHER}
        colors = tuple(kinds[sign] for sign in signs)
        sticks = _all_pairs(count) if count <= _FEW else np.zeros((0, 2), int)
    view = view_of(positions)
    flat = positions @ view.T[:, :2]
    radius = _radius(flat)
    limits = np.stack([flat.min(axis=0) - radius, flat.max(axis=0) + radius])
    is_molecule = bool(species)
    return Layout(names, colors, positions, sticks, is_molecule, view, radius, limits)


def _species(task: TaskSpec, scalars: np.ndarray) -> list[str]:
    """The species of each node; none if the nodes have no species."""
    known = species_of(task)
    if not known:
        return []
    columns = [task.scalars.index(name) for name in known]
    return [known[row] for row in scalars[:, columns].argmax(axis=1)]


def _signs(task: TaskSpec, scalars: np.ndarray) -> list[int]:
    """The signs of the charges; 0 without charges."""
    if "charge" not in task.scalars:
        return [0] * len(scalars)
    return [int(sign) for sign in np.sign(scalars[:, task.scalars.index("charge")])]


def _all_pairs(count: int) -> np.ndarray:
    return np.argwhere(np.triu(np.ones((count, count), bool), 1))


def _distances(points: np.ndarray) -> np.ndarray:
    """[n, n]; infinite from a point to itself."""
    found: np.ndarray = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(found, np.inf)
    return found


def _bonds(species: list[str], positions: Array) -> np.ndarray:
    """Pairs of atoms that are as close as bonded ones, in Å."""
    numbers = [elements.NUMBERS.get(name, 6) for name in species]
    radii = np.array([elements.RADII.get(number, 1.5) for number in numbers])
    close = _distances(np.asarray(positions)) < _BONDED * (radii[:, None] + radii)
    return np.argwhere(np.triu(close, 1))


def _radius(flat: np.ndarray) -> float:
    """Half the distance to the next node as it is seen, of most nodes."""
    extent = float(np.ptp(flat, axis=0).max()) if len(flat) else 0.0
    if len(flat) < 2 or extent == 0:
        return 1.0
    nearest = _distances(flat).min(axis=1)
    return float(np.clip(0.5 * np.median(nearest), 0.05 * extent, 0.2 * extent))
