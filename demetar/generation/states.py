"""What a molecule is while noise is added to it and removed: positions and features.

    positions   in Å, with the centroid of the molecule at the origin
    features    one column per species, 1/4 at the atoms of that species and 0 at all
                others, and the atomic number over 10

A model reads both, with the time t / T as a further scalar, and predicts the noise of
both. Source: Hoogeboom, Satorras, Vignac, Welling 2022, arXiv 2203.17003, section 3.3
and appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demetar import elements
from demetar.types import Array, Head, TaskSpec

POSITIONS, FEATURES = "position_noise", "feature_noise"  # names of the heads
TIME = "time"
NUMBER = "atomic number"
SPECIES_SCALE = 4.0
NUMBER_SCALE = 10.0


def make_task(
    name: str,
    species: Sequence[int],
    radial_extent: float,
    average_neighbors: float,
) -> TaskSpec:
    """The task of a denoiser of molecules.

    Each number of a noise counts alike, so the heads weigh as much as they have
    components per atom.

    Args:
      name: of the molecules.
      species: atomic numbers, in the order of the columns.
      radial_extent, average_neighbors: of `TaskSpec`.
    """
    size = len(species) + 1
    symbols = tuple(elements.SYMBOLS[number - 1] for number in species)
    return TaskSpec(
        name=name,
        heads=(
            Head(POSITIONS, "node_vector", weight=3.0, zero_mean=True),
            Head(FEATURES, "node_scalar", size=size, weight=float(size)),
        ),
        scalars=(*symbols, NUMBER, TIME),
        length_unit="Å",
        radial_extent=radial_extent,
        average_neighbors=average_neighbors,
    )


def is_denoiser(task: TaskSpec) -> bool:
    """Whether a task is to find the noise of molecules, or of their shapes."""
    return TIME in task.scalars and POSITIONS in [head.name for head in task.heads]


def knows_bonds(task: TaskSpec) -> bool:
    """Whether a denoiser is one of shapes alone, of `conformer_graphs.make_task`."""
    return is_denoiser(task) and NUMBER not in task.scalars


def species_of(task: TaskSpec) -> tuple[int, ...]:
    """Atomic numbers of the species of a denoiser."""
    names = task.scalars[: task.scalars.index(NUMBER)]
    return tuple(elements.NUMBERS[name] for name in names)


def encode(numbers: np.ndarray, species: Sequence[int]) -> np.ndarray:
    """Features of atoms [A]: [A, S + 1] float64."""
    one_hot = numbers[:, None] == np.asarray(species)
    columns = (one_hot / SPECIES_SCALE, numbers[:, None] / NUMBER_SCALE)
    return np.concatenate(columns, axis=1)


def decode(features: Array, species: Sequence[int]) -> np.ndarray:
    """The likeliest atomic numbers [A] of features [A, S + 1].

    That is the species of the largest column. The atomic number says the same another
    way; where they differ, as in the authors' code, the columns have the word.
    """
    columns = np.asarray(features)[:, : len(species)]
    found: np.ndarray = np.asarray(species)[np.argmax(columns, axis=1)]
    return found
