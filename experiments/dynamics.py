"""Dynamics, minima and vibrations of a trained potential.

    python -m experiments.dynamics RUN... --what=nve --out=DIR

Each RUN is a work directory of experiments.potential. `nve` runs molecular dynamics at
constant energy, which forces that are the gradient of an energy conserve and others do
not: it tells the drift of the total energy per atom and picosecond. `relax` looks for
the minimum, and `frequencies` for the harmonic vibrations about it; both compare with a
quantum-chemical engine, unless --engine=none. --out gets a record WHAT.json and a
picture WHAT.png. Lengths are in Å, energies in meV, forces in eV/Å.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from demetar import committees
from demetar.errors import UserError
from demetar.potential import Potential
from demetar.precision import DTYPES
from demetar.predict import PRETRAINED
from demetar.settings import DATA, MODEL, NOT_NEGATIVE, OUTPUT, Bounds, setting
from demetar.train import checkpoint
from experiments.run import cli, finished, motion, motion_figures, records
from tools import structures, xtb
from tools.command_line import CommandLine, Given
from tools.langevin import Engine
from tools.structures import Structure

MODULE = "experiments.dynamics"
NONE = "none"
FRAME = 10.0  # fs between the energies that are kept


@dataclasses.dataclass(frozen=True)
class Options:
    """What is shown, of which molecule, and how exactly."""

    what: str = setting(
        "nve",
        "Dynamics at constant energy, the minimum, or the vibrations about it.",
        DATA,
        choices=("nve", "relax", "frequencies"),
    )
    molecule: str = setting(
        "ethanol",
        "One of ASE's G2 set, as ethanol or CH3CH2OH, a FILE.xyz, or a number of QM9.",
        DATA,
    )
    engine: str = setting(
        xtb.METHODS[0],
        "What minimum and vibrations are compared with: that of the training data.",
        DATA,
        choices=(*xtb.METHODS, NONE),
    )
    temperature: float = setting(
        600.0,
        "Of the velocities at the start, in K. About half of it remains.",
        DATA,
        Bounds(above=0, most=10_000),
    )
    duration: float = setting(
        10.0, "Of the dynamics, in ps.", DATA, Bounds(least=0.02, most=1e6)
    )
    time_step: float = setting(0.5, "In fs.", DATA, Bounds(above=0, most=FRAME))
    force: float = setting(
        1e-3,
        "The largest force on an atom of a minimum, in eV/Å.",
        DATA,
        Bounds(above=0),
    )
    seed: int = setting(0, "Of the velocities.", DATA, NOT_NEGATIVE)
    committee: bool = setting(
        False,
        "Take all RUNs as one model, the mean of their energies and forces.",
        MODEL,
    )
    dtypes: tuple[str, ...] = setting(
        DTYPES,
        "What dynamics compute in, one after the other; all else is in float64.",
        MODEL,
    )
    out: str = setting(
        "dynamics", "Folder for WHAT.json and WHAT.png; created if missing.", OUTPUT
    )

    @property
    def interval(self) -> int:
        """Time steps from frame to frame."""
        return max(1, round(FRAME / self.time_step))

    @property
    def num_frames(self) -> int:
        """Frames after the first."""
        return max(2, round(1e3 * self.duration / (self.interval * self.time_step)))


LINE = CommandLine(Options, positional="RUN...")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model in one precision, or the engine.

    Attributes:
      label: in tables and pictures, different for each.
      engine: energies and forces of the molecule.
      about: what the record says of it.
    """

    label: str
    engine: Engine
    about: Mapping[str, Any]


def main(given: Given, runs: Sequence[str]) -> None:
    """Compute, print a table, and write the record and the picture."""
    options = given.read(Options)
    if not runs:
        raise UserError(
            "expected the work directory of at least one run of experiments.potential, "
            "found none; give it as in: python -m experiments.dynamics "
            "runs/xtb_ethanol/nequip"
        )
    for dtype in options.dtypes:
        if dtype not in DTYPES:
            raise UserError(
                f"expected --dtypes of {', '.join(DTYPES)}, found {dtype!r}"
            )
    molecule = structures.find(options.molecule)
    dtypes = dict.fromkeys(options.dtypes if options.what == "nve" else ("float64",))
    found = named(runs)
    if options.committee and len(found) < 2:
        raise UserError(
            f"expected at least two runs with --committee, found {len(found)}"
        )
    together = {", ".join(found): [*found.values()]}
    alone = {label: [run] for label, run in found.items()}
    subjects = [
        model(own, label, dtype, molecule)
        for label, own in (together if options.committee else alone).items()
        for dtype in dtypes
    ]
    if options.what != "nve" and options.engine != NONE:
        subjects.insert(0, quantum(options.engine, molecule))
    folder = pathlib.Path(options.out)
    compute = {"nve": _nve, "relax": _relax, "frequencies": _frequencies}[options.what]
    with cli.new_folder(folder):
        rows, figure = compute(subjects, molecule, options)
        print(cli.markdown_table([_shown(row) for row in rows], "---:"))
        cli.save_figure(folder / f"{options.what}.png", figure)
        write(folder / f"{options.what}.json", options, rows)
    print(f"{folder}: {options.what}.json, {options.what}.png")


def named(runs: Sequence[str]) -> dict[str, str]:
    """{label: run} of runs as `demetar.load` takes them, each once and in their order.

    No two labels are alike.
    """
    packaged = [run for run in runs if run.startswith(PRETRAINED)]
    paths = {run: pathlib.Path(run).resolve() for run in runs if run not in packaged}
    labels = finished.labels(paths.values())
    found: dict[str, str] = {}
    for run in runs:
        found.setdefault(labels[paths[run]] if run in paths else run, run)
    return found


