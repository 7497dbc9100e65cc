"""Molecules that a trained denoiser draws, and how good they are.

They lie in the folder `drawn` of the work directory: samples.xyz, molecules.png,
forming.png, forming.gif and generation.json. What is drawn is a function of the
parameters, the number of molecules and the seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from demetar import elements, geometry, models
from demetar.data.bonds import Progress
from demetar.data.dataset import Dataset
from demetar.data.molecules import Molecules
from demetar.errors import UserError
from demetar.generation import (
    chemistry,
    likelihood,
    quiet_rdkit,
    sampler,
    stability,
    states,
    xyz_file,
)
from demetar.generation.dataset import rows_of
from demetar.generation.noising import Noising
from demetar.generation.structures import Structures
from demetar.settings import COUNT, NOT_NEGATIVE, OUTPUT, setting
from demetar.train import checkpoint
from demetar.types import Params
from demetar.visual import animation
from demetar.visual import molecules as pictures
from experiments.run import cli, drawn_files, statistics, workdir
from experiments.run.job import Job

RECORD, SAMPLES = "generation.json", "samples.xyz"
MEASURES = (
    *("stable_atoms", "stable_molecules", "validity", "uniqueness", "novelty"),
    "not_finite",
)
NUM_TURNED = 16  # molecules that tell of the sampler's symmetry
NUM_SHOWN = 12
NUM_FRAMES, NUM_FILMED = 8, 40  # of a picture and of an animation


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is drawn of the trained model."""

    num_samples: int = setting(
        1_000, "Molecules to draw when the run is finished.", OUTPUT, COUNT
    )
    sample_seed: int = setting(0, "Seed of what is drawn.", OUTPUT, NOT_NEGATIVE)


def check(asked: Settings, dataset: Dataset) -> None:
    """Refuse more molecules than fit the memory, before anything runs.

    Raises:
      UserError: they do not fit.
    """
    sizes = dataset.packing.samples.n_node[dataset.splits["train"]]
    if not has_known_bonds(np.array(states.species_of(dataset.task))):
        known = ", ".join(elements.SYMBOLS[number - 1] for number in stability.VALENCES)
        print(f"note      bonds are known of {known} alone: stability is not measured")
    elif not quiet_rdkit.is_available():
        print(
            "note      validity, uniqueness and novelty need RDKit: "
            f"{quiet_rdkit.INSTALL}"
        )
    sampler.check_memory(
        asked.num_samples, int(sizes.max()), dataset.task, drawn_files.memory()
    )


def draw(job: Job, known: Molecules, asked: Settings) -> None:
    """Draw molecules with a finished run, and write what is said of them."""
    found = drawn_files.told(
        *(job.folder, RECORD, "generated", asked),
        lambda: _drawn(job, known, asked),
    )
    print(f"{describe(found)}\nmolecules: {job.folder / drawn_files.FOLDER / SAMPLES}")


def _drawn(job: Job, known: Molecules, asked: Settings) -> dict[str, Any]:
    """Draw, write molecules and pictures, and measure."""
    best = checkpoint.load_model(job.folder / workdir.BEST)
    place = job.folder / drawn_files.FOLDER
    drawer, training = make_sampler(job, best), training_molecules(known, job)
    sizes = sampler.sizes_like(training.n_node, asked.num_samples, asked.sample_seed)
    rows, everything = [], []
    for index, seed in enumerate(job.settings.replicas.seeds):
        params = jax.tree.map(lambda leaf, own=index: leaf[own], best.params)
        begin = time.monotonic()
        drawn = drawer.draw(params, sizes, asked.sample_seed, _calls)
        seconds = (time.monotonic() - begin) / asked.num_samples
        suffix = f"_seed{seed}" if index else ""
        write(place / SAMPLES.replace(".", f"{suffix}."), drawn)
        if not index:
            draw_pictures(place, drawer, params, drawn, asked.sample_seed)
        bounds = likelihood.bounds(drawer.model, job.dataset, params, progress=_calls)
        turned = symmetry_error(drawer, params, sizes[:NUM_TURNED], asked.sample_seed)
        everything.append(drawn)
        rows.append(
            {
                **measures(drawn, training),
                "nats": float(bounds.mean()),
                "nats_standard_error": float(bounds.std(ddof=1) / len(bounds) ** 0.5),
                "delta_eq": turned,
                "seconds_per_molecule": seconds,
            }
        )
    return {
        **{name: [row[name] for row in rows] for name in rows[0]},
        "intervals": intervals(everything),
        "seeds": list(job.settings.replicas.seeds),
        "device": cli.device(),
        "versions": cli.versions(),
    }


_calls: Progress = functools.partial(cli.progress, unit=" calls")


def make_sampler(job: Job, best: checkpoint.ModelCheckpoint) -> sampler.Sampler:
    """What draws molecules with a trained model."""
    noise, reading = job.dataset.corrupt, job.settings.reading()
    assert isinstance(noise, Noising)
    return sampler.Sampler(
        models.build(best.model, job.dataset.task, best.fields),
        *(job.dataset.task, noise.schedule, reading.batch_size, reading.dtype),
    )


