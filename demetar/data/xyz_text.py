"""Molecules as the text of extended xyz."""

from __future__ import annotations

import numpy as np

from demetar import elements

COLUMNS = "species:S:1:pos:R:3"  # of `Properties=`
_DIGITS = 12  # of a number


def number(value: float) -> str:
    """A number as it is written."""
    return f"{value:.{_DIGITS}g}"


def block(numbers: np.ndarray, columns: np.ndarray, comment: str) -> str:
    """One molecule: the number of its atoms, a comment, and a line per atom.

    Args:
      numbers: [n] atomic numbers.
      columns: [n, C] positions in Å, and what else is told of each atom.
      comment: in one line.
    """
    lines = [
        " ".join([elements.SYMBOLS[own - 1], *map(number, row)])
        for own, row in zip(numbers, columns, strict=True)
    ]
    return "\n".join([str(len(numbers)), comment, *lines, ""])
