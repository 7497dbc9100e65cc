"""Molecules by name, file or number, as molecular dynamics starts from them."""

from __future__ import annotations

import difflib
import pathlib
from typing import NamedTuple

import numpy as np

from demetar import elements
from demetar.data import molecule_files
from demetar.data.molecules import Record
from demetar.data.readers import xyz
from demetar.errors import UserError
from tools.xtb import INSTALL

# Common names of molecules of the G2 set, which ASE has by their formulas.
NAMES = {
    "acetaldehyde": "CH3CHO",
    "acetamide": "CH3CONH2",
    "acetic_acid": "CH3COOH",
    "acetone": "CH3COCH3",
    "acetylene": "C2H2",
    "ammonia": "NH3",
    "benzene": "C6H6",
    "dimethyl_ether": "CH3OCH3",
    "ethane": "C2H6",
    "ethanol": "CH3CH2OH",
    "ethylene": "C2H4",
    "formaldehyde": "H2CO",
    "formic_acid": "HCOOH",
    "furan": "C4H4O",
    "hydrazine": "N2H4",
    "methane": "CH4",
    "methanol": "CH3OH",
    "nitromethane": "CH3NO2",
    "propane": "C3H8",
    "pyridine": "C5H5N",
    "pyrrole": "C4H4NH",
    "thiophene": "C4H4S",
    "water": "H2O",
}
_XYZ = (".xyz", ".extxyz")
NEAREST = 0.1  # Å, below which no two nuclei of a molecule are


class Structure(NamedTuple):
    """A molecule.

    Attributes:
      name: as a person gave it.
      numbers: [n] atomic numbers, n of at least 2.
      positions: [n, 3] in Å.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray

    @property
    def masses(self) -> np.ndarray:
        """In u, [n]."""
        symbols = [elements.SYMBOLS[number - 1] for number in self.numbers]
        return np.array([elements.MASSES[symbol] for symbol in symbols])


def find(name: str) -> Structure:
    """A molecule.

    Args:
      name: of ASE's G2 collection, as CH3CH2OH or ethanol; the path of an .xyz of one
        molecule; or the number of a molecule of QM9.

    Raises:
      UserError: there is no such molecule, it cannot be read, it is a single atom, an
        element has no known mass, or two atoms are at one point.
    """
    if name.lower().endswith(_XYZ):
        found = _of_file(pathlib.Path(name))
    elif name.isascii() and name.isdigit():
        found = _of_qm9(name)
    else:
        found = _of_ase(name)
    if len(found.numbers) < 2:
        raise UserError(f"expected a molecule of two atoms or more, found {name}")
    known = [elements.NUMBERS[symbol] for symbol in elements.MASSES]
    strange = [int(number) for number in found.numbers if number not in known]
    if strange:
        raise UserError(
            f"expected elements from H to U in {name}, found "
            f"{elements.name(strange[0])}"
        )
    _check_apart(found)
    return found


def _check_apart(found: Structure) -> None:
    """Refuse atoms at one point, between which no force has a direction.

    Raises:
      UserError: there are such; it names the nearest two.
    """
    firsts, seconds = np.triu_indices(len(found.numbers), 1)
    arms = found.positions[firsts] - found.positions[seconds]
    lengths = np.linalg.norm(arms, axis=1)
    pair = int(np.argmin(lengths))
    if lengths[pair] < NEAREST:
        told = [
            f"{end} ({elements.SYMBOLS[found.numbers[end] - 1]})"
            for end in (int(firsts[pair]), int(seconds[pair]))
        ]
        raise UserError(
            f"expected atoms at least {NEAREST:g} Å apart in {found.name}, found atoms "
            f"{' and '.join(told)} (from 0) at a distance of {lengths[pair]:.2g} Å; "
            "mend the structure"
        )


def _of_record(name: str, record: Record) -> Structure:
    positions = np.array(record.positions, np.float64).reshape(-1, 3)
    return Structure(name, np.array(record.numbers, np.int64), positions)


def _of_file(path: pathlib.Path) -> Structure:
    if not path.is_file():
        raise UserError(f"expected --molecule={path} to be a file, found none")
    records = [record for record, _ in xyz.stream(path)]
    if len(records) != 1:
        raise UserError(f"expected one molecule in {path}, found {len(records)}")
    return _of_record(path.stem, records[0])


def _of_qm9(name: str) -> Structure:
    for record in molecule_files.stream(*molecule_files.find(None)):
        if record.number == int(name[:12]):
            return _of_record(f"qm9_{name}", record)
    raise UserError(
        f"expected the number of a molecule of QM9, from 1 to "
        f"{molecule_files.NUM_PUBLISHED:,} less those that were left out, found {name}"
    )


def _of_ase(name: str) -> Structure:
    try:
        from ase.collections import g2
    except ImportError:
        raise UserError(
            f"expected ASE, which knows the molecule {name[:40]!r}; install it with "
            f"{INSTALL}, or give --molecule=FILE.xyz"
        ) from None
    formula = NAMES.get(name.lower().replace(" ", "_"), name)
    if formula not in g2.names:
        near = difflib.get_close_matches(name, [*NAMES, *g2.names], 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            "expected --molecule to be one of ASE's G2 set, as ethanol or CH3CH2OH, a "
            f"FILE.xyz or a number of QM9, found {name[:40]!r}{guess}"
        )
    atoms = g2[formula]
    return Structure(name, np.array(atoms.numbers), np.array(atoms.positions))
