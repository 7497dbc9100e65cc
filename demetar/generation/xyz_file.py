"""Molecules that a network drew, as extended xyz."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from demetar import files, places
from demetar.data import xyz_text
from demetar.data.edges import located
from demetar.errors import UserError
from demetar.generation.structures import Structures


def write(
    path: pathlib.Path,
    structures: Structures,
    properties: Mapping[str, np.ndarray] | None = None,
    smiles: Sequence[str] = (),
) -> None:
    """Molecules one after the other, in a file that is there only when it is whole.

    Args:
      path: of the file; an earlier one is replaced.
      structures: molecules whose positions are finite.
      properties: [M] numbers by their names, as {'stable': ...}.
      smiles: of every molecule, '' if it has none; empty for none at all.

    Raises:
      UserError: a position is not finite, or the file cannot be written.
    """
    bad = ~np.isfinite(structures.positions).all(axis=1)
    if bad.any():
        molecule, atom = located(int(np.argmax(bad)), structures.n_node)
        raise UserError(
            f"expected finite positions, found {structures.positions[bad][0].tolist()} "
            f"at atom {atom} of molecule {molecule} (from 0); leave it out"
        )
    try:
        with files.replacing(path) as file:
            for text in _blocks(structures, properties or {}, smiles):
                file.write(text.encode())
    except OSError as error:
        raise places.unwritten(path, error) from None


def _blocks(
    structures: Structures, properties: Mapping[str, np.ndarray], smiles: Sequence[str]
) -> Iterator[str]:
    for row, own in enumerate(structures.split()):
        told = [f"Properties={xyz_text.COLUMNS}"]
        told += [
            f"{name}={xyz_text.number(float(values[row]))}"
            for name, values in properties.items()
        ]
        if smiles and smiles[row]:
            told.append(f'smiles="{smiles[row]}"')
        yield xyz_text.block(own.numbers, own.positions, " ".join(told))
