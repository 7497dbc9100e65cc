"""Molecules as a data set that a denoiser is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from demetar.data import edges, molecules
from demetar.data.atom_features import species_of
from demetar.data.dataset import Dataset, identify
from demetar.data.packing import make_packing
from demetar.data.samples import (
    Samples,
    average_neighbors,
    centred,
    radial_extent,
    to_dtype,
)
from demetar.data.splits import (
    PARTS,
    SPLITS,
    counted,
    first_rows,
    numbered,
    split_rows,
)
from demetar.errors import UserError
from demetar.generation import schedule, states
from demetar.generation.noising import Noising
from demetar.settings import DATA, setting
from demetar.types import Nodes


@dataclasses.dataclass(frozen=True)
class Settings(schedule.Settings):
    """What is read of the molecules, and the noise that is added.

    Attributes:
      batch_size: molecules per batch, on average.
      dtype: 'float32' or 'float64', of everything that the model sees.
    """

    split: str = setting(
        "egnn",
        f"{', '.join(SPLITS)}, or a .npz of the row numbers train, valid and test.",
        DATA,
        default_words="egnn for QM9, random for own molecules",
    )
    num_train: int | None = counted("Training")
    num_valid: int | None = counted("Validation")
    num_test: int | None = counted("Test")
    batch_size: int = 64
    dtype: str = "float32"


def load(known: molecules.Molecules, settings: Settings) -> Dataset:
    """The data set: every batch goes through `Noising` before a model sees it.

    Raises:
      UserError: no such split, fewer molecules than are asked for, or molecules of one
        atom, which have no shape.
    """
    rows = rows_of(known, settings)
    chosen = np.concatenate([rows[part] for part in PARTS])
    _check(known, chosen)
    species = species_of(known)
    atoms = known.atoms(chosen)
    samples = clean_samples(
        *(known.numbers[atoms], known.positions[atoms]),
        *(known.n_atoms[chosen], species),
    )
    num_train = len(rows["train"])
    task = states.make_task(
        "QM9 generation" if known.source == "qm9" else "molecules generation",
        species,
        radial_extent(samples, num_train),
        average_neighbors(samples, num_train),
    )
    packing = make_packing(to_dtype(samples, settings.dtype), task, settings.batch_size)
    described = {"dtype": settings.dtype, "noise_steps": settings.noise_steps}
    return Dataset(
        *(task, packing, numbered(rows), known.fingerprint),
        identity=identify(known.fingerprint, described, rows),
        corrupt=Noising(schedule.polynomial(settings.noise_steps)),
    )


def rows_of(known: molecules.Molecules, settings: Settings) -> dict[str, np.ndarray]:
    """The rows of the molecules of each part.

    Raises:
      UserError: no such split, or fewer molecules than are asked for.
    """
    wanted = {part: getattr(settings, f"num_{part}") for part in PARTS}
    return first_rows(split_rows(settings.split, len(known.index)), wanted)


def _check(known: molecules.Molecules, rows: np.ndarray) -> None:
    small = rows[known.n_atoms[rows] < 2]
    if len(small):
        raise UserError(
            f"expected molecules of two atoms or more, found {len(small)} of one, "
            f"number {known.index[small[0]]} the first; leave them out"
        )


def clean_samples(
    numbers: np.ndarray,
    positions: np.ndarray,
    n_node: np.ndarray,
    species: Sequence[int],
) -> Samples:
    """Molecules as a denoiser sees them at time 0, without noise.

    Args:
      numbers: [A] atomic numbers, one molecule after the other.
      positions: [A, 3] in Å; where a molecule lies is no matter.
      n_node: [D].
      species: of the denoiser.
    """
    features = states.encode(numbers, species)
    scalars = np.concatenate([features, np.zeros((len(numbers), 1))], axis=1)
    samples = centred(complete_samples(positions, scalars, n_node), ())
    return dataclasses.replace(samples, centers=None)


def complete_samples(
    positions: np.ndarray, scalars: np.ndarray, n_node: np.ndarray
) -> Samples:
    """Complete graphs of atoms with positions [A, 3] and scalars [A, S]."""
    found = edges.complete(n_node)
    return Samples(
        nodes=Nodes(positions, scalars, np.zeros((len(positions), 0, 3))),
        edges=np.zeros((int(found.n_edge.sum()), 0)),
        senders=None,
        receivers=None,
        n_node=n_node.astype(np.int32),
        n_edge=found.n_edge.astype(np.int32),
        targets={},
    )
