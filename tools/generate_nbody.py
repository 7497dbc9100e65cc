"""Generate data sets of N-body trajectories.

    python -m tools.generate_nbody --preset=nbody_small --out=DIR
    python -m tools.generate_nbody --verify=DIR

A folder holds `train.npz`, `valid.npz`, `test.npz` (a split of no simulations has no
file) and `metadata.json`. Arrays: `positions`, `velocities` and, where asked for,
`forces` (S, F, n, 3); `charges` or `masses` (S, n); `steps` (F,) the number of each
saved step; `num_bodies` (S,) where systems differ in size, the rest of a row being 0.
S counts simulations, F saved frames, n bodies; units are dimensionless.

Presets are the published sets: nbody_small and nbody of Satorras et al. 2021 (arXiv
2102.09844), gravity of Brandstetter et al. 2022 (arXiv 2110.02905). A flag that is
given overrides the preset's value.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import glob
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
import secrets
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import app, flags

import demetar
from demetar.errors import UserError
from tools import integrators, systems

FORMAT = 1
SPLITS = ("train", "valid", "test")
METADATA = "metadata.json"
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
STREAMS = ("numpy", "jax")
DTYPES = ("float32", "float64")
CHUNK_BYTES = 2**26  # of the saved frames of one chunk
COPY_BYTES = 2**22
# Where the processor has such vectors they are 10 to 20 % faster, and else no slower.
COMPILER_OPTIONS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}
GHOST_DISTANCE = 1000.0  # between bodies that only fill up the arrays


def _expect(good: bool, name: str, expected: str, found: object) -> None:
    if not good:
        raise UserError(f"expected --{name}: {expected}; found {found}")


def _expect_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _expect(value in choices, name, "one of " + ", ".join(choices), repr(value))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines a data set.

    Attributes:
      system: 'charged' or 'gravity'.
      num_bodies: smallest and largest number of bodies, drawn uniformly in between.
      num_steps: integration steps; the published simulators save no frame at the last.
      sample_every: steps from frame to frame. Frame k is step sample_every * (k + 1) of
        a charged system and sample_every * k of a gravitating one.
      save_frames: the frames to keep; None for all.
      save_forces: whether to keep the forces that act at the saved positions.
      dt: time step.
      softening: length that is added in quadrature to every distance.
      num_train, num_valid, num_test: numbers of simulations.
      seed: of the random stream.
      random_stream: 'numpy' for the published one, 'jax' for one that draws every
        simulation by its own number, whatever the sizes of the splits before it.
      dtype: of the integration and of the files.
    """

    system: str = systems.CHARGED
    num_bodies: tuple[int, int] = (5, 5)
    num_steps: int = 5000
    sample_every: int = 100
    save_frames: tuple[int, ...] | None = None
    save_forces: bool = False
    dt: float = 0.001
    softening: float = 0.0
    num_train: int = 10_000
    num_valid: int = 2_000
    num_test: int = 2_000
    seed: int = 43
    random_stream: str = "numpy"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        """Refuse what cannot be generated, with a UserError."""
        _expect_one_of("system", self.system, tuple(systems.SOURCES))
        _expect_one_of("random_stream", self.random_stream, STREAMS)
        _expect_one_of("dtype", self.dtype, DTYPES)
        low, high = self.num_bodies
        _expect(
            1 <= low <= high, "num_bodies", "N or LOW-HIGH, from 1", f"{low}-{high}"
        )
        for name in ("num_steps", "sample_every"):
            value = getattr(self, name)
            _expect(value >= 1, name, "at least 1", value)
        for name in ("num_train", "num_valid", "num_test"):
            value = getattr(self, name)
            _expect(value >= 0, name, "at least 0", value)
        _expect(any(self.sizes), "num_train", "at least one simulation in a split", 0)
        _expect(0 < self.dt < math.inf, "dt", "a positive number", self.dt)
        _expect(
            0 <= self.softening < math.inf, "softening", "at least 0", self.softening
        )
        _expect(0 <= self.seed < 2**32, "seed", "0 to 2^32 - 1", self.seed)
        _expect(
            self.num_steps % self.sample_every == 0,
            "num_steps",
            f"a multiple of --sample_every={self.sample_every}",
            self.num_steps,
        )
        _expect(
            self.num_frames >= 1,
            "num_steps",
            f"at least {2 * self.sample_every}, or no frame is saved",
            self.num_steps,
        )
        wrong = [k for k in self.frames if not 0 <= k < self.num_frames]
        _expect(not wrong, "save_frames", f"0 to {self.num_frames - 1}", wrong[:1])
        _expect(
            len(self.frames) > 0 and list(self.frames) == sorted({*self.frames}),
            "save_frames",
            "frames in ascending order",
            ",".join(map(str, self.frames)),
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Simulations per split."""
        return self.num_train, self.num_valid, self.num_test

    @property
    def num_frames(self) -> int:
        """Frames that the published simulator saves."""
        frames = self.num_steps // self.sample_every
        return frames - 1 if self.system == systems.CHARGED else frames

    @property
    def frames(self) -> tuple[int, ...]:
        """The numbers of the saved frames."""
        if self.save_frames is None:
            return tuple(range(self.num_frames))
        return self.save_frames

    @property
    def steps(self) -> np.ndarray:
        """(F,) the numbers of the saved steps."""
        first = 1 if self.system == systems.CHARGED else 0
        return self.sample_every * (np.array(self.frames, np.int64) + first)

    def shapes(self, split: str) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of each array of a split's file."""
        count = self.sizes[SPLITS.index(split)]
        bodies = self.num_bodies[1]
        real, integer = np.dtype(self.dtype), np.dtype(np.int64)
        vectors = (count, len(self.frames), bodies, 3)
        shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            "positions": (real, vectors),
            "velocities": (real, vectors),
        }
        if self.save_forces:
            shapes["forces"] = (real, vectors)
        shapes[systems.SOURCES[self.system]] = (real, (count, bodies))
        shapes["steps"] = (integer, (len(self.frames),))
        if self.num_bodies[0] != bodies:
            shapes["num_bodies"] = (integer, (count,))
        return shapes


