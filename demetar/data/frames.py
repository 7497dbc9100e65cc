"""Frames: structures of atoms with their energies and forces, in eV and Å.

All sources of potentials, whatever their units and formats, end here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from demetar import elements, files
from demetar.data import edges
from demetar.errors import UserError


@dataclasses.dataclass(frozen=True)
class Frames:
    """F structures of any sizes and compositions, one after the other.

    Attributes:
      numbers: [sum of n_node] uint8 atomic numbers.
      positions: [sum of n_node, 3] float64 in Å.
      energies: [F] float64 in eV.
      forces: [sum of n_node, 3] float64 in eV/Å.
      n_node: [F] int32.
      velocities: [sum of n_node, 3] float64 in Å/fs; None if they are not known.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    n_node: np.ndarray
    velocities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.n_node)

    @property
    def starts(self) -> np.ndarray:
        """The row of each frame's first atom, [F]."""
        stops: np.ndarray = np.cumsum(self.n_node, dtype=np.int64)
        return stops - self.n_node

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> Frames:
        """The frames of some rows, in that order."""
        rows = np.arange(len(self))[rows]
        sizes = self.n_node[rows]
        atoms = edges.ranges(self.starts[rows], sizes.astype(np.int64))
        velocities = None if self.velocities is None else self.velocities[atoms]
        return Frames(
            self.numbers[atoms],
            self.positions[atoms],
            self.energies[rows],
            self.forces[atoms],
            sizes,
            velocities,
        )

    def scaled(self, energy: float, length: float) -> Frames:
        """The frames of other units, in eV and Å.

        Args:
          energy: of theirs, in eV.
          length: of theirs, in Å.
        """
        velocities = None if self.velocities is None else self.velocities * length
        return dataclasses.replace(
            self,
            positions=self.positions * length,
            energies=self.energies * energy,
            forces=self.forces * (energy / length),
            velocities=velocities,
        )

    def fingerprint(self) -> str:
        """SHA-256 of numbers, positions, energies, forces and sizes."""
        hashes = (
            files.array_hash(array)
            for array in (
                self.numbers,
                self.positions,
                self.energies,
                self.forces,
                self.n_node,
            )
        )
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def uniform(
    numbers: np.ndarray,
    positions: np.ndarray,
    energies: np.ndarray,
    forces: np.ndarray,
    place: object,
    names: Sequence[str] = ("numbers", "positions", "energies", "forces"),
) -> Frames:
    """The frames of one molecule.

    Args:
      numbers: [n] atomic numbers.
      positions: [F, n, 3] in Å.
      energies: [F] or [F, 1] in eV.
      forces: [F, n, 3] in eV/Å.
      place: where they were read, for errors.
      names: that the four have there, for errors.

    Raises:
      UserError: an array is of another shape or type, an element is unknown, or a
        number is not finite; the frame is named.
    """
    species = files.whole_numbers(numbers, names[0], place, [None], 1, elements.MOST)
    size, axes = len(species), ("frame", "atom", "axis")
    places = files.real_numbers(positions, names[1], place, [None, size, 3], axes)
    count = len(places)
    if not count or not size:
        raise UserError(f"expected at least one frame of atoms in {place}, found none")
    if energies.shape == (count, 1):
        energies = energies[:, 0]
    values = files.real_numbers(energies, names[2], place, [count], axes[:1])
    pulls = files.real_numbers(forces, names[3], place, [count, size, 3], axes)
    return Frames(
        np.tile(species.astype(np.uint8), count),
        places.reshape(-1, 3),
        values,
        pulls.reshape(-1, 3),
        np.full(count, size, np.int32),
    )


def joined(parts: Sequence[Frames]) -> Frames:
    """The frames of several sources, one after the other."""
    fields = ("numbers", "positions", "energies", "forces", "n_node")
    velocities = [part.velocities for part in parts if part.velocities is not None]
    return Frames(
        *(np.concatenate([getattr(part, field) for part in parts]) for field in fields),
        np.concatenate(velocities) if len(velocities) == len(parts) else None,
    )
