"""Predictions on the disk, written as they come and there only when they are whole."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from demetar import archives, places
from demetar.data import xyz_text
from demetar.data.systems import Systems
from demetar.errors import UserError
from demetar.types import Head, TaskSpec

NUM_NODES, FILE, ABOUT = "num_nodes", "file", "about"
SPREAD = "_spread"  # ends the name of a head's spread over the models of a committee
_FILE_NAME = f' {FILE}="'  # in a comment of extended xyz
_LONGEST = 100_000  # characters of such a comment
_COPIED = 2**20  # bytes at once
# Of the heads that readers of extended xyz take for energies and forces, the units that
# they expect, and ours in these.
_EXPECTED = {"meV": ("eV", 1e-3), "meV/Å": ("eV/Å", 1e-3)}
_KNOWN_TO_READERS = ("energy", "forces")


class Writer(Protocol):
    """What predictions are given to."""

    def add(
        self, systems: Systems, values: Mapping[str, np.ndarray], file: int
    ) -> None:
        """Write some systems with their values, one system after the other."""

    def finish(self) -> None:
        """Complete the temporary file."""


@contextlib.contextmanager
def writing(
    path: pathlib.Path, task: TaskSpec, about: Mapping[str, Any], per_system: int = 1
) -> Iterator[Writer]:
    """A writer of `.npz` or extended xyz, whose file is at `path` if all went well.

    Args:
      path: to write; its suffix chooses the format.
      task: heads and their units.
      about: what else to tell, as JSON can hold it; `files` are the names of the
        sources.
      per_system: rows of a system's values per row of the system: steps of a rollout.

    Raises:
      UserError: it has another suffix, or cannot be written. Nothing is left of it.
    """
    suffix = path.suffix.lower()
    molecular = suffix in (".xyz", ".extxyz")
    if suffix != ".npz" and not molecular:
        raise UserError(f"expected --out=FILE.npz or FILE.xyz, found {path}")
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        ) as folder:
            place = pathlib.Path(folder) / path.name
            writer: Writer
            if molecular:
                writer = XyzWriter(place, task, about)
            else:
                writer = NpzWriter(place, task, about, per_system)
            yield writer
            writer.finish()
            with open(place, "rb") as file:
                os.fsync(file.fileno())
            os.replace(place, path)
    except OSError as error:
        raise places.unwritten(path, error) from error


def is_prediction(path: pathlib.Path) -> bool:
    """Whether a file is one of `writing`, by what only these hold.

    Raises:
      UserError: an `.npz` cannot be read.
    """
    if path.suffix.lower() == ".npz":
        return {NUM_NODES, FILE, ABOUT} <= archives.read_shapes(path).keys()
    with open(path, encoding="utf-8", errors="replace") as stream:
        first, comment = (stream.readline(_LONGEST) for _ in range(2))
    return first.strip().isdigit() and _FILE_NAME in comment


class NpzWriter:
    """Arrays by head, with `num_nodes`, `file` and `about` of the systems.

    A head has [systems, n, ...] per node if all systems have n nodes, else
    [nodes of all systems, ...]; with an axis of steps behind that of the systems if
    each has several. What comes is appended to one file per array; the archive is made
    of them at the end, so that little is in memory.
    """

    def __init__(
        self,
        path: pathlib.Path,
        task: TaskSpec,
        about: Mapping[str, Any],
        steps: int = 1,
    ):
        self._path, self._task, self._about, self._steps = path, task, about, steps
        self._parts: dict[str, pathlib.Path] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._sizes: set[int] = set()
        self._num_systems = 0

    def add(
        self, systems: Systems, values: Mapping[str, np.ndarray], file: int
    ) -> None:
        for name, array in values.items():
            self._append(name, array)
        self._append(NUM_NODES, systems.n_node)
        self._append(FILE, np.full(len(systems.n_node), file, np.int32))
        self._sizes |= {*systems.n_node.tolist()}
        self._num_systems += len(systems.n_node)

    def _append(self, name: str, array: np.ndarray) -> None:
        if name not in self._parts:
            part = self._path.with_name(f"part{len(self._parts)}")
            self._parts[name] = part
            self._kinds[name] = array.dtype, array.shape[1:]
        with open(self._parts[name], "ab") as file:
            file.write(np.ascontiguousarray(array).data)

    def finish(self) -> None:
        heads = {head.name: head for head in self._task.heads}
        with zipfile.ZipFile(self._path, "w", allowZip64=True) as archive:
            for name, part in self._parts.items():
                dtype, tail = self._kinds[name]
                head = heads.get(name) or heads.get(name.removesuffix(SPREAD))
                shape = (-1, *tail) if head is None else self._shape(head, tail)
                _copy(archive, name, part, dtype, shape)
            text = json.dumps(
                {
                    **self._about,
                    "units": {name: own.unit for name, own in heads.items()},
                }
            )
            with archive.open(f"{ABOUT}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array(text))

    def _shape(self, head: Head, tail: tuple[int, ...]) -> tuple[int, ...]:
        """Of a head's array; -1 for the number of rows."""
        if head.size == 1:
            tail = tail[1:]
        several = [self._steps] if self._steps > 1 else []
        if head.kind == "graph_scalar":
            return (-1, *several, *tail)
        if len(self._sizes) == 1:
            return (self._num_systems, *several, *self._sizes, *tail)
        return (-1, *tail)


