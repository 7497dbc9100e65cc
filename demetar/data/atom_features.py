"""What a model is told of each atom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demetar import elements
from demetar.data import molecules

NODE_FEATURES = ("species", "egnn")


def species_of(known: molecules.Molecules) -> tuple[int, ...]:
    """Atomic numbers that inputs tell apart: the five of QM9, else all that occur."""
    if known.source == "qm9":
        return elements.QM9
    return tuple(np.unique(known.numbers).tolist())


def node_features(
    numbers: np.ndarray, kind: str, species: Sequence[int] = elements.QM9
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Scalar inputs of atoms [A, S] and their names.

    Args:
      numbers: [A] atomic numbers.
      kind: a member of `NODE_FEATURES`. The powers of 'egnn' are of Z over the largest
        of the species, which is 9 in QM9.
      species: of `species_of`.
    """
    one_hot = (numbers[:, None] == np.array(species)).astype(np.float64)  # [A, species]
    names = tuple(elements.SYMBOLS[number - 1] for number in species)
    if kind == "species":
        return one_hot, names
    largest = max(species)
    powers = (numbers[:, None] / largest) ** np.arange(3)  # [A, 3]
    features = one_hot[:, :, None] * powers[:, None]
    suffixes = ("", f"*Z/{largest}", f"*(Z/{largest})^2")
    return features.reshape(-1, 3 * len(species)), tuple(
        name + suffix for name in names for suffix in suffixes
    )
