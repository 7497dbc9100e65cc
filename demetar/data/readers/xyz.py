"""Own molecules as xyz or extended xyz, one after the other.

A molecule is the number of its atoms, a comment (`readers.comment`), and a line per
atom: element (a symbol in letters of any case, or the atomic number), x, y and z in Å.
Columns beyond these are passed over; `Properties=` of extended xyz may put the columns
in another order.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from demetar import elements
from demetar.data.molecules import MOST_ATOMS, Record
from demetar.data.readers import comment, text
from demetar.errors import UserError


def read(path: pathlib.Path) -> tuple[list[Record], list[str], list[str]]:
    """Molecules, names of their properties, and notes for a person.

    Raises:
      UserError: the file cannot be read, or a molecule of it; the line is named.
    """
    names: list[str] | None = None
    passed: dict[str, None] = {}  # names in their order
    records: list[Record] = []
    for record, told in stream(path):
        if names is None:
            names = list(told.properties)
        if told.properties.keys() != set(names):
            raise UserError(
                f"{record.place}: expected the properties "
                f"{text.listed(names) or 'none'}, "
                f"found {text.listed(list(told.properties)) or 'none'}"
            )
        passed |= dict.fromkeys(told.passed)
        properties = [told.properties[name] for name in names]
        records.append(record._replace(properties=properties))
    notes = [f"{path.name} was read by demetar's own reader of extended xyz"]
    if passed:
        notes.append(
            f"passed over in the comments of {path.name}, as no single numbers: "
            f"{text.listed(list(passed))}"
        )
    return records, names or [], notes


def stream(
    path: pathlib.Path, most: int = MOST_ATOMS, tolerant: bool = False
) -> Iterator[tuple[Record, comment.Comment]]:
    """Molecules one after the other, without properties, and their comments.

    Args:
      path: of the file.
      most, tolerant: of `blocks`.

    Raises:
      UserError: the file cannot be read, or a molecule of it; the line is named.
    """
    for count, block in enumerate(blocks(path, most=most, tolerant=tolerant), 1):
        with text.naming(block.place):
            atoms = [atom(*row, block.told.columns) for row in block.rows]
        numbers = [element for element, _ in atoms]
        positions = [value for _, position in atoms for value in position]
        smiles = block.told.smiles
        yield Record(block.place, count, numbers, positions, [], smiles), block.told


class Block(NamedTuple):
    """One structure of a file, whose atoms are not read yet.

    Attributes:
      place: file and line, for errors.
      told: its comment.
      rows: number and text of the line of each atom.
    """

    place: str
    told: comment.Comment
    rows: list[tuple[int, str]]


def blocks(
    path: pathlib.Path,
    what: str = "molecule",
    most: int = MOST_ATOMS,
    place: str = "{name}, line {line}",
    tolerant: bool = False,
) -> Iterator[Block]:
    """The structures of a file, one after the other.

    Args:
      path: of the file.
      what: a structure is called in errors.
      most: atoms of a structure.
      place: how errors name a structure by the `name` of the file, its `line` and its
        number from 0, `row`.
      tolerant: of `comment.parse`.

    Raises:
      UserError: the file cannot be read, a number of atoms is none, a comment cannot be
        understood, or atoms are missing; the line is named.
    """
    row = 0
    numbered = enumerate(text.lines(path), 1)
    for number, line in numbered:
        if not line.strip():
            continue
        named = place.format(name=path.name, line=number, row=row)
        with text.naming(named, f"a {what}"):
            size = _size(line, most)
            told = comment.parse(next(numbered, (0, ""))[1], tolerant)
            rows = list(itertools.islice(numbered, size))
            if len(rows) < size:
                raise ValueError(f"{size} atoms announced, {len(rows)} there")
        row += 1
        yield Block(named, told, rows)


def _size(line: str, most: int) -> int:
    word = line.strip()
    if not word.isascii() or not word.isdigit():
        raise ValueError(f"{word[:40]!r} is no number of atoms")
    if len(word) > text.MOST_DIGITS or not 1 <= int(word) <= most:
        raise ValueError(f"expected 1 to {most} atoms, found {word[:40]}")
    return int(word)


def atom(
    number: int, line: str, columns: comment.Columns
) -> tuple[int, tuple[float, ...]]:
    """Atomic number and position of one line.

    Raises:
      ValueError: it has other columns, or no element or number in one; the line is
        named.
    """
    words = split(number, line, columns)
    try:
        element = elements.number_of(words[columns.element])
        return element, vector(words, columns.position)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def split(number: int, line: str, columns: comment.Columns) -> list[str]:
    """The columns of one line.

    Raises:
      ValueError: it has more or fewer; the line is named.
    """
    words = line.split()
    if columns.total is None and len(words) < 4:
        raise ValueError(
            f"line {number} has {len(words)} columns, expected an element and x y z"
        )
    if columns.total is not None and len(words) != columns.total:
        raise ValueError(
            f"line {number} has {len(words)} columns, Properties= declares "
            f"{columns.total}"
        )
    return words


def vector(words: Sequence[str], start: int) -> tuple[float, ...]:
    """Three numbers from a column on.

    Raises:
      ValueError: one of them is none.
    """
    return tuple(map(text.number, words[start : start + 3]))
