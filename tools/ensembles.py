"""Conformers of many molecules: which molecules, and their shapes, chunk by chunk.

What the conformers of a molecule are follows from its bond graph, the settings and the
seed alone, whichever thread computes them and however often that was interrupted.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from demetar import archives, files
from demetar.data import conformer_files, molecule_files
from demetar.data.conformer_files import Ensembles
from demetar.data.readers import text
from demetar.errors import UserError
from demetar.generation import bond_graphs
from demetar.generation.bond_graphs import BondGraph, Conformers
from demetar.settings import COUNT, DATA, NOT_NEGATIVE, Bounds, setting

SPLITS = conformer_files.SPLITS
CHUNK_MOLECULES = 10
NO_CONFORMER = "no conformer was embedded"
_FAILED = "failed"  # the array of a chunk that names those without conformers
_PURPOSE = "data"  # no other conformers are drawn by these seeds


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the conformers are."""

    num_train: int = setting(5_000, "Training molecules.", DATA, COUNT)
    num_valid: int = setting(500, "Validation molecules.", DATA, COUNT)
    num_test: int = setting(200, "Test molecules.", DATA, COUNT)
    num_conformers: int = setting(
        50,
        "Conformers that are embedded of each molecule, before equal ones are left "
        "out.",
        DATA,
        Bounds(least=1, most=10_000),
    )
    distinct: float = setting(
        0.1,
        "Conformers are equal if their heavy atoms differ by no more than this root "
        "mean square deviation, in Å.",
        DATA,
        Bounds(least=0, most=10),
    )
    seed: int = setting(0, "Of the molecules and of their shapes.", DATA, NOT_NEGATIVE)

    @property
    def total(self) -> int:
        """Molecules of all splits."""
        return self.num_train + self.num_valid + self.num_test


class Source(NamedTuple):
    """The molecules that there are.

    Attributes:
      name: of where they are from.
      smiles: their texts, in the order of the source.
      places: where each was read, for errors; empty if what is no molecule that can be
        used is left out and told.
    """

    name: str
    smiles: tuple[str, ...]
    places: tuple[str, ...] = ()


def of_qm9() -> Source:
    """The SMILES of QM9.

    Raises:
      UserError: it is not installed, or cannot be read.
    """
    records = molecule_files.stream(*molecule_files.find(None))
    return Source("qm9", tuple(record.smiles for record in records))


def of_file(path: pathlib.Path) -> Source:
    """The SMILES of a text file: the first word of each line.

    Raises:
      UserError: it cannot be read, or has none.
    """
    if not path.is_file():
        raise UserError(f"expected --smiles={path} to be a file, found none")
    found = [
        (f"{path.name}, line {number}", line.split()[0])
        for number, line in enumerate(text.lines(path), 1)
        if line.strip()
    ]
    if not found:
        raise UserError(f"expected a SMILES per line in {path}, found none")
    places, smiles = zip(*found, strict=True)
    return Source(path.stem, smiles, places)


class Graphs:
    """The different molecules of a source, in an order of the seed.

    Args:
      source: of the molecules.
      seed: of their order.

    Attributes:
      left_out: {reason: SMILES} of those that cannot be used, so far.
    """

    def __init__(self, source: Source, seed: int):
        self._source = source
        self._order = np.random.default_rng(seed).permutation(len(source.smiles))
        self.left_out: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[BondGraph]:
        seen: set[str] = set()
        for row in self._order:
            graph = self._read(int(row))
            if graph is not None and graph.smiles not in seen:
                seen.add(graph.smiles)
                yield graph

    def _read(self, row: int) -> BondGraph | None:
        """The molecule of a row; None if it cannot be used."""
        smiles, places = self._source.smiles[row], self._source.places
        bond_graphs.version()  # what is missing is no fault of a molecule
        try:
            return bond_graphs.parse(smiles)
        except UserError as error:
            if places:
                raise UserError(f"{places[row]}: {error}") from None
            reason = str(error).partition(", found ")[0]
            self.left_out.setdefault(reason, []).append(smiles)
            return None

    def check(self, total: int) -> None:
        """Refuse a source of one's own that cannot fill the splits, or is malformed.

        Raises:
          UserError: it has fewer different molecules, or one that cannot be used.
        """
        if self._source.places:
            refuse_few(len(list(self)), total, self._source.name)


def refuse_few(found: int, total: int, name: str) -> None:
    """Refuse too few molecules.

    Raises:
      UserError: they are too few.
    """
    if found < total:
        raise UserError(
            f"expected {total:,} different molecules for --num_train, --num_valid and "
            f"--num_test, found {found:,} in {name}; ask for fewer"
        )


