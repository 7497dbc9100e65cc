"""N-body simulation in parallel batches: settings, the compiled program, the order.

A simulation's numbers follow from its settings and its place in the random stream
alone, whatever the number of threads or of other simulations.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import math
from collections.abc import Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import experimental

from demetar import integrators
from demetar.errors import UserError
from demetar.settings import DATA, setting
from tools import streams, systems

SPLITS = ("train", "valid", "test")
STREAMS = ("numpy", "jax")
DTYPES = ("float32", "float64")
LANES = (  # by the largest number of bodies; fast with the kernels of tools.systems
    (systems.RING_BODIES, 128),
    (40, 64),
    (systems.TILED_BODIES, 16),
    (math.inf, 2),
)
CHUNK_BYTES = 2**26  # of the saved frames of one chunk
# Where the processor has such vectors they are 10 to 20 % faster, and else no slower.
COMPILER_OPTIONS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}
GHOST_DISTANCE = 1000.0  # between bodies that only fill up the arrays


def expect(good: bool, name: str, expected: str, found: object) -> None:
    """Refuse a value of a flag with a UserError, unless it is good."""
    if not good:
        raise UserError(f"expected --{name}: {expected}; found {found}")


def expect_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value of a flag that is none of the choices."""
    expect(value in choices, name, "one of " + ", ".join(choices), repr(value))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines a data set.

    Attributes:
      num_bodies: smallest and largest number of bodies, drawn uniformly in between.
      save_frames: the frames to keep; None for all.
    """

    system: str = setting(systems.CHARGED, f"{' or '.join(systems.SOURCES)}.", DATA)
    num_bodies: tuple[int, int] = (5, 5)
    num_steps: int = setting(
        5000,
        "Integration steps. The published simulators save no frame at the last.",
        DATA,
    )
    sample_every: int = setting(
        100,
        "Steps from frame to frame. Frame k is step sample_every * (k + 1) of a "
        "charged system and sample_every * k of a gravitating one.",
        DATA,
    )
    save_frames: tuple[int, ...] | None = None
    save_forces: bool = setting(
        False, "Keep the forces that act at the saved positions too.", DATA
    )
    dt: float = setting(0.001, "Time step.", DATA)
    softening: float = setting(
        0.0, "Length that is added in quadrature to every distance.", DATA
    )
    clip: str = setting(
        "component",
        "What is clipped of the force on a charged body: each component, as published, "
        "which makes the axes special, or radial, its norm.",
        DATA,
    )
    num_train: int = setting(10_000, "Training simulations.", DATA)
    num_valid: int = setting(2_000, "Validation simulations.", DATA)
    num_test: int = setting(2_000, "Test simulations.", DATA)
    seed: int = setting(43, "Seed of the random stream.", DATA)
    random_stream: str = setting(
        "numpy",
        "numpy, as published, or jax, which draws every simulation by its own number, "
        "whatever the sizes of the splits before it.",
        DATA,
    )
    dtype: str = setting(
        "float64", f"Precision of integration and files: {' or '.join(DTYPES)}.", DATA
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be generated, with a UserError."""
        expect_one_of("system", self.system, tuple(systems.SOURCES))
        expect_one_of("random_stream", self.random_stream, STREAMS)
        expect_one_of("dtype", self.dtype, DTYPES)
        expect_one_of("clip", self.clip, systems.CLIPS)
        expect(
            self.system == systems.CHARGED or self.clip == Settings.clip,
            "clip",
            f"no value for {self.system}, whose forces are not clipped",
            self.clip,
        )
        low, high = self.num_bodies
        expect(1 <= low <= high, "num_bodies", "N or LOW-HIGH, from 1", f"{low}-{high}")
        for name in ("num_steps", "sample_every"):
            value = getattr(self, name)
            expect(value >= 1, name, "at least 1", value)
        for name in ("num_train", "num_valid", "num_test"):
            value = getattr(self, name)
            expect(value >= 0, name, "at least 0", value)
        expect(any(self.sizes), "num_train", "at least one simulation in a split", 0)
        expect(0 < self.dt < math.inf, "dt", "a positive number", self.dt)
        expect(
            0 <= self.softening < math.inf, "softening", "at least 0", self.softening
        )
        expect(0 <= self.seed < 2**32, "seed", "0 to 2^32 - 1", self.seed)
        expect(
            self.num_steps % self.sample_every == 0,
            "num_steps",
            f"a multiple of --sample_every={self.sample_every}",
            self.num_steps,
        )
        expect(
            self.num_frames >= 1,
            "num_steps",
            f"at least {2 * self.sample_every}, or no frame is saved",
            self.num_steps,
        )
        wrong = [k for k in self.frames if not 0 <= k < self.num_frames]
        expect(not wrong, "save_frames", f"0 to {self.num_frames - 1}", wrong[:1])
        expect(
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
    "nbody_blog": Settings(num_steps=1_000, num_train=3_000, seed=42),
    "gravity": Settings(
        system=systems.GRAVITY, num_bodies=(100, 100), softening=0.1, save_forces=True
    ),
}


