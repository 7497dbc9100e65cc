"""Where frames come from: rMD17, folders of `tools.generate_md`, and own files.

Own files are those of `demetar.data.readers.frames`: one file, which is split at
random, or a folder of train, valid and test. No frame may be in two splits.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from demetar.data import frame_checks, frame_files, frame_notes, rmd17
from demetar.data.frames import Frames
from demetar.data.readers import frames as reader
from demetar.data.readers.frames import Reading
from demetar.errors import UserError

SPLITS = frame_files.SPLITS
_SHARES = (0.8, 0.1)  # of training and validation, of one file
_FEWEST = 10  # frames of one file

OF_RMD17 = ("labels", "fold")  # settings that apply to it alone
_OF_XYZ = ("energy_key", "forces_key")
_UNITS = ("energy_unit", "length_unit")


@dataclasses.dataclass(frozen=True)
class Source:
    """The frames of a source.

    Attributes:
      parts: {'train' | 'valid' | 'test': frames}.
      place: the folder or file that they were read from.
      notes: one line each, of what a person should know of them.
      rows: of one file that was split, where the frames of each split stand there.
    """

    parts: Mapping[str, Frames]
    place: pathlib.Path
    notes: tuple[str, ...] = ()
    rows: Mapping[str, np.ndarray] | None = None


def settings_of(place: pathlib.Path) -> tuple[str, ...]:
    """The settings that say how a file, or the files of a folder, are read."""
    if place.is_dir() and frame_files.is_folder(place):
        return ()
    paths = [place]
    if place.is_dir():
        paths = list(_files_of_splits(place).values())
    has_xyz = any(path.suffix.lower() != ".npz" for path in paths)
    return (*_OF_XYZ, *_UNITS) if has_xyz else _UNITS


def describe(name: str) -> str:
    """Of what source a setting says something."""
    if name in OF_RMD17:
        return "as it does of rMD17"
    return "as it does of extended xyz" if name in _OF_XYZ else "which has its units"


def is_rmd17(dataset: str) -> bool:
    """Whether it is the name of a molecule of rMD17."""
    molecule = dataset.removeprefix(rmd17.PREFIX)
    return dataset.startswith(rmd17.PREFIX) and molecule in rmd17.MOLECULES


# --- rMD17 --------------------------------------------------------------------------


def read_rmd17(dataset: str, root: pathlib.Path, labels: str, fold: int) -> Source:
    """The protocol: 950 + 50 of the 1,000 training frames, and 1,000 for the test.

    Args:
      dataset: 'rmd17_ethanol' or another one.
      root: of `rmd17.find`.
      labels: one of `rmd17.LABELS`.
      fold: one of `rmd17.FOLDS`.

    Raises:
      UserError: the files are missing or damaged, or have too few or too many frames.
    """
    molecule = dataset.removeprefix(rmd17.PREFIX)
    folder = rmd17.find(root, molecule, fold)
    arrays = rmd17.read(folder, molecule, fold)
    train, test = (
        rmd17.to_frames(arrays[part], labels, f"the {part} frames of {molecule}")
        for part in rmd17.PARTS
    )
    if not rmd17.NUM_VALID < len(train) <= rmd17.MOST_TRAIN:
        raise UserError(
            f"expected more than {rmd17.NUM_VALID} and at most {rmd17.MOST_TRAIN:,} "
            f"training frames of {molecule}, as its authors advise, found "
            f"{len(train):,} in {folder}"
        )
    cut = len(train) - rmd17.NUM_VALID
    parts = {
        "train": train.take(slice(cut)),
        "valid": train.take(slice(cut, None)),
        "test": test,
    }
    frame_checks.refuse_duplicates(parts, str(folder))
    return Source(parts, folder)


# --- Folders and files --------------------------------------------------------------


def read_own(
    place: pathlib.Path, reading: Reading, num_train: int | None, num_valid: int | None
) -> Source:
    """The frames of a folder, or of a file.

    Args:
      place: of `tools.generate_md`, a folder of train, valid and test, or a file.
      reading: how files are read.
      num_train, num_valid: frames of one file; None for 80 and 10 % of them.

    Raises:
      UserError: there is nothing that can be read, a frame is bad, or frames of one
        split are in another too.
    """
    if place.is_dir() and frame_files.is_folder(place):
        metadata = frame_files.read_metadata(place)
        parts = {
            split: frame_files.read_split(place, split, metadata) for split in SPLITS
        }
        notes: tuple[str, ...] = ()
    elif place.is_dir():
        parts, notes = _read_files(_files_of_splits(place), reading)
    else:
        return _read_file(place, reading, num_train, num_valid)
    frame_checks.refuse_duplicates(parts, str(place))
    return Source(parts, place, notes)


def _read_files(
    paths: Mapping[str, pathlib.Path], reading: Reading
) -> tuple[dict[str, Frames], tuple[str, ...]]:
    """The frames of one file per split, with notes."""
    parts: dict[str, Frames] = {}
    notes: list[str] = []
    for split, path in paths.items():
        parts[split], read_as = reader.read_with_units(path, reading)
        frame_checks.refuse_impossible(parts[split], path.name)
        notes += frame_notes.notes_on(parts[split], path.name, read_as)
    return parts, tuple(notes)


def _files_of_splits(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The one file of each split."""
    found = {}
    for split in SPLITS:
        paths = [folder / f"{split}{suffix}" for suffix in reader.SUFFIXES]
        there = [path for path in paths if path.is_file()]
        if len(there) != 1:
            named = ", ".join(path.name for path in there) or "none"
            raise UserError(
                f"expected one of {', '.join(path.name for path in paths)} in "
                f"{folder}, found {named}; or name one file, which is split at random"
            )
        found[split] = there[0]
    return found


def _read_file(
    path: pathlib.Path, reading: Reading, num_train: int | None, num_valid: int | None
) -> Source:
    """The frames of one file, split at random."""
    if path.suffix.lower() not in reader.SUFFIXES or not path.is_file():
        raise UserError(
            f"expected a folder, or a file {', '.join(reader.SUFFIXES)}, found {path}"
        )
    frames, read_as = reader.read_with_units(path, reading)
    frame_checks.refuse_impossible(frames, path.name)
    total = len(frames)
    if total < _FEWEST:
        raise UserError(
            f"expected at least {_FEWEST} frames to split in {path}, found {total}"
        )
    train, valid = (
        int(share * total) if count is None else count
        for share, count in zip(_SHARES, (num_train, num_valid), strict=True)
    )
    if train + valid >= total:
        raise UserError(
            f"expected --num_train and --num_valid to leave test frames of the "
            f"{total:,} of {path}, found {train:,} and {valid:,}"
        )
    cut = np.split(np.random.default_rng(0).permutation(total), [train, train + valid])
    rows = dict(zip(SPLITS, cut, strict=True))
    parts = {split: frames.take(own) for split, own in rows.items()}
    frame_checks.refuse_duplicates(parts, str(path), rows)
    notes = (
        f"{path.name} is split at random: if it is a trajectory, frames of all splits "
        "are neighbours, and errors are lower than on fresh ones",
        *frame_notes.notes_on(frames, path.name, read_as),
    )
    return Source(parts, path, notes, rows)
