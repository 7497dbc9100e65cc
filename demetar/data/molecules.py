"""Molecules as flat arrays, and the one file that they are kept in.

The file is an uncompressed `.npz` whose arrays are memory-mapped where they lie, so
that 130,831 molecules are there in the time of one checksum. Both the cache of the
command and `tools.prepare_qm9` write it.

    header      JSON as bytes: format, version, source, names, units, fingerprint
    index       [D] int32, ascending: GDB9 index, or the row number from 1
    n_atoms     [D] int32
    numbers     [A] uint8 atomic numbers, molecule after molecule
    positions   [A, 3] float64 in Å
    properties  [D, P] float64, NaN where unknown
    n_bonds     [D] int32
    bonds       [sum of n_bonds, 3] uint8: two atoms of the molecule and the type
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from demetar.data import bonds
from demetar.errors import UserError

FORMAT = "demetar molecules"
VERSION = 1
ELEMENTS: Mapping[str, int] = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
CHUNK = 2_000  # molecules of one size whose distances are computed at once

# `progress(items, description, total)` yields the items and tells how many have gone.
Progress: TypeAlias = Callable[[Iterable, str, int | None], Iterable]


def silent(items: Iterable, description: str, total: int | None) -> Iterable:
    """The `Progress` that tells nothing."""
    return items


class Record(NamedTuple):
    """One molecule as a source has it.

    Attributes:
      place: file and row, for errors.
      number: of the molecule.
      symbols: elements, one character each.
      positions: [3 n] coordinates in Å, atom after atom.
      properties: [P] numbers in the order of the source's names.
      smiles: '' where the source has none.
    """

    place: str
    number: int
    symbols: str
    positions: Sequence[float]
    properties: Sequence[float]
    smiles: str


@dataclasses.dataclass(frozen=True)
class Molecules:
    """D molecules. The arrays are those of the module's docstring.

    Attributes:
      names, units: of the columns of `properties`.
      source: 'qm9' where the properties are QM9's in QM9's units, else 'own'.
      fingerprint: SHA-256 of index, atoms, positions and properties.
    """

    index: np.ndarray
    n_atoms: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    properties: np.ndarray
    n_bonds: np.ndarray
    bonds: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]
    source: str
    fingerprint: str

    def column(self, name: str) -> np.ndarray:
        """The property of that name, [D]."""
        return np.asarray(self.properties[:, self.names.index(name)])


ARRAYS = (
    *("index", "n_atoms", "numbers", "positions", "properties"),
    *("n_bonds", "bonds"),
)
_MEASURED = ARRAYS[:5]  # what the fingerprint is of


def build(
    records: Iterable[Record],
    names: Sequence[str],
    units: Sequence[str],
    source: str,
    progress: Progress = silent,
) -> Molecules:
    """The molecules of a source, in ascending order of their index.

    Raises:
      UserError: a record with a wrong number of coordinates or properties, an element
        other than H, C, N, O and F, a number that is not finite, or an index twice.
        The message names the first such row.
    """
    kept: list[tuple[int, str, np.ndarray, np.ndarray, str]] = []
    for record in records:
        _check(record, len(names))
        kept.append(
            (
                record.number,
                record.symbols,
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
    n_atoms = np.array([len(item[1]) for item in kept], np.int32)
    numbers = _numbers("".join(item[1] for item in kept))
    positions = np.concatenate([item[2] for item in kept])
    n_bonds, bond_rows = find_bonds(
        n_atoms, numbers, positions, [item[4] for item in kept], progress
    )
    measured = {
        "index": index,
        "n_atoms": n_atoms,
        "numbers": numbers,
        "positions": positions,
        "properties": np.stack([item[3] for item in kept]),
    }
    return Molecules(
        **measured,
        n_bonds=n_bonds,
        bonds=bond_rows,
        names=tuple(names),
        units=tuple(units),
        source=source,
        fingerprint=_fingerprint(measured, names),
    )


def _check(record: Record, num_properties: int) -> None:
    place, size = record.place, len(record.symbols)
    unknown = set(record.symbols) - ELEMENTS.keys()
    if unknown:
        raise UserError(
            f"{place}: expected the elements {', '.join(ELEMENTS)}, "
            f"found {sorted(unknown)[0]!r}"
        )
    if not 1 <= size <= 255:
        raise UserError(f"{place}: expected 1 to 255 atoms, found {size}")
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


def _numbers(symbols: str) -> np.ndarray:
    table = np.zeros(128, np.uint8)
    for symbol, number in ELEMENTS.items():
        table[ord(symbol)] = number
    return table[np.frombuffer(symbols.encode("ascii"), np.uint8)]


def _fingerprint(measured: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    for name in _MEASURED:
        array = np.ascontiguousarray(measured[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def of_equal_size(n_atoms: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of molecules with one number of atoms, at most `CHUNK` at a time."""
    for size in np.unique(n_atoms):
        members = np.flatnonzero(n_atoms == size)
        for start in range(0, len(members), CHUNK):
            yield members[start : start + CHUNK]