def _copy(
    archive: zipfile.ZipFile,
    name: str,
    part: pathlib.Path,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> None:
    """One array of an archive, from the file of its bytes."""
    known = int(np.prod([size for size in shape if size >= 0]))
    rows = part.stat().st_size // (dtype.itemsize * max(known, 1))
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tuple(rows if size < 0 else size for size in shape),
    }
    with (
        archive.open(f"{name}.npy", "w", force_zip64=True) as stream,
        open(part, "rb") as source,
    ):
        np.lib.format.write_array_header_1_0(stream, header)
        shutil.copyfileobj(source, stream, _COPIED)


class XyzWriter:
    """Molecules as extended xyz: heads as properties, or as columns of the atoms.

    Energies and forces in meV are written in eV, as readers take them.
    """

    def __init__(self, path: pathlib.Path, task: TaskSpec, about: Mapping[str, Any]):
        if any(head.size > 1 for head in task.heads):
            raise UserError(
                "extended xyz holds one vector or number per head; give --out=FILE.npz"
            )
        self._heads, self._names = task.heads, list(about.get("files", ()))
        self._path = path

    def add(
        self, systems: Systems, values: Mapping[str, np.ndarray], file: int
    ) -> None:
        if systems.numbers is None:
            raise UserError(
                "extended xyz holds molecules, found bodies without species; give "
                "--out=FILE.npz"
            )
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.writelines(self._molecules(systems, values, file))

    def _molecules(
        self, systems: Systems, values: Mapping[str, np.ndarray], file: int
    ) -> Iterator[str]:
        assert systems.numbers is not None
        values = {
            head.name: values[head.name] * _expected(head)[1] for head in self._heads
        }
        stops = np.cumsum(systems.n_node)
        for row, (size, stop) in enumerate(zip(systems.n_node, stops, strict=True)):
            own = slice(int(stop - size), int(stop))
            columns = [systems.positions[own]]
            columns += [
                values[head.name][own].reshape(int(size), -1)
                for head in self._heads
                if head.kind != "graph_scalar"
            ]
            comment = self._comment(values, row, file)
            table = np.concatenate(columns, axis=1)
            yield xyz_text.block(systems.numbers[own], table, comment)

    def _comment(self, values: Mapping[str, np.ndarray], row: int, file: int) -> str:
        properties, told = [xyz_text.COLUMNS], []
        for head in self._heads:
            unit = _expected(head)[0].replace('"', "'")
            told.append(f'{head.name}_unit="{unit}"')
            if head.kind == "graph_scalar":
                told.append(f"{head.name}={xyz_text.number(values[head.name][row, 0])}")
            else:
                width = 3 if head.kind == "node_vector" else 1
                properties.append(f"{head.name}:R:{width}")
        name = self._names[file].replace('"', "'") if self._names else ""
        declared = " ".join([f"Properties={':'.join(properties)}", *told])
        return f'{declared}{_FILE_NAME}{name}"'

    def finish(self) -> None:
        """Nothing is left to do."""


def _expected(head: Head) -> tuple[str, float]:
    """The unit in which a head is written, and its own in that."""
    if head.name not in _KNOWN_TO_READERS:
        return head.unit, 1.0
    return _EXPECTED.get(head.unit, (head.unit, 1.0))


def units(path: pathlib.Path, task: TaskSpec) -> dict[str, str]:
    """The unit of each head in the file of `writing`."""
    is_own = path.suffix.lower() == ".npz"
    return {
        head.name: head.unit if is_own else _expected(head)[0] for head in task.heads
    }
