"""Readers of molecules: QM9 as its authors and others publish it, and own files.

QM9 (Ramakrishnan, Dral, Rupp, von Lilienfeld 2014, doi 10.1038/sdata.2014.22), in any
of these forms; its 3,054 uncharacterized molecules are left out:

- the CSV files of the wheel `qm9pack`,
- `dsgdb9nsd.xyz.tar.bz2` of figshare (numbers may be written as 1.2*^-6),
- `gdb9.sdf` with `gdb9.sdf.csv` beside it.

Own molecules, of H, C, N, O and F:

- `.npz` with `numbers` [A] atomic numbers, `positions` [A, 3] in Å and `n_atoms` [D],
  and any properties as arrays [D] of floating-point numbers; their names are targets.
- `.xyz`, one molecule after the other: the number of atoms, a comment, then a line
  `element x y z` per atom. The comment holds properties as `name=value`, the same
  names in every molecule, and perhaps `smiles=...`; other words (as of extended xyz)
  are passed over.

Own properties are taken as they are, in their own units. Every error names the file and
the first bad row.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import itertools
import pathlib
import shlex
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from demetar.data.molecules import (
    ELEMENTS,
    Molecules,
    Progress,
    Record,
    build,
    is_file_of_molecules,
    read,
    silent,
)
from demetar.errors import UserError

# QM9's properties and units, in the order of its xyz files.
PROPERTIES = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("U0", "U", "H", "G", "Cv"),
)
UNITS = (
    *("GHz",) * 3,
    *("D", "bohr^3", "Ha", "Ha", "Ha", "bohr^2"),
    *("Ha",) * 5,
    "cal/(mol K)",
)
NUM_MOLECULES = 130_831
NUM_PUBLISHED = 133_885

ARCHIVE = "dsgdb9nsd.xyz.tar.bz2"
SDF, SDF_TABLE = "gdb9.sdf", "gdb9.sdf.csv"
WHEEL_FILES = tuple(f"qm9_part{part}.csv" for part in (1, 2, 3))
INSTALL = "python -m pip install '.[qm9]'"


@functools.cache
def excluded() -> frozenset[int]:
    """GDB9 numbers of the 3,054 molecules that failed QM9's consistency check.

    Source: `uncharacterized.txt` of QM9 (CC0).
    """
    path = pathlib.Path(__file__).with_name("qm9_excluded.txt")
    return frozenset(map(int, path.read_text().split()))


def find(place: pathlib.Path | None) -> tuple[str, list[pathlib.Path]]:
    """What kind of source lies at a place, and its files.

    Args:
      place: a folder or a file; None for the wheel.

    Returns:
      'wheel', 'archive', 'sdf', 'file' (of `molecules.write`), 'npz' or 'xyz'.

    Raises:
      UserError: there is nothing that can be read.
    """
    if place is None:
        specification = importlib.util.find_spec("qm9pack")
        if specification is None or not specification.submodule_search_locations:
            raise UserError(f"QM9 is not installed; install it with {INSTALL}")
        folder = pathlib.Path(next(iter(specification.submodule_search_locations)))
        place = folder / "data"
    if place.is_dir():
        for kind, names in (
            ("wheel", WHEEL_FILES),
            ("archive", (ARCHIVE,)),
            ("sdf", (SDF, SDF_TABLE)),
        ):
            paths = [place / name for name in names]
            if all(path.exists() for path in paths):
                return kind, paths
        own = sorted(path for path in place.iterdir() if _kind_of(path))
        if len(own) == 1:
            return _kind_of(own[0]), own
        listed = ", ".join(path.name for path in own) or "none of them"
        raise UserError(
            f"expected one of {ARCHIVE}, {SDF} with {SDF_TABLE}, the CSV files of "
            f"qm9pack, or one .npz or .xyz in {place}, found {listed}"
        )
    kind = _kind_of(place)
    if not place.exists() or not kind:
        raise UserError(
            f"expected a folder, or a file {ARCHIVE}, .sdf, .npz or .xyz, found {place}"
        )
    paths = [place, pathlib.Path(f"{place}.csv")] if kind == "sdf" else [place]
    if not paths[-1].exists():
        raise UserError(f"expected {paths[-1]} beside {place}, found no such file")
    return kind, paths


def _kind_of(path: pathlib.Path) -> str:
    if path.name.endswith((".tar.bz2", ".tar")):
        return "archive"
    if path.suffix == ".npz":
        return "file" if is_file_of_molecules(path) else "npz"
    return {".sdf": "sdf", ".xyz": "xyz"}.get(path.suffix, "")


def load(
    kind: str, paths: list[pathlib.Path], progress: Progress = silent
) -> Molecules:
    """The molecules of a source that `find` found.

    Raises:
      UserError: a file cannot be read, or a row of it is bad; it is named.
    """
    if kind == "file":
        return read(paths[0])
    try:
        if kind == "npz":
            return _load_npz(paths[0], progress)
        if kind == "xyz":
            return _load_xyz(paths[0], progress)
        reader: Callable[..., Iterator[Record]] = {
            "wheel": _wheel_records,
            "archive": _archive_records,
            "sdf": _sdf_records,
        }[kind]
        total = NUM_MOLECULES if kind == "wheel" else NUM_PUBLISHED
        records = progress(reader(paths), f"reading {paths[0].name}", total)
        kept = (record for record in records if record.number not in excluded())
        return build(kept, PROPERTIES, UNITS, "qm9", progress)
    except (OSError, EOFError, tarfile.TarError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot read {paths[0]} ({reason}); it may be truncated: fetch it again"
        ) from None


# --- QM9 ----------------------------------------------------------------------------

_CSV_COLUMNS = (
    *("RotA_GHz", "RotB_GHz", "RotC_GHz", "Dipole_debye", "Polarizability_bohr3"),
    *("HOMO_au", "LUMO_au", "HOMO_LUMO_gap_au", "R2_bohr2", "ZPVE_au"),
    *("InternalEnergy_0K_au", "InternalEnergy_298K_au", "Enthalphy_298K_au"),
    *("GibbsFreeEnergy_298K_au", "Heatcapacity_Cv_cal_mol_K"),
)
_SDF_COLUMNS = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("u0", "u298", "h298", "g298", "cv"),
)


def _columns(header: list[str], names: Iterable[str], path: pathlib.Path) -> list[int]:
    missing = [name for name in names if name not in header]
    if missing:
        raise UserError(f"expected a column {missing[0]!r} in {path}, found none")
    return [header.index(name) for name in names]


def _wheel_records(paths: list[pathlib.Path]) -> Iterator[Record]:
    brackets = str.maketrans("", "", "[]', ")
    lists = str.maketrans("", "", "[]")
    for path in paths:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            named = ("Index", "SMILES", "Elements", "XYZ_Ang", "N_atoms")
            index, smiles, elements, xyz, size = _columns(header, named, path)
            columns = _columns(header, _CSV_COLUMNS, path)
            for number, row in enumerate(rows, 2):
                place = f"{path.name}, row {number}"
                with _naming(place):
                    symbols = row[elements].translate(brackets)
                    if len(symbols) != int(row[size]):
                        raise ValueError(f"{row[size]} atoms but {len(symbols)} names")
                    yield Record(
                        place,
                        int(row[index]),
                        symbols,
                        list(map(float, row[xyz].translate(lists).split(","))),
                        [float(row[column]) for column in columns],
                        row[smiles],
                    )


class _naming:
    """Turns what is wrong with a row into an error that names the row."""

    def __init__(self, place: str):
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: Any, trace: Any) -> None:
        if isinstance(error, (ValueError, IndexError, KeyError)):
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._place}: expected a molecule, found what cannot be read "
                f"({reason})"
            ) from None


def _archive_records(paths: list[pathlib.Path]) -> Iterator[Record]:
    with tarfile.open(paths[0], "r|*") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None or not member.name.endswith(".xyz"):
                continue
            place = f"{paths[0].name}, {member.name}"
            with _naming(place):
                yield _gdb_record(place, content.read().decode("ascii"))


def _gdb_record(place: str, text: str) -> Record:
    """One file of the archive: size, tag and properties, atoms, frequencies, SMILES."""
    lines = text.replace("*^", "e").splitlines()
    size = int(lines[0])
    _, index, *properties = lines[1].split()
    atoms = [line.split() for line in lines[2 : 2 + size]]
    return Record(
        place,
        int(index),
        "".join(atom[0] for atom in atoms),
        [float(value) for atom in atoms for value in atom[1:4]],
        list(map(float, properties)),
        lines[3 + size].split()[0],
    )


def _sdf_records(paths: list[pathlib.Path]) -> Iterator[Record]:
    """Blocks of the structure file, joined with their rows of the table."""
    path, table = paths
    with open(table, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        (name,) = _columns(header, ["mol_id"], table)
        columns = _columns(header, _SDF_COLUMNS, table)
        properties = {}
        for number, row in enumerate(rows, 2):
            with _naming(f"{table.name}, row {number}"):
                properties[row[name]] = [float(row[column]) for column in columns]
    with open(path, encoding="utf-8") as text:
        lines = (line.rstrip("\r\n") for line in text)
        for number in itertools.count(1):
            block = list(itertools.takewhile(lambda line: line != "$$$$", lines))
            if not any(block):
                return
            place = f"{path.name}, block {number}"
            with _naming(place):
                size = int(block[3][:3])
                atoms = [line.split() for line in block[4 : 4 + size]]
                yield Record(
                    place,
                    int(block[0].rpartition("_")[2]),
                    "".join(atom[3] for atom in atoms),
                    [float(value) for atom in atoms for value in atom[:3]],
                    properties[block[0]],
                    "",
                )


# --- Own molecules ------------------------------------------------------------------


def _load_npz(path: pathlib.Path, progress: Progress) -> Molecules:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is truncated or damaged ({error})") from None
    missing = {"numbers", "positions", "n_atoms"} - arrays.keys()
    if missing:
        raise UserError(f"expected an array {min(missing)!r} in {path}, found none")
    numbers, positions, n_atoms = (
        arrays.pop(name) for name in ("numbers", "positions", "n_atoms")
    )
    total = int(n_atoms.sum())
    if numbers.shape != (total,) or positions.shape != (total, 3):
        raise UserError(
            f"expected numbers ({total},) and positions ({total}, 3) for the "
            f"{total} atoms of n_atoms in {path}, found {numbers.shape} and "
            f"{positions.shape}"
        )
    for name, values in arrays.items():
        if values.shape != n_atoms.shape or values.dtype.kind != "f":
            raise UserError(
                f"expected {n_atoms.shape} floating-point numbers in {name!r} of "
                f"{path}, found {values.dtype}{values.shape}"
            )
    symbols = {number: symbol for symbol, number in ELEMENTS.items()}
    stops = np.cumsum(n_atoms)

    def records() -> Iterator[Record]:
        for row, (size, stop) in enumerate(zip(n_atoms, stops, strict=True)):
            own = slice(stop - size, stop)
            yield Record(
                f"{path.name}, molecule {row} (from 0)",
                row + 1,
                "".join(symbols.get(int(number), "?") for number in numbers[own]),
                positions[own].ravel().tolist(),
                [values[row] for values in arrays.values()],
                "",
            )

    return build(records(), list(arrays), [""] * len(arrays), "own", progress)


def _load_xyz(path: pathlib.Path, progress: Progress) -> Molecules:
    names: list[str] | None = None
    records: list[Record] = []
    with open(path, encoding="utf-8") as file:
        lines = iter(enumerate(file, 1))
        for number, line in lines:
            if not line.strip():
                continue
            place = f"{path.name}, line {number}"
            with _naming(place):
                size = int(line)
                comment = next(lines, (0, ""))[1]
                properties, smiles = _comment(comment)
                atoms = [item.split() for _, item in itertools.islice(lines, size)]
                if len(atoms) < size:
                    raise ValueError(f"{size} atoms announced, {len(atoms)} there")
                symbols = [atom[0] for atom in atoms]
                if max(map(len, symbols), default=1) > 1:
                    raise ValueError(f"element {max(symbols, key=len)!r}")
                record = Record(
                    place,
                    len(records) + 1,
                    "".join(symbols),
                    [float(value) for atom in atoms for value in atom[1:4]],
                    list(properties.values()),
                    smiles,
                )
            if names is None:
                names = list(properties)
            if names != list(properties):
                raise UserError(
                    f"{place}: expected the properties {', '.join(names) or 'none'}, "
                    f"found {', '.join(properties) or 'none'}"
                )
            records.append(record)
    own = names or []
    return build(records, own, [""] * len(own), "own", progress)


def _comment(text: str) -> tuple[dict[str, float], str]:
    """Properties and SMILES of a comment line."""
    properties, smiles = {}, ""
    for word in shlex.split(text):
        name, equals, value = word.partition("=")
        if name.lower() == "smiles":
            smiles = value
        elif equals:
            try:
                properties[name] = float(value)
            except ValueError:
                continue  # Properties=species:S:1:pos:R:3, Lattice=..., and their like
    return properties, smiles
