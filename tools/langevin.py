"""Langevin dynamics of atoms: a step of it, in Å, fs, u and eV.

Source: the splitting BAOAB of Leimkuhler, Matthews 2013, arXiv 1203.5428, whose
averages over positions are right to a high order in the time step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

# `engine(positions)` gives the energy in eV and the forces [n, 3] in eV/Å.
Engine: TypeAlias = Callable[[np.ndarray], tuple[float, np.ndarray]]

BOLTZMANN = 8.617333262e-5  # eV/K, CODATA 2018
ACCELERATION = 9.648533212e-3  # Å/fs^2 of 1 eV/Å on 1 u, CODATA 2018


@dataclasses.dataclass(frozen=True)
class Bath:
    """A heat bath.

    Attributes:
      temperature: in K.
      friction: in 1/fs, the rate at which velocities are forgotten.
      time_step: in fs.
    """

    temperature: float
    friction: float
    time_step: float


@dataclasses.dataclass(frozen=True)
class State:
    """Positions [n, 3] in Å, velocities in Å/fs, and what the engine makes of them."""

    positions: np.ndarray
    velocities: np.ndarray
    energy: float
    forces: np.ndarray


def thermal_velocities(
    masses: np.ndarray, temperature: float, random: np.random.Generator
) -> np.ndarray:
    """Velocities of the Maxwell-Boltzmann distribution, [n, 3] in Å/fs.

    Args:
      masses: [n] in u.
      temperature: in K.
      random: where the numbers are drawn.
    """
    return _widths(masses, temperature) * random.normal(size=(len(masses), 3))


def _widths(masses: np.ndarray, temperature: float) -> np.ndarray:
    """Standard deviation of each component of the velocities, [n, 1]."""
    found: np.ndarray = np.sqrt(
        BOLTZMANN * temperature * ACCELERATION / masses[:, None]
    )
    return found


def step(
    state: State,
    masses: np.ndarray,
    engine: Engine,
    bath: Bath,
    random: np.random.Generator,
) -> State:
    """The state one time step later; it takes one call of the engine."""
    half = bath.time_step / 2
    per_mass = half * ACCELERATION / masses[:, None]
    kept = math.exp(-bath.friction * bath.time_step)
    noise = math.sqrt(1 - kept**2) * _widths(masses, bath.temperature)
    velocities = state.velocities + per_mass * state.forces
    positions = state.positions + half * velocities
    velocities = kept * velocities + noise * random.normal(size=velocities.shape)
    positions = positions + half * velocities
    energy, forces = engine(positions)
    return State(positions, velocities + per_mass * forces, energy, forces)


def temperatures(velocities: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Kinetic temperature in K of frames [F] by velocities [F, n, 3]."""
    squares = (masses[:, None] * velocities**2).sum(axis=(1, 2))
    found: np.ndarray = squares / (ACCELERATION * BOLTZMANN * 3 * len(masses))
    return found
