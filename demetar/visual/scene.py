"""Drawings of things in space: glyphs, lines and names, sorted by depth.

Space is seen from far away. All faces of a scene are sorted together, so glyphs may
stand close to each other and one may hide another.
"""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

INK = "#333333"
DARKEST = 0.6  # of a colour, if no light falls on it
_LIGHT = np.array([-0.40, 0.55, 0.73])  # to the right, upwards, to the eye


@dataclasses.dataclass
class Scene:
    """What is to be drawn.

    Attributes:
      view: [3, 3] rows to the right, upwards and to the eye.
    """

    view: np.ndarray
    _faces: list[np.ndarray] = dataclasses.field(default_factory=list)
    _colors: list[np.ndarray] = dataclasses.field(default_factory=list)
    _bands: list[np.ndarray] = dataclasses.field(default_factory=list)
    _band_colors: list[Any] = dataclasses.field(default_factory=list)
    _names: list[tuple[np.ndarray, str, dict[str, Any]]] = dataclasses.field(
        default_factory=list
    )
    _arrows: list[tuple[np.ndarray, Any]] = dataclasses.field(default_factory=list)

    def add_glyph(
        self, center: np.ndarray, directions: np.ndarray, radii: Any, colors: Any
    ) -> None:
        """A surface around a point.

        Args:
          center: [3].
          directions: [P, A, 3], of `sphere.surface`.
          radii: [P, A] lengths along them, or one number for a ball.
          colors: [P, A, 3] RGB, or [3].
        """
        points = center + directions * np.expand_dims(np.asarray(radii), -1)
        faces = _corners(points @ self.view.T)  # [F, 4, 3]
        colors = np.broadcast_to(np.asarray(colors), points.shape)
        self._faces.append(faces)
        self._colors.append(_corners(colors).mean(axis=1) * _shades(faces))

    def add_band(
        self,
        start: np.ndarray,
        stop: np.ndarray,
        widths: tuple[float, float],
        color: Any,
    ) -> None:
        """A flat line behind all glyphs, of its own width at either end."""
        ends = np.stack([start, stop]) @ self.view.T
        along = ends[1, :2] - ends[0, :2]
        length = np.linalg.norm(along)
        if length == 0:
            return
        across = np.array([-along[1], along[0]]) / length / 2
        (a, b), (first, last) = ends[:, :2], widths
        corners = [a + first * across, b + last * across]
        corners += [b - last * across, a - first * across]
        self._bands.append(np.stack(corners))
        self._band_colors.append(color)

    def add_arrow(self, start: np.ndarray, stop: np.ndarray, color: Any) -> None:
        """An arrow before all glyphs."""
        self._arrows.append((np.stack([start, stop]) @ self.view.T, color))

    def add_name(self, place: np.ndarray, text: str, **style: Any) -> None:
        """A text before everything else."""
        self._names.append((place @ self.view.T, text, style))

    def draw(self, axes: Axes, limits: np.ndarray | None = None) -> None:
        """Draw everything, on axes without a frame.

        Args:
          limits: [2, 2] lowest and highest of x and y; None for what there is.
        """
        if self._bands:
            bands = PolyCollection(self._bands, facecolors=self._band_colors, zorder=1)
            bands.set_linewidth(0)
            axes.add_collection(bands)
        if self._faces:
            axes.add_collection(self._surfaces())
        for ends, color in self._arrows:
            arrow = FancyArrowPatch(
                *ends[:, :2],
                arrowstyle="-|>",
                mutation_scale=9,
                color=color,
                zorder=3,
            )
            arrow.set(linewidth=1.4, clip_on=False)
            axes.add_patch(arrow)
        for place, text, style in self._names:
            own = {"ha": "center", "va": "center", "fontsize": 7, "color": INK, **style}
            x, y = place[:2].tolist()
            written = axes.text(x, y, text, zorder=4, parse_math=False, **own)
            written.set_path_effects([withStroke(linewidth=1.8, foreground="white")])
        axes.set_aspect("equal")
        axes.set_axis_off()
        lowest, highest = self.limits() if limits is None else limits
        axes.set_xlim(lowest[0], highest[0])
        axes.set_ylim(lowest[1], highest[1])

    def limits(self) -> np.ndarray:
        """[2, 2] lowest and highest x and y of what there is, with a margin."""
        flat = [faces[..., :2].reshape(-1, 2) for faces in self._faces]
        flat += [*self._bands, *(ends[:, :2] for ends, _ in self._arrows)]
        flat += [place[None, :2] for place, _, _ in self._names]
        points = np.concatenate(flat) if flat else np.zeros((1, 2))
        lowest, highest = points.min(axis=0), points.max(axis=0)
        margin = 0.04 * max((highest - lowest).max(), 1e-6)
        return np.stack([lowest - margin, highest + margin])

    def _surfaces(self) -> PolyCollection:
        """All faces, the furthest first."""
        faces, colors = np.concatenate(self._faces), np.concatenate(self._colors)
        order = np.argsort(faces[..., 2].mean(axis=1), kind="stable")
        colors = np.clip(colors[order], 0, 1)
        # Edges of the same colour close the seams between the faces.
        return PolyCollection(
            list(faces[order, :, :2]),
            facecolors=colors,
            edgecolors=colors,
            linewidths=0.35,
            zorder=2,
        )


def _corners(values: np.ndarray) -> np.ndarray:
    """The four corners [F, 4, 3] of each face of a grid [P, A, 3]."""
    rows = (values[:-1, :-1], values[1:, :-1], values[1:, 1:], values[:-1, 1:])
    return np.stack(rows, axis=2).reshape(-1, 4, 3)


def _shades(faces: np.ndarray) -> np.ndarray:
    """How bright faces [F, 4, 3] are, by the side that is seen: [F, 1]."""
    normals = np.cross(faces[:, 2] - faces[:, 0], faces[:, 3] - faces[:, 1])
    normals *= np.sign(normals[:, 2:])  # of two sides, the one that is seen
    lengths = np.linalg.norm(normals, axis=1)
    cosines = normals @ _LIGHT / np.linalg.norm(_LIGHT)
    cosines = np.clip(cosines / np.where(lengths > 0, lengths, 1), 0, 1)
    found: np.ndarray = (DARKEST + (1 - DARKEST) * cosines)[:, None]
    return found


def best_view(positions: np.ndarray) -> np.ndarray:
    """The view [3, 3] in which points [n, 3] are spread most: their principal axes."""
    centered = positions - positions.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    right, up = axes[:, 2], axes[:, 1]
    # Signs by the largest component, or they would be those of rounding.
    right, up = (own * np.sign(own[np.argmax(np.abs(own))]) for own in (right, up))
    return np.stack([right, up, np.cross(right, up)])


OBLIQUE = np.array(  # z upwards, from above and the side
    [
        [-np.sin(0.6), np.cos(0.6), 0.0],
        [-np.sin(0.45) * np.cos(0.6), -np.sin(0.45) * np.sin(0.6), np.cos(0.45)],
        [np.cos(0.45) * np.cos(0.6), np.cos(0.45) * np.sin(0.6), np.sin(0.45)],
    ]
)


def about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """The rotation [3, 3] about an axis: Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    turn: np.ndarray = np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn + np.eye(3)


def entitle(figure: Figure, title: str, caption: str) -> None:
    """A title above and a caption below, broken to the width of the figure."""
    width = figure.get_figwidth()
    lines = [textwrap.fill(line, int(11 * width)) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    told = textwrap.fill(caption, int(15 * width))
    figure.supxlabel(told, fontsize=8, color="0.35", parse_math=False)
