"""Energies and forces of atoms: what an interatomic potential learns from.

Sources are rMD17, folders of `tools.generate_md` and files of one's own; all of them
end in `Frames` of eV and Å, for training, validation and test. `make_task` and
`assemble` make a data set of them.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np

from demetar import elements, files, heads
from demetar.data import contacts, edges, frame_sources, rmd17, units
from demetar.data.atom_features import node_features
from demetar.data.dataset import Dataset, identify
from demetar.data.frames import Frames, joined
from demetar.data.packing import make_packing
from demetar.data.readers.frames import Reading
from demetar.data.samples import Samples, centred, radial_extent, to_dtype
from demetar.errors import UserError
from demetar.settings import COUNT, DATA, Bounds, setting
from demetar.types import Head, Nodes, TaskSpec

SPLITS = frame_sources.SPLITS
ENERGY, FORCES = "energy", "forces"  # names of the heads
LENGTH_UNIT = "Å"
_MOST_EDGES = 100_000_000  # of complete graphs in all
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is read of the frames.

    Attributes:
      num_train, num_valid, num_test: None for all that there are.
      cutoff: None for complete graphs.
      batch_size: frames per batch.
      dtype: 'float32' or 'float64', of everything that the model sees.
    """

    labels: str = setting(
        "rmd17",
        "Of rMD17: the energies and forces of the revised data set, or those of MD17.",
        DATA,
        choices=rmd17.LABELS,
    )
    fold: int = setting(
        1,
        "Of rMD17: the number of the published split.",
        DATA,
        Bounds(least=rmd17.FOLDS[0], most=rmd17.FOLDS[-1]),
    )
    num_train: int | None = setting(
        None, "Training frames: the first.", DATA, COUNT, default_words=ALL
    )
    num_valid: int | None = setting(
        None, "Validation frames: the first.", DATA, COUNT, default_words=ALL
    )
    num_test: int | None = setting(
        None, "Test frames: the first.", DATA, COUNT, default_words=ALL
    )
    energy_key: str = setting(
        "energy", "Of extended xyz: the name of the energy in the comments.", DATA
    )
    forces_key: str = setting(
        "forces", "Of extended xyz: the name of the forces among the columns.", DATA
    )
    energy_unit: str = setting(
        "",
        f"Of own files: {', '.join(units.ENERGIES)}. Forces are in it per length.",
        DATA,
        default_words="eV, or kcal/mol in rMD17's and sGDML's .npz",
    )
    length_unit: str = setting(
        "", f"Of own files: {', '.join(units.LENGTHS)}.", DATA, default_words="Å"
    )
    cutoff: float | None = setting(
        None,
        "In Å, of graphs, envelopes and bases alike.",
        DATA,
        Bounds(above=0),
        default_words="none: complete graphs",
    )
    batch_size: int = 5
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Sets:
    """The frames of a source.

    Attributes:
      parts: {'train' | 'valid' | 'test': frames}.
      fingerprint: SHA-256 of the frames of the source, also of those that are left
        out, so that runs on fewer training frames name the same test frames.
      place: the folder or file that they were read from.
      notes: one line each, of what a person should know of them.
      rows: of one file that was split, where the frames of each split stand there.
    """

    parts: Mapping[str, Frames]
    fingerprint: str
    place: pathlib.Path
    notes: tuple[str, ...] = ()
    rows: Mapping[str, np.ndarray] | None = None

    def naming(self, split: str) -> Callable[[int], str]:
        """How errors name a frame of a split by its row there."""
        rows = None if self.rows is None else self.rows[split]

        def named(row: int) -> str:
            if rows is None:
                return f"frame {row} of the {split} frames"
            return f"frame {rows[row]} of {self.place.name}"

        return named


