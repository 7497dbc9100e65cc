"""Generate energies and forces of a molecule by dynamics.

    python -m pip install '.[potential]'
    python -m tools.generate_md --molecule=ethanol --out=DIR
    python -m tools.generate_md --verify=DIR
    python -m experiments.potential --dataset=DIR

Langevin dynamics (BAOAB) at one temperature, with the energies and forces of GFN2-xTB.
--molecule is one of ASE's G2 set, as ethanol or CH3CH2OH, a FILE.xyz of one molecule,
or a number of QM9 (which needs '.[qm9]'). Training, validation and test frames are of
separate trajectories, each equilibrated from the molecule's geometry with velocities of
its own. The same command continues what was interrupted, and ends with the same frames.

The folder holds `train.npz`, `valid.npz`, `test.npz` and `metadata.json`;
`demetar.data.frame_files` describes them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from demetar import elements, files
from demetar.data import frame_files
from demetar.data.frames import Frames, joined, uniform
from demetar.errors import UserError
from demetar.settings import COUNT, DATA, PROCESSES, setting
from tools import cli, folders, langevin, output_folder, structures, trajectories, xtb
from tools.command_line import CommandLine, Given
from tools.structures import Structure
from tools.trajectories import Arrays, MakeEngine, Settings

INTEGRATOR = "BAOAB"


@dataclasses.dataclass(frozen=True)
class Options(folders.Asked):
    """What is asked for, beside the settings of the dynamics."""

    molecule: str = setting(
        "ethanol",
        "One of ASE's G2 set, as ethanol or CH3CH2OH, a FILE.xyz, or a number of QM9.",
        DATA,
    )
    num_workers: int | None = setting(
        None,
        "Trajectories that are computed at a time.",
        PROCESSES,
        COUNT,
        default_words="one per core",
    )


LINE = CommandLine(Options, Settings)


def generate(
    molecule: Structure,
    settings: Settings,
    out_dir: str | os.PathLike[str],
    *,
    make_engine: MakeEngine | None = None,
    overwrite: bool = False,
    progress: bool = True,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Generate frames in a folder, which appears when all of it is written.

    What was computed before an interruption is kept in a hidden folder beside it, and
    the next call with the same molecule and settings continues there.

    Args:
      molecule: whose frames.
      settings: what they are.
      out_dir: a folder that is missing or empty, or one to overwrite.
      make_engine: what computes energies and forces; by default `settings.method`.
      overwrite: whether to replace a data set that is there.
      progress: whether to show a progress bar on stderr.
      num_workers: trajectories at a time; by default one per available core.

    Returns:
      The contents of `metadata.json`.

    Raises:
      UserError: the folder cannot be written or is being written, the engine is
        missing or failed, or a trajectory left what a molecule can be.
    """
    path = pathlib.Path(out_dir)
    described = _described(molecule, settings, "" if make_engine else xtb.version())
    make_engine = make_engine or functools.partial(xtb.engine, settings.method)

    def fill(folder: pathlib.Path) -> dict[str, Any]:
        with output_folder.kept(path, described) as chunks:
            simulator = trajectories.Simulator(molecule, settings, chunks, make_engine)
            found = _run(simulator, settings, progress, num_workers)
            return _write(folder, molecule, settings, found, described)

    metadata = output_folder.make(path, described, fill, overwrite)
    output_folder.forget(path, described)
    return metadata


def _described(molecule: Structure, settings: Settings, version: str) -> dict[str, Any]:
    """What decides the frames, as JSON can hold it."""
    return {
        "molecule": {
            "name": molecule.name,
            "numbers": molecule.numbers.tolist(),
            "start": files.array_hash(molecule.positions),
        },
        "settings": {**dataclasses.asdict(settings), "integrator": INTEGRATOR},
        "engine": {"tblite": version} if version else {},
    }


