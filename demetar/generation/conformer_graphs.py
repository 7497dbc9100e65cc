"""Conformers as graphs, and as a data set that a denoiser of shapes is trained on.

Graphs are complete within a molecule. Edges know the bond along them and whether their
atoms are two or three bonds apart, as the extended bonds of GeoDiff (Xu et al. 2022,
arXiv 2203.02923, section 4.2); atoms know their species, formal charge, number of bonds
and whether one is aromatic. No input knows of stereochemistry.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from demetar import connectivity, elements
from demetar.data import bonds, conformer_files
from demetar.data.conformer_files import Ensembles
from demetar.data.dataset import Dataset, identify
from demetar.data.packing import make_packing
from demetar.data.samples import (
    Samples,
    average_neighbors,
    centred,
    radial_extent,
    to_dtype,
)
from demetar.errors import UserError
from demetar.generation import conformer_noise, states
from demetar.settings import COUNT, DATA, Bounds, setting
from demetar.types import Nodes, TaskSpec

SPLITS = conformer_files.SPLITS
EDGE_FEATURES = (*bonds.TYPES, "2 bonds apart", "3 bonds apart")
ATOM_FEATURES = ("formal charge", "bonds", "aromatic", states.TIME)
_BONDS_SCALE = 4.0  # most bonds of an atom in organic molecules
_AROMATIC = 1 + bonds.TYPES.index("aromatic")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is read of the conformers, and the noise that is added.

    Attributes:
      num_train, num_valid, num_test: None for all of the data set's.
      batch_size: conformers per batch, on average.
      dtype: 'float32' or 'float64', of everything that the model sees.
    """

    num_train: int | None = setting(
        None, "Training molecules: the first.", DATA, COUNT, default_words="all"
    )
    num_valid: int | None = setting(
        None, "Validation molecules: the first.", DATA, COUNT, default_words="all"
    )
    num_test: int | None = setting(
        None,
        "Test molecules, whose conformers are sampled: the first.",
        DATA,
        COUNT,
        default_words="all",
    )
    noise_steps: int = setting(
        conformer_noise.STEPS,
        "Steps from a shape to noise.",
        DATA,
        Bounds(least=2, most=100_000),
    )
    score: str = setting(
        conformer_noise.VECTORS,
        "What the noise is: vectors of the model, or minus the gradient of its scalar "
        "by the positions, which any model with a scalar of a graph has.",
        DATA,
        choices=conformer_noise.SCORES,
    )
    batch_size: int = 64
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Sets:
    """The molecules of all splits, and the identity of their folder."""

    parts: Mapping[str, Ensembles]
    fingerprint: str


def read(folder: pathlib.Path, settings: Settings) -> Sets:
    """The molecules of a folder of `tools.generate_conformers`.

    Raises:
      UserError: there is no such folder, it is damaged or altered, has fewer molecules
        than are asked for, or a molecule in several pieces.
    """
    metadata = conformer_files.read_metadata(folder)
    parts = {}
    for split in SPLITS:
        found = conformer_files.read_split(folder, split, metadata)
        count = getattr(settings, f"num_{split}") or len(found)
        if count > len(found):
            raise UserError(
                f"expected --num_{split} of at most {len(found):,}, the molecules of "
                f"{folder}, found {count:,}"
            )
        parts[split] = found.take(range(count))
    return Sets(parts, metadata["fingerprint"])


def load(name: str, sets: Sets, settings: Settings) -> Dataset:
    """The data set: every batch goes through `ShapeNoising` before a model sees it.

    Args:
      name: of the task.
      sets: of `read`.
      settings: of the same.

    Raises:
      UserError: a molecule has an element that no training molecule has, or is in
        several pieces.
    """
    train = sets.parts["train"]
    species = tuple(np.unique(train.numbers).tolist())
    samples = centred(
        joined([to_samples(sets.parts[split], species) for split in SPLITS]), ()
    )
    samples = dataclasses.replace(samples, centers=None)  # where they lay is no matter
    task = make_task(name, species, samples, int(train.n_conformers.sum()), settings)
    sizes = [int(sets.parts[split].n_conformers.sum()) for split in SPLITS]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    splits = dict(zip(SPLITS, rows, strict=True))
    packing = make_packing(to_dtype(samples, settings.dtype), task, settings.batch_size)
    schedule = conformer_noise.sigmoid(settings.noise_steps)
    described = {
        name: getattr(settings, name) for name in ("dtype", "noise_steps", "score")
    }
    return Dataset(
        *(task, packing, splits, sets.fingerprint),
        identity=identify(sets.fingerprint, described, splits),
        corrupt=conformer_noise.ShapeNoising(schedule, settings.score),
    )


