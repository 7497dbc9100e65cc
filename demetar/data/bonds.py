"""Chemical bonds of molecules: geometry first, then SMILES.

Which atoms are bonded is a question of distances; hydrogens go to their nearest heavy
atom. The order of a bond between heavy atoms comes from the SMILES if its graph is
that of the geometry atom by atom (in QM9 it nearly always is: both list the heavy atoms
in the order of GDB-17), else from the valences: the orders with which every atom has
its valence, found by a matching in polynomial time. If there are none, or an element
has no one valence, all bonds are single. Bonds of aromatic rings (Hückel's rule) are of
a type of their own, so that equivalent bonds have equal types, whichever Kekulé
structure was written.

Measured on the 130,831 molecules of QM9: all but 8 have the right valence on every
atom, hydrogens included; the 8 are strained cages with stretched bonds. Without their
SMILES, 99.8 % of the molecules get the same types: the rest are zwitterions, whose
charges geometry alone does not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from demetar import elements
from demetar.data import matching
from demetar.data.edges import Edges, of_equal_size, ranges
from demetar.data.smiles import AROMATIC, Pair, parse_smiles

TYPES = ("single", "double", "triple", "aromatic")

STRETCH = 1.15  # bonded: closer than this times the sum of the radii
HYDROGEN_STRETCH = 1.3  # of hydrogens, which have but one bond
# Of the elements that have one valence. Molecules of others have single bonds alone.
VALENCES = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1, 14: 4, 17: 1, 35: 1, 53: 1}
# Pairs of a cation and an anion that are compared, at most; so the time is bounded.
MOST_ION_PAIRS = 2_000

# `progress(items, description, total)` yields the items and tells how many have gone.
Progress: TypeAlias = Callable[[Iterable[Any], str, int | None], Iterable[Any]]


def silent(items: Iterable[Any], description: str, total: int | None) -> Iterable[Any]:
    """The `Progress` that tells nothing."""
    return items


def features(found: Edges, asked: bool = True) -> np.ndarray:
    """What the edges know of their bonds: [E, bond types] one-hot, or [E, 0]."""
    if not asked:
        return np.zeros((int(found.n_edge.sum()), 0), np.uint8)
    result: np.ndarray = (found.types[:, None] == 1 + np.arange(len(TYPES))).astype(
        np.uint8
    )
    return result


def matrix(
    n_bonds: np.ndarray, bonds: np.ndarray, members: np.ndarray, size: int
) -> np.ndarray:
    """Types of the bonds of molecules of one size, 0 if there is none: [D, n, n].

    Args:
      n_bonds, bonds: of `find`.
      members: [D] numbers of the molecules.
      size: number of atoms of each.
    """
    counts = n_bonds[members]
    starts = (np.cumsum(n_bonds) - n_bonds)[members]
    first, second, code = bonds[ranges(starts, counts)].T
    molecule = np.repeat(np.arange(len(members)), counts)
    types = np.zeros((len(members), size, size), np.uint8)
    types[molecule, first, second] = code
    types[molecule, second, first] = code
    return types


def find(
    n_atoms: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    smiles: Sequence[str],
    progress: Progress = silent,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Bonds of D molecules with A atoms in all.

    Args:
      n_atoms: [D] atoms of each.
      numbers: [A] atomic numbers.
      positions: [A, 3] in Å.
      smiles: D texts, '' if there is none.
      progress: tells how many have gone.

    Returns:
      n_bonds [D] int32, rows [sum of n_bonds, 3] uint8 of two atoms and a code, and how
      many molecules have single bonds alone because no orders fit.
    """
    starts = np.cumsum(n_atoms) - n_atoms
    pairs: list[np.ndarray] = [np.zeros((0, 2), int)] * len(n_atoms)
    for members in of_equal_size(n_atoms):
        rows = starts[members][:, None] + np.arange(n_atoms[members[0]])
        found = connections(numbers[rows], positions[rows])
        for member, own in zip(members, found, strict=True):
            pairs[member] = own
    found_codes: list[int] = []
    num_single = 0
    stops = starts + n_atoms
    for member in progress(range(len(n_atoms)), "bonds", len(n_atoms)):
        own = numbers[starts[member] : stops[member]].tolist()
        bonded = list(map(tuple, pairs[member].tolist()))
        orders, right = codes(own, bonded, smiles[member])
        found_codes += orders
        num_single += not right
    ends = np.concatenate(pairs)
    rows = np.concatenate([ends, np.array(found_codes, int)[:, None]], axis=1)
    return np.array(list(map(len, pairs)), np.int32), rows.astype(np.uint8), num_single


