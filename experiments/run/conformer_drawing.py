"""Conformers that a trained denoiser draws, and how well they cover the known ones.

They lie in the folder `drawn` of the work directory: samples.xyz, coverage.npz with the
measures of each test molecule, and conformers.json. RDKit's own conformers are measured
beside them: those of ETKDGv3, and those that MMFF94 relaxed, which is how the known
ones were made, with other seeds.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from demetar import archives, elements, files, models
from demetar.data.conformer_files import Ensembles
from demetar.data.samples import Samples
from demetar.errors import UserError
from demetar.generation import (
    bond_graphs,
    conformer_graphs,
    conformer_noise,
    coverage,
    xyz_file,
)
from demetar.generation.conformer_graphs import EDGE_FEATURES, Sets
from demetar.generation.conformer_sampler import ShapeSampler
from demetar.generation.coverage import Coverage
from demetar.generation.structures import Structures
from demetar.settings import COUNT, NOT_NEGATIVE, OUTPUT, setting
from demetar.train import checkpoint
from demetar.types import Params
from experiments.run import cli, drawn_files, run_files, statistics, workdir
from experiments.run.job import Job

RECORD = "conformers.json"
SAMPLES, MEASURES = "samples.xyz", "coverage.npz"
EMBEDDED = bond_graphs.METHOD
RELAXED = f"{bond_graphs.METHOD} and {bond_graphs.FORCE_FIELD}"
_BYTES_PER_ATOM = 200  # of a sample: its inputs, and its positions as several copies


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is drawn of the trained model."""

    num_samples: int | None = setting(
        None,
        "Conformers to draw of each test molecule when the run is finished.",
        OUTPUT,
        COUNT,
        default_words="two for each that is known",
    )
    sample_steps: int = setting(
        500, "Steps from noise to a shape, some of --noise_steps.", OUTPUT, COUNT
    )
    sample_seed: int = setting(0, "Seed of what is drawn.", OUTPUT, NOT_NEGATIVE)

    def copies(self, test: Ensembles) -> np.ndarray:
        """[D] conformers to draw of each molecule."""
        known = coverage.PER_REFERENCE * test.n_conformers
        return known if self.num_samples is None else 0 * known + self.num_samples


def check(asked: Settings, test: Ensembles, noise_steps: int) -> None:
    """Refuse what cannot be drawn, before anything runs.

    Raises:
      UserError: there are more steps than the model is trained with, or more samples
        than fit the memory.
    """
    if asked.sample_steps > noise_steps:
        raise UserError(
            f"expected --sample_steps of at most --noise_steps={noise_steps:,}, found "
            f"{asked.sample_steps:,}"
        )
    memory = drawn_files.memory()
    copies, sizes = asked.copies(test).astype(float), test.n_atoms.astype(float)
    each = _BYTES_PER_ATOM * sizes + len(EDGE_FEATURES) * sizes**2
    pairs = 8 * 3 * np.square(copies + test.n_conformers)  # distances of one molecule
    needed = (copies * each).sum() + pairs.max()
    if needed > memory:
        raise UserError(
            f"expected a --num_samples that fits {memory / 1e9:.1f} GB of memory, "
            f"found {int(copies.max()):,} of a molecule, which need "
            f"{needed / 1e9:.1f} GB; ask for fewer, or for fewer molecules by "
            "--num_test"
        )


def draw(job: Job, sets: Sets, asked: Settings) -> None:
    """Draw conformers with a finished run, and write what is said of them."""
    found = drawn_files.told(
        *(job.folder, RECORD, "conformers", asked),
        lambda: _drawn(job, sets, asked),
    )
    print(f"{describe(found)}\nconformers: {job.folder / drawn_files.FOLDER / SAMPLES}")


@dataclasses.dataclass(frozen=True)
class OfModel:
    """What a trained model drew.

    Attributes:
      measures: of each seed.
      not_finite: share of the conformers, over all seeds.
      seconds: that one of them took.
    """

    measures: list[Coverage]
    not_finite: float
    seconds: float


