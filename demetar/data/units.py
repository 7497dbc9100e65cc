"""Units of energies and lengths, in eV and Å.

One mole's worth is per particle: 1 kcal/mol = 43.3641 meV. Sources: the exact
constants of the SI, and CODATA 2018 for the hartree and the bohr.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from demetar.errors import UserError

_JOULE = 1 / 1.602176634e-19  # in eV, exact
_AVOGADRO = 6.02214076e23  # per mol, exact
_KILOJOULE_PER_MOLE = 1e3 * _JOULE / _AVOGADRO
HARTREE, BOHR = 27.211386245988, 0.529177210903

ENERGIES: Mapping[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": 4.184 * _KILOJOULE_PER_MOLE,
    "kJ/mol": _KILOJOULE_PER_MOLE,
    "Ha": HARTREE,
    "mHa": 1e-3 * HARTREE,
    "Ry": HARTREE / 2,
}
LENGTHS: Mapping[str, float] = {"Å": 1.0, "bohr": BOHR, "nm": 10.0, "pm": 0.01}


class Units(NamedTuple):
    """Units of energies and lengths; forces are in their ratio.

    Attributes:
      energy: of `ENERGIES`, by any name.
      length: of `LENGTHS`.
    """

    energy: str = "eV"
    length: str = "Å"

    @property
    def to_ev(self) -> float:
        """The unit of energies in eV."""
        return energy(self.energy, "--energy_unit")

    @property
    def to_angstrom(self) -> float:
        """The unit of lengths in Å."""
        return length(self.length, "--length_unit")


_OTHER_NAMES = {  # in lower case
    **{"hartree": "Ha", "eh": "Ha", "a.u.": "Ha", "rydberg": "Ry"},
    **{"kcal mol^-1": "kcal/mol", "kj mol^-1": "kJ/mol"},
    **{"ang": "Å", "angstrom": "Å", "a": "Å", "a0": "bohr"},
}


def energy(name: str, place: str) -> float:
    """A unit of energy in eV.

    Args:
      name: one of `ENERGIES` or another name of it, in letters of any case.
      place: where it stands, for the error.

    Raises:
      UserError: there is no such unit.
    """
    return _factor(name, ENERGIES, place)


def length(name: str, place: str) -> float:
    """A unit of length in Å, as `energy`.

    Raises:
      UserError: there is no such unit.
    """
    return _factor(name, LENGTHS, place)


def _factor(name: str, known: Mapping[str, float], place: str) -> float:
    if name in known:
        return known[name]
    lower = name.lower()
    found = _OTHER_NAMES.get(lower, "")
    # 'mHa' and 'MeV' are told apart by their letters alone.
    alike = [unit for unit in known if unit.lower() == lower != "mev"]
    for unit in (found, *alike):
        if unit in known:
            return known[unit]
    raise UserError(
        f"expected {place} of {', '.join(known)}, found {name[:40]!r}; give a unit "
        "that is listed"
    )
