"""Which molecules are for training, validation and test.

'egnn' is 100,000 / 17,748 / 13,083 by `numpy.random.seed(0)`, as EGNN, Cormorant and
SEGNN have it; 'torchmd' 110,000 / 10,000 / the rest, the sizes of TorchMD-NET and PaiNN
in an order of our own; 'random' 80 / 10 / 10 %, for other molecules. A `.npz` may have
the row numbers `train`, `valid` and `test`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar import archives, files
from demetar.data import molecule_files, molecules
from demetar.errors import UserError
from demetar.settings import DATA, setting

SPLITS = ("egnn", "torchmd", "random")
PARTS = ("train", "valid", "test")

_EGNN_SIZES = (100_000, 17_748)
_TORCHMD_SIZES = (110_000, 10_000)


def default_split(known: molecules.Molecules) -> str:
    """The split if none is asked for: 'egnn' of QM9, 'random' of own molecules."""
    return "egnn" if known.source == "qm9" else "random"


def split_rows(split: str, total: int) -> dict[str, np.ndarray]:
    """Row numbers {'train' | 'valid' | 'test': [..]} of a split of `total` molecules.

    Raises:
      UserError: the split is of another number of molecules, or its file is bad.
    """
    if split not in SPLITS:
        return _read_split(pathlib.Path(split), total)
    if split == "random":
        order = np.random.default_rng(0).permutation(total)
        sizes = (total - 2 * (total // 10), total // 10)
    elif total != molecule_files.NUM_MOLECULES:
        raise UserError(
            f"the split {split!r} is of {molecule_files.NUM_MOLECULES} molecules, "
            f"found {total}; pass --split=random or a file of row numbers"
        )
    elif split == "egnn":
        order, sizes = np.random.RandomState(0).permutation(total), _EGNN_SIZES
    else:
        order, sizes = np.random.default_rng(0).permutation(total), _TORCHMD_SIZES
    parts = dict(zip(PARTS, np.split(order, np.cumsum(sizes)), strict=True))
    if not all(map(len, parts.values())):
        raise UserError(f"expected at least 10 molecules to split, found {total}")
    return parts


def counted(what: str) -> Any:
    """The setting of how many molecules of a part there are.

    Args:
      what: 'Training', 'Validation' or 'Test'.
    """
    words = f"{what} molecules: the first of the split's."
    return setting(None, words, DATA, default_words="all")


def numbered(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers of samples that lie in the order of `PARTS`, by part."""
    stops = np.cumsum([len(rows[part]) for part in PARTS])
    return {
        part: np.arange(stop - len(rows[part]), stop)
        for part, stop in zip(PARTS, stops, strict=True)
    }


def first_rows(
    rows: Mapping[str, np.ndarray], counts: Mapping[str, int | None]
) -> dict[str, np.ndarray]:
    """The first row numbers of each part of a split.

    Args:
      rows: of `split_rows`.
      counts: how many by part; None, or no such part, for all.

    Raises:
      UserError: the split has fewer.
    """
    for part, count in counts.items():
        if count is not None and not 1 <= count <= len(rows[part]):
            raise UserError(
                f"expected --num_{part} between 1 and the {len(rows[part])} molecules "
                f"of the split, found {count}"
            )
    return {part: rows[part][: counts.get(part)] for part in rows}


def _read_split(path: pathlib.Path, total: int) -> dict[str, np.ndarray]:
    if not path.exists():
        raise UserError(
            f"expected --split of {', '.join(SPLITS)} or a file, found {str(path)!r}"
        )
    arrays = archives.read_npz(path, "pass another --split")
    missing = [part for part in PARTS if part not in arrays]
    if missing:
        raise UserError(
            f"expected the arrays train, valid and test in {path}, found no "
            f"{missing[0]!r}"
        )
    parts = {
        part: files.whole_numbers(arrays[part], part, path, [None], most=total - 1)
        for part in PARTS
    }
    for part, rows in parts.items():
        if not len(rows):
            raise UserError(f"expected row numbers in {part!r} of {path}, found none")
    numbers, counts = np.unique(
        np.concatenate(list(parts.values())), return_counts=True
    )
    if (counts > 1).any():
        raise UserError(f"{path} names row {numbers[counts > 1][0]} more than once")
    return parts
