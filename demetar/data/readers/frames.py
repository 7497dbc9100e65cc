"""Frames of one's own: extended xyz and `.npz`, with energies and forces.

Extended xyz has `energy=` in the comment and a column `forces:R:3` in `Properties=`, as
ASE writes them; other names are told by keys. Comments may have the units too, as
`energy_unit="meV" forces_unit="meV/Å"`. An `.npz` has the arrays

    nuclear_charges, coords, energies, forces     of rMD17, in kcal/mol and Å
    z, R, E, F                                    of sGDML, in kcal/mol and Å unless
                                                  e_unit and r_unit say otherwise
    n_atoms, numbers, positions, energies, forces of molecules of any sizes, in eV and
                                                  Å (`demetar.data.frame_files`) unless
                                                  e_unit and r_unit say otherwise

Everything ends in eV and Å. Every error names the file and the first bad frame, counted
from 0.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from demetar import archives
from demetar.data import units
from demetar.data.frames import Frames, ragged, uniform
from demetar.data.readers import comment, text, xyz
from demetar.data.units import Units
from demetar.errors import UserError

SUFFIXES = (".xyz", ".extxyz", ".npz")
MOST_ATOMS = 100_000  # of a frame
_PLACE = "{name}, frame {row} (from 0, line {line})"
_OF_ONE = {  # arrays of frames of one molecule, and the unit of their energies
    "rMD17": (("nuclear_charges", "coords", "energies", "forces"), "kcal/mol"),
    "sGDML": (("z", "R", "E", "F"), "kcal/mol"),
}
_OF_MANY = ("n_atoms", "numbers", "positions", "energies", "forces")
_UNIT_NAMES = ("e_unit", "r_unit")  # of sGDML
_CELLS = ("lattice", "cell", "unit_cell", "box")  # names of periodic cells


class Reading(NamedTuple):
    """How a file is read.

    Attributes:
      energy_key, forces_key: names in extended xyz.
      energy_unit, length_unit: of the file; '' for those of its format. Forces are in
        their ratio.
    """

    energy_key: str = "energy"
    forces_key: str = "forces"
    energy_unit: str = ""
    length_unit: str = ""


def read(path: pathlib.Path, reading: Reading) -> Frames:
    """The frames of a file, in eV and Å.

    Raises:
      UserError: the file cannot be read, or a frame of it is bad.
    """
    return read_with_units(path, reading)[0]


def read_with_units(path: pathlib.Path, reading: Reading) -> tuple[Frames, Units]:
    """The frames of a file in eV and Å, and the units that it was taken to have.

    Raises:
      UserError: as `read`.
    """
    try:
        if path.suffix.lower() == ".npz":
            frames, own = _of_npz(path, reading)
        else:
            frames, own = _of_xyz(path, reading)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    known = Units(reading.energy_unit or own.energy, reading.length_unit or own.length)
    return frames.scaled(known.to_ev, known.to_angstrom), known


# --- Extended xyz -------------------------------------------------------------------


def _of_xyz(path: pathlib.Path, reading: Reading) -> tuple[Frames, Units]:
    told_units: set[tuple[str, str]] = set()
    sizes: list[int] = []
    numbers: list[int] = []
    energies: list[float] = []
    places: list[Sequence[float]] = []
    forces: list[Sequence[float]] = []
    for block in xyz.blocks(path, "frame", MOST_ATOMS, _PLACE, True):
        with text.naming(block.place, "a frame with its energy and forces"):
            energies.append(_energy(block.told, reading.energy_key))
            told_units.add(_told_units(block.told, reading))
            column = _column(block.told, reading.forces_key)
            for row in block.rows:
                element, position = xyz.atom(*row, block.told.columns)
                numbers.append(element)
                places.append(position)
                forces.append(_force(*row, block.told.columns, column))
        sizes.append(len(block.rows))
    frames = ragged(
        np.array(sizes, np.int64),
        np.array(numbers, np.int64),
        np.array(places, np.float64).reshape(-1, 3),
        np.array(energies, np.float64),
        np.array(forces, np.float64).reshape(-1, 3),
        path,
    )
    return frames, _units_of_all(told_units, reading, path)


def _told_units(told: comment.Comment, reading: Reading) -> tuple[str, str]:
    """The units of energy and forces that a comment tells, '' if it does not."""
    energy, forces = (
        told.passed.get(f"{key}_unit", "")
        for key in (reading.energy_key, reading.forces_key)
    )
    return energy, forces


def _units_of_all(
    told: Iterable[tuple[str, str]], reading: Reading, path: pathlib.Path
) -> Units:
    """The units that all comments of a file tell; flags go before them.

    Raises:
      UserError: they differ, or those of energy and forces do not fit each other.
    """
    pairs = sorted(told)
    if len(pairs) > 1:
        shown = "; ".join(" and ".join(filter(None, pair)) or "none" for pair in pairs)
        raise UserError(
            f"expected the same units in all frames of {path}, found {shown}; make "
            "them one"
        )
    energy, forces = pairs[0] if pairs else ("", "")
    per, _, length = forces.rpartition("/")
    own = Units(
        reading.energy_unit or energy or per or Units().energy,
        reading.length_unit or length or Units().length,
    )
    place = f"the unit that {path} tells"
    if not reading.energy_unit:
        units.energy(own.energy, place)
    if not reading.length_unit:
        units.length(own.length, place)
    is_given = bool(reading.energy_unit or reading.length_unit)
    if forces and not is_given and (not per or units.energy(per, place) != own.to_ev):
        raise UserError(
            f"expected forces of {path} in {own.energy} per length, found "
            f"{reading.forces_key}_unit={forces}; make them fit, or give --energy_unit "
            "and --length_unit"
        )
    return own


def _energy(told: comment.Comment, key: str) -> float:
    if not key:
        raise ValueError("--energy_key names no property")
    found = told.properties.get(key, math.nan)
    if math.isnan(found):
        state = "is not known" if key in told.properties else "is not there"
        if key in told.passed:
            state = "is no single number"
        known = text.listed(list(told.properties)) or "none"
        raise ValueError(
            f"{key}= {state} in the comment, whose numbers are {known}; name another "
            "with --energy_key"
        )
    return found


def _column(told: comment.Comment, key: str) -> int:
    found = None if key == "pos" else told.columns.vectors.get(key)
    if found is None:
        others = [name for name in told.columns.vectors if name != "pos"]
        known = text.listed(others) or "none"
        raise ValueError(
            f"Properties= declares no {key}:R:3, its vectors beside the "
            f"positions are {known}; name another "
            "with --forces_key"
        )
    return found


def _force(
    number: int, line: str, columns: comment.Columns, start: int
) -> tuple[float, ...]:
    try:
        return xyz.vector(xyz.split(number, line, columns), start)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


# --- .npz ---------------------------------------------------------------------------


def _of_npz(path: pathlib.Path, reading: Reading) -> tuple[Frames, Units]:
    arrays = archives.read_npz(path)
    _refuse_cells(arrays, path)
    for names, unit in _OF_ONE.values():
        if {*names[:2]} <= arrays.keys():
            _check_present(arrays, names, path)
            numbers, places, energies, forces = (arrays[name] for name in names)
            found = uniform(numbers, places, energies, forces, path, names)
            return found, _own_units(arrays, unit, path, reading)
    if {"numbers", "positions"} <= arrays.keys():
        renamed = {"energies": arrays["energy"]} if "energy" in arrays else {}
        known = {**renamed, **arrays}
        _check_present(known, _OF_MANY, path)
        columns = {name: known[name] for name in _OF_MANY}
        found = ragged(**columns, place=path)
        return found, _own_units(arrays, Units().energy, path, reading)
    expected = "; ".join(
        ", ".join(names) for names in (*(n for n, _ in _OF_ONE.values()), _OF_MANY)
    )
    raise UserError(
        f"expected the arrays {expected} in {path}, found "
        f"{text.listed(list(arrays)) or 'none'}; name them so"
    )


def _check_present(
    arrays: Mapping[str, np.ndarray], names: Sequence[str], path: pathlib.Path
) -> None:
    for name in names:
        if name not in arrays:
            raise UserError(
                f"expected the arrays {', '.join(names)} in {path}, found no {name!r}; "
                "a potential learns from energies and forces"
            )


def _refuse_cells(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    """Refuse periodic cells, by whatever name, unless no direction is periodic."""
    pbc = arrays.get("pbc")
    is_open = pbc is not None and not pbc.any()
    for name, array in arrays.items():
        is_cell = name.lower() in _CELLS and (
            array.dtype.kind not in "fiu" or array.any()
        )
        if (is_cell and not is_open) or (name == "pbc" and not is_open):
            raise UserError(
                f"{path} has a periodic cell ({name}), which is not supported; if the "
                "molecules stand alone, leave it out"
            )


def _own_units(
    arrays: Mapping[str, np.ndarray], energy: str, path: pathlib.Path, reading: Reading
) -> Units:
    """Units as the file tells them, else those of its format; flags go before them."""
    found = [energy, Units().length]
    parsers, flags = (units.energy, units.length), reading[2:]
    for row, name in enumerate(_UNIT_NAMES):
        if flags[row] or name not in arrays or arrays[name].dtype.kind not in "SU":
            continue
        told = arrays[name].astype(str)
        if told.size == 1 and told.item():
            parsers[row](told.item(), f"the {name} of {path}")
            found[row] = told.item()
    return Units(*found)
