"""Generate conformers of molecules from their bond graphs.

    python -m pip install '.[qm9,generation]'
    python -m tools.generate_conformers --out=DIR
    python -m tools.generate_conformers --verify=DIR
    python -m experiments.conformers --dataset=DIR

Molecules are those of QM9's SMILES, or of a text file of SMILES (--smiles). RDKit
embeds conformers of each by ETKDGv3 and relaxes them in MMFF94; of equal ones the first
by energy is kept. A molecule is its bond graph: what a SMILES says of stereochemistry
is left out, and no molecule is in two splits. The same command continues what was
interrupted, and ends with the same conformers.

The folder holds `train.npz`, `valid.npz`, `test.npz` and `metadata.json`;
`demetar.data.conformer_files` describes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from demetar.data import conformer_files
from demetar.data.conformer_files import Ensembles
from demetar.data.readers import text
from demetar.errors import UserError
from demetar.generation import bond_graphs
from demetar.settings import COUNT, DATA, PROCESSES, setting
from tools import cli, ensembles, folders, output_folder
from tools.command_line import CommandLine, Given
from tools.ensembles import Graphs, Settings, Source


@dataclasses.dataclass(frozen=True)
class Options(folders.Asked):
    """What is asked for, beside the settings of the conformers."""

    smiles: str | None = setting(
        None,
        "A text file of molecules, a SMILES at the beginning of each line.",
        DATA,
        default_words="QM9's",
    )
    num_workers: int | None = setting(
        None,
        "Chunks of molecules that are computed at a time.",
        PROCESSES,
        COUNT,
        default_words="one per core",
    )


LINE = CommandLine(Options, Settings)


def generate(
    source: Source,
    settings: Settings,
    out_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = True,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Generate conformers in a folder, which appears when all of it is written.

    What was computed before an interruption is kept in a hidden folder beside it, and
    the next call with the same molecules, seed and number of conformers continues
    there, also if it asks for more or fewer molecules.

    Args:
      source: of the molecules.
      settings: what the conformers are.
      out_dir: a folder that is missing or empty, or one to overwrite.
      overwrite: whether to replace a data set that is there.
      progress: whether to show a progress bar on stderr.
      num_workers: chunks of molecules at a time; by default one per available core.

    Returns:
      The contents of `metadata.json`.

    Raises:
      UserError: the folder cannot be written or is being written, RDKit is missing, a
        molecule of one's own cannot be used, or there are too few.
    """
    path = pathlib.Path(out_dir)
    described = _described(source, settings)
    graphs = Graphs(source, settings.seed)
    graphs.check(settings.total)
    shapes = {
        name: value
        for name, value in described["settings"].items()
        if name not in ("num_train", "num_valid", "num_test")
    }
    same_chunks = {**described, "settings": shapes}

    def fill(folder: pathlib.Path) -> dict[str, Any]:
        with output_folder.kept(path, same_chunks) as chunks:
            generator = ensembles.Generator(settings, chunks)
            found = _run(generator, graphs, settings, progress, num_workers)
            left_out = dict(graphs.left_out)
            if generator.failed:
                left_out[ensembles.NO_CONFORMER] = generator.failed
            told = {**described, "left_out": left_out}
            return _write(folder, found, settings, told)

    metadata = output_folder.make(path, described, fill, overwrite)
    output_folder.forget(path, same_chunks)
    return metadata


def _described(source: Source, settings: Settings) -> dict[str, Any]:
    """What decides the conformers, as JSON can hold it."""
    listed = "\n".join(source.smiles)
    return {
        "source": {
            "name": source.name,
            "smiles": hashlib.sha256(listed.encode()).hexdigest(),
        },
        "settings": {
            **dataclasses.asdict(settings),
            "method": bond_graphs.METHOD,
            "force_field": bond_graphs.FORCE_FIELD,
        },
        "engine": {"rdkit": bond_graphs.version()},
    }


def _run(
    generator: ensembles.Generator,
    graphs: Graphs,
    settings: Settings,
    progress: bool,
    num_workers: int | None,
) -> Ensembles:
    """The conformers of all splits, with a progress bar."""
    with cli.counting(settings.total, " molecules", progress) as told:
        workers = num_workers or len(os.sched_getaffinity(0))
        return generator.run(graphs, workers, told)


def _write(
    folder: pathlib.Path,
    found: Ensembles,
    settings: Settings,
    described: dict[str, Any],
) -> dict[str, Any]:
    """Write all files of a data set and return its metadata.

    Test and validation molecules come first, so that more training molecules leave
    them as they are.
    """
    counts = (settings.num_test, settings.num_valid, settings.num_train)
    stops = np.cumsum(counts)
    rows = {
        split: np.arange(stop - count, stop)
        for split, stop, count in zip(
            ("test", "valid", "train"), stops, counts, strict=True
        )
    }
    parts = {split: found.take(rows[split]) for split in conformer_files.SPLITS}
    measured = {
        split: {
            "molecules": len(part),
            "conformers": int(part.n_conformers.sum()),
            "conformers_mean": float(part.n_conformers.mean()),
            "conformers_median": float(np.median(part.n_conformers)),
        }
        for split, part in parts.items()
    }
    splits = {split: conformer_files.to_arrays(part) for split, part in parts.items()}
    told = {"kind": conformer_files.KIND, **described, "units": conformer_files.UNITS}
    return folders.write_splits(folder, splits, {**told, "measured": measured})


def run(given: Given, _: Sequence[str] = ()) -> None:
    """Do what the flags ask for.

    Raises:
      UserError: they ask for what cannot be done, or a data set is not intact.
    """
    options = given.read(Options)
    if options.verify is not None:
        folders.tell_intact(options.verify, conformer_files.read_metadata)
        return
    if not options.out:
        raise UserError("expected --out=DIR, the folder to write")
    settings = given.read(Settings)
    bond_graphs.version()  # nothing else is read without it
    source = (
        ensembles.of_file(pathlib.Path(options.smiles))
        if options.smiles
        else ensembles.of_qm9()
    )
    started = time.perf_counter()
    metadata = generate(
        source,
        settings,
        options.out,
        overwrite=options.overwrite,
        num_workers=options.num_workers,
    )
    seconds = time.perf_counter() - started
    print(f"{source.name}: {settings.total:,} molecules in {seconds:.1f} s")
    for reason, smiles in metadata["left_out"].items():
        print(f"left out {len(smiles):,} ({reason}): {text.listed(smiles)}")
    for split, values in metadata["measured"].items():
        print(
            f"{split} {values['molecules']:,} molecules, {values['conformers']:,} "
            f"conformers: {values['conformers_mean']:.1f} of each, median "
            f"{values['conformers_median']:g}"
        )
    print(f"{options.out} is written, fingerprint {metadata['fingerprint']}")


if __name__ == "__main__":
    cli.run(run, LINE, "interrupted; the same command continues")
