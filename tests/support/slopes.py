"""Forces as central differences of the energy."""

from __future__ import annotations

import ase
import numpy as np

STEP = 1e-3  # Å


def forces(atoms: ase.Atoms) -> np.ndarray:
    """Minus the slope of the energy of atoms with a calculator: [n, 3] in eV/Å."""
    found = np.zeros((len(atoms), 3))
    for row, axis in np.ndindex(found.shape):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions[row, axis] += sign * STEP
            ends.append(moved.get_potential_energy())
        found[row, axis] = (ends[1] - ends[0]) / (2 * STEP)
    return found
