"""Balls and sticks as an image, with light, contours and depth.

Space is seen from far away, as in `visual.scene`; what stands in front hides what is
behind, pixel by pixel.
"""

from __future__ import annotations

import numpy as np

SMOOTH = 2  # pixels that are computed for one of the image, in either direction
_LIGHT = np.array([-0.42, 0.56, 0.71])  # to the right, upwards, to the eye
_HALF = np.array([-0.23, 0.31, 0.92])  # between the light and the eye
_DARKEST = 0.50  # of a colour, if no light falls on it
_GLOSS, _SHARPNESS = 0.45, 36.0  # of the spot of light on a ball
_FOG = 0.30  # white of what is furthest behind
_LEAST_DEPTH = 3.0  # in units of length, over which the fog thickens
_CONTOUR = 0.35  # of a colour at the border of a ball or stick
_STEP = 0.25  # of depth, in units of length, that has a contour


class Canvas:
    """A white image to which balls and sticks are added.

    Args:
      limits: [2, 2] lowest and highest x and y.
      scale: pixels of the image per unit of length.
    """

    def __init__(self, limits: np.ndarray, scale: float):
        self._scale = SMOOTH * scale
        width, height = np.maximum(np.round((limits[1] - limits[0]) * scale), 1)
        self._x = limits[0, 0] + (np.arange(SMOOTH * int(width)) + 0.5) / self._scale
        self._y = limits[1, 1] - (np.arange(SMOOTH * int(height)) + 0.5) / self._scale
        shape = len(self._y), len(self._x)
        self._depth = np.full(shape, -np.inf, np.float32)
        self._colors = np.ones((*shape, 3), np.float32)

    def add_disc(self, center: np.ndarray, radius: float, color: np.ndarray) -> None:
        """A flat spot behind everything that is added later.

        Args:
          center: [3]; its depth does not matter.
          radius: of the spot.
          color: [3] RGB.
        """
        window, x, y = self._window(center - radius, center + radius)
        inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2
        self._colors[window][inside] = color

    def add_ball(self, center: np.ndarray, radius: float, color: np.ndarray) -> None:
        """A ball at a point [3], of a colour [3] in RGB."""
        window, x, y = self._window(center - radius, center + radius)
        x, y = x - center[0], y - center[1]
        height = np.sqrt(np.maximum(radius**2 - x**2 - y**2, 0))
        normals = np.stack(np.broadcast_arrays(x, y, height), axis=-1) / radius
        self._paint(window, height > 0, center[2] + height, normals, color)

    def add_stick(
        self, start: np.ndarray, stop: np.ndarray, radius: float, color: np.ndarray
    ) -> None:
        """A cylinder between two points [3] without its lids, of a colour [3]."""
        length = np.linalg.norm(stop - start)
        axis = (stop - start) / max(length, 1e-12)
        flat = 1 - axis[2] ** 2
        if flat < 1e-6:
            return  # seen from its end, which a ball hides
        ends = np.stack([start, stop])
        window, x, y = self._window(
            ends.min(axis=0) - radius, ends.max(axis=0) + radius
        )
        x, y = x - start[0], y - start[1]
        along = x * axis[0] + y * axis[1]
        # |w|² - (w·axis)² = radius² for w = (x, y, z): the root that is seen.
        rest = flat * (radius**2 - x**2 - y**2 + along**2) + (along * axis[2]) ** 2
        z = (along * axis[2] + np.sqrt(np.maximum(rest, 0))) / flat
        place = along + z * axis[2]
        inside = (rest > 0) & (place >= 0) & (place <= length)
        points = np.stack(np.broadcast_arrays(x, y, z), axis=-1)
        normals = (points - place[..., None] * axis) / radius
        self._paint(window, inside, start[2] + z, normals, color)

    def _window(
        self, lowest: np.ndarray, highest: np.ndarray
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The pixels of a rectangle: rows and columns, x [1, w] and y [h, 1]."""
        columns = slice(*np.searchsorted(self._x, [lowest[0], highest[0]]))
        rows = slice(*np.searchsorted(-self._y, [-highest[1], -lowest[1]]))
        return (rows, columns), self._x[None, columns], self._y[rows, None]

    def _paint(
        self,
        window: tuple[slice, slice],
        inside: np.ndarray,
        depth: np.ndarray,
        normals: np.ndarray,
        color: np.ndarray,
    ) -> None:
        """Pixels that are nearer to the eye than what is there."""
        seen = inside & (depth > self._depth[window])
        self._depth[window][seen] = depth[seen]
        own = normals[seen]
        light = _DARKEST + (1 - _DARKEST) * np.clip(own @ _LIGHT, 0, 1)
        gloss = _GLOSS * np.clip(own @ _HALF, 0, 1) ** _SHARPNESS
        shaded = light[:, None] * color
        self._colors[window][seen] = shaded + gloss[:, None] * (1 - shaded)

    def image(self) -> np.ndarray:
        """[h, w, 3] uint8."""
        filled = np.isfinite(self._depth)
        colors = self._colors.copy()
        if filled.any():
            depth = self._depth[filled]
            behind = (depth.max() - depth) / max(float(np.ptp(depth)), _LEAST_DEPTH)
            colors[filled] += _FOG * behind[:, None] * (1 - colors[filled])
            colors[self._borders(filled)] *= _CONTOUR
        parts = [
            colors[row::SMOOTH, column::SMOOTH]
            for row in range(SMOOTH)
            for column in range(SMOOTH)
        ]
        mean = sum(parts[1:], start=parts[0]) / len(parts)
        return np.asarray((255 * mean).round().astype(np.uint8))

    def _borders(self, filled: np.ndarray) -> np.ndarray:
        """Pixels beside which something is far behind."""
        found = np.zeros_like(filled)
        lowest = self._depth[filled].min() - 2 * _STEP
        depth = np.pad(np.where(filled, self._depth, lowest), 1, mode="edge")
        for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
            height, width = filled.shape
            beside = depth[rows : rows + height, columns : columns + width]
            found |= filled & (depth[1:-1, 1:-1] - beside > _STEP)
        return found
