"""The folder of a set of frames, as `tools.generate_md` writes it.

A folder holds one `.npz` per split and `metadata.json`, sealed as that of an N-body set
(`demetar.data.nbody_files`). Arrays of F frames with A atoms in all:

    n_atoms     [F] int32
    numbers     [A] uint8 atomic numbers, frame after frame
    positions   [A, 3] float64 in Å
    energies    [F] float64 in eV
    forces      [A, 3] float64 in eV/Å
    velocities  [A, 3] float64 in Å/fs
    trajectory  [F] int32, from 0 within the split
    time        [F] float64 in fs since the trajectory was equilibrated
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar import archives, files
from demetar.data import nbody_files
from demetar.data.frames import Frames, ragged
from demetar.errors import UserError

KIND = "frames"
FORMATS = (2,)
SPLITS = ("train", "valid", "test")
UNITS = {
    "positions": "Å",
    "energies": "eV",
    "forces": "eV/Å",
    "velocities": "Å/fs",
    "time": "fs",
}
_ANEW = "generate the frames anew"
_NAMES = ("n_atoms", "numbers", "positions", "energies", "forces", "velocities")


def is_folder(path: pathlib.Path) -> bool:
    """Whether a folder has metadata, of whatever kind."""
    return (path / nbody_files.METADATA).is_file()


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """`metadata.json` of a folder.

    Raises:
      UserError: there is no such file, it is of another kind or format or was altered.
    """
    path = folder / nbody_files.METADATA
    if not path.exists():
        raise UserError(
            f"{folder} is not a finished set of frames: it has no "
            f"{nbody_files.METADATA}; write one with python -m tools.generate_md"
        )
    metadata = files.read_json(path, _ANEW)
    found = metadata.get("kind")
    if found != KIND:
        raise UserError(
            f"{path} is of no frames with energies and forces: expected the kind "
            f"{KIND!r}, found {files.one_line(repr(found))}; write a folder with "
            "python -m tools.generate_md"
        )
    nbody_files.check_format(metadata, path, FORMATS, _ANEW)
    if not nbody_files.are_checksums(metadata.get("arrays")):
        raise UserError(
            f"cannot read {path}: expected arrays, the checksums by split and name; "
            f"{_ANEW}"
        )
    nbody_files.check_seal(metadata, path, _ANEW)
    return metadata


def read_split(folder: pathlib.Path, split: str, metadata: Mapping[str, Any]) -> Frames:
    """The frames of a split.

    Raises:
      UserError: there is no such split, or its file is missing, damaged or altered, or
        an array of it is none of frames.
    """
    path = folder / f"{split}.npz"
    if split not in metadata["arrays"] or not path.exists():
        raise UserError(f"{folder} has no {split} set; {_ANEW}")
    arrays = archives.read_npz(path, _ANEW)
    faults = nbody_files.alterations(arrays, metadata["arrays"][split])
    missing = [f"{name} is missing" for name in _NAMES if name not in arrays]
    for fault in (*faults, *missing):
        raise UserError(f"{path} was altered: {fault}; {_ANEW}")
    columns = {name: arrays[name] for name in _NAMES}
    return ragged(**columns, place=path)


def to_arrays(frames: Frames) -> dict[str, np.ndarray]:
    """The arrays of a split without `trajectory` and `time`.

    Args:
      frames: with velocities.
    """
    assert frames.velocities is not None
    return {
        "n_atoms": frames.n_node.astype(np.int32),
        "numbers": frames.numbers.astype(np.uint8),
        "positions": frames.positions,
        "energies": frames.energies,
        "forces": frames.forces,
        "velocities": frames.velocities,
    }