def load(dataset: str, root: pathlib.Path, settings: Settings) -> Sets:
    """The frames of a data set.

    Args:
      dataset: 'rmd17_ethanol' or another molecule of rMD17; or the path of a folder or
        file of `frame_sources.read_own`, from here or from `root`.
      root: where data sets lie.
      settings: what is read.

    Raises:
      UserError: there is no such data set, or it is damaged, or has fewer frames than
        are asked for; or a setting does not apply to it.
    """
    if frame_sources.is_rmd17(dataset):
        _refuse_others(settings, dataset, frame_sources.OF_RMD17)
        source = frame_sources.read_rmd17(dataset, root, settings.labels, settings.fold)
    else:
        place = _place(dataset, root)
        _refuse_others(settings, dataset, frame_sources.settings_of(place))
        source = frame_sources.read_own(
            place,
            Reading(*(getattr(settings, name) for name in Reading._fields)),
            settings.num_train,
            settings.num_valid,
        )
    parts = {
        split: _first(source.parts[split], split, getattr(settings, f"num_{split}"))
        for split in SPLITS
    }
    content = {split: part.fingerprint() for split, part in source.parts.items()}
    hashed = files.json_hash(content)
    notes = (*source.notes, *_alone(parts["train"], settings.cutoff))
    return Sets(parts, hashed, source.place, notes, source.rows)


def _alone(train: Frames, cutoff: float | None) -> list[str]:
    """A note if atoms have no other one within the cutoff."""
    if cutoff is None:
        return []
    distances = contacts.of(train).distances
    alone = np.count_nonzero(distances >= cutoff)
    if not alone:
        return []
    return [
        f"{alone / len(distances):.2%} of the atoms of training frames have no other "
        f"one within --cutoff={cutoff:g}: to the model they are all alike"
    ]


def _refuse_others(settings: Settings, dataset: str, known: Container[str]) -> None:
    """Refuse settings of other sources, which would say what is not true."""
    defaults = type(settings)()
    for name in (*frame_sources.OF_RMD17, *Reading._fields):
        found = getattr(settings, name)
        if name not in known and found != getattr(defaults, name):
            raise UserError(
                f"--{name}={found} says nothing of --dataset={dataset}, "
                f"{frame_sources.describe(name)}; leave it out"
            )


def _place(dataset: str, root: pathlib.Path) -> pathlib.Path:
    for place in (pathlib.Path(dataset), root / dataset):
        if place.exists():
            return place
    raise UserError(
        f"expected --dataset={rmd17.PREFIX}M with M of {', '.join(rmd17.MOLECULES)}, "
        f"or a folder or file of frames, found {dataset[:80]!r}, which is none"
    )


def _first(frames: Frames, split: str, count: int | None) -> Frames:
    if count is not None and not 1 <= count <= len(frames):
        raise UserError(
            f"expected --num_{split} between 1 and the {len(frames):,} {split} frames, "
            f"found {count:,}"
        )
    return frames.take(slice(count))


# --- Graphs -------------------------------------------------------------------------


def species(frames: Frames) -> tuple[str, ...]:
    """Symbols of the elements that occur, in the order of their numbers."""
    found = np.unique(frames.numbers).tolist()
    return tuple(elements.SYMBOLS[number - 1] for number in found)


def make_task(
    name: str, outputs: Sequence[Head], train: Frames, cutoff: float | None
) -> TaskSpec:
    """The task of frames; its species and averages are those of the training frames.

    Args:
      name: of the data set.
      outputs: the heads, of which nothing needs to be known yet.
      train: training frames.
      cutoff: in Å, of graphs and models alike; None for complete graphs.
    """
    known = species(train)
    samples = graphs(train, known, cutoff)
    num_edges = int(samples.n_edge.sum(dtype=np.int64))
    if cutoff is not None and not num_edges and (train.n_node > 1).any():
        raise UserError(
            "expected a --cutoff within which atoms have neighbours, found "
            f"{cutoff:g} Å, in which no two atoms of the training frames are; the "
            f"nearest are {contacts.of(train).distances.min():.3g} Å from each other"
        )
    return TaskSpec(
        name=name,
        heads=tuple(outputs),
        scalars=known,
        species=known,
        length_unit=LENGTH_UNIT,
        connectivity="complete" if cutoff is None else f"radius {cutoff:g}",
        radial_extent=cutoff or radial_extent(samples, len(train)),
        average_neighbors=num_edges / len(train.numbers) or 1.0,
        cutoff=cutoff,
    )


def _check_species(
    frames: Frames,
    known: Sequence[str],
    named: Callable[[int], str] = "frame {}".format,
) -> None:
    """Refuse atoms of other species.

    Args:
      frames: of any sizes.
      known: symbols of the species.
      named: how the error names the frame of a row.

    Raises:
      UserError: there is one; its frame is named.
    """
    strange = ~np.isin(frames.numbers, [elements.NUMBERS[symbol] for symbol in known])
    if strange.any():
        row = int(np.argmax(strange))
        frame, _ = edges.located(row, frames.n_node)
        raise UserError(
            f"expected the elements {', '.join(known)} of the training frames, found "
            f"{elements.name(int(frames.numbers[row]))} in {named(frame)} (from 0); "
            "leave it out, or train on such frames too"
        )