def _drawn(job: Job, sets: Sets, asked: Settings) -> dict[str, Any]:
    """Draw, write conformers, and measure."""
    test, seeds = sets.parts["test"], job.settings.replicas.seeds
    copies = asked.copies(test)
    of_model = _of_model(job, test, copies, asked)
    rows = {job.settings.model: of_model.measures}
    for name, relaxed in ((EMBEDDED, False), (RELAXED, True)):
        shapes = embedded(test, copies, asked.sample_seed, relaxed)
        rows[name] = [measure(test, shapes)]
    save_measures(job.folder / drawn_files.FOLDER / MEASURES, rows)
    bounded = [bond_graphs.is_bounded(smiles) for smiles in test.smiles]
    return {
        "rows": {name: summary(own) for name, own in rows.items()},
        "threshold": coverage.THRESHOLD,
        "molecules": len(test),
        "references": int(test.n_conformers.sum()),
        "samples": int(copies.sum()),
        "not_finite": of_model.not_finite,
        "bounded": int(np.sum(bounded)),
        "seconds_per_sample": of_model.seconds,
        "seeds": list(seeds),
        "device": cli.device(),
        "versions": {**cli.versions(), "rdkit": bond_graphs.version()},
    }


def _of_model(
    job: Job, test: Ensembles, copies: np.ndarray, asked: Settings
) -> OfModel:
    """Draw and write the conformers of every seed, and measure them."""
    best = checkpoint.load_model(job.folder / workdir.BEST)
    drawer = make_sampler(job, best, asked.sample_steps)
    graphs = conformer_graphs.to_samples(test, species_of(drawer), copies)
    place = job.folder / drawn_files.FOLDER
    kept = place / f"unfinished-{identity(job, best, asked)}"
    measures: list[Coverage] = []
    finite: list[bool] = []
    begin = time.monotonic()
    for index, seed in enumerate(job.settings.replicas.seeds):
        params = jax.tree.map(lambda leaf, own=index: leaf[own], best.params)
        flat = drawn_shapes(drawer, params, graphs, asked.sample_seed, kept / str(seed))
        finite += [bool(np.isfinite(own).all()) for own in flat]
        shapes = grouped(flat, copies)
        suffix = f"_seed{seed}" if index else ""
        write(place / SAMPLES.replace(".", f"{suffix}."), test, shapes)
        measures.append(measure(test, shapes))
    seconds = (time.monotonic() - begin) / len(finite)
    shutil.rmtree(kept)
    return OfModel(measures, 1 - float(np.mean(finite)), seconds)


def make_sampler(
    job: Job, best: checkpoint.ModelCheckpoint, num_steps: int
) -> ShapeSampler:
    """What draws conformers with a trained model."""
    noise, reading = job.dataset.corrupt, job.settings.reading()
    assert isinstance(noise, conformer_noise.ShapeNoising)
    return ShapeSampler(
        models.build(best.model, job.dataset.task, best.fields),
        job.dataset.task,
        conformer_noise.thinned(noise.schedule, num_steps),
        reading.batch_size,
        reading.dtype,
    )


def identity(job: Job, best: checkpoint.ModelCheckpoint, asked: Settings) -> str:
    """What decides the conformers of a run, beside the seeds of its training."""
    told = {
        **dataclasses.asdict(asked),
        run_files.RUN_ID: best.metadata[run_files.RUN_ID],
        "best_epoch": best.metadata["best_epoch"],
        "devices": jax.local_device_count(),
        "batch_size": job.settings.reading().batch_size,
    }
    return files.json_hash(told)[:12]


def drawn_shapes(
    drawer: ShapeSampler, params: Params, graphs: Samples, seed: int, kept: pathlib.Path
) -> list[np.ndarray]:
    """A shape [n, 3] of each graph; those that an interrupted start left are read.

    Args:
      drawer, params: of the model.
      graphs: of `conformer_graphs.to_samples`.
      seed: of all noise.
      kept: a folder for what was drawn, made if it is missing.
    """
    cli.make_folder(kept)
    found: dict[int, np.ndarray] = {}
    groups = drawer.groups(graphs)
    for number, group in enumerate(
        cli.progress(groups, "drawing", len(groups), " batches")
    ):
        path = kept / f"{number}.npz"
        members = np.concatenate([batch.members for batch in group])
        sizes = graphs.n_node[members]
        flat = _stored(path, int(sizes.sum()))
        if flat is None:
            shapes = drawer.shapes(params, group, seed)
            flat = np.concatenate([shapes[member] for member in members.tolist()])
            with files.replacing(path) as file:
                np.savez(file, positions=flat)
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        found |= dict(zip(members.tolist(), parts, strict=True))
    return [found[member] for member in range(len(found))]


def _stored(path: pathlib.Path, count: int) -> np.ndarray | None:
    """Positions [count, 3] that an earlier start left whole."""
    if not path.exists():
        return None
    try:
        found = archives.read_npz(path).get("positions")
    except UserError:
        return None
    return found if found is not None and found.shape == (count, 3) else None


