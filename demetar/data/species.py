"""The species of nodes as scalars of a task: one-hot, and their multiples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar import elements
from demetar.data.atom_features import node_features
from demetar.data.edges import located
from demetar.errors import UserError
from demetar.types import TaskSpec


def species_of(task: TaskSpec) -> tuple[str, ...]:
    """The species of a task; earlier releases did not mark them among the scalars."""
    bases = [name.partition("*")[0] for name in task.scalars]
    if task.species or not all(name in elements.NUMBERS for name in bases):
        return task.species
    return tuple(dict.fromkeys(bases))


def columns_of(
    known: Sequence[str], values: np.ndarray, n_node: np.ndarray
) -> dict[str, np.ndarray]:
    """The scalars that species make: {name: [A]}, one-hot and its multiples.

    Args:
      known: species of the task.
      values: [A] names of species, or finite atomic numbers.
      n_node: [D] nodes of each system, for errors.

    Raises:
      UserError: a node is of another species.
    """
    numbers = atomic_numbers_of(known)
    rows = np.zeros(len(values), int)
    for value in np.unique(values).tolist():
        found = _row(known, numbers, value)
        if found is None:
            row = int(np.flatnonzero(values == value)[0])
            raise UserError(
                f"expected the species {', '.join(known)} that the model knows, found "
                f"{_named(value)} in {place(row, n_node)}"
            )
        rows[values == value] = found
    columns = {name: (rows == row).astype(float) for row, name in enumerate(known)}
    if numbers:
        for kind in ("species", "egnn"):
            features, names = node_features(np.array(numbers)[rows], kind, numbers)
            columns |= dict(zip(names, features.T, strict=True))
    return columns


def _row(known: Sequence[str], numbers: Sequence[int], value: Any) -> int | None:
    """The number of a species among those of the task; None if it is none of them."""
    if not numbers:
        return known.index(value) if value in known else None
    text = value if isinstance(value, str) else f"{value:g}"
    try:
        number = elements.number_of(text)
    except ValueError:
        return None
    return numbers.index(number) if number in numbers else None


def _named(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    return elements.name(int(value)) if value == int(value) else f"{value:g}"


def atomic_numbers_of(known: Sequence[str]) -> tuple[int, ...]:
    """Atomic numbers of species; none if they are not elements."""
    if not all(name in elements.NUMBERS for name in known):
        return ()
    return tuple(elements.NUMBERS[name] for name in known)


def numbers_of_nodes(
    known: Sequence[str], columns: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Atomic numbers [A] by the columns of `columns_of`; None for other species."""
    numbers = atomic_numbers_of(known)
    if not numbers:
        return None
    one_hot = np.stack([columns[name] for name in known])  # [species, A]
    found: np.ndarray = np.array(numbers, np.uint8)[one_hot.argmax(axis=0)]
    return found


def place(row: int, n_node: np.ndarray) -> str:
    """System and node of a row of all nodes, as errors name them."""
    system, node = located(row, n_node)
    return f"system {system}, node {node} (from 0)"