def model(runs: Sequence[str], label: str, dtype: str, molecule: Structure) -> Subject:
    """A trained model of the molecule, or several as one.

    Args:
      runs: each as `demetar.load` takes it.
      label: of the model.
      dtype: of what is computed.
      molecule: whose elements it must know.

    Raises:
      UserError: there is none, it is no potential, or does not know an element.
    """
    potential = Potential(committees.load(runs, dtype=dtype))
    engine = potential.engine(molecule.numbers)
    engine(molecule.positions)  # so that an unknown element is told at once
    about = {
        "run": label,
        "model": potential.model.model,
        "dtype": dtype,
        "conservative": potential.is_conservative,
    }
    return Subject(f"{label}, {dtype}", engine, about)


def quantum(method: str, molecule: Structure) -> Subject:
    """The engine that others are compared with."""
    about = {"run": method, "model": None, "dtype": "float64", "conservative": True}
    return Subject(method, xtb.engine(method, molecule.numbers), about)


def _nve(
    subjects: Sequence[Subject], molecule: Structure, options: Options
) -> tuple[list[dict[str, Any]], Any]:
    """Dynamics at constant energy of every model, from the same start."""
    random = np.random.default_rng(options.seed)
    velocities = motion.start_velocities(
        molecule.positions, molecule.masses, options.temperature, random
    )
    rows, traces = [], {}
    for subject in subjects:
        begin = time.perf_counter()
        trace = motion.constant_energy(
            molecule.positions,
            velocities,
            molecule.masses,
            subject.engine,
            options.time_step,
            _bar(range(options.num_frames), subject.label),
            options.interval,
        )
        seconds = time.perf_counter() - begin
        num_steps = (len(trace.times) - 1) * options.interval
        traces[subject.label] = trace
        rows.append(
            {
                **subject.about,
                "picoseconds": 1e-3 * float(trace.times[-1]),
                "is_whole": trace.is_whole,
                "drift_meV_per_atom_ps": trace.drift,
                "spread_meV_per_atom": trace.spread,
                "temperature_K": trace.temperature,
                "steps_per_second": num_steps / seconds,
                "total_meV_per_atom": trace.total.tolist(),
            }
        )
    return rows, motion_figures.draw_traces(traces)


def _relax(
    subjects: Sequence[Subject], molecule: Structure, options: Options
) -> tuple[list[dict[str, Any]], Any]:
    """The minimum of every model, beside that of the first: the engine's."""
    found = _minima(subjects, molecule, options.force)
    first = found[0]
    rows = []
    for subject, minimum in zip(subjects, found, strict=True):
        at_first, _ = subject.engine(first.positions)
        rows.append(
            {
                **subject.about,
                "energy_eV": minimum.energy,
                "rmsd_A": motion.deviation(minimum.positions, first.positions),
                "below_first_meV": 1e3 * (at_first - minimum.energy),
                "num_calls": minimum.num_calls,
                "positions_A": minimum.positions.tolist(),
            }
        )
    places = {
        subject.label: minimum.positions
        for subject, minimum in zip(subjects, found, strict=True)
    }
    return rows, motion_figures.draw_distances(places)


def _frequencies(
    subjects: Sequence[Subject], molecule: Structure, options: Options
) -> tuple[list[dict[str, Any]], Any]:
    """Vibrations of every model about its minimum, beside those of the first."""
    waves: dict[str, np.ndarray] = {}
    rows = []
    for subject, minimum in zip(
        subjects, _minima(subjects, molecule, options.force), strict=True
    ):
        waves[subject.label] = found = motion.frequencies(
            minimum.positions,
            molecule.masses,
            subject.engine,
            functools.partial(_bar, description=subject.label),
        )
        errors = _departures(found, waves[subjects[0].label])
        rows.append(
            {
                **subject.about,
                "mae_per_cm": float(errors.mean()),
                "largest_error_per_cm": float(errors.max()),
                "num_imaginary": int((found < 0).sum()),
                "frequencies_per_cm": found.tolist(),
            }
        )
    return rows, motion_figures.draw_frequencies(waves)


def _departures(found: np.ndarray, first: np.ndarray) -> np.ndarray:
    """By how much frequencies [F] differ from the first ones.

    They are NaN if one minimum is linear and the other is not: there is no pairing.
    """
    if found.shape != first.shape:
        return np.full(found.shape, np.nan)
    departures: np.ndarray = np.abs(found - first)
    return departures


def _minima(
    subjects: Sequence[Subject], molecule: Structure, force: float
) -> list[motion.Minimum]:
    """That of each; those of the others start from that of the first."""
    found: list[motion.Minimum] = []
    for subject in subjects:
        start = found[0].positions if found else molecule.positions
        found.append(motion.relax(start, subject.engine, force))
    return found


def _bar(items: Iterable[int], description: str) -> Iterable[int]:
    return cli.progress(items, description, None, " frames")


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table: without lists, numbers in four digits."""
    return {
        name.replace("_", " "): f"{value:.3g}"
        if isinstance(value, float)
        else str(value)
        for name, value in row.items()
        if not isinstance(value, list)
    }


def write(
    path: pathlib.Path, options: Options, rows: Sequence[Mapping[str, Any]]
) -> None:
    """The record as JSON, atomically."""
    settings = dataclasses.asdict(options)
    del settings["out"]
    content = {
        "command": records.typed_command(MODULE),
        "settings": settings,
        "results": rows,
        "versions": cli.versions(),
        "device": cli.device(),
    }
    checkpoint.write_json(path, checkpoint.to_json(content))


if __name__ == "__main__":
    cli.run(main, LINE)
