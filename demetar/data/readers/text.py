"""What readers of text share: lines, numbers, tables, and errors that name the row."""

from __future__ import annotations

import csv
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from demetar import files
from demetar.errors import UserError

MOST_NAMES = 10  # that an error or a note lists
MOST_DIGITS = 12  # of whole numbers

# Fortran writes 1.2D-06, and QM9's files have 1.2*^-6.
_EXPONENT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eEdD]|\*\^)([+-]?\d+)")


def number(word: str, unknown: bool = False) -> float:
    """A number of a text.

    Args:
      word: such as -1.5, 1e-3, 1.2D-06 or 1.2*^-6.
      unknown: whether 'nan' is allowed, for what is not known.

    Raises:
      ValueError: it is no finite number.
    """
    try:
        value = float(word)
    except ValueError:
        match = _EXPONENT.fullmatch(word)
        if match is None:
            raise ValueError(f"{word[:40]!r} is no number") from None
        value = float(f"{match[1]}e{match[2]}")
    finite = math.isfinite(value) or (unknown and math.isnan(value))
    if not finite or "_" in word or not word.isascii():
        raise ValueError(f"{word[:40]!r} is no finite number")
    return value


def whole(word: str) -> int:
    """A whole number of a text, 0 or more.

    Raises:
      ValueError: it is none, or has more than `MOST_DIGITS` digits.
    """
    if not (word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS):
        raise ValueError(f"{word[:40]!r} is no number of things")
    return int(word)


def lines(path: pathlib.Path) -> Iterator[str]:
    """The lines of a text file without their ends, in whatever encoding it has.

    Raises:
      UserError: the file cannot be read, or is no text.
    """
    with open(path, encoding=files.text_encoding(path)) as file:
        try:
            for line in file:
                yield line.rstrip("\n")
        except UnicodeError as error:
            raise UserError(f"cannot read {path} ({files.one_line(error)})") from None


def table(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each row of a CSV file, its header first.

    Raises:
      UserError: the file cannot be read, or a row of it.
    """
    number = 0
    with open(path, newline="", encoding=files.text_encoding(path)) as file:
        try:
            for number, row in enumerate(csv.reader(file), 1):
                yield f"{path.name}, row {number}", row
        except (csv.Error, UnicodeError) as error:
            raise UserError(
                f"cannot read {path} after row {number} ({files.one_line(error)})"
            ) from None


def columns(header: list[str], names: Iterable[str], path: pathlib.Path) -> list[int]:
    """Where the columns of these names are.

    Raises:
      UserError: there is no such column, or it is there twice.
    """
    for name in names:
        found = header.count(name)
        if found != 1:
            raise UserError(
                f"expected one column {name!r} in {path}, found {found or 'none'}"
            )
    return [header.index(name) for name in names]


def check_width(row: list[str], header: list[str]) -> None:
    """Refuse a row that has more or fewer cells than the header.

    Raises:
      ValueError: it has.
    """
    if len(row) != len(header):
        raise ValueError(f"{len(row)} columns, the header has {len(header)}")


def listed(names: Sequence[str]) -> str:
    """Names with commas between them, the first `MOST_NAMES` alone."""
    rest = len(names) - MOST_NAMES
    shown = ", ".join(files.one_line(name)[:80] for name in names[:MOST_NAMES])
    return f"{shown} and {rest:,} more" if rest > 0 else shown


class naming:
    """Turns what is wrong with a row into an error that names the row."""

    def __init__(self, place: str, expected: str = "a molecule"):
        """Args: place of the row and what it should hold, as the error has them."""
        self._place, self._expected = place, expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: Any, trace: Any) -> None:
        if isinstance(error, (ValueError, IndexError, KeyError, OverflowError)):
            raise UserError(
                f"{self._place}: expected {self._expected}, found what cannot be read "
                f"({files.one_line(error)})"
            ) from None