def make_task(
    name: str,
    species: Sequence[int],
    samples: Samples,
    num_train: int,
    settings: Settings,
) -> TaskSpec:
    """The task of a denoiser of shapes.

    Args:
      name: of the data set.
      species: atomic numbers, in the order of their columns.
      samples: in double precision, those of training first.
      num_train: how many these are.
      settings: whether it predicts vectors.
    """
    symbols = tuple(elements.SYMBOLS[number - 1] for number in species)
    return TaskSpec(
        name=f"{name} conformers",
        heads=conformer_noise.heads(settings.score),
        scalars=(*symbols, *ATOM_FEATURES),
        species=symbols,
        edge_features=EDGE_FEATURES,
        length_unit="Å",
        radial_extent=radial_extent(samples, num_train),
        average_neighbors=average_neighbors(samples, num_train),
        judged_by=states.POSITIONS,
    )


# --- Graphs -------------------------------------------------------------------------


def to_samples(
    found: Ensembles, species: Sequence[int], copies: np.ndarray | None = None
) -> Samples:
    """The conformers as graphs, at time 0 and without noise or targets.

    Args:
      found: the molecules.
      species: atomic numbers that inputs tell apart.
      copies: [D] how many graphs to make of each molecule, with all positions at zero;
        None for one per conformer.

    Raises:
      UserError: a molecule has another element, or is in several pieces.
    """
    counts = found.n_conformers if copies is None else copies
    parts = [
        _graphs(found.take([row]), species, int(counts[row]))
        for row in range(len(found))
    ]
    sizes = np.repeat(found.n_atoms, counts).astype(np.int32)
    features = np.concatenate([atoms for atoms, _ in parts])
    positions = found.positions if copies is None else np.zeros((len(features), 3))
    return Samples(
        nodes=Nodes(positions, features, np.zeros((len(features), 0, 3))),
        edges=np.concatenate([pairs for _, pairs in parts]),
        senders=None,
        receivers=None,
        n_node=sizes,
        n_edge=sizes * (sizes - 1),
        targets={},
    )


def joined(parts: Sequence[Samples]) -> Samples:
    """Complete graphs of several sets, one set after the other, without targets."""
    columns_of = zip(*(part.nodes for part in parts), strict=True)
    nodes = Nodes(*(np.concatenate(own) for own in columns_of))
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("edges", "n_node", "n_edge")
    }
    return Samples(nodes=nodes, senders=None, receivers=None, targets={}, **columns)


def _graphs(
    one: Ensembles, species: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the atoms [count n, S] and edges [count n (n - 1), F]."""
    strange = one.numbers[~np.isin(one.numbers, species)]
    if len(strange):
        raise UserError(
            f"expected the elements {elements.span(species)} of the training "
            f"molecules, found {elements.name(int(strange[0]))} in {one.smiles[0]!r}"
        )
    types = bonds.matrix(one.n_bonds, one.bonds, np.array([0]), len(one.numbers))[0]
    atoms = np.concatenate(
        [
            one.numbers[:, None] == np.asarray(species),
            one.charges[:, None],
            (types > 0).sum(axis=1, keepdims=True) / _BONDS_SCALE,
            (types == _AROMATIC).any(axis=1, keepdims=True),
            np.zeros((len(one.numbers), 1)),  # the time
        ],
        axis=1,
    )
    codes = extended(types, one.smiles[0])
    senders, receivers = connectivity.complete_edges(len(one.numbers))
    own = codes[receivers, senders, None] == 1 + np.arange(len(EDGE_FEATURES))
    return np.tile(atoms, (count, 1)), np.tile(own.astype(np.uint8), (count, 1))


def extended(types: np.ndarray, name: str = "a molecule") -> np.ndarray:
    """Codes of pairs of atoms [n, n]: 1 + the place in `EDGE_FEATURES`, 0 for none.

    Args:
      types: [n, n] of the bonds, 0 if there is none.
      name: of the molecule, for the error.

    Raises:
      UserError: no bonds join some of its atoms.
    """
    hops = np.eye(len(types), dtype=int)  # 1 + the number of bonds between, 0 unknown
    reached = hops > 0
    near = (types > 0).astype(int)
    for distance in range(1, len(types)):
        found = (reached @ near > 0) & ~reached
        if not found.any():
            break
        hops[found] = 1 + distance
        reached |= found
    if not reached.all():
        raise UserError(f"expected a molecule in one piece, found {name!r}")
    codes = types.astype(int)
    codes[hops == 3] = len(bonds.TYPES) + 1
    codes[hops == 4] = len(bonds.TYPES) + 2
    return codes
