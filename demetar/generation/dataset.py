"""Molecules as a data set that a denoiser is trained on."""

from __future__ import annotations

import dataclasses

import numpy as np

from demetar.data import edges, molecules
from demetar.data.atom_features import species_of
from demetar.data.dataset import Dataset, identify
from demetar.data.packing import make_packing
from demetar.data.samples import Samples, centred, radial_extent, to_dtype
from demetar.data.splits import PARTS, SPLITS, first_rows, split_rows
from demetar.errors import UserError
from demetar.generation import schedule, states
from demetar.generation.noising import Noising
from demetar.settings import DATA, setting
from demetar.types import Nodes

ALL = "all"  # default of numbers of molecules


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
    num_train: int | None = setting(
        None, "Training molecules: the first of the split's.", DATA, default_words=ALL
    )
    num_valid: int | None = setting(
        None, "Validation molecules: the first of the split's.", DATA, default_words=ALL
    )
    num_test: int | None = setting(
        None, "Test molecules: the first of the split's.", DATA, default_words=ALL
    )
    batch_size: int = 64
    dtype: str = "float32"


def load(known: molecules.Molecules, settings: Settings) -> Dataset:
    """The data set: every batch goes through `Noising` before a model sees it.

    Raises:
      UserError: no such split, fewer molecules than are asked for, or molecules of one
        atom, which have no shape.
    """
    wanted = {part: getattr(settings, f"num_{part}") for part in PARTS}
    rows = first_rows(split_rows(settings.split, len(known.index)), wanted)
    chosen = np.concatenate([rows[part] for part in PARTS])
    _check(known, chosen)
    species = species_of(known)
    samples = centred(_samples(known, chosen, species), ())
    samples = dataclasses.replace(samples, centers=None)  # where they lay is no matter
    num_train = len(rows["train"])
    num_edges = int(samples.n_edge[:num_train].sum(dtype=np.int64))
    task = states.make_task(
        "QM9 generation" if known.source == "qm9" else "molecules generation",
        species,
        radial_extent(samples, num_train),
        num_edges / int(samples.n_node[:num_train].sum()),
    )
    packing = make_packing(to_dtype(samples, settings.dtype), task, settings.batch_size)
    stops = np.cumsum([len(rows[part]) for part in PARTS])
    splits = {
        part: np.arange(stop - len(rows[part]), stop)
        for part, stop in zip(PARTS, stops, strict=True)
    }
    described = {"dtype": settings.dtype, "noise_steps": settings.noise_steps}
    return Dataset(
        *(task, packing, splits, known.fingerprint),
        identity=identify(known.fingerprint, described, rows),
        corrupt=Noising(schedule.polynomial(settings.noise_steps)),
    )


def _check(known: molecules.Molecules, rows: np.ndarray) -> None:
    small = rows[known.n_atoms[rows] < 2]
    if len(small):
        raise UserError(
            f"expected molecules of two atoms or more, found {len(small)} of one, "
            f"number {known.index[small[0]]} the first; leave them out"
        )


def _samples(
    known: molecules.Molecules, rows: np.ndarray, species: tuple[int, ...]
) -> Samples:
    """The molecules of some rows, in that order: at time 0, without noise."""
    n_node = known.n_atoms[rows]
    starts = (np.cumsum(known.n_atoms) - known.n_atoms)[rows]
    atoms = edges.ranges(starts, n_node)
    features = states.encode(known.numbers[atoms], species)
    scalars = np.concatenate([features, np.zeros((len(atoms), 1))], axis=1)
    return complete_samples(known.positions[atoms], scalars, n_node)


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
