"""Bonds of molecules by their lengths alone, and which atoms these make stable.

The measure of EDM (Hoogeboom et al. 2022, arXiv 2203.17003, appendix C): a table has
the usual lengths of bonds, and the order of a bond is the highest whose length plus a
margin is above the distance of the two atoms. An atom is stable if its orders add up to
its valence, a molecule if all of its atoms are. Charged atoms and long bonds count as
unstable, so that real molecules are not all stable either: of QM9's 130,831 molecules
95.276 % are, and 99.358 % of their atoms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from demetar import elements
from demetar.data.edges import of_equal_size
from demetar.errors import UserError
from demetar.generation.structures import Structures

# Lengths in pm by the order of the bond, and what a bond may be longer.
_LENGTHS = (
    "HH 74 HC 109 HN 101 HO 96 HF 92 CC 154 CN 147 CO 143 CF 135 NN 145 NO 140 NF 136 "
    "OO 148 OF 142 FF 142",
    "CC 134 CN 129 CO 120 NN 125 NO 121 OO 121",
    "CC 120 CN 116 CO 113 NN 110",
)
_MARGINS = (10, 5, 3)
VALENCES = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}
_PM = 100.0  # in an Å


def _limits() -> np.ndarray:
    """Below which distance in pm two elements have a bond: [order - 1, Z, Z]."""
    size = max(VALENCES) + 1
    found = np.full((len(_LENGTHS), size, size), -np.inf)
    for limits, text, margin in zip(found, _LENGTHS, _MARGINS, strict=True):
        words = text.split()
        for pair, length in zip(words[::2], words[1::2], strict=True):
            first, second = (elements.NUMBERS[symbol] for symbol in pair)
            limits[first, second] = limits[second, first] = int(length) + margin
    return found


_LIMITS = _limits()
_VALENCE = np.array([VALENCES.get(number, 0) for number in range(max(VALENCES) + 1)])


class Bonds(NamedTuple):
    """The bonds of M molecules.

    Attributes:
      n_bonds: [M] of each.
      ends: [B, 2] atoms of the molecule, the smaller first.
      orders: [B] 1, 2 or 3.
    """

    n_bonds: np.ndarray
    ends: np.ndarray
    orders: np.ndarray


class Stability(NamedTuple):
    """What is stable of M molecules with A atoms in all.

    Attributes:
      atoms: [A] whether each atom is.
      molecules: [M] whether each molecule is.
    """

    atoms: np.ndarray
    molecules: np.ndarray


def orders(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Orders of the bonds of D molecules of one size: [D, n, n], 0 if there is none.

    Args:
      numbers: [D, n] atomic numbers.
      positions: [D, n, 3] in Å; an atom whose position is not finite has no bonds.

    Raises:
      UserError: an element that the table does not know.
    """
    _check(numbers)
    pairs = numbers[:, :, None], numbers[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        offsets = positions[:, :, None] - positions[:, None]
        distances = _PM * np.sqrt(np.einsum("dijk,dijk->dij", offsets, offsets))
    atoms = np.arange(numbers.shape[1])
    distances[:, atoms, atoms] = np.inf
    # The limits fall with the order: as many are kept as the highest order.
    found = sum((distances < limits[pairs]).astype(np.uint8) for limits in _LIMITS)
    return np.asarray(found)


def _check(numbers: np.ndarray) -> None:
    strange = set(np.unique(numbers).tolist()) - set(VALENCES)
    if strange:
        raise UserError(
            f"expected molecules of {elements.span(VALENCES)}, whose bonds the table "
            f"of EDM knows, found {elements.name(min(strange))}; leave out molecules "
            "of other elements"
        )


def find(structures: Structures) -> Bonds:
    """The bonds of all molecules, one molecule after the other.

    Raises:
      UserError: an element that the table does not know.
    """
    parts = [np.zeros((0, 4), int)]
    for members, rows in _groups(structures):
        found = orders(structures.numbers[rows], structures.positions[rows])
        molecule, first, second = np.nonzero(np.triu(found))
        columns = members[molecule], first, second, found[molecule, first, second]
        parts.append(np.stack(columns, axis=1).astype(int))
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    n_bonds = np.bincount(rows[:, 0], minlength=len(structures.n_node))
    return Bonds(n_bonds, rows[:, 1:3], rows[:, 3])


def measure(structures: Structures) -> Stability:
    """Which atoms and which molecules are stable.

    The shares of a set of molecules are the means of the two.

    Raises:
      UserError: an element that the table does not know.
    """
    atoms = np.zeros(len(structures.numbers), bool)
    molecules = np.zeros(len(structures.n_node), bool)
    for members, rows in _groups(structures):
        numbers = structures.numbers[rows]
        found = orders(numbers, structures.positions[rows])
        are_stable = found.sum(axis=2) == _VALENCE[numbers]
        atoms[rows], molecules[members] = are_stable, are_stable.all(axis=1)
    return Stability(atoms, molecules)


def _groups(structures: Structures) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers [D] of molecules of one size, and their atoms [D, n]."""
    starts = structures.starts
    for members in of_equal_size(structures.n_node):
        size = structures.n_node[members[0]]
        yield members, starts[members][:, None] + np.arange(size)
