"""Frames of one's own: extended xyz and `.npz`, with energies and forces.

Extended xyz has `energy=` in the comment and a column `forces:R:3` in `Properties=`, as
ASE writes them; other names are told by keys. An `.npz` has the arrays

    nuclear_charges, coords, energies, forces     of rMD17, in kcal/mol and Å
    z, R, E, F                                    of sGDML, in kcal/mol and Å unless
                                                  e_unit and r_unit say otherwise
    n_atoms, numbers, positions, energies, forces of molecules of any sizes, in eV and
                                                  Å (`demetar.data.frame_files`)

Everything ends in eV and Å. Every error names the file and the first bad frame, counted
from 0.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from demetar import archives
from demetar.data import units
from demetar.data.frames import Frames, ragged, uniform
from demetar.data.readers import comment, text, xyz
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
    try:
        if path.suffix.lower() == ".npz":
            return _of_npz(path, reading)
        return _in_units(_of_xyz(path, reading), reading, "eV", "Å")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _in_units(frames: Frames, reading: Reading, energy: str, length: str) -> Frames:
    """The frames in eV and Å, by the units of the reading or of the format."""
    return frames.scaled(
        units.energy(reading.energy_unit or energy, "--energy_unit"),
        units.length(reading.length_unit or length, "--length_unit"),
    )


# --- Extended xyz -------------------------------------------------------------------


def _of_xyz(path: pathlib.Path, reading: Reading) -> Frames:
    sizes: list[int] = []
    numbers: list[int] = []
    energies: list[float] = []
    places: list[Sequence[float]] = []
    forces: list[Sequence[float]] = []
    for block in xyz.blocks(path, "frame", MOST_ATOMS, _PLACE):
        with text.naming(block.place, "a frame with its energy and forces"):
            energies.append(_energy(block.told, reading.energy_key))
            column = _column(block.told, reading.forces_key)
            for row in block.rows:
                element, position = xyz.atom(*row, block.told.columns)
                numbers.append(element)
                places.append(position)
                forces.append(_force(*row, block.told.columns, column))
        sizes.append(len(block.rows))
    return ragged(
        np.array(sizes, np.int64),
        np.array(numbers, np.int64),
        np.array(places, np.float64).reshape(-1, 3),
        np.array(energies, np.float64),
        np.array(forces, np.float64).reshape(-1, 3),
        path,
    )


def _energy(told: comment.Comment, key: str) -> float:
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
    found = told.columns.vectors.get(key)
    if found is None:
        known = text.listed(list(told.columns.vectors)) or "none"
        raise ValueError(
            f"Properties= declares no {key}:R:3, its vectors are {known}; name another "
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


def _of_npz(path: pathlib.Path, reading: Reading) -> Frames:
    arrays = archives.read_npz(path)
    if "lattice" in arrays:
        raise UserError(
            f"{path} has a periodic cell (lattice), which is not supported; if the "
            "molecules stand alone, leave it out"
        )
    for names, unit in _OF_ONE.values():
        if {*names[:2]} <= arrays.keys():
            _check_present(arrays, names, path)
            numbers, places, energies, forces = (arrays[name] for name in names)
            found = uniform(numbers, places, energies, forces, path, names)
            energy, length = _own_units(arrays, unit, path)
            return _in_units(found, reading, energy, length)
    if {"numbers", "positions"} <= arrays.keys():
        renamed = {"energies": arrays["energy"]} if "energy" in arrays else {}
        known = {**renamed, **arrays}
        _check_present(known, _OF_MANY, path)
        columns = {name: known[name] for name in _OF_MANY}
        return _in_units(ragged(**columns, place=path), reading, "eV", "Å")
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


def _own_units(
    arrays: Mapping[str, np.ndarray], energy: str, path: pathlib.Path
) -> list[str]:
    """Units of energy and length as the file tells them, else those of its format."""
    found = [energy, "Å"]
    for row, (name, parse) in enumerate(
        zip(_UNIT_NAMES, (units.energy, units.length), strict=True)
    ):
        if name in arrays and arrays[name].dtype.kind in "SU":
            told = arrays[name].astype(str)
            if told.size == 1 and told.item():
                parse(told.item(), f"the {name} of {path}")
                found[row] = told.item()
    return found
