"""QM9 as `gdb9.sdf` with `gdb9.sdf.csv` beside it."""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Iterator

from demetar import elements
from demetar.data.molecules import Record
from demetar.data.readers import text
from demetar.errors import UserError

COLUMNS = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("u0", "u298", "h298", "g298", "cv"),
)
_END = "$$$$"  # of each molecule
_BEHIND = re.compile("[MAVGS] {2}")  # first line behind the atoms and bonds
_BOND = re.compile(r"[ \d]{9,}\s*")  # whole numbers of three characters each


def records(paths: list[pathlib.Path]) -> Iterator[Record]:
    """Blocks of the structure file, joined with their rows of the table.

    Args:
      paths: the structures and the table.

    Raises:
      UserError: a file cannot be read, a block or a row is bad, or they are not of the
        same molecules.
    """
    path, table = paths
    properties = _properties(table)
    count = 0
    for count, block in enumerate(_blocks(path), 1):
        place = f"{path.name}, block {count}"
        with text.naming(place):
            if block[0] not in properties:
                raise ValueError(f"{table.name} has no {block[0][:40]!r}")
            yield _record(place, block, properties[block[0]])
    if count != len(properties):
        raise UserError(
            f"expected the {len(properties)} molecules of {table.name} in {path}, "
            f"found {count}; it may be truncated: fetch it again"
        )


def _properties(path: pathlib.Path) -> dict[str, list[float]]:
    """The properties of each molecule by its name."""
    rows = text.table(path)
    _, header = next(rows, ("", []))
    (name,) = text.columns(header, ["mol_id"], path)
    chosen = text.columns(header, COLUMNS, path)
    properties: dict[str, list[float]] = {}
    for place, row in rows:
        with text.naming(place):
            text.check_width(row, header)
            if row[name] in properties:
                raise ValueError(f"{row[name][:40]!r} is there twice")
            properties[row[name]] = [text.number(row[column]) for column in chosen]
    return properties


def _blocks(path: pathlib.Path) -> Iterator[list[str]]:
    """The lines of each molecule without its end."""
    block: list[str] = []
    for line in text.lines(path):
        if line.rstrip() == _END:
            yield block
            block = []
        else:
            block.append(line)
    if any(line.strip() for line in block):
        raise UserError(
            f"{path} ends within a molecule, without {_END}; it may be truncated: "
            "fetch it again"
        )


def _record(place: str, block: list[str], properties: list[float]) -> Record:
    if len(block) < 5 or "V3000" in block[3]:
        raise ValueError("it is no molecule of version V2000")
    size = text.whole(block[3][:3].strip())
    _check_atoms(block[4:], size)
    atoms = [line.split() for line in block[4 : 4 + size]]
    return Record(
        place,
        text.whole(block[0].rpartition("_")[2]),
        [elements.number_of(atom[3]) for atom in atoms],
        [text.number(word) for atom in atoms for word in atom[:3]],
        properties,
        "",
    )


def _check_atoms(lines: list[str], size: int) -> None:
    """Refuse a block of more or fewer atoms than it announces; bonds are not read.

    Raises:
      ValueError: it is one, or it does not end with M  END.
    """
    table = list(itertools.takewhile(lambda line: not _BEHIND.match(line), lines))
    rest = lines[len(table) :]
    if not any(line.startswith("M  END") for line in rest):
        raise ValueError(f"{size} atoms announced, then M  END is missing")
    found = sum(_BOND.fullmatch(line) is None for line in table)
    if found != size:
        raise ValueError(f"{size} atoms announced, {found} there")
