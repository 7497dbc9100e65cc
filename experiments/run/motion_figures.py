"""Pictures of dynamics, minima and vibrations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.run.motion import Trace

FLAT = 10.0  # meV per atom, below which the axis of energies is linear


def draw_traces(traces: Mapping[str, Trace]) -> Figure:
    """Total energies over the time, {label: trace}."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for label, trace in traces.items():
        told = f"{label}: {trace.drift:.2g} meV per atom and ps"
        axes.plot(1e-3 * trace.times, trace.total, lw=1, label=told)
    axes.set(xlabel="time / ps", ylabel="change of the total energy / (meV per atom)")
    if max(np.abs(trace.total).max() for trace in traces.values()) > FLAT:
        axes.set_yscale("symlog", linthresh=FLAT)
    axes.grid(alpha=0.3)
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
