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

# What no frame has, in any unit, and what squares of are finite.
_MOST = {"positions": 1e9, "energies": 1e15, "forces": 1e15}


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
        found: np.ndarray = np.cumsum(self.n_node, dtype=np.int64) - self.n_node
        return found

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
    found = Frames(
        np.tile(species.astype(np.uint8), count),
        places.reshape(-1, 3),
        values,
        pulls.reshape(-1, 3),
        np.full(count, size, np.int32),
    )
    _check_magnitudes(found, place)
    return found


def ragged(
    n_atoms: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    energies: np.ndarray,
    forces: np.ndarray,
    place: object,
    velocities: np.ndarray | None = None,
) -> Frames:
    """The frames of molecules of any sizes.

    Args:
      n_atoms: [F].
      numbers: [A] atomic numbers, frame after frame.
      positions: [A, 3] in Å.
      energies: [F] or [F, 1] in eV.
      forces: [A, 3] in eV/Å.
      place: where they were read, for errors.
      velocities: [A, 3] in Å/fs.

    Raises:
      UserError: as `uniform`.
    """
    sizes = files.whole_numbers(n_atoms, "n_atoms", place, [None], least=1)
    count, total = len(sizes), int(sizes.sum())
    if not count:
        raise UserError(f"expected at least one frame of atoms in {place}, found none")
    species = files.whole_numbers(
        numbers, "numbers", place, [total], least=1, most=elements.MOST
    )
    if energies.shape == (count, 1):
        energies = energies[:, 0]
    values = files.real_numbers(energies, "energies", place, [count], ("frame",))

    def vectors(array: np.ndarray, name: str) -> np.ndarray:
        bad = np.zeros(0, bool)
        if array.dtype.kind == "f" and array.shape == (total, 3):
            bad = ~np.isfinite(array).all(axis=1)
        if bad.any():
            frame, atom = edges.located(int(np.argmax(bad)), sizes)
            raise UserError(
                f"expected finite numbers in {name!r} of {place}, found others at "
                f"frame {frame}, atom {atom} (from 0), {int(bad.sum())} in all; leave "
                "those frames out or mend them"
            )
        return files.real_numbers(array, name, place, [total, 3], ("atom", "axis"))

    found = Frames(
        species.astype(np.uint8),
        vectors(positions, "positions"),
        values,
        vectors(forces, "forces"),
        sizes.astype(np.int32),
        None if velocities is None else vectors(velocities, "velocities"),
    )
    _check_magnitudes(found, place)
    return found


def _check_magnitudes(frames: Frames, place: object) -> None:
    """Refuse numbers that are no unit's.

    Raises:
      UserError: there are such numbers; the first frame is named.
    """
    for name, most in _MOST.items():
        values = getattr(frames, name)
        bad = (np.abs(values) > most).reshape(len(values), -1).any(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            sizes = np.ones_like(frames.n_node) if name == "energies" else frames.n_node
            frame, _ = edges.located(row, sizes)
            raise UserError(
                f"expected {name} of at most {most:g} in {place}, found "
                f"{np.abs(values[row]).max():.3g} in frame {frame} (from 0); leave "
                "that frame out or mend it"
            )


def joined(parts: Sequence[Frames]) -> Frames:
    """The frames of several sources, one after the other."""
    velocities = [part.velocities for part in parts if part.velocities is not None]
    return Frames(
        numbers=np.concatenate([part.numbers for part in parts]),
        positions=np.concatenate([part.positions for part in parts]),
        energies=np.concatenate([part.energies for part in parts]),
        forces=np.concatenate([part.forces for part in parts]),
        n_node=np.concatenate([part.n_node for part in parts]),
        velocities=np.concatenate(velocities)
        if len(velocities) == len(parts)
        else None,
    )