PRESETS = {
    "nbody_small": Settings(),
    "nbody": Settings(sample_every=500, num_train=50_000, seed=42),
    "gravity": Settings(
        system=systems.GRAVITY, num_bodies=(100, 100), softening=0.1, save_forces=True
    ),
}


# Simulation


def _lanes(settings: Settings) -> int:
    """Simulations that are integrated together: what fits the cache, by measurement.

    Every call has this many, the last one with padding, so that a simulation's numbers
    do not depend on how many others are made.
    """
    bodies = settings.num_bodies[1]
    lanes = 128 if bodies <= systems.RING_BODIES else 64 if bodies <= 40 else 16
    frame_bytes = 3 * 3 * bodies * np.dtype(settings.dtype).itemsize
    affordable = CHUNK_BYTES // (frame_bytes * len(settings.frames))
    return max(1, min(lanes, affordable // 8 * 8))


def _simulate(
    settings: Settings,
    positions: jax.Array,
    velocities: jax.Array,
    sources: jax.Array,
    real: jax.Array,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Integrate B simulations from arrays [3, n, B] and [n, B].

    Returns:
      The saved frames, [B, F, n, 3] each, and the relative drifts [B] of the conserved
      quantities over all steps.
    """
    accelerations = systems.acceleration_fn(
        settings.system, sources, settings.softening
    )
    charged = settings.system == systems.CHARGED
    method = integrators.kick_drift if charged else integrators.kick_drift_kick
    motion = integrators.start(positions, velocities, accelerations)
    last, frames = integrators.integrate(
        method(accelerations, settings.dt),
        motion,
        jnp.asarray(np.diff(settings.steps, prepend=0)),
    )

    def measure(motion: integrators.Motion) -> systems.Conserved:
        if charged:  # its velocities are half a step old
            halfway = motion.velocities + 0.5 * settings.dt * motion.accelerations
            motion = motion._replace(velocities=halfway)
        return systems.conserved(
            settings.system, motion, sources, real, settings.softening
        )

    begin, end = measure(motion), measure(last)
    change = jnp.linalg.norm(end.momentum - begin.momentum, axis=0)  # [B]
    drifts = {
        "energy_drift": abs(end.energy - begin.energy) / begin.energy_scale,
        "momentum_drift": change / begin.momentum_scale,
    }
    saved = {"positions": frames.positions, "velocities": frames.velocities}
    if settings.save_forces:
        masses = 1.0 if charged else sources
        saved["forces"] = masses * frames.accelerations  # [F, 3, n, B]
    return {
        name: jnp.where(real, array, 0).transpose(3, 0, 2, 1)
        for name, array in saved.items()
    }, drifts


class _Simulator:
    """Compiled simulation of up to `lanes` systems at a time, safe to call in threads.

    Runs on the CPU and in float64 whatever the process is set to, so that a data set
    does not depend on the machine's accelerators.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.lanes = _lanes(settings)
        bodies = settings.num_bodies[1]
        state = jax.ShapeDtypeStruct((3, bodies, self.lanes), settings.dtype)
        sources = jax.ShapeDtypeStruct(state.shape[1:], settings.dtype)
        real = jax.ShapeDtypeStruct(state.shape[1:], bool)
        with _float64_on_cpu():
            self._compiled = (
                jax.jit(functools.partial(_simulate, settings))
                .lower(state, state, sources, real)
                .compile(compiler_options=COMPILER_OPTIONS)
            )

    def __call__(
        self, initial: systems.Initial
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Arrays of a split's file, but for `steps`, and drifts, of up to B systems."""
        settings, count = self.settings, len(initial.sources)
        real = initial.real  # (S, n)
        positions, velocities = initial.positions, initial.velocities
        if settings.system == systems.CHARGED:
            positions, velocities = systems.reflect(positions, velocities)
        ghosts = GHOST_DISTANCE * np.arange(1.0, 1 + real.shape[1])[:, None]  # (n, 1)
        positions = np.where(real[..., None], positions, ghosts)
        with _float64_on_cpu():
            arrays, drifts = self._compiled(
                *(
                    self._batch_last(array, settings.dtype)
                    for array in (positions, velocities, initial.sources)
                ),
                self._batch_last(real, bool),
            )
            rows = {name: np.asarray(array)[:count] for name, array in arrays.items()}
            losses = {name: np.asarray(loss)[:count] for name, loss in drifts.items()}
        rows[systems.SOURCES[settings.system]] = initial.sources.astype(settings.dtype)
        rows["num_bodies"] = initial.num_bodies.astype(np.int64)
        return rows, losses

    def _batch_last(self, array: np.ndarray, dtype: Any) -> np.ndarray:
        """(S, ...) as [..., B], filled up with copies of the first simulation."""
        rows = np.arange(self.lanes)
        rows[len(array) :] = 0
        return np.ascontiguousarray(array[rows].T, dtype)


@contextlib.contextmanager
def _float64_on_cpu() -> Iterator[None]:
    """A scope, of this thread alone, with float64 and on the CPU."""
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        yield


def _chunks(settings: Settings, lanes: int) -> Iterator[tuple[str, systems.Initial]]:
    """Initial conditions of all splits in order, `lanes` simulations at a time."""
    with _float64_on_cpu():
        stream = systems.make_stream(
            settings.random_stream,
            settings.system,
            settings.num_bodies,
            settings.num_frames,
            settings.seed,
        )
    for number, (split, size) in enumerate(zip(SPLITS, settings.sizes, strict=True)):
        for first in range(0, size, lanes):
            with _float64_on_cpu():
                chunk = stream.draw(number, first, min(lanes, size - first))
            yield split, chunk


_Result = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def _simulated(
    simulator: _Simulator, num_workers: int
) -> Iterator[tuple[str, _Result]]:
    """Results of all chunks in order, a few of them under way at a time.

    A compiled call releases the interpreter's lock and uses one core: one thread per
    core integrates while this one draws random numbers and writes.
    """
    pool = concurrent.futures.ThreadPoolExecutor(num_workers)
    waiting: collections.deque[tuple[str, concurrent.futures.Future[_Result]]]
    waiting = collections.deque()
    try:
        for split, initial in _chunks(simulator.settings, simulator.lanes):
            waiting.append((split, pool.submit(simulator, initial)))
            if len(waiting) > 2 * num_workers:
                split, future = waiting.popleft()
                yield split, future.result()
        while waiting:
            split, future = waiting.popleft()
            yield split, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# Files


def array_digest(dtype: np.dtype, shape: tuple[int, ...]) -> hashlib._Hash:
    """SHA-256 of an array's type and shape, to be updated with its bytes in C order."""
    return hashlib.sha256(f"{dtype.str}{shape}".encode())


def fingerprint(arrays: dict[str, dict[str, str]]) -> str:
    """SHA-256 of the lines 'split/array:hash' in sorted order."""
    lines = [
        f"{split}/{name}:{digest}"
        for split, digests in arrays.items()
        for name, digest in digests.items()
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class _SplitWriter:
    """Writes the arrays of a split row by row and joins them in one .npz file.

    Rows go to one raw file per array, because a .npz holds its arrays one after the
    other and chunks come with rows of all of them.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings, split: str):
        self._path = folder / f"{split}.npz"
        self._shapes = settings.shapes(split)
        self._raw: dict[str, IO[bytes]] = {}
        self._digests = {}
        for name, (dtype, shape) in self._shapes.items():
            self._raw[name] = open(folder / f"{split}.{name}.raw", "w+b")  # noqa: SIM115
            self._digests[name] = array_digest(dtype, shape)
        self.append({"steps": settings.steps})

    def append(self, rows: dict[str, np.ndarray]) -> None:
        """Append to the arrays that the file has; others are left out."""
        for name in rows.keys() & self._shapes.keys():
            data = np.ascontiguousarray(rows[name], self._shapes[name][0]).data
            self._raw[name].write(data)
            self._digests[name].update(data)

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
                os.unlink(raw.name)
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


class _Folder:
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
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _check(self, overwrite: bool) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"--out={self.path} is a file; name a folder")
        if not any(self.path.iterdir()):
            return
        if not (self.path / METADATA).is_file():
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
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
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


def generate(
    settings: Settings,
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
        left the finite numbers. Nothing is left behind.
    """
    path = pathlib.Path(out_dir).absolute()
    try:
        folder = _Folder(path, overwrite)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    try:
        _check_space(settings, folder.partial)
        metadata = _fill(folder.partial, settings, progress, num_workers)
        folder.finish()
    except OSError as error:
        folder.discard()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    except BaseException:
        folder.discard()
        raise
    return metadata


def _check_space(settings: Settings, folder: pathlib.Path) -> None:
    """Refuse to start what the disk cannot hold."""
    sizes = [
        math.prod(shape) * dtype.itemsize
        for split in SPLITS
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
    folder: pathlib.Path, settings: Settings, progress: bool, num_workers: int | None
) -> dict[str, Any]:
    """Write all files of a data set and return its metadata."""
    simulator = _Simulator(settings)
    workers = num_workers or len(os.sched_getaffinity(0))
    arrays: dict[str, dict[str, str]] = {}
    drifts: dict[str, list[dict[str, np.ndarray]]] = {}
    results = _simulated(simulator, workers)
    with tqdm.tqdm(
        total=sum(settings.sizes), unit="sim", disable=not progress, smoothing=0.05
    ) as bar:
        for split, group in itertools.groupby(results, key=lambda result: result[0]):
            bar.set_description(split)
            writer = _SplitWriter(folder, settings, split)
            for _, (rows, drift) in group:
                _check_finite(rows, split, sum(map(_count, drifts.get(split, []))))
                writer.append(rows)
                drifts.setdefault(split, []).append(drift)
                bar.update(_count(drift))
            arrays[split] = writer.finish()
    metadata = {
        "format": FORMAT,
        "settings": _describe(settings),
        "frames": list(settings.frames),
        "units": UNITS,
        "versions": {
            "demetar": demetar.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONED},
        },
        "arrays": arrays,
        "fingerprint": fingerprint(arrays),
        "conserved": {split: _summarise(parts) for split, parts in drifts.items()},
    }
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    return metadata


def _count(drift: dict[str, np.ndarray]) -> int:
    return len(drift["energy_drift"])


def _check_finite(rows: dict[str, np.ndarray], split: str, first: int) -> None:
    finite = np.isfinite(rows["positions"]).all(axis=(1, 2, 3))
    if not finite.all():
        raise UserError(
            f"simulation {first + int(np.argmin(finite))} of {split} left the finite "
            "numbers; use a smaller --dt or some --softening"
        )


def _describe(settings: Settings) -> dict[str, Any]:
    """The settings as JSON, with the constants of the system."""
    described = dataclasses.asdict(settings)
    if settings.system == systems.CHARGED:
        described["force_limit"] = systems.FORCE_LIMIT
        described["initial_wall"] = systems.WALL
        described["initial_speed"] = systems.SPEED
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


def verify(folder: str | os.PathLike[str]) -> list[str]:
    """Check a data set against its metadata.

    Returns:
      One line per fault: a missing, damaged or altered file or array. None if all is
      as it was written.
    """
    path = pathlib.Path(folder)
    try:
        metadata = json.loads((path / METADATA).read_text())
        expected = metadata["arrays"]
        if metadata["format"] != FORMAT:
            return [f"{path / METADATA} has format {metadata['format']}, not {FORMAT}"]
        faults = []
        if fingerprint(expected) != metadata["fingerprint"]:
            faults.append(f"{path / METADATA}: the fingerprint differs")
    except FileNotFoundError:
        return [f"{path} is not a finished data set: it has no {METADATA}"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{path / METADATA} is damaged: {type(error).__name__}: {error}"]
    for split in SPLITS:
        file = path / f"{split}.npz"
        if split in expected:
            faults += _verify_file(file, expected[split])
        elif file.exists():
            faults.append(f"{file}: not in the metadata")
    return faults


def _verify_file(file: pathlib.Path, expected: dict[str, str]) -> list[str]:
    faults = []
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            faults += [f"{file}: {name} is missing" for name in expected.keys() - names]
            faults += [f"{file}: {name} is extra" for name in names - expected.keys()]
            for name in sorted(expected.keys() & names):
                with archive.open(f"{name}.npy") as member:
                    if _digest_member(member) != expected[name]:
                        faults.append(f"{file}: the SHA-256 of {name} differs")
    except FileNotFoundError:
        return [f"{file} is missing"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        faults.append(f"{file} is damaged: {error}")
    return faults


def _digest_member(member: IO[bytes]) -> str:
    """SHA-256, as `array_digest`, of an array in a .npy stream."""
    np.lib.format.read_magic(member)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran_order:
        raise ValueError("an array is not in C order")
    digest = array_digest(dtype, shape)
    while block := member.read(COPY_BYTES):
        digest.update(block)
    return digest.hexdigest()


# Command


def _define_flags() -> None:
    """Define the flags, for the command alone: importing this module defines none."""
    text, number, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    text("preset", None, f"A published data set: {', '.join(PRESETS)}.")
    text("out", None, "The folder to write, which must not hold a data set yet.")
    flags.DEFINE_bool("overwrite", False, "Replace the data set that --out holds.")
    text(
        "verify", None, "Check this folder against its checksums, and do nothing else."
    )
    text("system", None, "charged or gravity.")
    text("num_bodies", None, "Bodies per simulation, as 5, or 3-20 to draw the number.")
    number("num_steps", None, "Integration steps.")
    number("sample_every", None, "Steps from frame to frame.")
    text("save_frames", None, "Frames to keep, as 30,40; all frames if empty.")
    flags.DEFINE_bool("save_forces", None, "Keep the forces too.")
    real("dt", None, "Time step.")
    real("softening", None, "Length added in quadrature to every distance.")
    number("num_train", None, "Training simulations.")
    number("num_valid", None, "Validation simulations.")
    number("num_test", None, "Test simulations.")
    number("seed", None, "Seed of the random stream.")
    text("random_stream", None, "numpy, as published, or jax.")
    text("dtype", None, "float64 or float32, of integration and files.")


def _settings_from_flags() -> Settings:
    """The preset's settings with every flag that is given in place of its value.

    Without a preset the values are those of the system's published set.
    """
    values = flags.FLAGS
    preset = values.preset
    if preset is None:
        preset = "gravity" if values.system == systems.GRAVITY else "nbody_small"
    _expect_one_of("preset", preset, tuple(PRESETS))
    given: dict[str, Any] = {
        field.name: values[field.name].value
        for field in dataclasses.fields(Settings)
        if values[field.name].value is not None
    }
    if "num_bodies" in given:
        given["num_bodies"] = _parse_range(given["num_bodies"])
    if "save_frames" in given:
        given["save_frames"] = _parse_frames(given["save_frames"])
    return dataclasses.replace(PRESETS[preset], **given)


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


def _run() -> None:
    """What the flags ask for."""
    if flags.FLAGS.verify is not None:
        faults = verify(flags.FLAGS.verify)
        if faults:
            raise UserError("\nerror: ".join(faults))
        metadata = json.loads((pathlib.Path(flags.FLAGS.verify) / METADATA).read_text())
        print(f"{flags.FLAGS.verify} is intact, fingerprint {metadata['fingerprint']}")
        return
    settings = _settings_from_flags()
    if not flags.FLAGS.out:
        raise UserError("expected --out=DIR, the folder to write")
    started = time.perf_counter()
    metadata = generate(settings, flags.FLAGS.out, overwrite=flags.FLAGS.overwrite)
    _report(settings, metadata, time.perf_counter() - started)


def _report(settings: Settings, metadata: dict[str, Any], seconds: float) -> None:
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
    print(f"{flags.FLAGS.out}: fingerprint {metadata['fingerprint']}")


def main(argv: list[str]) -> None:
    """Run the command; bad input becomes one line on stderr and exit code 2."""
    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if argv[1:]:
            raise UserError(
                f"expected flags as --name=value, found {argv[1]!r}; see --help"
            )
        _run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr, flush=True)
        os._exit(130)  # without waiting for the calls that are under way


if __name__ == "__main__":
    _define_flags()
    app.run(main)
