"""Molecules as flat arrays, and the one file that they are kept in.

The file is an uncompressed `.npz` whose arrays are memory-mapped where they lie, so
that 130,831 molecules are there in the time of one checksum. Both the cache of the
command and `tools.prepare_qm9` write it.

    header      JSON as bytes: format, version, source, names, units, fingerprint, notes
                and origin
    index       [D] int32, ascending: GDB9 index, or the row number from 1
    n_atoms     [D] int32
    numbers     [A] uint8 atomic numbers, molecule after molecule
    positions   [A, 3] float64 in Å
    properties  [D, P] float64, NaN if unknown
    n_bonds     [D] int32
    bonds       [sum of n_bonds, 3] uint8: two atoms of the molecule and the type

The last two are left out if no graph needed them yet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from demetar import archives, elements, files, places
from demetar.data import bonds
from demetar.data.bonds import Progress, silent
from demetar.data.edges import ranges
from demetar.errors import UserError

FORMAT = "demetar molecules"
VERSION = 1
MOST_ATOMS = 255  # of a molecule: atoms are numbered in uint8
MOST_NUMBER = 2**31 - 1  # of a molecule
MOST_COORDINATE = 1e9  # in Å, so that squares of distances are finite in float32


class Record(NamedTuple):
    """One molecule as a source has it.

    Attributes:
      place: file and row, for errors.
      number: of the molecule.
      numbers: [n] atomic numbers.
      positions: [3 n] coordinates in Å, atom after atom.
      properties: [P] numbers in the order of the source's names.
      smiles: '' if the source has none.
    """

    place: str
    number: int
    numbers: Sequence[int]
    positions: Sequence[float]
    properties: Sequence[float]
    smiles: str


@dataclasses.dataclass(frozen=True)
class Molecules:
    """D molecules. The arrays are those of the module's docstring.

    Attributes:
      names, units: of the columns of `properties`.
      source: 'qm9' if the properties are QM9's in QM9's units, else 'own'.
      fingerprint: SHA-256 of index, atoms, positions and properties.
      n_bonds, bonds: None if they were not asked for.
      notes: one line each, of what a person should know of the reading.
    """

    index: np.ndarray
    n_atoms: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    properties: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]
    source: str
    fingerprint: str
    n_bonds: np.ndarray | None = None
    bonds: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> np.ndarray:
        """The property of that name, [D]."""
        return np.asarray(self.properties[:, self.names.index(name)])

    def atoms(self, rows: np.ndarray) -> np.ndarray:
        """The atoms of the molecules of some rows, one molecule after the other."""
        starts = np.cumsum(self.n_atoms) - self.n_atoms
        return ranges(starts[rows], self.n_atoms[rows])


_BOND_TYPES = {"n_bonds": np.int32, "bonds": np.uint8}
_MEASURED = {  # what the fingerprint is of
    "index": np.int32,
    "n_atoms": np.int32,
    "numbers": np.uint8,
    "positions": np.float64,
    "properties": np.float64,
}


def build(
    records: Iterable[Record],
    names: Sequence[str],
    units: Sequence[str],
    source: str,
    progress: Progress = silent,
    *,
    with_bonds: bool = True,
    notes: Sequence[str] = (),
) -> Molecules:
    """The molecules of a source, in ascending order of their index.

    Args:
      records: of the molecules.
      names, units: of the properties.
      source: 'qm9' or 'own'.
      progress: tells a person of the search for bonds.
      with_bonds: whether bonds are searched.
      notes: of `Molecules`.

    Raises:
      UserError: a record with a wrong number of coordinates or properties, an element
        that there is not (in QM9: other than H, C, N, O and F), a number that is not
        finite, or an index twice. The message names the first such row.
    """
    known = elements.QM9 if source == "qm9" else range(1, elements.MOST + 1)
    kept = _collect(records, len(names), frozenset(known))
    measured = {
        "index": np.array([item[0] for item in kept], np.int32),
        "n_atoms": np.array([len(item[1]) for item in kept], np.int32),
        "numbers": np.concatenate([item[1] for item in kept]),
        "positions": np.concatenate([item[2] for item in kept]),
        "properties": np.stack([item[3] for item in kept]),
    }
    known_molecules = Molecules(
        **measured,
        names=tuple(names),
        units=tuple(units),
        source=source,
        fingerprint=_fingerprint(measured, names),
        notes=tuple(notes),
    )
    if not with_bonds:
        return known_molecules
    return _with_bonds(known_molecules, [item[4] for item in kept], progress)


def _collect(
    records: Iterable[Record], num_properties: int, species: frozenset[int]
) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray, str]]:
    """Number, elements, positions, properties and SMILES, by ascending number.

    Raises:
      UserError: as `build`.
    """
    kept = []
    for record in records:
        _check(record, num_properties, species)
        kept.append(
            (
                record.number,
                np.array(record.numbers, np.uint8),
                np.asarray(record.positions, np.float64).reshape(-1, 3),
                np.asarray(record.properties, np.float64),
                record.smiles,
            )
        )
    if not kept:
        raise UserError("expected at least one molecule, found none in the data")
    kept.sort(key=lambda item: item[0])
    index = np.array([item[0] for item in kept], np.int32)
    if (np.diff(index) == 0).any():
        twice = index[:-1][np.diff(index) == 0][0]
        raise UserError(f"expected every molecule once, found number {twice} twice")
    return kept


def _check(record: Record, num_properties: int, species: frozenset[int]) -> None:
    place, size = record.place, len(record.numbers)
    unknown = set(record.numbers) - species
    if unknown:
        raise UserError(
            f"{place}: expected the elements {elements.span(species)}, "
            f"found {elements.name(min(unknown))}"
        )
    if not 1 <= size <= MOST_ATOMS:
        raise UserError(f"{place}: expected 1 to {MOST_ATOMS} atoms, found {size}")
    if not 1 <= record.number <= MOST_NUMBER:
        raise UserError(
            f"{place}: expected a number from 1 to {MOST_NUMBER} of the molecule, "
            f"found {record.number}"
        )
    if len(record.positions) != 3 * size:
        raise UserError(
            f"{place}: expected {3 * size} coordinates of {size} atoms, "
            f"found {len(record.positions)}"
        )
    if len(record.properties) != num_properties:
        raise UserError(
            f"{place}: expected {num_properties} properties, "
            f"found {len(record.properties)}"
        )
    if not math.isfinite(sum(record.positions)):
        raise UserError(f"{place}: expected finite coordinates, found others")
    largest = max(map(abs, record.positions))
    if largest > MOST_COORDINATE:
        raise UserError(
            f"{place}: expected coordinates up to {MOST_COORDINATE:g} Å, "
            f"found {largest:g}"
        )


def _fingerprint(measured: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    for name in _MEASURED:
        array = np.ascontiguousarray(measured[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _with_bonds(
    known: Molecules, smiles: Sequence[str], progress: Progress
) -> Molecules:
    """The molecules with their bonds, and a note of those without right valences."""
    n_bonds, rows, num_single = bonds.find(
        known.n_atoms, known.numbers, known.positions, smiles, progress
    )
    notes = known.notes
    if num_single:
        notes = (
            *notes,
            f"{num_single:,} of {len(n_bonds):,} molecules were given single bonds "
            "alone, as no orders fit their atoms",
        )
    return dataclasses.replace(known, n_bonds=n_bonds, bonds=rows, notes=notes)


def bond_matrix(known: Molecules, rows: np.ndarray, size: int) -> np.ndarray:
    """Types of the bonds of molecules of one size, 0 if there is none: [D, n, n].

    Args:
      known: molecules with their bonds.
      rows: [D] of the molecules.
      size: number of atoms of each.
    """
    if known.n_bonds is None or known.bonds is None:
        raise ValueError("expected molecules that were read with their bonds")
    return bonds.matrix(known.n_bonds, known.bonds, rows, size)


# --- The file -----------------------------------------------------------------------


def write(path: pathlib.Path, molecules: Molecules, origin: str = "") -> None:
    """Write the file, atomically.

    Args:
      path: of the file.
      molecules: its content.
      origin: of what the file is a cache.

    Raises:
      UserError: it cannot be written.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "source": molecules.source,
        "names": molecules.names,
        "units": molecules.units,
        "fingerprint": molecules.fingerprint,
        "notes": molecules.notes,
        "origin": origin,
    }
    names = [*_MEASURED, *(_BOND_TYPES if molecules.bonds is not None else ())]
    arrays: dict[str, Any] = {name: getattr(molecules, name) for name in names}
    encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path, is_shared=True) as file:
            np.savez(file, header=encoded, **arrays)
    except OSError as error:
        raise places.unwritten(path, error) from None


