"""Draw the picture of README.md: what pretrained models predict of one test system.

    python -m tools.generate_nbody --preset=nbody_small --out=DIR
    python docs/picture.py DIR

writes docs/trajectories.png. The true paths are integrated as the simulator of the data
does it. A model sees positions, velocities and charges at the start and predicts the
positions 1,000 steps later. Above a panel is its error on this system; of the 2,000 of
the test set it is the one whose errors are closest to their means over all of them.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import demetar
from experiments.run import cli

SYSTEM = 1724  # of the test set
START, TARGET = 30, 40  # frames
PLANE = [2, 0]  # axes that are drawn, z and x
STEPS, DT, CLIP = 1000, 0.001, 100.0  # of the published simulator
TITLES = {
    "egnn": "EGNN",
    "demetar": "DEMETAr",
    "segnn": "SEGNN",
    "newton": "Newton",
    "newton_octahedral": "Newton, octahedral",
}


def forces(positions: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Clipped Coulomb forces [n, 3] at positions [n, 3] of charges [n]."""
    edges = positions[:, None] - positions  # [n, n, 3]
    distances = np.linalg.norm(edges, axis=-1, keepdims=True)
    np.fill_diagonal(distances[..., 0], np.inf)
    products = np.multiply.outer(charges, charges)[..., None]
    return np.clip((products * edges / distances**3).sum(1), -CLIP, CLIP)


def true_paths(
    positions: np.ndarray, velocities: np.ndarray, charges: np.ndarray
) -> np.ndarray:
    """Positions [steps + 1, n, 3] from those of the start, all [n, 3]."""
    paths = [positions]
    for _ in range(STEPS):
        velocities = velocities + DT * forces(paths[-1], charges)
        paths.append(paths[-1] + DT * velocities)
    return np.stack(paths)


def draw(axes: Axes, paths: np.ndarray, predicted: np.ndarray, title: str) -> None:
    """True paths [steps + 1, n, 3] and predicted ends [n, 3], in `PLANE`."""
    error = np.mean((predicted - paths[-1]) ** 2)
    paths, predicted = paths[..., PLANE], predicted[:, PLANE]
    axes.set_title(f"{title}: {error:.2g}", fontsize=10)
    for body in range(paths.shape[1]):
        color, path = f"C{body}", paths[:, body]
        axes.plot(path[:, 0], path[:, 1], color=color, linewidth=1.2)
        axes.plot(*path[0], "o", color=color, markerfacecolor="white")
        axes.plot(*path[-1], "o", color=color)
        axes.plot(*predicted[body], "x", color="black", markersize=8, zorder=3)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


def legend() -> list[Line2D]:
    """What the marks are; the colours belong to the bodies."""
    start = Line2D([], [], color="0.3", marker="o", linestyle="", label="start")
    start.set_markerfacecolor("white")
    true = Line2D([], [], color="0.3", marker="o", label="true path and end")
    predicted = Line2D([], [], color="black", marker="x", linestyle="")
    predicted.set_label("predicted end")
    return [start, true, predicted]


def main(folder: str) -> None:
    """Write the picture, from the data set in a folder."""
    with np.load(pathlib.Path(folder) / "test.npz") as arrays:
        frames = (arrays["steps"] // 100 - 1).tolist()
        start = frames.index(START)
        positions = arrays["positions"][SYSTEM, start].astype(np.float64)
        velocities = arrays["velocities"][SYSTEM, start].astype(np.float64)
        charges = arrays["charges"][SYSTEM].astype(np.float64)
        target = arrays["positions"][SYSTEM, frames.index(TARGET)]
    paths = true_paths(positions, velocities, charges)
    np.testing.assert_allclose(paths[-1], target, atol=1e-3)

    figure = Figure(figsize=(9.0, 5.6), dpi=90, layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    straight = positions + STEPS * DT * velocities
    draw(axes[0], paths, straight, "straight ahead")
    for panel, (name, title) in zip(axes[1:], TITLES.items(), strict=True):
        model = demetar.load(f"pretrained:{name}-nbody_small")
        outputs = model(positions=positions, velocities=velocities, charges=charges)
        draw(panel, paths, outputs["position"], title)
    figure.suptitle("Squared error of the position on one test system", fontsize=11)
    figure.legend(handles=legend(), loc="outside lower center", ncols=3)
    cli.save_figure(pathlib.Path(__file__).with_name("trajectories.png"), figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
