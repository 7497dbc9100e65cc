"""Generate data sets of N-body trajectories.

    python -m tools.generate_nbody --preset=nbody_small --out=DIR
    python -m tools.generate_nbody --verify=DIR

A folder holds `train.npz`, `valid.npz`, `test.npz` (a split of no simulations has no
file) and `metadata.json`. Arrays: `positions`, `velocities` and, if asked for,
`forces` (S, F, n, 3); `charges` or `masses` (S, n); `steps` (F,) the number of each
saved step; `num_bodies` (S,) if systems differ in size, the rest of a row being 0.
S counts simulations, F saved frames, n bodies; units are dimensionless.

Presets are the published sets: nbody_small and nbody of Satorras et al. 2021 (arXiv
2102.09844), gravity of Brandstetter et al. 2022 (arXiv 2110.02905), and nbody_blog,
what the JAX EGNN blog post made of the first. A flag that is given overrides the
preset's value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from demetar.errors import UserError
from demetar.settings import DATA, setting
from tools import cli, folders, output_folder, simulation, streams, systems
from tools.command_line import CommandLine, Given

_OPEN = "the preset's"
VERSIONED = ("jax", "jaxlib", "numpy")
UNITS = {
    "positions": "dimensionless length",
    "velocities": "dimensionless length / time",
    "forces": "dimensionless mass * length / time^2",
    "charges": "unit charge",
    "masses": "unit mass",
    "steps": "integration steps of dt",
    "dt": "dimensionless time",
    "energy_drift": "relative to kinetic energy plus absolute potential energies",
    "momentum_drift": "relative to the sum of the absolute momenta",
}


def generate(
    settings: simulation.Settings,
    out_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = True,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Generate a data set in a folder, which appears when all of it is written.

    Args:
      settings: what to generate.
      out_dir: a folder that is missing or empty, or one to overwrite.
      overwrite: whether to replace a data set that is there.
      progress: whether to show a progress bar on stderr.
      num_workers: threads that integrate; by default one per available core.

    Returns:
      The contents of `metadata.json`.

    Raises:
      UserError: the folder cannot be written, there is no space for it, or a simulation
        left the finite numbers, and nothing is left behind; or what is in the folder
        was not there at the start.
    """

    def fill(folder: pathlib.Path) -> dict[str, Any]:
        _check_space(settings, folder)
        return _fill(folder, settings, progress, num_workers)

    described = {
        "settings": _describe(settings),
        "versions": folders.versions(*VERSIONED),
    }
    return output_folder.make(pathlib.Path(out_dir), described, fill, overwrite)


def _check_space(settings: simulation.Settings, folder: pathlib.Path) -> None:
    """Refuse to start what the disk cannot hold."""
    sizes = [
        math.prod(shape) * dtype.itemsize
        for split in simulation.SPLITS
        for dtype, shape in settings.shapes(split).values()
    ]
    needed = sum(sizes) + max(sizes)  # an array is there twice while it is moved
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"no space on the disk for {folder.parent}: {needed / 1e9:.2f} GB needed, "
            f"{free / 1e9:.2f} GB free; save fewer frames or simulations"
        )


def _fill(
    folder: pathlib.Path,
    settings: simulation.Settings,
    progress: bool,
    num_workers: int | None,
) -> dict[str, Any]:
    """Write all files of a data set and return its metadata."""
    simulator = simulation.Simulator(settings)
    workers = num_workers or len(os.sched_getaffinity(0))
    arrays: dict[str, dict[str, str]] = {}
    drifts: dict[str, list[dict[str, np.ndarray]]] = {}
    with (
        contextlib.closing(simulation.simulated(simulator, workers)) as results,
        tqdm.tqdm(total=sum(settings.sizes), unit="sim", disable=not progress) as bar,
    ):
        for split, group in itertools.groupby(results, key=lambda result: result[0]):
            bar.set_description(split)
            writer = folders.SplitWriter(folder, settings, split)
            for _, (rows, drift) in group:
                _check_finite(rows, split, sum(map(_count, drifts.get(split, []))))
                writer.append(rows)
                drifts.setdefault(split, []).append(drift)
                bar.update(_count(drift))
            arrays[split] = writer.finish()
    content = {
        "settings": _describe(settings),
        "frames": list(settings.frames),
        "units": UNITS,
        "versions": folders.versions(*VERSIONED),
        "arrays": arrays,
        "conserved": {split: _summarise(parts) for split, parts in drifts.items()},
    }
    return folders.write_metadata(folder, content)


