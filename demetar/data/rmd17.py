"""The revised MD17 data set: ten molecules, 1,000 + 1,000 frames of each split.

A folder holds what the authors publish, unpacked,

    npz_data/rmd17_ethanol.npz      nuclear_charges [n], coords [100,000, n, 3] in Å,
                                    energies [100,000] in kcal/mol, forces, old_indices,
                                    old_energies and old_forces: the labels of MD17
    splits/index_train_01.csv       1,000 row numbers, one a line; index_test_01.csv

or the frames of a split alone, with the same arrays: `rmd17_ethanol_train_01.npz` and
`rmd17_ethanol_test_01.npz`, as `tools.prepare_rmd17` writes them.

Source: Christensen, von Lilienfeld 2020, arXiv 2007.09593, doi
10.6084/m9.figshare.12672038 (CC0). Energies of neighbouring frames are correlated, so
the authors advise against training on more than 1,000 of them.
"""

from __future__ import annotations

import pathlib

import numpy as np

from demetar import archives, files
from demetar.data import units
from demetar.data.frames import Frames, uniform
from demetar.data.readers import text
from demetar.errors import UserError

MOLECULES = (
    *("aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde", "naphthalene"),
    *("paracetamol", "salicylic", "toluene", "uracil"),
)
PREFIX = "rmd17_"
FOLDS = (1, 2, 3, 4, 5)  # the published splits
LABELS = ("rmd17", "md17")
MOST_TRAIN = 1_000  # frames that may be trained or validated on
NUM_VALID = 50  # the last of them
UNIT = "kcal/mol"
PARTS = ("train", "test")
_INSTALL = "write it with python -m tools.prepare_rmd17 --out=DIR"
_NAMES = ("nuclear_charges", "coords", "energies", "forces")
_OLD = {"energies": "old_energies", "forces": "old_forces"}
_PER_FRAME = ("coords", "energies", "forces", "old_indices", *_OLD.values())

Arrays = dict[str, np.ndarray]


def split_file(molecule: str, part: str, fold: int) -> str:
    """The name of the file of a split's frames."""
    return f"{PREFIX}{molecule}_{part}_{fold:02}.npz"


def rows_file(part: str, fold: int) -> str:
    """The name of the published file of a split's row numbers."""
    return f"index_{part}_{fold:02}.csv"


def find(place: pathlib.Path, molecule: str, fold: int = 1) -> pathlib.Path:
    """The folder that holds a molecule: `place`, or `rmd17` in it.

    Raises:
      UserError: there is none.
    """
    for folder in (place, place / "rmd17"):
        of_split = [folder / split_file(molecule, part, fold) for part in PARTS]
        if (
            all(path.exists() for path in of_split)
            or _published(folder, molecule).exists()
        ):
            return folder
    raise UserError(
        f"expected {split_file(molecule, 'train', fold)} and its test file, or "
        f"npz_data/{PREFIX}{molecule}.npz, in {place} or {place / 'rmd17'}, found "
        f"neither; write them with python -m tools.prepare_rmd17 --download "
        f"--out={place / 'rmd17'}, or give their --data_dir"
    )


def _published(folder: pathlib.Path, molecule: str) -> pathlib.Path:
    return folder / "npz_data" / f"{PREFIX}{molecule}.npz"


def read(folder: pathlib.Path, molecule: str, fold: int = 1) -> dict[str, Arrays]:
    """The published arrays of the frames of a split: {'train' | 'test': {name: array}}.

    Args:
      folder: of `find`.
      molecule: one of `MOLECULES`.
      fold: one of `FOLDS`.

    Raises:
      UserError: a file is missing, damaged or of other arrays.
    """
    whole = _published(folder, molecule)
    paths = {part: folder / split_file(molecule, part, fold) for part in PARTS}
    if all(path.exists() for path in paths.values()) or not whole.exists():
        return {
            part: _checked(archives.read_npz(path, _INSTALL), path)
            for part, path in paths.items()
        }
    arrays = _checked(archives.read_npz(whole), whole)
    count = len(arrays["energies"])
    found = {}
    for part in PARTS:
        rows = _rows(folder / "splits" / rows_file(part, fold), count)
        found[part] = {
            name: array[rows] if name in _PER_FRAME else array
            for name, array in arrays.items()
        }
    return found


def _checked(arrays: Arrays, path: pathlib.Path) -> Arrays:
    """The arrays that are known, of which none is missing and all fit in length."""
    for name in _NAMES:
        if name not in arrays:
            raise UserError(
                f"expected the arrays {', '.join(_NAMES)} in {path}, found no {name!r}"
            )
    known = {
        name: arrays[name] for name in (*_NAMES[:1], *_PER_FRAME) if name in arrays
    }
    count = len(np.atleast_1d(known["energies"]))
    for name in _PER_FRAME:
        if name in known and known[name].shape[:1] != (count,):
            raise UserError(
                f"expected {count} frames in {name!r} of {path}, as in 'energies', "
                f"found {files.describe(known[name])}"
            )
    return known


def _rows(path: pathlib.Path, count: int) -> np.ndarray:
    """The row numbers of a split: [..], below `count`, each once."""
    rows = []
    for number, line in enumerate(text.lines(path), 1):
        with text.naming(f"{path.name}, line {number}", "the number of a frame"):
            if line.strip():
                rows.append(text.whole(line.strip().removesuffix(".0")))
                if rows[-1] >= count:
                    raise ValueError(f"{rows[-1]} of {count} frames, counted from 0")
    found = np.array(rows, np.int64)
    if not len(found) or len(np.unique(found)) < len(found):
        raise UserError(f"expected row numbers, each once, in {path}")
    return found


def to_frames(arrays: Arrays, labels: str, place: object) -> Frames:
    """The frames of arrays that `read` gave.

    Args:
      arrays: of a part.
      labels: one of `LABELS`: which energies and forces.
      place: where they were read, for errors.

    Raises:
      UserError: the labels are not there, or a number is none.
    """
    names = [_OLD.get(name, name) for name in _NAMES] if labels == "md17" else _NAMES
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(
            f"expected {missing[0]!r} in {place} for --labels={labels}, found none; "
            "the published archive has them, other files may not"
        )
    numbers, coords, energies, forces = (arrays[name] for name in names)
    unit = units.ENERGIES[UNIT]
    found = uniform(numbers, coords, energies, forces, place, names)
    return found.scaled(unit, 1.0)