def species_of(drawer: ShapeSampler) -> list[int]:
    """Atomic numbers that the model knows."""
    return [elements.NUMBERS[symbol] for symbol in drawer.task.species]


def grouped(flat: Sequence[np.ndarray], copies: np.ndarray) -> list[np.ndarray]:
    """Shapes [n, 3] one after the other as [K, n, 3] of each molecule."""
    stops = np.cumsum(copies)
    return [
        np.stack(flat[stop - count : stop])
        for stop, count in zip(stops, copies, strict=True)
    ]


def embedded(
    test: Ensembles, copies: np.ndarray, seed: int, relaxed: bool
) -> list[np.ndarray]:
    """RDKit's conformers [K, n, 3] of each molecule; fewer if embeddings fail."""
    purpose = RELAXED if relaxed else EMBEDDED
    rows = zip(test.smiles, copies.tolist(), strict=True)
    return [
        bond_graphs.embed(
            smiles, count, bond_graphs.seed_of(seed, purpose, smiles), relaxed
        ).positions
        for smiles, count in cli.progress(rows, purpose, len(test))
    ]


def measure(test: Ensembles, shapes: Sequence[np.ndarray]) -> Coverage:
    """COV and MAT of each molecule, arrays [D]."""
    rows = enumerate(test.smiles)
    return coverage.joined(
        [
            coverage.of_matrix(
                coverage.matrix(smiles, test.shapes_of(row), shapes[row])
            )
            for row, smiles in cli.progress(rows, "comparing", len(test))
        ]
    )


def summary(found: Sequence[Coverage]) -> dict[str, dict[str, list[float]]]:
    """Mean and median over the molecules [R], and the 95 % interval of the mean.

    Args:
      found: of each seed. Molecules without samples have no distances, and are left out
        of their means.
    """
    told = {}
    for name in Coverage._fields:
        values = np.stack([getattr(own, name) for own in found])  # [R, D]
        known = values[:, ~np.isnan(values).any(axis=0)]
        told[name] = {
            "mean": known.mean(axis=1).tolist(),
            "median": np.median(known, axis=1).tolist(),
            "interval": list(statistics.bootstrap_mean(known)),
        }
    return told


def save_measures(path: pathlib.Path, rows: Mapping[str, Sequence[Coverage]]) -> None:
    """The measures [R, D] of every row, as 'ROW, MEASURE'."""
    arrays = {
        f"{row}, {name}": np.stack([getattr(own, name) for own in found])
        for row, found in rows.items()
        for name in Coverage._fields
    }
    with files.replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write(path: pathlib.Path, test: Ensembles, shapes: Sequence[np.ndarray]) -> None:
    """The conformers as extended xyz, those that are not finite left out."""
    parts, rows, samples = [], [], []
    for row, own in enumerate(shapes):
        kept = np.flatnonzero(np.isfinite(own).all(axis=(1, 2)))
        numbers = np.tile(test.take([row]).numbers.astype(int), len(kept))
        sizes = np.full(len(kept), test.n_atoms[row])
        parts.append((numbers, own[kept].reshape(-1, 3), sizes))
        rows += [row] * len(kept)
        samples += kept.tolist()
    structures = Structures(*map(np.concatenate, zip(*parts, strict=True)))
    told = {"molecule": np.array(rows), "sample": np.array(samples)}
    xyz_file.write(path, structures, told, [test.smiles[row] for row in rows])


def describe(found: Mapping[str, Any]) -> str:
    """What is said of conformers that were drawn: a line, and one of each row."""
    lines = [
        f"drawn     {found['samples']:,} conformers of {found['molecules']:,} "
        f"molecules; COV at {found['threshold']} Å and MAT, means over molecules with "
        "95 % intervals"
    ]
    for row, measures in found["rows"].items():
        told = [_told(name, measures[name]) for name in Coverage._fields]
        lines.append(f"  {row}: {', '.join(told)}")
    return "\n".join(lines)


def _told(name: str, values: Mapping[str, Any]) -> str:
    mean = None if None in values["mean"] else float(np.mean(values["mean"]))
    is_share = name.startswith("cov")
    middle, low, high = (
        _number(end, 100 if is_share else 1, 1 if is_share else 3)
        for end in (mean, *values["interval"])
    )
    what = name.replace("_", " ").replace("cov", "COV").replace("mat", "MAT")
    return f"{what} {middle}{' %' if is_share else ' Å'} ({low} to {high})"


def _number(value: float | None, factor: int, digits: int) -> str:
    """A number of a record; None stands for one that is not finite."""
    return "not finite" if value is None else f"{factor * value:.{digits}f}"