_ANEW = "remove it and make it anew"


def read(path: pathlib.Path, origin: str | None = None) -> Molecules:
    """The molecules of a file that `write` wrote, memory-mapped.

    Args:
      path: of the file.
      origin: that it must have; None: any.

    Raises:
      UserError: the file is missing, damaged (by its CRC-32 or its fingerprint), of
        another format or of another origin.
    """
    if not os.path.exists(path):
        raise UserError(f"expected molecules in {path}, found no such file")
    arrays = archives.read_npz(path, _ANEW, mapped=True)
    if "header" not in arrays:
        raise UserError(f"{path} is no file of molecules: it has no header; {_ANEW}")
    header = files.parse_json(arrays.pop("header").tobytes(), path, _ANEW)
    if header.get("version") != VERSION:
        found = files.one_line(header.get("version"))
        raise UserError(f"{path} has version {found}, expected {VERSION}; {_ANEW}")
    fault = _fault(header, arrays)
    if origin is not None and header.get("origin") != origin:
        fault = "it was made from other data"
    if fault:
        raise UserError(f"{path} is damaged or no file of molecules: {fault}; {_ANEW}")
    return Molecules(
        **arrays,
        names=tuple(header["names"]),
        units=tuple(header["units"]),
        source=header["source"],
        fingerprint=header["fingerprint"],
        notes=tuple(header.get("notes", ())),
    )


