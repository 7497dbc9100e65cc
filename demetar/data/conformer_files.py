"""The folder of a set of conformers, as `tools.generate_conformers` writes it.

A folder holds one `.npz` per split and `metadata.json`, sealed as that of an N-body set
(`demetar.data.nbody_files`). Arrays of D molecules with A atoms and C conformers in
all, molecule after molecule; no molecule is in two splits:

    smiles        [bytes] uint8, a line of UTF-8 per molecule, without stereochemistry
    n_atoms       [D] int32
    numbers       [A] uint8 atomic numbers, in the order of the SMILES, hydrogens last
    charges       [A] int8 formal charges
    n_bonds       [D] int32
    bonds         [sum of n_bonds, 3] uint8: two atoms of the molecule and the type
    n_conformers  [D] int32, each at least 1
    positions     [sum of n_conformers * n_atoms, 3] float64 in Å, conformer after
                  conformer
    energies      [C] float64 of MMFF94 in kcal/mol
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar.data import bonds, nbody_files
from demetar.data.edges import ranges
from demetar.errors import UserError

KIND = "conformers"
SPLITS = nbody_files.SPLITS
UNITS = {"positions": "Å", "energies": "kcal/mol"}
TOOL = "tools.generate_conformers"
_TYPES: Mapping[str, type] = {
    "smiles": np.uint8,
    "n_atoms": np.int32,
    "numbers": np.uint8,
    "charges": np.int8,
    "n_bonds": np.int32,
    "bonds": np.uint8,
    "n_conformers": np.int32,
    "positions": np.float64,
    "energies": np.float64,
}


@dataclasses.dataclass(frozen=True)
class Ensembles:
    """D molecules with their conformers; the arrays are those of the module."""

    smiles: tuple[str, ...]
    n_atoms: np.ndarray
    numbers: np.ndarray
    charges: np.ndarray
    n_bonds: np.ndarray
    bonds: np.ndarray
    n_conformers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray

    def __len__(self) -> int:
        """D."""
        return len(self.smiles)

    @property
    def n_positions(self) -> np.ndarray:
        """[D] rows of `positions` of each molecule."""
        return np.asarray(self.n_atoms.astype(np.int64) * self.n_conformers)

    def take(self, rows: np.ndarray | Sequence[int]) -> Ensembles:
        """The molecules of some rows, in that order."""
        rows = np.asarray(rows, int)

        def of(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
            starts = np.cumsum(counts, dtype=np.int64) - counts
            return np.asarray(values[ranges(starts[rows], counts[rows])])

        return Ensembles(
            smiles=tuple(self.smiles[row] for row in rows),
            n_atoms=self.n_atoms[rows],
            numbers=of(self.numbers, self.n_atoms),
            charges=of(self.charges, self.n_atoms),
            n_bonds=self.n_bonds[rows],
            bonds=of(self.bonds, self.n_bonds),
            n_conformers=self.n_conformers[rows],
            positions=of(self.positions, self.n_positions),
            energies=of(self.energies, self.n_conformers),
        )

    def shapes_of(self, row: int) -> np.ndarray:
        """The conformers of a molecule, [K, n, 3] in Å."""
        stop = int(self.n_positions[: row + 1].sum())
        own = self.positions[stop - int(self.n_positions[row]) : stop]
        return own.reshape(-1, int(self.n_atoms[row]), 3)


def joined(parts: Sequence[Ensembles]) -> Ensembles:
    """The molecules of several sets, one set after the other."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _TYPES
        if name != "smiles"
    }
    smiles = tuple(text for part in parts for text in part.smiles)
    return Ensembles(smiles=smiles, **columns)


def to_arrays(found: Ensembles) -> dict[str, np.ndarray]:
    """The arrays of a split's file."""
    text = "".join(f"{one}\n" for one in found.smiles)
    arrays = {name: getattr(found, name) for name in _TYPES if name != "smiles"}
    arrays = {"smiles": np.frombuffer(text.encode(), np.uint8), **arrays}
    return {name: array.astype(_TYPES[name]) for name, array in arrays.items()}


def of_arrays(arrays: Mapping[str, np.ndarray], place: object) -> Ensembles:
    """The molecules of such arrays.

    Args:
      arrays: by name; others are left aside.
      place: where they were read, for errors.

    Raises:
      UserError: they are not as `to_arrays` makes them.
    """
    wrong = _wrong(arrays)
    if wrong:
        raise UserError(
            f"cannot read {place}: {wrong}; generate the conformers anew with python "
            f"-m {TOOL}"
        )
    text = arrays["smiles"].tobytes().decode()
    columns = {name: arrays[name] for name in _TYPES if name != "smiles"}
    return Ensembles(smiles=tuple(text.splitlines()), **columns)


def _wrong(arrays: Mapping[str, np.ndarray]) -> str:
    """What is wrong with the arrays of a split; '' for nothing."""
    for name, kind in _TYPES.items():
        if name not in arrays or arrays[name].dtype.type is not kind:
            return f"expected {name} as {np.dtype(kind)}"
    counts = [arrays[name] for name in ("n_atoms", "n_bonds", "n_conformers")]
    try:
        lines = arrays["smiles"].tobytes().decode().splitlines()
    except UnicodeDecodeError:
        return "its SMILES are no text"
    if any(one.shape != (len(lines),) for one in counts):
        return "expected as many counts as SMILES"
    least = ((one < low).any() for one, low in zip(counts, (1, 0, 1), strict=True))
    if not lines or any(least):
        return "expected molecules of an atom and a conformer or more"
    n_atoms, n_bonds, n_conformers = (one.astype(np.int64) for one in counts)
    rows = int((n_atoms * n_conformers).sum())
    sizes = int(n_atoms.sum()), int(n_bonds.sum()), int(n_conformers.sum())
    shapes = {
        "numbers": (sizes[0],),
        "charges": (sizes[0],),
        "bonds": (sizes[1], 3),
        "positions": (rows, 3),
        "energies": (sizes[2],),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"expected {name} of the shape {list(shape)}"
    return _impossible(arrays, n_atoms, n_bonds)


def _impossible(
    arrays: Mapping[str, np.ndarray], n_atoms: np.ndarray, n_bonds: np.ndarray
) -> str:
    first, second, code = arrays["bonds"].T
    if (
        (first >= second).any()
        or (second >= np.repeat(n_atoms, n_bonds)).any()
        or ((code < 1) | (code > len(bonds.TYPES))).any()
    ):
        return "it has impossible bonds"
    if not np.isfinite(arrays["positions"]).all():
        return "expected finite positions"
    return ""


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """`metadata.json` of a folder.

    Raises:
      UserError: there is no such file, it is of another kind or format or was altered.
    """
    return nbody_files.read_of_kind(
        folder, KIND, "set of conformers", "conformers", TOOL
    )


def read_split(
    folder: pathlib.Path, split: str, metadata: Mapping[str, Any]
) -> Ensembles:
    """The molecules of a split.

    Raises:
      UserError: there is no such split, or its file is missing, damaged or altered.
    """
    arrays = nbody_files.read_arrays(folder, split, metadata, tuple(_TYPES))
    return of_arrays(arrays, folder / f"{split}.npz")
