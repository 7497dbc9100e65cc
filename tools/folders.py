"""The files of a data set: written row by row, atomically, and verified.

A folder holds one .npz file per split and `metadata.json` with the SHA-256 of every
array. `demetar.data.nbody_files` describes the format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import shutil
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import demetar
from demetar import archives, files
from demetar.data import nbody_files
from demetar.errors import UserError
from demetar.settings import OUTPUT, setting
from tools import simulation

COPY_BYTES = 2**22


def array_digest(dtype: np.dtype, shape: tuple[int, ...]) -> hashlib._Hash:
    """SHA-256 of an array's type and shape, to be updated with its bytes in C order."""
    return hashlib.sha256(f"{dtype.str}{shape}".encode())


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a generator is to do with a folder."""

    out: str | None = setting(
        None, "The folder to write, which must not hold a data set yet.", OUTPUT
    )
    overwrite: bool = setting(False, "Replace the data set that --out holds.", OUTPUT)
    verify: str | None = setting(
        None, "Check this folder against its checksums, and do nothing else.", OUTPUT
    )


class SplitWriter:
    """Writes the arrays of a split row by row and joins them in one .npz file.

    Rows go to one raw file per array, because a .npz holds its arrays one after the
    other and chunks come with rows of all of them.
    """

    def __init__(self, folder: pathlib.Path, settings: simulation.Settings, split: str):
        self._path = folder / f"{split}.npz"
        self._shapes = settings.shapes(split)
        self._raw: dict[str, io.FileIO] = {}
        self._digests = {}
        for name, (dtype, shape) in self._shapes.items():
            # Without a buffer nothing is left to write when a full disk ends the run.
            self._raw[name] = io.FileIO(folder / f"{split}.{name}.raw", "w+")
            self._digests[name] = array_digest(dtype, shape)
        self.append({"steps": settings.steps})

    def append(self, rows: dict[str, np.ndarray]) -> None:
        """Append to the arrays that the file has; others are left out."""
        for name in rows.keys() & self._shapes.keys():
            array = np.ascontiguousarray(rows[name], self._shapes[name][0])
            data = array.data.cast("B")
            self._digests[name].update(data)
            while data:
                data = data[self._raw[name].write(data) :]

    def finish(self) -> dict[str, str]:
        """Write the file and return the SHA-256 of each array."""
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, (dtype, shape) in self._shapes.items():
                raw = self._raw[name]
                raw.seek(0)
                member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: equal data, file
                with archive.open(member, "w", force_zip64=True) as target:
                    np.lib.format.write_array_header_1_0(
                        target,
                        {"descr": dtype.str, "fortran_order": False, "shape": shape},
                    )
                    shutil.copyfileobj(raw, target, COPY_BYTES)
                raw.close()
                os.unlink(str(raw.name))
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


def versions(*packages: str) -> dict[str, str]:
    """Versions of the project, of Python and of packages, as metadata have them."""
    return {
        "demetar": demetar.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def write_splits(
    folder: pathlib.Path,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    described: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the files of all splits with their metadata, and return these.

    Args:
      folder: to write into.
      splits: {split: {name: array}}.
      described: what the metadata say beside versions and checksums.
    """
    arrays = {}
    for split, content in splits.items():
        np.savez(folder / f"{split}.npz", **content)  # type: ignore[arg-type]
        arrays[split] = {
            name: files.array_hash(array) for name, array in content.items()
        }
    sealed = {**described, "versions": versions("numpy"), "arrays": arrays}
    return write_metadata(folder, sealed)


def write_metadata(folder: pathlib.Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write what `nbody_files.sealed` makes of the content, and return it."""
    metadata = nbody_files.sealed(json.loads(json.dumps(content)))
    text = json.dumps(metadata, indent=2) + "\n"
    (folder / nbody_files.METADATA).write_text(text)
    return metadata


def verify(
    folder: str | os.PathLike[str],
    read: Callable[[pathlib.Path], dict[str, Any]] = nbody_files.read_metadata,
) -> list[str]:
    """Check a data set against its metadata.

    Args:
      folder: of the data set.
      read: its metadata, by the folder.

    Returns:
      One line per fault: a missing, damaged or altered file or array. None if all is
      as it was written.
    """
    path = pathlib.Path(folder)
    try:
        expected = read(path)["arrays"]
    except UserError as error:
        return [str(error)]
    faults = []
    for split in nbody_files.SPLITS:
        file = path / f"{split}.npz"
        if split in expected:
            faults += _verify_file(file, expected[split])
        elif file.exists():
            faults.append(f"{file}: not in the metadata")
    return faults


def tell_intact(
    folder: str | os.PathLike[str],
    read: Callable[[pathlib.Path], dict[str, Any]] = nbody_files.read_metadata,
) -> None:
    """Tell that a data set is as it was written.

    Args:
      folder, read: of `verify`.

    Raises:
      UserError: it is not; one line per fault.
    """
    faults = verify(folder, read)
    if faults:
        raise UserError("\nerror: ".join(faults))
    print(f"{folder} is intact")


def _verify_file(file: pathlib.Path, expected: dict[str, str]) -> list[str]:
    if not file.exists():
        return [f"{file} is missing"]
    try:
        arrays = archives.read_npz(file, mapped=None)
    except UserError as error:
        return [str(error)]
    faults = nbody_files.alterations(arrays, expected)
    return [f"{file}: {fault}" for fault in faults]