def find_bonds(
    n_atoms: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    smiles: Sequence[str],
    progress: Progress = silent,
) -> tuple[np.ndarray, np.ndarray]:
    """Bonds of all molecules: n_bonds [D] and rows [sum of n_bonds, 3]."""
    starts = np.cumsum(n_atoms) - n_atoms
    pairs: list[np.ndarray] = [np.zeros((0, 2), int)] * len(n_atoms)
    for members in of_equal_size(n_atoms):
        rows = starts[members][:, None] + np.arange(n_atoms[members[0]])
        found = bonds.connections(numbers[rows], positions[rows])
        for member, own in zip(members, found, strict=True):
            pairs[member] = own
    codes: list[int] = []
    stops = starts + n_atoms
    for member in progress(range(len(n_atoms)), "bonds", len(n_atoms)):
        own = numbers[starts[member] : stops[member]].tolist()
        bonded = list(map(tuple, pairs[member].tolist()))
        codes += bonds.codes(own, bonded, smiles[member])[0]
    rows = np.concatenate([np.concatenate(pairs), np.array(codes, int)[:, None]], 1)
    return np.array(list(map(len, pairs)), np.int32), rows.astype(np.uint8)


# --- The file -----------------------------------------------------------------------


def write(path: pathlib.Path, molecules: Molecules) -> None:
    """Write the file, atomically.

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
    }
    arrays: dict[str, Any] = {name: getattr(molecules, name) for name in ARRAYS}
    encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, header=encoded, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space there or "
            "choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: pathlib.Path) -> Molecules:
    """The molecules of a file that `write` wrote, memory-mapped.

    Raises:
      UserError: the file is missing, damaged (by its CRC-32) or of another format.
    """
    try:
        arrays = dict(_members(path))
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != FORMAT or set(arrays) != set(ARRAYS):
            raise ValueError("it holds other arrays")
    except FileNotFoundError:
        raise UserError(f"expected molecules in {path}, found no such file") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is damaged or no file of molecules ({reason}); remove it and "
            "make it anew"
        ) from None
    if header["version"] != VERSION:
        raise UserError(
            f"{path} has version {header['version']}, expected {VERSION}; remove it "
            "and make it anew"
        )
    return Molecules(
        **arrays,
        names=tuple(header["names"]),
        units=tuple(header["units"]),
        source=header["source"],
        fingerprint=header["fingerprint"],
    )


def is_file_of_molecules(path: pathlib.Path) -> bool:
    """Whether `write` may have written the `.npz` at `path`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "header.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _members(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an uncompressed `.npz`, mapped, each checked against its CRC-32."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        whole = np.memmap(path, np.uint8, "r")
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed")
            file.seek(member.header_offset + 26)  # lengths of name and extra field
            name_size, extra_size = np.frombuffer(file.read(4), "<u2").tolist()
            start = member.header_offset + 30 + name_size + extra_size
            content = whole[start : start + member.file_size]
            if zlib.crc32(content.data) != member.CRC:
                raise ValueError(f"the checksum of {member.filename} is wrong")
            file.seek(start)
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{member.filename} has .npy version {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            values = content[file.tell() - start :].view(np.ndarray)
            array = np.frombuffer(values.data, dtype).reshape(shape)
            yield member.filename.removesuffix(".npy"), array
