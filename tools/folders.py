"""The files of a data set: written row by row, atomically, and verified.

A folder holds one .npz file per split and `metadata.json` with the SHA-256 of every
array. `demetar.data.nbody_files` describes the format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import demetar
from demetar import archives, files, locks
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


class OutputFolder:
    """A folder that appears at `path` only when it is complete.

    It is built under a hidden name beside it, `.NAME.partial-*`, and locked while its
    process lives, so that leftovers of a killed process can be told and removed.
    """

    def __init__(self, path: pathlib.Path, overwrite: bool):
        self.path = path
        self._check(overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.partial-"
        for leftover in path.parent.glob(f"{glob.escape(prefix)}*/"):
            self._remove_if_dead(leftover)
        self.partial = path.parent / (prefix + secrets.token_hex(4))
        self.partial.mkdir()
        self._lock = os.open(self.partial, os.O_RDONLY)
        locks.try_lock(self._lock)  # nobody else knows the folder yet

    def _check(self, overwrite: bool) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"--out={self.path} is a file; name a folder")
        if not any(self.path.iterdir()):
            return
        if not (self.path / nbody_files.METADATA).is_file():
            raise UserError(
                f"--out={self.path} is not empty and holds no data set; name another"
            )
        if not overwrite:
            raise UserError(
                f"--out={self.path} holds a data set; pass --overwrite to replace it"
            )

    @staticmethod
    def _remove_if_dead(leftover: pathlib.Path) -> None:
        handle = os.open(leftover, os.O_RDONLY)
        try:
            if not locks.try_lock(handle):
                return
        finally:
            os.close(handle)
        shutil.rmtree(leftover)

    def finish(self) -> None:
        """Put the folder in its place."""
        if self.path.is_dir() and any(self.path.iterdir()):
            old = self.partial / "replaced"
            self.path.rename(old)
            self.partial.rename(self.path)
            shutil.rmtree(self.path / old.name)
        else:
            self.partial.rename(self.path)
        os.close(self._lock)

    def discard(self) -> None:
        """Remove all that was written."""
        shutil.rmtree(self.partial, ignore_errors=True)
        os.close(self._lock)


@contextlib.contextmanager
def appearing(path: pathlib.Path, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A folder to fill, which is at `path` if all went well.

    Raises:
      UserError: as `OutputFolder`, or it cannot be written. Nothing is left behind.
    """
    folder = None
    try:
        folder = OutputFolder(path, overwrite)
        yield folder.partial
        folder.finish()
    except BaseException as error:
        if folder is not None:
            folder.discard()
        if isinstance(error, OSError):
            reason = error.strerror or files.one_line(error)
            raise UserError(f"cannot write {path}: {reason}") from None
        raise


@contextlib.contextmanager
def kept(path: pathlib.Path, described: dict[str, Any]) -> Iterator[pathlib.Path]:
    """The folder of what an interrupted run leaves, for this process alone.

    Args:
      path: of the data set.
      described: what decides its content, as JSON can hold it.

    Raises:
      UserError: another process has it.
    """
    prefix = f".{path.name}.unfinished-"
    folder = path.parent / (prefix + files.json_hash(described)[:12])
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not locks.try_lock(handle):
            raise UserError(
                f"another process is generating {path}; wait for it, or name another "
                "--out"
            )
        yield folder
    finally:
        os.close(handle)


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