def _fault(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """What is wrong with a file; '' if all is well."""
    texts = [header.get(name, []) for name in ("names", "units", "notes")]
    if header.get("format") != FORMAT or not all(
        isinstance(text, list) and all(isinstance(one, str) for one in text)
        for text in texts
    ):
        return "its header is another one"
    types = dict(_MEASURED)
    if "bonds" in arrays:
        types |= _BOND_TYPES
    if {name: array.dtype.type for name, array in arrays.items()} != types:
        return "it holds other arrays"
    n_atoms = arrays["n_atoms"]
    shapes = {
        "index": (len(arrays["index"]),),
        "n_atoms": (len(arrays["index"]),),
        "numbers": (int(n_atoms.sum(dtype=np.int64)),),
        "positions": (int(n_atoms.sum(dtype=np.int64)), 3),
        "properties": (len(arrays["index"]), len(texts[0])),
    }
    if "bonds" in arrays:
        count = int(arrays["n_bonds"].sum(dtype=np.int64))
        shapes |= {"n_bonds": (len(arrays["index"]),), "bonds": (count, 3)}
    if {name: array.shape for name, array in arrays.items()} != shapes:
        return "its arrays do not fit each other"
    if header.get("fingerprint") != _fingerprint(arrays, texts[0]):
        return "its fingerprint is that of other molecules"
    if len(texts[1]) != len(texts[0]) or header.get("source") not in ("qm9", "own"):
        return "its header is another one"
    if n_atoms.min(initial=1) < 1 or n_atoms.max(initial=1) > MOST_ATOMS:
        return "its molecules have impossible sizes"
    if "bonds" in arrays:
        sizes = np.repeat(n_atoms, np.maximum(arrays["n_bonds"], 0))
        found = arrays["bonds"]
        if (
            len(sizes) != len(found)
            or (found[:, :2] >= sizes[:, None]).any()
            or not np.isin(found[:, 2], 1 + np.arange(len(bonds.TYPES))).all()
        ):
            return "it has impossible bonds"
    return ""


def is_file_of_molecules(path: pathlib.Path) -> bool:
    """Whether `write` may have written the `.npz` at `path`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "header.npy" in archive.namelist()
    except Exception:  # no archive; its reader tells why
        return False
