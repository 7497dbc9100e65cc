"""What is to be predicted: files of systems, read a few at a time."""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from demetar import archives
from demetar.data import molecule_files, nbody_files, systems
from demetar.data.molecules import Record
from demetar.data.potentials import ENERGY, FORCES, LENGTH_UNIT
from demetar.data.readers import frames, xyz
from demetar.data.species import species_of
from demetar.data.systems import Systems
from demetar.errors import UserError
from demetar.generation import states
from demetar.types import TaskSpec
from experiments.run import overwriting, prediction_outputs

MOLECULES = (".xyz", ".extxyz", ".npz", ".sdf")
STATES = (".npz",)
_SIZES = "num_bodies"
# Arrays of atomic numbers and positions in `.npz` of frames of one molecule.
_OF_FRAMES = (("nuclear_charges", "coords"), ("z", "R"))


class Chunk(NamedTuple):
    """Some systems of one file.

    Attributes:
      file: number of the file.
      systems: as the predictor takes them.
    """

    file: int
    systems: Systems


def drawing_command(task: TaskSpec) -> str:
    """The module that draws with a denoiser."""
    name = "conformers" if states.knows_bonds(task) else "generate"
    return f"experiments.{name}"


def find(
    place: pathlib.Path, task: TaskSpec, out: pathlib.Path | None = None
) -> list[pathlib.Path]:
    """The files to read: one, or those of a folder in the order of their names.

    Args:
      place: file or folder.
      task: what the model reads.
      out: the file to write; if an earlier prediction is there, it is not among those
        to read.

    Raises:
      UserError: there are none, or the model predicts the noise of molecules.
    """
    if states.is_denoiser(task):
        raise UserError(
            f"expected a model that predicts something of what is in {place}, found "
            f"one that removes noise from molecules; python -m {drawing_command(task)} "
            "draws with it"
        )
    suffixes = MOLECULES if species_of(task) else STATES
    if not place.is_dir():
        if not place.is_file():
            raise UserError(f"expected a file or folder to read, found none at {place}")
        return [place]
    found = [
        path
        for path in sorted(place.iterdir())
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not (
            out is not None
            and overwriting.is_same(path, out)
            and prediction_outputs.is_prediction(path)
        )
    ]
    if not found:
        raise UserError(
            f"expected files {', '.join(suffixes)} in {place}, found none of them"
        )
    return found


def read(
    paths: Sequence[pathlib.Path],
    task: TaskSpec,
    size: int,
    frame: int | None = None,
) -> Iterator[Chunk]:
    """The systems of files, up to `size` at a time.

    Args:
      paths: of `find`.
      task: what the model reads.
      size: of a chunk.
      frame: of states with several frames, the one to read.

    Raises:
      UserError: a file cannot be read, or what it holds is not what the task asks for;
        the file is named.
    """
    for number, path in enumerate(paths):
        chunks = (
            _molecules(path, task, size)
            if species_of(task)
            else _states(path, task, size, frame)
        )
        for start, inputs in chunks:
            try:
                yield Chunk(number, systems.parse(task, inputs))
            except UserError as error:
                raise UserError(f"{path}, from system {start}: {error}") from None


def count(paths: Sequence[pathlib.Path]) -> int | None:
    """How many systems there are, if that is known before they are read."""
    if any(path.suffix.lower() != ".npz" for path in paths):
        return None
    total = 0
    for path in paths:
        shapes = archives.read_shapes(path)
        if "n_atoms" in shapes:
            total += math.prod(shapes["n_atoms"])
        else:
            names = (systems.POSITIONS, *(places for _, places in _OF_FRAMES))
            known = next((shapes[name] for name in names if name in shapes), ())
            total += math.prod(known[:-2][:1])
    return total


# --- Molecules ----------------------------------------------------------------------


