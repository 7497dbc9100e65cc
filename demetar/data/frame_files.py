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

from demetar.data import nbody_files
from demetar.data.frames import Frames, ragged

KIND = "frames"
SPLITS = ("train", "valid", "test")
UNITS = {
    "positions": "Å",
    "energies": "eV",
    "forces": "eV/Å",
    "velocities": "Å/fs",
    "time": "fs",
}
_NAMES = ("n_atoms", "numbers", "positions", "energies", "forces", "velocities")


def is_folder(path: pathlib.Path) -> bool:
    """Whether a folder has metadata, of whatever kind."""
    return (path / nbody_files.METADATA).is_file()


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """`metadata.json` of a folder.

    Raises:
      UserError: there is no such file, it is of another kind or format or was altered.
    """
    return nbody_files.read_of_kind(
        *(folder, KIND, "set of frames"),
        *("frames with energies and forces", "tools.generate_md"),
    )


def read_split(folder: pathlib.Path, split: str, metadata: Mapping[str, Any]) -> Frames:
    """The frames of a split.

    Raises:
      UserError: there is no such split, or its file is missing, damaged or altered, or
        an array of it is none of frames.
    """
    columns = nbody_files.read_arrays(folder, split, metadata, _NAMES)
    return ragged(**columns, place=folder / f"{split}.npz")


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