def _run(
    simulator: trajectories.Simulator,
    settings: Settings,
    progress: bool,
    num_workers: int | None,
) -> list[Arrays]:
    """The arrays of all trajectories, with a progress bar."""
    every = settings.trajectories()
    total = sum(settings.skipped + one.num_frames for one in every)
    with cli.counting(total, "frame", progress) as told:
        workers = num_workers or len(os.sched_getaffinity(0))
        return simulator.run(min(workers, len(every)), told)


def _write(
    folder: pathlib.Path,
    molecule: Structure,
    settings: Settings,
    found: Sequence[Arrays],
    described: dict[str, Any],
) -> dict[str, Any]:
    """Write all files of a data set and return its metadata."""
    every, splits, measured = settings.trajectories(), {}, {}
    for number, split in enumerate(frame_files.SPLITS):
        parts = [
            part for one, part in zip(every, found, strict=True) if one.split == number
        ]
        splits[split] = _content(molecule, settings, parts)
        measured[split] = _measured(molecule, parts)
    told = {"kind": frame_files.KIND, **described, "units": frame_files.UNITS}
    return folders.write_splits(folder, splits, {**told, "measured": measured})


def _content(
    molecule: Structure, settings: Settings, parts: Sequence[Arrays]
) -> Arrays:
    """The arrays of a split's file."""
    sizes = [len(part["energies"]) for part in parts]
    times = [settings.interval * np.arange(1.0, size + 1) for size in sizes]
    return {
        **frame_files.to_arrays(joined([_frames(molecule, part) for part in parts])),
        "trajectory": np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        "time": np.concatenate(times),
    }


def _frames(molecule: Structure, part: Arrays) -> Frames:
    found = uniform(
        molecule.numbers,
        part["positions"],
        part["energies"],
        part["forces"],
        f"the trajectories of {molecule.name}",
    )
    return dataclasses.replace(found, velocities=part["velocities"].reshape(-1, 3))


def _measured(molecule: Structure, parts: Sequence[Arrays]) -> dict[str, float]:
    """What tells a person that the frames are what they should be."""
    velocities = np.concatenate([part["velocities"] for part in parts])
    forces = np.concatenate([part["forces"] for part in parts])
    energies = np.concatenate([part["energies"] for part in parts])
    return {
        "temperature": float(langevin.temperatures(velocities, molecule.masses).mean()),
        "energy_mean": float(energies.mean()),
        "energy_deviation": float(energies.std()),
        "force_rms": float(np.sqrt(np.mean(forces**2))),
    }


def run(given: Given, _: Sequence[str] = ()) -> None:
    """Do what the flags ask for.

    Raises:
      UserError: they ask for what cannot be done, or a data set is not intact.
    """
    options = given.read(Options)
    if options.verify is not None:
        folders.tell_intact(options.verify, frame_files.read_metadata)
        return
    if not options.out:
        raise UserError("expected --out=DIR, the folder to write")
    settings = given.read(Settings)
    molecule = structures.find(options.molecule)
    started = time.perf_counter()
    metadata = generate(
        molecule,
        settings,
        options.out,
        overwrite=options.overwrite,
        num_workers=options.num_workers,
    )
    seconds = time.perf_counter() - started
    symbols = [elements.SYMBOLS[number - 1] for number in molecule.numbers]
    print(f"{molecule.name}, {' '.join(symbols)}: {settings.method} in {seconds:.1f} s")
    for split, values in metadata["measured"].items():
        print(
            f"{split} {getattr(settings, f'num_{split}'):,} frames: "
            f"{values['temperature']:.0f} K, energy {values['energy_mean']:.3f} eV "
            f"with a deviation of {1e3 * values['energy_deviation']:.0f} meV, force "
            f"{values['force_rms']:.2f} eV/Å"
        )
    print(f"{options.out} is written, fingerprint {metadata['fingerprint']}")


if __name__ == "__main__":
    cli.run(run, LINE, "interrupted; the same command continues")