def num_lanes(settings: Settings) -> int:
    """Simulations that are integrated together: what fits the cache, by measurement.

    Every call has this many, the last one with padding, so that a simulation's numbers
    do not depend on how many others are made.
    """
    bodies = settings.num_bodies[1]
    lanes = next(lanes for limit, lanes in LANES if bodies <= limit)
    frame_bytes = 3 * 3 * bodies * np.dtype(settings.dtype).itemsize
    affordable = CHUNK_BYTES // (frame_bytes * len(settings.frames))
    return max(1, min(lanes, affordable))


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
        settings.system, sources, settings.softening, settings.clip
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


class Simulator:
    """Compiled simulation of up to `lanes` systems at a time, safe to call in threads.

    Runs on the CPU and in float64 whatever the process is set to, so that a data set
    does not depend on the machine's accelerators.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.lanes = num_lanes(settings)
        bodies = settings.num_bodies[1]
        state = jax.ShapeDtypeStruct((3, bodies, self.lanes), settings.dtype)
        sources = jax.ShapeDtypeStruct(state.shape[1:], settings.dtype)
        real = jax.ShapeDtypeStruct(state.shape[1:], bool)
        with float64_on_cpu():
            self._compiled = (
                jax.jit(functools.partial(_simulate, settings))
                .lower(state, state, sources, real)
                .compile(compiler_options=COMPILER_OPTIONS)
            )

    def __call__(
        self, initial: streams.Initial
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Arrays of a split's file, but for `steps`, and drifts, of up to B systems."""
        settings, count = self.settings, len(initial.sources)
        real = initial.real  # (S, n)
        positions, velocities = initial.positions, initial.velocities
        if settings.system == systems.CHARGED:
            positions, velocities = streams.reflect(positions, velocities)
        ghosts = GHOST_DISTANCE * np.arange(1.0, 1 + real.shape[1])[:, None]  # (n, 1)
        positions = np.where(real[..., None], positions, ghosts)
        with float64_on_cpu():
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
def float64_on_cpu() -> Iterator[None]:
    """A scope, of this thread alone, with float64 and on the CPU."""
    cpu = jax.local_devices(backend="cpu")[0]
    # Older releases have the scope elsewhere.
    home: Any = jax if hasattr(jax, "enable_x64") else experimental
    with home.enable_x64(True), jax.default_device(cpu):
        yield


def chunks(settings: Settings, lanes: int) -> Iterator[tuple[str, streams.Initial]]:
    """Initial conditions of all splits in order, `lanes` simulations at a time."""
    with float64_on_cpu():
        stream = streams.make_stream(
            settings.random_stream,
            settings.system,
            settings.num_bodies,
            settings.num_frames,
            settings.seed,
        )
    for number, (split, size) in enumerate(zip(SPLITS, settings.sizes, strict=True)):
        for first in range(0, size, lanes):
            with float64_on_cpu():
                chunk = stream.draw(number, first, min(lanes, size - first))
            yield split, chunk


_Result = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def simulated(simulator: Simulator, num_workers: int) -> Generator[tuple[str, _Result]]:
    """Results of all chunks in order, a few of them under way at a time.

    A compiled call releases the interpreter's lock and uses one core: one thread per
    core integrates while this one draws random numbers and writes.
    """
    pool = concurrent.futures.ThreadPoolExecutor(num_workers)
    waiting: collections.deque[tuple[str, concurrent.futures.Future[_Result]]]
    waiting = collections.deque()
    try:
        for split, initial in chunks(simulator.settings, simulator.lanes):
            waiting.append((split, pool.submit(simulator, initial)))
            if len(waiting) > 2 * num_workers:
                split, future = waiting.popleft()
                yield split, future.result()
        while waiting:
            split, future = waiting.popleft()
            yield split, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
