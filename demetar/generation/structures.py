"""Molecules as three flat arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from demetar.data.edges import ranges


class Structures(NamedTuple):
    """M molecules with A atoms in all, one after the other.

    Attributes:
      numbers: [A] atomic numbers.
      positions: [A, 3] float64 in Å.
      n_node: [M] atoms of each.
    """

    numbers: np.ndarray
    positions: np.ndarray
    n_node: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """[M] the first atom of each molecule."""
        return np.asarray(np.cumsum(self.n_node) - self.n_node)

    def take(self, rows: list[int] | np.ndarray) -> Structures:
        """The molecules of some rows, in that order.

        Args:
          rows: numbers of the molecules from 0, or [M] whether each is taken.
        """
        chosen = np.arange(len(self.n_node))[rows]
        sizes = self.n_node[chosen]
        atoms = ranges(self.starts[chosen], sizes)
        return Structures(self.numbers[atoms], self.positions[atoms], sizes)

    def split(self) -> list[Structures]:
        """The molecules one by one."""
        return [
            Structures(self.numbers[a : a + n], self.positions[a : a + n], size[None])
            for a, n, size in zip(
                self.starts.tolist(), self.n_node.tolist(), self.n_node, strict=True
            )
        ]
