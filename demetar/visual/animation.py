"""Figures one after the other as an animated GIF or PNG: Pillow writes both."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

GIF, APNG = KINDS = ("gif", "apng")
_COLORS = 64  # of a frame of a GIF


def pixels(figure: Figure) -> Image.Image:
    """A figure as an image without transparency."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()).copy()).convert("RGB")


def encode(
    frames: Iterable[Figure],
    milliseconds: Sequence[int],
    kind: str = GIF,
    colors: int = _COLORS,
) -> bytes:
    """The content of a file that shows figures one after the other, again and again.

    Args:
      frames: of one size.
      milliseconds: how long each is shown.
      kind: 'gif', or 'apng' for an animated PNG, which has all colours.
      colors: of each frame of a GIF, at most 256.
    """
    images = [pixels(figure) for figure in frames]
    if kind == GIF:
        images = [image.quantize(colors, dither=Image.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF" if kind == GIF else "PNG",
        save_all=True,
        append_images=images[1:],
        duration=list(milliseconds),
        loop=0,
    )
    return buffer.getvalue()
