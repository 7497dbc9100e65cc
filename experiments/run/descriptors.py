"""Scattering coefficients of molecules, computed once and kept on the disk.

They are kept in parts of some molecules each, in a folder that is named by all that
decides them. A part carries the id of the folder and the checksum of its numbers; what
is damaged is computed anew. So nothing is lost but the part that is under way if a
process is killed, and other rows of the same molecules are added to those that are
there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tqdm

from demetar import archives, files, geometry, locks, places
from demetar.data.molecules import Molecules
from demetar.errors import UserError
from demetar.scattering import coefficients, placement
from demetar.scattering.placement import Placed, Settings
from demetar.train import checkpoint
from experiments.run import cli

VERSION = 1  # of the coefficients and of the files
PART = 128  # molecules of a file
TOGETHER = 16  # molecules of one call
NUM_TURNED = 32  # molecules that tell of the invariance
SECONDS_PER_LINE = 20.0
_ARRAYS = frozenset({"id", "sha256", "rows", "values"})


@dataclasses.dataclass(frozen=True)
class Store:
    """The folder of some molecules' coefficients.

    Attributes:
      folder: of the parts; it need not exist.
      identity: SHA-256 of the molecules and of the settings.
      total: number of the molecules.
    """

    folder: pathlib.Path
    identity: str
    total: int

    def read(self) -> tuple[np.ndarray, np.ndarray, list[pathlib.Path]]:
        """Coefficients [D, F], which of them are there [D], and damaged files."""
        values = np.zeros((self.total, coefficients.NUM_COEFFICIENTS), np.float32)
        known = np.zeros(self.total, bool)
        damaged = []
        for path in sorted(self.folder.glob("part-*.npz")):
            try:
                rows, found = self._read_part(path)
            except UserError:
                damaged.append(path)
                continue
            values[rows], known[rows] = found, True
        return values, known, damaged

    def _read_part(self, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
        arrays = archives.read_npz(path)
        if {*arrays} != _ARRAYS or str(arrays["id"]) != self.identity:
            raise files.unreadable(path, ": it is of other molecules", "")
        rows = files.whole_numbers(
            arrays["rows"], "rows", path, [None], most=self.total - 1
        )
        shape = [len(rows), coefficients.NUM_COEFFICIENTS]
        values = files.real_numbers(arrays["values"], "values", path, shape)
        if str(arrays["sha256"]) != _hash(rows, arrays["values"]):
            raise files.unreadable(path, ": its checksum is wrong", "")
        return rows, values

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Keep the coefficients of some rows, atomically.

        Raises:
          UserError: they cannot be written.
        """
        digest = _hash(rows, values)
        content = io.BytesIO()
        arrays: dict[str, Any] = {"rows": rows, "values": values}
        arrays |= {"id": np.array(self.identity), "sha256": np.array(digest)}
        np.savez(content, **arrays)
        path = self.folder / f"part-{digest[:16]}.npz"
        checkpoint.write_bytes(path, content.getvalue())


def store(known: Molecules, settings: Settings) -> Store:
    """Where the coefficients of molecules are kept."""
    described = {
        "version": VERSION,
        "molecules": known.fingerprint,
        **dataclasses.asdict(settings),
    }
    identity = files.json_hash(described)
    folder = cli.cache_dir() / f"scattering-{identity[:12]}"
    return Store(folder, identity, len(known.index))


def load(kept: Store, placed: Placed, rows: np.ndarray) -> np.ndarray:
    """The coefficients [len(rows), F] of some molecules.

    Those that are not kept are computed, with a progress bar. A signal ends that after
    the part that is under way.

    Args:
      kept: of all molecules and the settings.
      placed: all molecules by these settings.
      rows: of those that are wanted.

    Raises:
      UserError: the folder cannot be used.
      KeyboardInterrupt: a signal came.
    """
    values, is_known, damaged = kept.read()
    missing = np.setdiff1d(rows, np.flatnonzero(is_known))
    if len(missing):
        with _locked(kept.folder):
            for path in damaged:
                places.remove(path)
                print(f"note      {path} is damaged and computed anew")
            _compute(placed, missing, kept)
        values, is_known, _ = kept.read()
        if not is_known[rows].all():
            raise UserError(
                f"expected the coefficients in {kept.folder} that were written there, "
                "found others; leave that folder to this command"
            )
    return np.asarray(values[rows])


def turned(
    known: Molecules, placed: Placed, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients of some of the rows after random rotations: rows and [.., F].

    Up to `NUM_TURNED` are taken, of the box that most of the rows have.
    """
    boxes = placed.box[rows]
    taken = rows[boxes == np.bincount(boxes).argmax()][:NUM_TURNED]
    keys = jax.random.key(0)
    rotations = np.asarray(geometry.random_rotations(keys, (len(taken),)))
    rotated = placement.turned(known, placed, taken, rotations)
    return taken, evaluate(rotated, np.arange(len(taken)))


def evaluate(placed: Placed, rows: np.ndarray) -> np.ndarray:
    """The coefficients [len(rows), F] of molecules of one box."""
    grids = placed.boxes[placed.box[rows[0]]]
    found = []
    for start in range(0, len(rows), TOGETHER):
        own = rows[start : start + TOGETHER]
        # The last one is repeated, so that one program serves all.
        filled = np.append(own, np.repeat(own[-1], TOGETHER - len(own)))
        atoms = placed.positions[filled], placed.weights[filled]
        values = coefficients.batch_coefficients(*atoms, grids)
        found.append(np.asarray(values)[: len(own)])
    return np.concatenate(found)


def parts(placed: Placed, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in lots of up to `PART` molecules of one box."""
    for box in range(len(placed.boxes)):
        own = rows[placed.box[rows] == box]
        for start in range(0, len(own), PART):
            yield own[start : start + PART]


def _compute(placed: Placed, rows: np.ndarray, kept: Store) -> None:
    largest = " x ".join(map(str, placed.boxes[0].density.counts))
    print(
        f"computing {len(rows):,} molecules, kept in {kept.folder}; 1 Å is "
        f"{placed.scale:.3g} widths, the largest grid has {largest} points"
    )
    stop = cli.StopSignal()
    with stop.listening(), _Progress(len(rows)) as progress:
        for own in parts(placed, rows):
            kept.write(own, evaluate(placed, own))
            progress.add(len(own))
            if stop():
                break
    if stop.number is not None:
        raise KeyboardInterrupt(stop.number)


class _Progress:
    """A bar on stderr, or lines on stdout if nobody looks on."""

    def __init__(self, total: int):
        is_watched = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            desc="coefficients",
            unit=" molecules",
            mininterval=0.2,
            disable=not is_watched,
        )
        self._total, self._done, self._start = total, 0, time.monotonic()
        self._told = math.inf if is_watched else self._start

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        """So many more molecules are done."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if now - self._told > SECONDS_PER_LINE:
            self._told = now
            left = (now - self._start) / self._done * (self._total - self._done)
            told = tqdm.tqdm.format_interval(left)
            print(f"{self._done:,}/{self._total:,} molecules  ETA {told}", flush=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    lock = locks.acquire(folder, "wait for its end; what it computes serves both")
    try:
        yield
    finally:
        lock.release()


def _hash(rows: np.ndarray, values: np.ndarray) -> str:
    """SHA-256 of what a part holds."""
    hashes = files.array_hash(rows, "<i8") + files.array_hash(values, "<f4")
    return hashlib.sha256(hashes.encode()).hexdigest()
