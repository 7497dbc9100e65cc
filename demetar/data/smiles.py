"""SMILES texts of H, C, N, O and F: their heavy atoms, charges and bonds."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

AROMATIC = 4  # codes of bonds are orders 1, 2, 3, and this

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
    """A SMILES text of H, C, N, O and F; None if it is of another kind."""
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
        """Take in one token; False if it makes no sense."""
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
