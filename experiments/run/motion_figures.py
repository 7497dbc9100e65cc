"""Pictures of dynamics, minima and vibrations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.run.motion import Trace

APART = 10.0  # times a typical change of the energy, beyond which the axis is bent
MOST_INSIDE = 4  # traces whose names stand inside of the axes


def draw_traces(traces: Mapping[str, Trace]) -> Figure:
    """Total energies over the time, {label: trace}.

    The axis is linear up to a typical change and logarithmic beyond, if some of them
    change far more than that.
    """
    several = len(traces) > MOST_INSIDE
    figure = Figure(figsize=(10 if several else 7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for row, (label, trace) in enumerate(traces.items()):
        told = f"{label}: {trace.drift:.2g} meV per atom and ps"
        color = colormaps["tab20"](row % 20) if several else f"C{row}"
        axes.plot(1e-3 * trace.times, trace.total, lw=1, color=color, label=told)
    axes.set(xlabel="time / ps", ylabel="change of the total energy / (meV per atom)")
    changes = sorted(float(np.abs(trace.total).max()) for trace in traces.values())
    typical = changes[(len(changes) - 1) // 2]
    if changes[-1] > APART * typical > 0:
        axes.set_yscale("symlog", linthresh=typical)
    axes.grid(alpha=0.3)
    if several:
        figure.legend(fontsize=8, loc="outside right upper")
    else:
        axes.legend(fontsize=8)
    return figure


def draw_distances(places: Mapping[str, np.ndarray]) -> Figure:
    """By how much distances of atoms depart from those of the first structure."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    first, *_ = places
    expected = _distances(places[first])
    for label, positions in places.items():
        departures = 1e3 * (_distances(positions) - expected)
        axes.plot(expected, departures, ".", label=label)
    axes.set(
        xlabel=f"distance of two atoms in the minimum of {first} / Å",
        ylabel="departure / mÅ",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _distances(positions: np.ndarray) -> np.ndarray:
    """Between all pairs of atoms, each once."""
    ends = np.triu_indices(len(positions), 1)
    found: np.ndarray = np.linalg.norm(positions[ends[0]] - positions[ends[1]], axis=-1)
    return found


def draw_frequencies(waves: Mapping[str, np.ndarray]) -> Figure:
    """Sticks at the frequencies of each, {label: [3 n - 6] in 1/cm}."""
    figure = Figure(figsize=(7, 1 + 0.8 * len(waves)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for row, values in enumerate(waves.values()):
        axes.vlines(values, -row - 0.4, -row + 0.4, color=f"C{row % 10}", lw=1.2)
    axes.set_yticks([-row for row in range(len(waves))], list(waves), fontsize=8)
    axes.set(xlabel="wavenumber / cm$^{-1}$ (imaginary ones below 0)")
    axes.grid(alpha=0.3, axis="x")
    return figure