def training_molecules(known: Molecules, job: Job) -> Structures:
    """The molecules that the model was trained on."""
    everything = Structures(known.numbers.astype(int), known.positions, known.n_atoms)
    return everything.take(rows_of(known, job.settings.reading())["train"])


def write(path: pathlib.Path, drawn: Structures) -> None:
    """The molecules as extended xyz, those that are not finite left out."""
    kept = drawn.take(finite(drawn))
    known = has_known_bonds(kept.numbers)
    stable = {"stable": stability.measure(kept).molecules} if known else {}
    xyz_file.write(path, kept, stable)


def has_known_bonds(numbers: np.ndarray) -> bool:
    """Whether the table of bonds knows all elements."""
    return set(np.unique(numbers).tolist()) <= set(stability.VALENCES)


def finite(drawn: Structures) -> np.ndarray:
    """Whether each molecule has finite positions, [M]."""
    atoms = np.isfinite(drawn.positions).all(axis=1)
    return np.logical_and.reduceat(atoms, drawn.starts)


def measures(drawn: Structures, training: Structures) -> dict[str, float | None]:
    """Shares of stable atoms and molecules, of valid, unique and novel ones, and of
    molecules that are not finite. None of what cannot be told.
    """
    found: dict[str, float | None] = dict.fromkeys(MEASURES)
    found["not_finite"] = float(1 - finite(drawn).mean())
    if not has_known_bonds(training.numbers):
        return found
    stable = stability.measure(drawn)
    found["stable_atoms"] = float(stable.atoms.mean())
    found["stable_molecules"] = float(stable.molecules.mean())
    with contextlib.suppress(UserError):  # RDKit is not installed: said before
        own = chemistry.assess(drawn, training, cli.progress)
        found |= {
            "validity": own.validity,
            "uniqueness": own.uniqueness,
            "novelty": own.novelty,
        }
    return found


def intervals(everything: Sequence[Structures]) -> dict[str, list[float]]:
    """95 % intervals of means over seeds: molecules are drawn with replacement."""
    first = everything[0]
    if not all(has_known_bonds(drawn.numbers) for drawn in everything):
        return {}
    found = [stability.measure(drawn) for drawn in everything]
    counts = [np.add.reduceat(own.atoms.astype(float), first.starts) for own in found]
    atoms = np.stack(counts) / first.n_node.mean()
    molecules = np.stack([own.molecules for own in found]).astype(np.float64)
    return {
        "stable_atoms": list(statistics.bootstrap_mean(atoms)),
        "stable_molecules": list(statistics.bootstrap_mean(molecules)),
    }


def symmetry_error(
    drawer: sampler.Sampler, params: Params, sizes: np.ndarray, seed: int
) -> float:
    """Delta_EQ of drawing: what turning all noise does beside turning the molecules.

    The mean over molecules of ||R x(noise) - x(R noise)|| / ||x||.
    """
    turn = np.asarray(geometry.random_rotations(jax.random.key(seed), ()), np.float64)
    before = drawer.draw(params, sizes, seed)
    after = drawer.draw(params, sizes, seed, turn=turn)
    squares = [
        np.add.reduceat(np.square(values).sum(axis=1), before.starts)
        for values in (before.positions @ turn.T - after.positions, before.positions)
    ]
    return float(np.sqrt(squares[0] / squares[1]).mean())


def draw_pictures(
    place: pathlib.Path,
    drawer: sampler.Sampler,
    params: Params,
    drawn: Structures,
    seed: int,
) -> None:
    """Some of the molecules, and one of them on its way from noise."""
    shown = np.flatnonzero(finite(drawn))
    if not len(shown) or not has_known_bonds(drawn.numbers):
        return
    title = f"the first {len(shown[:NUM_SHOWN])} molecules drawn with seed {seed}"
    gallery = pictures.gallery(drawn.take(shown[:NUM_SHOWN]), title)
    cli.save_figure(place / "molecules.png", gallery)
    stable = np.flatnonzero(stability.measure(drawn).molecules)
    number = int(stable[0] if len(stable) else shown[0])
    frames = drawer.film(params, int(drawn.n_node[number]), number, seed, NUM_FILMED)
    last = drawer.schedule.num_steps
    moments = [(time / last, molecule) for time, molecule in frames]
    kept = np.unique(np.linspace(0, len(moments) - 1, NUM_FRAMES).round().astype(int))
    title = f"molecule {number} on its way from noise"
    strip = pictures.forming([moments[index] for index in kept], title)
    cli.save_figure(place / "forming.png", strip)
    film = animation.encode(*pictures.film(moments, title), colors=128)
    checkpoint.write_bytes(place / "forming.gif", film)


def describe(found: Mapping[str, Any]) -> str:
    """What is said of molecules that were drawn, in one line."""
    shares = []
    for name in MEASURES[:-1]:
        if None not in found[name]:
            share = f"{100 * float(np.mean(found[name])):.1f} %"
            ends = [f"{100 * end:.1f}" for end in found["intervals"].get(name, ())]
            between = f" ({' to '.join(ends)})" if ends else ""
            shares.append(f"{name.replace('_', ' ')} {share}{between}")
    shares.append(f"bound {np.mean(found['nats']):.1f} nats")
    return f"drawn     {found['num_samples']:,} molecules: {', '.join(shares)}"
