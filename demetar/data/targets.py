"""The scalar targets of molecules: QM9's in the units of the papers, or own ones.

U0, U, H and G are energies of atomisation: QM9's reference energies of the free atoms
are subtracted. Energies are converted with 1 Ha = 27.211386 eV.

Source: Ramakrishnan, Dral, Rupp, von Lilienfeld 2014, doi 10.1038/sdata.2014.22.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from demetar.data.molecules import Molecules
from demetar.data.readers import text
from demetar.errors import UserError

MEV_PER_HARTREE = 27_211.386

# Properties of own molecules that grow with the molecule, in lower case.
EXTENSIVE_NAMES = frozenset(
    {
        *("energy", "total_energy", "free_energy", "e", "u0", "u", "h", "g"),
        *("zpve", "alpha", "cv", "r2"),
    }
)
TARGET_KINDS = ("auto", "extensive", "intensive")


class Target(NamedTuple):
    """A target of the papers' tables.

    Attributes:
      unit: of the tables.
      factor: what one unit of QM9 is in it.
      extensive: whether it grows with the molecule.
      quantity: of `types.Head`.
    """

    unit: str
    factor: float = 1.0
    extensive: bool = True
    quantity: str = ""


TARGETS: Mapping[str, Target] = {
    "mu": Target("D", extensive=False, quantity="dipole"),
    "alpha": Target("bohr^3"),
    "homo": Target("meV", MEV_PER_HARTREE, extensive=False),
    "lumo": Target("meV", MEV_PER_HARTREE, extensive=False),
    "gap": Target("meV", MEV_PER_HARTREE, extensive=False),
    "r2": Target("bohr^2", quantity="spatial_extent"),
    "zpve": Target("meV", MEV_PER_HARTREE),
    "U0": Target("meV", MEV_PER_HARTREE),
    "U": Target("meV", MEV_PER_HARTREE),
    "H": Target("meV", MEV_PER_HARTREE),
    "G": Target("meV", MEV_PER_HARTREE),
    "Cv": Target("cal/(mol K)"),
}

# Energies of the free atoms in Ha, by atomic number. Source: QM9's `atomref.txt`.
ATOMIC_REFERENCES: Mapping[str, Mapping[int, float]] = {
    "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
}


def target_values(known: Molecules, target: str) -> tuple[np.ndarray, str]:
    """A target of every molecule in its unit, [D] float64, and the unit.

    Raises:
      UserError: there is no such target.
    """
    names = tuple(TARGETS) if known.source == "qm9" else known.names
    if target not in names:
        raise UserError(
            f"no target is called {target!r}; expected one of "
            f"{text.listed(names) or 'none: the molecules have no properties'}"
        )
    values = known.column(target)
    if known.source != "qm9":
        return values, known.units[known.names.index(target)]
    if target in ATOMIC_REFERENCES:
        table = np.zeros(256)
        for number, energy in ATOMIC_REFERENCES[target].items():
            table[number] = energy
        starts = np.cumsum(known.n_atoms) - known.n_atoms
        values = values - np.add.reduceat(table[known.numbers], starts)
    return values * TARGETS[target].factor, TARGETS[target].unit


def check_finite(
    known: Molecules, target: str, values: np.ndarray, rows: np.ndarray
) -> None:
    """Refuse molecules whose target is not known.

    Args:
      known: the molecules.
      target: one of theirs.
      values: [D] of `target_values`.
      rows: of the molecules that are to be used.

    Raises:
      UserError: there are some among them.
    """
    unknown = rows[~np.isfinite(values[rows])]
    if len(unknown):
        raise UserError(
            f"expected a finite {target} of every molecule, found "
            f"{values[unknown[0]]} at number {known.index[unknown[0]]}, "
            f"{len(unknown):,} in all; leave them out by a --split file of the others' "
            "row numbers"
        )


def is_extensive(known: Molecules, target: str, kind: str) -> bool:
    """Whether a target is a sum over the atoms.

    Args:
      known: the molecules.
      target: one of them.
      kind: a member of `TARGET_KINDS`.
    """
    if kind != "auto":
        return kind == "extensive"
    if known.source == "qm9":
        return TARGETS[target].extensive
    return target.lower() in EXTENSIVE_NAMES