def connections(numbers: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
    """Bonded pairs of molecules of one size.

    Args:
      numbers: [D, n] atomic numbers.
      positions: [D, n, 3] in Å.

    Returns:
      D arrays [.., 2] of atom numbers, the smaller first, in lexical order.
    """
    count, size = numbers.shape
    radii = np.zeros(256, np.float32)
    for number, radius in elements.RADII.items():
        radii[number] = radius
    own = radii[numbers]
    offsets = positions[:, :, None] - positions[:, None]
    distances = np.sqrt(np.einsum("dijk,dijk->dij", offsets, offsets)).astype("f4")
    distances[:, np.arange(size), np.arange(size)] = np.inf
    # A hydrogen has one bond, to the nearest heavy atom if there is any.
    hydrogen = numbers == 1
    either = hydrogen[:, :, None] | hydrogen[:, None]
    stretch = np.where(either, HYDROGEN_STRETCH, STRETCH)
    bonded = distances < stretch * (own[:, :, None] + own[:, None])
    both = hydrogen[:, :, None] & hydrogen[:, None]
    lone = hydrogen.all(axis=1)[:, None, None]
    nearest = np.where(both & ~lone, np.inf, distances).argmin(axis=2)
    chosen = np.arange(size) == nearest[:, :, None]
    bonded &= np.where(hydrogen[:, :, None], chosen, True)
    bonded &= np.where(hydrogen[:, None], np.swapaxes(chosen, 1, 2), True)
    molecule, first, second = np.nonzero(np.triu(bonded))
    stops = np.searchsorted(molecule, np.arange(count + 1))
    pairs = np.stack([first, second], axis=1)
    return [pairs[a:b] for a, b in zip(stops[:-1], stops[1:], strict=True)]


def codes(
    numbers: Sequence[int], pairs: Sequence[Pair], smiles: str = ""
) -> tuple[list[int], bool]:
    """Types of the bonds of one molecule.

    Args:
      numbers: atomic numbers of all atoms.
      pairs: bonded pairs of `connections`.
      smiles: text whose heavy atoms stand in the order of those of `numbers`, if known.

    Returns:
      One code per pair: 1, 2, 3 or AROMATIC, and whether every atom has its valence.
    """
    if not VALENCES.keys() >= set(numbers):
        return [1] * len(pairs), False
    degrees = [0] * len(numbers)
    for first, second in pairs:
        degrees[first] += 1
        degrees[second] += 1
    heavy = [pair for pair in pairs if numbers[pair[0]] > 1 and numbers[pair[1]] > 1]
    known = _of_smiles(numbers, heavy, smiles)
    found = _with_valences(numbers, degrees, *known) if known else None
    if found is None:
        found = _of_valences(numbers, degrees, heavy)
    if found is None:
        return [1] * len(pairs), False  # no orders are right
    found |= dict.fromkeys(_aromatic_bonds(numbers, found), AROMATIC)
    return [found.get(pair, 1) for pair in pairs], True


def _of_smiles(
    numbers: Sequence[int], heavy: Sequence[Pair], smiles: str
) -> tuple[dict[Pair, int], list[int]] | None:
    """Bonds and charges of a SMILES of the same graph, by our atom numbers."""
    parsed = parse_smiles(smiles) if smiles else None
    if parsed is None or len(parsed.bonds) != len(heavy):
        return None
    atoms = [atom for atom, number in enumerate(numbers) if number > 1]
    if parsed.numbers != tuple(numbers[atom] for atom in atoms):
        return None
    orders = {(atoms[i], atoms[j]): code for (i, j), code in parsed.bonds.items()}
    if orders.keys() != set(heavy):
        return None
    charges = [0] * len(numbers)
    for atom, charge in zip(atoms, parsed.charges, strict=True):
        charges[atom] = charge
    return orders, charges


def _with_valences(
    numbers: Sequence[int],
    degrees: Sequence[int],
    orders: dict[Pair, int],
    charges: Sequence[int],
) -> dict[Pair, int] | None:
    """The orders, if they give every atom its valence."""
    missing = _missing(numbers, degrees, charges)
    aromatic = [pair for pair, code in orders.items() if code == AROMATIC]
    for pair, code in orders.items():
        if code != AROMATIC:
            for atom in pair:
                missing[atom] -= code - 1
    if max(missing, default=0) > 1:
        return None  # one double bond per atom of an aromatic ring
    solved = _solve(missing, aromatic)
    if solved is None:
        return None
    kekule = {pair: 1 + extra for pair, extra in zip(aromatic, solved, strict=True)}
    return orders | kekule


def _of_valences(
    numbers: Sequence[int], degrees: Sequence[int], heavy: Sequence[Pair]
) -> dict[Pair, int] | None:
    """Orders with which every atom has its valence, charged if it must be."""
    missing = _missing(numbers, degrees, [0] * len(numbers))
    solved = _solve(missing, heavy)
    if solved is None:
        charges = _charges(numbers, missing, heavy)
        if charges is None:
            return None
        solved = _solve(_missing(numbers, degrees, charges), heavy)
    if solved is None or max(solved, default=0) > 2:
        return None  # C2 would have a quadruple bond
    return {pair: 1 + extra for pair, extra in zip(heavy, solved, strict=True)}


def _charges(
    numbers: Sequence[int], missing: Sequence[int], heavy: Sequence[Pair]
) -> list[int] | None:
    """Formal charges that make the valences right: N+ with O-, N- or C-.

    One pair of charges is tried first, the first N and its first anion that will do,
    then any number of pairs. There nitrogens of nitro groups are charged sooner than
    others.

    Args:
      numbers: atomic numbers.
      missing: what each neutral atom lacks of its valence.
      heavy: pairs of bonded heavy atoms.

    Returns:
      A charge per atom, or None if there are none that will do.
    """
    nitrogens = [atom for atom, number in enumerate(numbers) if number == 7]
    anions = [
        atom
        for atom, number in enumerate(numbers)
        if number in (6, 7, 8) and missing[atom] > 0
    ]
    anions.sort(key=lambda atom: -numbers[atom])  # O- sooner than N-, and that than C-
    if len(nitrogens) * len(anions) > MOST_ION_PAIRS:
        return None
    for nitrogen in nitrogens:
        ions = [(nitrogen, anion) for anion in anions if anion != nitrogen]
        charges = _with_ions(missing, heavy, [nitrogen], ions)
        if charges is not None:
            return charges
    bonded = {*heavy, *(pair[::-1] for pair in heavy)}
    oxides = {n for n, anion in bonded if numbers[anion] == 8 and missing[anion] > 0}
    neutral = sorted(nitrogens, key=lambda atom: (atom in oxides, atom))
    ions = [(n, anion) for n in nitrogens for anion in anions if n != anion]
    ions.sort(key=lambda pair: pair not in bonded)
    return _with_ions(missing, heavy, neutral, ions)


def _with_ions(
    missing: Sequence[int],
    heavy: Sequence[Pair],
    nitrogens: Sequence[int],
    ions: Sequence[Pair],
) -> list[int] | None:
    """Charges of some nitrogens and their anions, if there are any that will do.

    It is one matching for any number of charges. Each N has two points more. A neutral
    N pairs them with each other. In N+ the first is one bond more, and the second pairs
    with a point that the anion does not use. An N of four bonds is N+ in any case, and
    has the second point alone.

    Args:
      missing, heavy: of `_charges`.
      nitrogens: that may be charged; the first stay neutral sooner.
      ions: cations with their anions; the first are preferred.
    """
    may = set(nitrogens)
    if any(lack < -(atom in may) for atom, lack in enumerate(missing)):
        return None
    needs = [max(lack, 0) for lack in missing]
    bond_points, ion_points = {}, {}
    for atom in nitrogens:
        bond_points[atom] = len(needs)
        ion_points[atom] = len(needs) + 1
        needs += [int(missing[atom] >= 0), 1]
    pairs = [(bond_points[atom], ion_points[atom]) for atom in nitrogens]
    pairs += [(ion_points[nitrogen], anion) for nitrogen, anion in ions]
    pairs += heavy
    for first, second in heavy:
        if first in may:
            pairs.append((bond_points[first], second))
        if second in may:
            pairs.append((first, bond_points[second]))
        if first in may and second in may:
            pairs.append((bond_points[first], bond_points[second]))
    counts = matching.fill(needs, pairs)
    if counts is None:
        return None
    charges = [0] * len(missing)
    for (nitrogen, anion), count in zip(ions, counts[len(nitrogens) :], strict=False):
        charges[nitrogen] += count
        charges[anion] -= count
    return charges


def _missing(
    numbers: Sequence[int], degrees: Sequence[int], charges: Sequence[int]
) -> list[int]:
    """What each atom lacks of its valence when all bonds are single.

    A positive N or O has one bond more, a positive C one less; a negative atom of
    either kind one less.
    """
    return [
        VALENCES.get(number, 0)
        + (charge if number in (7, 8) else -abs(charge))
        - degree
        for number, degree, charge in zip(numbers, degrees, charges, strict=True)
    ]


def _solve(missing: list[int], pairs: Sequence[Pair]) -> list[int] | None:
    """How much to add to the order of each pair, so that no atom lacks anything."""
    if min(missing, default=0) < 0:
        return None
    if not any(missing):
        return [0] * len(pairs)
    return matching.fill(missing, pairs)


def _aromatic_bonds(numbers: Sequence[int], orders: Mapping[Pair, int]) -> set[Pair]:
    """Bonds of rings of 5 or 6 atoms with six pi electrons (Hückel's rule).

    An atom with a double bond to an atom of a ring gives one electron, an N or O
    without double bond two, a C whose double bond leaves the rings none.
    """
    neighbors: dict[int, list[int]] = {}
    for first, second in orders:
        neighbors.setdefault(first, []).append(second)
        neighbors.setdefault(second, []).append(first)
    found: set[Pair] = set()
    double = [pair for pair, code in orders.items() if code == 2]
    if len(double) < 2:
        return found
    rings = list(_rings(neighbors))
    in_rings = {atom for ring in rings for atom in ring}
    partners = {a: b for pair in double for a, b in (pair, pair[::-1])}
    for ring in rings:
        sides = {
            (min(a, b), max(a, b))
            for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)
        }
        electrons = 0
        for atom in ring:
            if atom in partners:
                electrons += partners[atom] in in_rings
            elif numbers[atom] in (7, 8):
                electrons += 2
            else:
                break  # a saturated carbon
        else:
            if electrons == 6:
                found |= sides
    return found


def _rings(neighbors: Mapping[int, Sequence[int]]) -> Iterator[list[int]]:
    """Cycles of 5 or 6 atoms, each from its smallest atom and in both directions."""

    def extend(path: list[int]) -> Iterator[list[int]]:
        for atom in neighbors[path[-1]]:
            if atom == path[0] and len(path) in (5, 6):
                yield path
            elif atom > path[0] and atom not in path and len(path) < 6:
                yield from extend([*path, atom])

    for start in neighbors:
        yield from extend([start])