def _molecules(
    path: pathlib.Path, task: TaskSpec, size: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of the first molecule and the inputs of each chunk."""
    kind, paths = molecule_files.find(path)
    if kind == "npz" and _holds_frames(path):
        yield from _frames(path, task, size)
        return
    records = molecule_files.stream(kind, paths)
    if kind == "xyz" and _is_potential(task):
        # As training reads them: large ones too, and nothing of their comments.
        found = xyz.stream(path, most=frames.MOST_ATOMS, tolerant=True)
        records = (record for record, _ in found)
    for start in itertools.count(step=size):
        part = list(itertools.islice(records, size))
        if not part:
            return
        yield start, _of_records(part)


def _of_records(records: Sequence[Record]) -> dict[str, Any]:
    for record in records:
        if len(record.positions) != 3 * len(record.numbers):
            raise UserError(
                f"{record.place}: expected {3 * len(record.numbers)} coordinates, "
                f"found {len(record.positions)}"
            )
    return {
        systems.POSITIONS: [np.reshape(own.positions, (-1, 3)) for own in records],
        systems.SPECIES: [np.array(own.numbers) for own in records],
        systems.SMILES: [own.smiles for own in records],
    }


# --- Molecules of a potential -------------------------------------------------------


def _is_potential(task: TaskSpec) -> bool:
    """Whether a model was trained on frames."""
    names = {head.name for head in task.heads}
    return {ENERGY, FORCES} <= names and task.length_unit == LENGTH_UNIT


def _holds_frames(path: pathlib.Path) -> bool:
    """Whether an `.npz` has frames of a potential rather than molecules."""
    shapes = archives.read_shapes(path)
    of_one = any({*pair} <= shapes.keys() for pair in _OF_FRAMES)
    return of_one or len(shapes.get("forces", ())) > 1


def _frames(
    path: pathlib.Path, task: TaskSpec, size: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `_molecules`, of a file that potentials are trained on.

    Raises:
      UserError: the model is no potential, or the file cannot be read.
    """
    if not _is_potential(task):
        raise UserError(
            f"{path} holds frames with energies and forces, which a model of "
            f"experiments.potential reads, found one of "
            f"{', '.join(head.name for head in task.heads)}; give it an .npz of "
            "n_atoms, numbers and positions alone"
        )
    found = frames.read(path, frames.Reading())
    for start in range(0, len(found), size):
        part = found.take(slice(start, start + size))
        ends = part.starts[1:]
        yield (
            start,
            {
                systems.POSITIONS: np.split(part.positions, ends),
                systems.SPECIES: np.split(part.numbers, ends),
            },
        )


# --- States of N bodies -------------------------------------------------------------


def _states(
    path: pathlib.Path, task: TaskSpec, size: int, frame: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `_molecules`, of arrays by the names of the task's inputs."""
    arrays = archives.read_npz(path, mapped=None)
    named = _named(path, task, arrays)
    positions = named[systems.POSITIONS]
    if positions.ndim == 4:
        row = _frame_row(path, positions.shape[1], frame)
        named = {
            name: own[:, row] if own.ndim == 4 else own for name, own in named.items()
        }
        positions = named[systems.POSITIONS]
    if positions.ndim == 2:
        named = {name: own[None] for name, own in named.items()}
        positions = named[systems.POSITIONS]
    num_systems = len(positions)
    wrong = [
        name for name, own in named.items() if own.shape[:2] != positions.shape[:2]
    ]
    if positions.ndim != 3 or wrong:
        raise UserError(
            f"{path}: expected positions [systems, n, 3] and as many of "
            f"{', '.join(wrong) or 'them'}, found positions {list(positions.shape)}"
        )
    sizes = arrays.get(_SIZES)
    for start in range(0, num_systems, size):
        part: dict[str, Any] = {
            name: own[start : start + size] for name, own in named.items()
        }
        if sizes is not None:
            part = {
                name: [
                    row[:n]
                    for row, n in zip(own, sizes[start : start + size], strict=True)
                ]
                for name, own in part.items()
            }
        yield start, part


def _named(
    path: pathlib.Path, task: TaskSpec, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays that the task reads, by keyword."""
    found = {}
    for item in systems.inputs_of(task):
        names = [name for name in (item.keyword, item.name) if name in arrays]
        if not names:
            raise UserError(
                f"expected an array {item.keyword!r} in {path}, found "
                f"{', '.join(arrays) or 'nothing'}; the model reads "
                f"{systems.describe_inputs(task)}"
            )
        found[item.keyword] = arrays[names[0]]
    return found


def _frame_row(path: pathlib.Path, num_frames: int, frame: int | None) -> int:
    """The row of a frame: by the metadata of a data set, else its number from 0.

    Raises:
      UserError: no frame was named, or there is no such one.
    """
    frames = list(range(num_frames))
    if (path.parent / nbody_files.METADATA).exists():
        frames = nbody_files.read_metadata(path.parent)["frames"]
    if frame not in frames or len(frames) != num_frames:
        shown = f"{frames[0]} to {frames[-1]}" if frames else "none"
        raise UserError(
            f"{path} holds {num_frames} frames of each system, {shown}; choose the one "
            f"to predict from by --frame, found {frame}"
        )
    return frames.index(frame)
