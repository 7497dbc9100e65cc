"""Own molecules as arrays.

`numbers` [A] atomic numbers, `positions` [A, 3] in Å, `n_atoms` [D], and any properties
as arrays [D] of real numbers, NaN if unknown; their names are targets.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np

from demetar import archives, elements, files
from demetar.data.molecules import Record
from demetar.errors import UserError


def read(path: pathlib.Path) -> tuple[Iterator[Record], list[str]]:
    """Molecules, and names of their properties.

    Raises:
      UserError: the file cannot be read, or an array is missing, or of another shape or
        type, or has a number that cannot be.
    """
    arrays = archives.read_npz(path)
    missing = {"numbers", "positions", "n_atoms"} - arrays.keys()
    if missing:
        raise UserError(f"expected an array {min(missing)!r} in {path}, found none")
    numbers, positions, n_atoms = (
        arrays.pop(name) for name in ("numbers", "positions", "n_atoms")
    )
    sizes = files.whole_numbers(n_atoms, "n_atoms", path, [None])
    total = int(sizes.sum())
    if numbers.shape != (total,) or positions.shape != (total, 3):
        raise UserError(
            f"expected numbers [{total}] and positions [{total}, 3] for the "
            f"{total} atoms of n_atoms in {path}, found {list(numbers.shape)} and "
            f"{list(positions.shape)}"
        )
    species = files.whole_numbers(
        numbers, "numbers", path, [total], least=1, most=elements.MOST
    )
    places = files.real_numbers(positions, "positions", path, [total, 3])
    properties = [
        _property(values, name, path, len(sizes)) for name, values in arrays.items()
    ]
    return _records(path, sizes, species, places, properties), list(arrays)


def _property(
    values: np.ndarray, name: str, path: pathlib.Path, count: int
) -> np.ndarray:
    """The values [D] as float64; NaN stands for what is not known."""
    unknown = np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        unknown = np.isnan(values)
    known = files.real_numbers(
        np.where(unknown, np.zeros((), values.dtype), values), name, path, [count]
    )
    return np.where(unknown, np.nan, known)


def _records(
    path: pathlib.Path,
    sizes: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    properties: list[np.ndarray],
) -> Iterator[Record]:
    stops = np.cumsum(sizes)
    for row, (size, stop) in enumerate(zip(sizes, stops, strict=True)):
        own = slice(stop - size, stop)
        yield Record(
            f"{path.name}, molecule {row} (from 0)",
            row + 1,
            numbers[own].tolist(),
            positions[own].ravel().tolist(),
            [values[row] for values in properties],
            "",
        )
