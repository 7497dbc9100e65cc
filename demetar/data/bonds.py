"""Chemical bonds of molecules of H, C, N, O and F: geometry first, then SMILES.

Which atoms are bonded is a question of distances; hydrogens go to their nearest heavy
atom. The order of a bond between heavy atoms comes from the SMILES where its graph is
that of the geometry atom by atom (in QM9 it nearly always is: both list the heavy atoms
in the order of GDB-17), else from the valences: the orders with which every atom has
its valence. Bonds of aromatic rings (Hückel's rule) are of a type of their own, so that
equivalent bonds have equal types, whichever Kekulé structure was written.

Measured on the 130,831 molecules of QM9: all but 8 have the right valence on every
atom, hydrogens included; the 8 are strained cages with stretched bonds. Without their
SMILES, 99.8 % of the molecules get the same types: the rest are zwitterions, whose
charges geometry alone does not tell.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

TYPES = ("single", "double", "triple", "aromatic")
AROMATIC = 4  # codes are orders 1, 2, 3, and this

# Covalent radii in Å: Cordero et al. 2008, doi 10.1039/b801115j, table 2.
RADII = {1: 0.31, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57}
STRETCH = 1.15  # bonded: closer than this times the sum of the radii
HYDROGEN_STRETCH = 1.3  # of hydrogens, which have but one bond
VALENCES = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}

Pair = tuple[int, int]  # atom numbers, the smaller first


@dataclasses.dataclass(frozen=True)
class Smiles:
    """The heavy atoms of a SMILES text in its order.

    Attributes:
      numbers: atomic numbers.
      charges: formal charges.
      bonds: {pair: code}.
    """

    numbers: tuple[int, ...]
    charges: tuple[int, ...]
    bonds: Mapping[Pair, int]


_TOKEN = re.compile(
    r"\[(?P<isotope>\d*)(?P<bracket>[A-Za-z])(?P<chiral>@{0,2})(?P<hydrogens>H\d*)?"
    r"(?P<charge>[+-]\d*)?\]|(?P<atom>[CNOFcno])|(?P<bond>[-=#:/\\])"
    r"|(?P<ring>%\d\d|\d)|(?P<open>\()|(?P<close>\))|(?P<dot>\.)"
)
_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
_ORDERS = {"-": 1, "/": 1, "\\": 1, "=": 2, "#": 3, ":": AROMATIC}


@functools.lru_cache(maxsize=4096)
def parse_smiles(text: str) -> Smiles | None:
    """A SMILES text of H, C, N, O and F; None where it is of another kind."""
    reader = _Reader()
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or not reader.read(match):
            return None
        position = match.end()
    if reader.rings or reader.stack:
        return None
    return Smiles(tuple(reader.numbers), tuple(reader.charges), reader.bonds)


class _Reader:
    """The state of reading a SMILES text from left to right."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.charges: list[int] = []
        self.bonds: dict[Pair, int] = {}
        self.rings: dict[str, tuple[int, int | None]] = {}
        self.stack: list[int | None] = []
        self._aromatic: list[bool] = []
        self._last: int | None = None
        self._order: int | None = None

    def read(self, match: re.Match[str]) -> bool:
        """Take in one token; False where it makes no sense."""
        symbol = match["bracket"] or match["atom"]
        if symbol:
            return self._atom(symbol, match["charge"] or "")
        if match["bond"]:
            self._order = _ORDERS[match["bond"]]
        elif match["open"]:
            self.stack.append(self._last)
        elif match["close"]:
            if not self.stack:
                return False
            self._last = self.stack.pop()
        elif match["dot"]:
            self._last = None
        elif match["ring"]:
            return self._ring(match["ring"])
        return True

    def _atom(self, symbol: str, charge: str) -> bool:
        number = _NUMBERS.get(symbol.upper())
        if number is None:
            return False
        self.numbers.append(number)
        self.charges.append(int(charge + "1" if charge in ("+", "-") else charge or 0))
        self._aromatic.append(symbol.islower())
        atom = len(self.numbers) - 1
        if self._last is not None:
            self._join(self._last, atom, self._order)
        self._last, self._order = atom, None
        return True

    def _ring(self, label: str) -> bool:
        if self._last is None:
            return False
        if label not in self.rings:
            self.rings[label] = (self._last, self._order)
        else:
            other, order = self.rings.pop(label)
            if other == self._last:
                return False
            self._join(other, self._last, self._order or order)
        self._order = None
        return True

    def _join(self, first: int, second: int, order: int | None) -> None:
        if order is None:
            both = self._aromatic[first] and self._aromatic[second]
            order = AROMATIC if both else 1
        self.bonds[min(first, second), max(first, second)] = order


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
    for number, radius in RADII.items():
        radii[number] = radius
    own = radii[numbers]
    offsets = positions[:, :, None] - positions[:, None]
    distances = np.sqrt(np.einsum("dijk,dijk->dij", offsets, offsets)).astype("f4")
    distances[:, np.arange(size), np.arange(size)] = np.inf
    # A hydrogen has one bond, to the nearest heavy atom where there is any.
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
    """The orders, where they give every atom its valence."""
    missing = _missing(numbers, degrees, charges)
    aromatic = [pair for pair, code in orders.items() if code == AROMATIC]
    for pair, code in orders.items():
        if code != AROMATIC:
            for atom in pair:
                missing[atom] -= code - 1
    solved = _solve(missing, aromatic, most=1)
    if solved is None:
        return None
    kekule = {pair: 1 + extra for pair, extra in zip(aromatic, solved, strict=True)}
    return orders | kekule


def _of_valences(
    numbers: Sequence[int], degrees: Sequence[int], heavy: Sequence[Pair]
) -> dict[Pair, int] | None:
    """Orders with which every atom has its valence, charged where it must be."""
    for charges in _charges(numbers, degrees):
        missing = _missing(numbers, degrees, charges)
        solved = _solve(missing, heavy, most=2)
        if solved is not None:
            return {pair: 1 + extra for pair, extra in zip(heavy, solved, strict=True)}
    return None


def _charges(numbers: Sequence[int], degrees: Sequence[int]) -> Iterator[list[int]]:
    """No charge; then one N+ with one anion (O-, N- or C-)."""
    neutral = [0] * len(numbers)
    yield neutral
    for plus, number in enumerate(numbers):
        if number != 7:
            continue
        for minus, other in enumerate(numbers):
            if minus != plus and other in (6, 7, 8):
                charges = neutral.copy()
                charges[plus], charges[minus] = 1, -1
                yield charges


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


def _solve(missing: list[int], pairs: Sequence[Pair], most: int) -> list[int] | None:
    """How much to add to the order of each pair, so that no atom lacks anything."""
    if min(missing, default=0) < 0:
        return None
    if not pairs:
        return None if any(missing) else []
    if not any(missing):
        return [0] * len(pairs)
    first, second = pairs[0]
    for extra in range(min(most, missing[first], missing[second]), -1, -1):
        left = missing.copy()
        left[first] -= extra
        left[second] -= extra
        rest = pairs[1:]
        if any(left[a] and not any(a in pair for pair in rest) for a in pairs[0]):
            continue  # no bond is left that could mend this atom
        solved = _solve(left, rest, most)
        if solved is not None:
            return [extra, *solved]
    return None


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