def _count(drift: dict[str, np.ndarray]) -> int:
    return len(drift["energy_drift"])


def _check_finite(rows: dict[str, np.ndarray], split: str, first: int) -> None:
    finite = np.isfinite(rows["positions"]).all(axis=(1, 2, 3))
    if not finite.all():
        raise UserError(
            f"simulation {first + int(np.argmin(finite))} of {split} left the finite "
            "numbers; use a smaller --dt or some --softening"
        )


def _describe(settings: simulation.Settings) -> dict[str, Any]:
    """The settings as JSON, with the constants of the system."""
    described = dataclasses.asdict(settings)
    if settings.system == systems.CHARGED:
        described["force_limit"] = systems.FORCE_LIMIT
        described["initial_wall"] = streams.WALL
        described["initial_speed"] = streams.SPEED
        described["integrator"] = "kick-drift, velocities half a step old"
    else:
        described["integrator"] = "kick-drift-kick"
    return described


def _summarise(parts: list[dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Median, 99th percentile and maximum of each relative drift."""
    summary = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        quantiles = np.quantile(values, [0.5, 0.99, 1.0])
        summary[name] = dict(
            zip(("median", "p99", "max"), map(float, quantiles), strict=True)
        )
    return summary


@dataclasses.dataclass(frozen=True)
class Options(folders.Asked):
    """What is asked for, beside the settings of the simulation."""

    preset: str | None = setting(
        None, f"A published data set: {', '.join(simulation.PRESETS)}.", DATA
    )
    num_bodies: str | None = setting(
        None,
        "Bodies per simulation, as 5, or 3-20 to draw the number.",
        DATA,
        default_words=_OPEN,
    )
    save_frames: str | None = setting(
        None,
        "Frames to keep, as 30,40; all frames if empty.",
        DATA,
        default_words=_OPEN,
    )


LINE = CommandLine(Options, (simulation.Settings, _OPEN))


def settings_of(given: Given) -> simulation.Settings:
    """The preset's settings with every flag that is given in place of its value.

    Without a preset the values are those of the system's published set.
    """
    preset = given.get("preset")
    if preset is None:
        is_gravity = given.get("system") == systems.GRAVITY
        preset = "gravity" if is_gravity else "nbody_small"
    simulation.expect_one_of("preset", preset, tuple(simulation.PRESETS))
    changed: dict[str, Any] = given.only(simulation.Settings)
    if "num_bodies" in given:
        changed["num_bodies"] = _parse_range(given["num_bodies"])
    if "save_frames" in given:
        changed["save_frames"] = _parse_frames(given["save_frames"])
    return dataclasses.replace(simulation.PRESETS[preset], **changed)


def _parse_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise UserError(
            f"expected --num_bodies: N or LOW-HIGH; found {text!r}"
        ) from None


def _parse_frames(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        raise UserError(
            f"expected --save_frames: numbers as 30,40; found {text!r}"
        ) from None


def run(given: Given, _: Sequence[str] = ()) -> None:
    """Do what the flags ask for.

    Raises:
      UserError: they ask for what cannot be done, or a data set is not intact.
    """
    jax.config.update("jax_platforms", "cpu")
    options = given.read(Options)
    if options.verify is not None:
        folders.tell_intact(options.verify)
        return
    settings = settings_of(given)
    if not options.out:
        raise UserError("expected --out=DIR, the folder to write")
    started = time.perf_counter()
    metadata = generate(settings, options.out, overwrite=options.overwrite)
    seconds = time.perf_counter() - started
    _report(settings, metadata, seconds)
    print(f"{options.out} is written, fingerprint {metadata['fingerprint']}")


def _report(
    settings: simulation.Settings, metadata: dict[str, Any], seconds: float
) -> None:
    count = sum(settings.sizes)
    steps = count * int(settings.steps[-1])
    print(
        f"{count} simulations in {seconds:.2f} s: {count / seconds:.1f} simulations/s, "
        f"{steps / seconds:.3g} steps/s"
    )
    for split, drifts in metadata["conserved"].items():
        for name, values in drifts.items():
            print(
                f"{split} {name.replace('_', ' ')}: median {values['median']:.1e}, "
                f"99 % below {values['p99']:.1e}, largest {values['max']:.1e}"
            )


if __name__ == "__main__":
    cli.run(run, LINE)
