"""One charged system, moved by a loop in plain NumPy: what the generator is beside.

Written as the equations stand, with the arrays of all pairs made anew in every step.
Source: the simulator of Kipf et al. 2018, arXiv 1802.04687, as Satorras et al. 2021,
arXiv 2102.09844, use it: a kick, then a drift, every component of a force clipped.
"""

from __future__ import annotations

import numpy as np

FORCE_LIMIT = 100.0


def simulate(
    positions: np.ndarray,
    velocities: np.ndarray,
    charges: np.ndarray,
    num_steps: int,
    dt: float = 0.001,
) -> np.ndarray:
    """Positions [n, 3] after some steps, from positions and velocities [n, 3].

    Args:
      positions, velocities: the latter half a step older than the former.
      charges: [n], of bodies of mass 1.
      num_steps: steps to make.
      dt: time step.
    """
    couplings = np.outer(charges, charges)  # [n, n]
    for _ in range(num_steps):
        offsets = positions[:, None] - positions  # [n, n, 3]
        distances = np.sqrt(np.sum(offsets**2, axis=-1))  # [n, n]
        np.fill_diagonal(distances, 1.0)  # a body is at no distance from itself
        forces = np.sum((couplings / distances**3)[..., None] * offsets, axis=1)
        velocities = velocities + dt * np.clip(forces, -FORCE_LIMIT, FORCE_LIMIT)
        positions = positions + dt * velocities
    return positions
