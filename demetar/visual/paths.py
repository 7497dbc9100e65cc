"""Tensor products as graphs of irreps: which couplings a layer has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as BezierPath

from demetar.nn.capture import Coupling, Product
from demetar.types import Params
from demetar.visual.scene import entitle

_STRENGTHS = colormaps["viridis_r"]
MOST_PANELS = 6  # different products that are drawn


def strength(coupling: Coupling, params: Params) -> float | None:
    """The root mean square of the learned weights of a path; None if it has none."""
    if coupling.weights is None:
        return None
    module, name, start, stop = coupling.weights
    block = np.asarray(params[module][name])[start:stop]
    return float(np.sqrt(np.mean(np.square(block))))


def different(products: Sequence[Product]) -> list[Product]:
    """The products of a model, those with the same irreps once."""
    found: dict[Any, Product] = {}
    for product in products:
        paths = tuple(coupling[:3] for coupling in product.couplings)
        key = (*product.inputs.items(), *product.outputs.items(), paths)
        found.setdefault(key, product)
    return list(found.values())


def figure(products: Sequence[Product], params: Params, title: str) -> Figure:
    """A panel for each product: inputs to the left, attribute above, outputs right."""
    count = min(len(products), MOST_PANELS)
    columns = min(count, 3)
    rows = -(-count // columns)
    drawn = Figure(
        figsize=(4.6 * columns, 4.0 * rows + 0.8),
        dpi=110,
        layout="constrained",
    )
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    shown = products[:count]
    known = [strength(own, params) for one in shown for own in one.couplings]
    learned = [value for value in known if value is not None]
    norm = Normalize(0, max(learned, default=1.0))
    for axes in panels:
        axes.set_axis_off()
    for axes, product in zip(panels, shown, strict=False):
        _draw(axes, product, params, norm)
    if learned:
        drawn.colorbar(
            ScalarMappable(norm, _STRENGTHS),
            ax=list(panels),
            label="root mean square of the weights",
            shrink=0.6,
            pad=0.01,
        )
    left = f"; {len(products) - count} more are not drawn" if products[count:] else ""
    entitle(
        drawn,
        f"{title}{left}",
        "left: irreps of the input; above: of the attribute (harmonics); right: of the "
        "output; a dot is a path" + ("" if learned else ", coloured by its output"),
    )
    return drawn


def describe(product: Product) -> str:
    """A product in one line: 'message_0: 32x0e+32x1o -> 64x0e+32x1o, 6 paths'."""
    inputs, outputs = (
        "+".join(f"{num}x{irrep}" for irrep, num in own.items())
        for own in (product.inputs, product.outputs)
    )
    paths = ", ".join(
        f"{path.first} x {path.second} -> {path.out}" for path in product.couplings
    )
    count = len(product.couplings)
    return f"{product.name}: {inputs} -> {outputs}, {count} paths: {paths}"


def _draw(axes: Axes, product: Product, params: Params, norm: Normalize) -> None:
    """One product: curves from its two irreps meet in a dot, and go on to the third."""
    places = _places(product.couplings)
    size = float(len(places))
    inputs, attribute, outputs = (
        _means(product.couplings, places, k) for k in range(3)
    )
    outputs = _apart(outputs, size)
    left, right, top = -0.28 * size - 0.6, 1.28 * size, size + 0.6
    for path, (x, y) in zip(product.couplings, places, strict=True):
        value = strength(path, params)
        kind = colormaps["tab10"](list(outputs).index(path.out) % 10)
        color = kind if value is None else _STRENGTHS(norm(value))
        start, end = inputs[path.first][1], outputs[path.out][1]
        middle = (left + x) / 2
        _curve(axes, [(left, start), (middle, start), (middle, y), (x, y)], color)
        above, middle = attribute[path.second][0], (top + y) / 2
        _curve(axes, [(above, top), (above, middle), (x, middle), (x, y)], color)
        middle = (right + x) / 2
        _curve(axes, [(x, y), (middle, y), (middle, end), (right, end)], color)
        axes.plot(x, y, "o", color=color, markersize=5, zorder=3)
    box: dict[str, Any] = dict(
        boxstyle="round,pad=0.3", facecolor="white", edgecolor="0.6"
    )
    style: dict[str, Any] = dict(
        fontsize=8, va="center", ha="center", bbox=box, zorder=4
    )
    for irrep, (_, y) in inputs.items():
        axes.text(left, y, f"{product.inputs[irrep]}x{irrep}", **style)
    for irrep, (x, _) in attribute.items():
        axes.text(x, top, str(irrep), **style)
    for irrep, (_, y) in outputs.items():
        axes.text(right, y, f"{product.outputs[irrep]}x{irrep}", **style)
    axes.set_xlim(left - 0.16 * size - 0.2, right + 0.16 * size + 0.2)
    axes.set_ylim(-0.9, top + 0.5)
    told = f"{product.name.split('/')[-1]}: {len(product.couplings)} paths"
    axes.set_title(told, fontsize=9, parse_math=False)


Points = Sequence[tuple[float, float]]


def _curve(axes: Axes, points: Points, color: Any) -> None:
    """A cubic curve by its ends and the points that bend it."""
    codes = [BezierPath.MOVETO, *[BezierPath.CURVE4] * 3]
    line = PathPatch(BezierPath(points, codes), facecolor="none", edgecolor=color)
    line.set(linewidth=1.5, zorder=2)
    axes.add_patch(line)


def _places(couplings: Sequence[Coupling]) -> list[tuple[float, float]]:
    """A dot for each path, each in a row and a column of its own."""
    rows = sorted(couplings, key=lambda path: (path.first, path.second, path.out))
    columns = sorted(couplings, key=lambda path: (path.second, path.first, path.out))
    last = len(couplings) - 1
    return [
        (float(columns.index(path)), float(last - rows.index(path)))
        for path in couplings
    ]


def _means(
    couplings: Sequence[Coupling], places: Points, end: int
) -> dict[Any, tuple[float, float]]:
    """The middle of the dots of each irrep at one end of the paths."""
    found: dict[Any, list[tuple[float, float]]] = {}
    for path, place in zip(couplings, places, strict=True):
        found.setdefault(path[end], []).append(place)
    return {
        irrep: (float(np.mean(own, axis=0)[0]), float(np.mean(own, axis=0)[1]))
        for irrep, own in sorted(found.items())
    }


def _apart(
    found: dict[Any, tuple[float, float]], size: float
) -> dict[Any, tuple[float, float]]:
    """The same in their order from above, at equal distances."""
    step = size / len(found)
    return {
        irrep: (x, size - 0.5 - (number + 0.5) * step)
        for number, (irrep, (x, _)) in enumerate(found.items())
    }