class Generator:
    """Computes the conformers of molecules and keeps them in a folder.

    Args:
      settings: of the conformers.
      folder: of the chunks; those that are there are not computed again.
    """

    def __init__(self, settings: Settings, folder: pathlib.Path):
        self._settings = settings
        self._folder = folder
        self._stopped = threading.Event()
        self.failed: list[str] = []

    def run(
        self,
        graphs: Iterable[BondGraph],
        num_workers: int,
        told: Callable[[int], object],
    ) -> Ensembles:
        """The first molecules that have conformers, as many as the settings ask for.

        Those without are in `failed`.

        Args:
          graphs: all molecules, from which further ones replace those without.
          num_workers: chunks of molecules at a time.
          told: is given the number of molecules that a chunk adds, from any thread.

        Raises:
          UserError: there are too few.
        """
        parts: list[Ensembles] = []
        source = iter(graphs)
        with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
            count, number = 0, 0
            while count < self._settings.total:
                wave = math.ceil((self._settings.total - count) / CHUNK_MOLECULES)
                chunks = [
                    list(itertools.islice(source, CHUNK_MOLECULES)) for _ in range(wave)
                ]
                chunks = [chunk for chunk in chunks if chunk]
                if not chunks:
                    refuse_few(count, self._settings.total, "the source, with shapes,")
                waiting = [
                    pool.submit(self._chunk, number + row, chunk, told)
                    for row, chunk in enumerate(chunks)
                ]
                number += len(chunks)
                try:
                    for future in waiting:
                        part, failed = future.result()
                        parts += [part] if part else []
                        count += len(part) if part else 0
                        self.failed += failed
                except BaseException:
                    self._stopped.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return conformer_files.joined(parts).take(range(self._settings.total))

    def _chunk(
        self, number: int, graphs: list[BondGraph], told: Callable[[int], object]
    ) -> tuple[Ensembles | None, list[str]]:
        """Those molecules that have conformers, and the SMILES of the others."""
        path = self._folder / f"{number}.npz"
        arrays = self._stored(path, graphs)
        if arrays is None:
            arrays = self._computed(graphs)
            with files.replacing(path) as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        failed = arrays[_FAILED].tobytes().decode().splitlines()
        made = len(graphs) - len(failed)
        told(made)
        return conformer_files.of_arrays(arrays, path) if made else None, failed

    def _stored(
        self, path: pathlib.Path, graphs: list[BondGraph]
    ) -> dict[str, np.ndarray] | None:
        """A chunk of these molecules that an earlier run left whole."""
        if not path.exists():
            return None
        try:
            arrays = archives.read_npz(path)
            failed = arrays[_FAILED].tobytes().decode().splitlines()
            made: tuple[str, ...] = ()
            if len(failed) < len(graphs):
                made = conformer_files.of_arrays(arrays, path).smiles
        except (UserError, KeyError, UnicodeDecodeError):
            return None
        same = {*made, *failed} == {graph.smiles for graph in graphs}
        return arrays if same else None

    def _computed(self, graphs: list[BondGraph]) -> dict[str, np.ndarray]:
        parts, failed = [], ""
        for graph in graphs:
            if self._stopped.is_set():
                raise UserError("another chunk of molecules failed")
            found = conformers_of(graph.smiles, self._settings)
            if len(found.positions):
                parts.append(_ensemble(graph, found))
            else:
                failed += f"{graph.smiles}\n"
        made = conformer_files.to_arrays(conformer_files.joined(parts)) if parts else {}
        return {**made, _FAILED: np.frombuffer(failed.encode(), np.uint8)}


def conformers_of(smiles: str, settings: Settings) -> Conformers:
    """The different conformers of a molecule, relaxed, from the lowest energy on."""
    seed = bond_graphs.seed_of(settings.seed, _PURPOSE, smiles)
    found = bond_graphs.embed(smiles, settings.num_conformers, seed, relaxed=True)
    return bond_graphs.distinct(smiles, found, settings.distinct)


def _ensemble(graph: BondGraph, found: Conformers) -> Ensembles:
    """One molecule."""
    return Ensembles(
        smiles=(graph.smiles,),
        n_atoms=np.array([len(graph.numbers)], np.int32),
        numbers=graph.numbers,
        charges=graph.charges,
        n_bonds=np.array([len(graph.bonds)], np.int32),
        bonds=graph.bonds,
        n_conformers=np.array([len(found.positions)], np.int32),
        positions=found.positions.reshape(-1, 3),
        energies=found.energies,
    )