def graphs(frames: Frames, known: Sequence[str], cutoff: float | None) -> Samples:
    """The frames as graphs without targets, centred, in double precision.

    Args:
      frames: of any sizes.
      known: symbols of the species.
      cutoff: in Å; None for complete graphs.

    Raises:
      UserError: an atom is of another species; the first such frame is named. Or the
        edges of complete graphs do not fit the memory.
    """
    _check_species(frames, known)
    numbers = [elements.NUMBERS[symbol] for symbol in known]
    sizes = frames.n_node.astype(np.int64)
    most = int((sizes * (sizes - 1)).sum())
    if cutoff is None and most > _MOST_EDGES:
        raise UserError(
            f"expected at most {_MOST_EDGES:,} edges of complete graphs, found "
            f"{most:,}, with up to {sizes.max():,} atoms in a frame; give --cutoff"
        )
    features, _ = node_features(frames.numbers, "species", numbers)
    found = (
        edges.complete(frames.n_node)
        if cutoff is None
        else edges.chosen(frames.positions, frames.n_node, cutoff)
    )
    count = len(frames.numbers)
    samples = Samples(
        nodes=Nodes(frames.positions, features, np.zeros((count, 0, 3))),
        edges=np.zeros((int(found.n_edge.sum()), 0)),
        senders=found.senders,
        receivers=found.receivers,
        n_node=frames.n_node.astype(np.int32),
        n_edge=found.n_edge.astype(np.int32),
        targets={},
    )
    return centred(samples, ())


def to_samples(frames: Frames, task: TaskSpec) -> Samples:
    """The frames as graphs of a task, with its targets, in double precision.

    Args:
      frames: of any sizes.
      task: of `make_task`; what its energy head knows beforehand is subtracted.

    Returns:
      Targets are those of the heads that the task has: 'energy' [F, 1] and 'forces'
      [sum of n_node, 1, 3], in the units of the heads.

    Raises:
      UserError: as `graphs`.
    """
    samples = graphs(frames, task.species, task.cutoff)
    counts = heads.composition(task, samples.nodes.scalars, samples.n_node)
    values = {ENERGY: frames.energies[:, None], FORCES: frames.forces[:, None]}
    targets = {head.name: values[head.name] / unit_of(head) for head in task.heads}
    targets = heads.residual_all(task, targets, counts)
    return dataclasses.replace(samples, targets=targets)


def unit_of(head: Head) -> float:
    """The unit of a head in eV, or in eV/Å."""
    energy, _, _ = head.unit.partition(f"/{LENGTH_UNIT}")
    return units.energy(energy, f"the unit of the head {head.name!r}")


def assemble(
    sets: Sets,
    task: TaskSpec,
    settings: Settings,
    fitted: Mapping[str, Any] | None = None,
) -> Dataset:
    """The data set of all frames under a task, whose heads know what they are to know.

    Args:
      sets: the frames.
      task: of `make_task`.
      settings: size of a batch, and type of the numbers.
      fitted: how the heads came to know it, as JSON can hold it, for the identity.

    Raises:
      UserError: as `graphs`, or a number is too large for the type.
    """
    for split in SPLITS:
        _check_species(sets.parts[split], task.species, sets.naming(split))
    everything = joined([sets.parts[split] for split in SPLITS])
    sizes = [len(sets.parts[split]) for split in SPLITS]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    splits = dict(zip(SPLITS, rows, strict=True))
    samples = to_dtype(to_samples(everything, task), settings.dtype)
    packing = make_packing(samples, task, settings.batch_size)
    described = {**_described(task, settings), **(fitted or {})}
    identity = identify(sets.fingerprint, described, splits)
    return Dataset(task, packing, splits, sets.fingerprint, identity)


def _described(task: TaskSpec, settings: Settings) -> dict[str, Any]:
    """What decides the numbers beside the frames and the splits."""
    return {
        "cutoff": task.cutoff,
        "species": list(task.species),
        "units": {head.name: head.unit for head in task.heads},
        "dtype": settings.dtype,
    }
