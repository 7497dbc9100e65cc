"""Molecular dynamics of one molecule: independent trajectories, chunk by chunk.

What a trajectory is follows from the settings, its split and its number alone,
whichever thread computes it and however often that was interrupted: every chunk of
frames draws from a stream of its own, starts its engine anew, and is a file of its own.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import pathlib
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from demetar import archives, files
from demetar.errors import UserError
from demetar.settings import COUNT, DATA, NOT_NEGATIVE, Bounds, setting
from tools import langevin, xtb
from tools.structures import Structure

SPLITS = ("train", "valid", "test")
CHUNK_FRAMES = 50
_HOT = 20  # times the temperature: what no molecule in a bath of that has

Arrays = dict[str, np.ndarray]
# `make(numbers)` gives the engine of a molecule, for one thread.
MakeEngine = Callable[[np.ndarray], langevin.Engine]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the frames are."""

    method: str = setting(
        "GFN2-xTB", "What computes energies and forces.", DATA, choices=xtb.METHODS
    )
    temperature: float = setting(
        500.0, "Of the heat bath, in K.", DATA, Bounds(above=0, most=10_000)
    )
    friction: float = setting(
        0.01, "Of the heat bath, in 1/fs.", DATA, Bounds(above=0, most=1)
    )
    time_step: float = setting(0.5, "In fs.", DATA, Bounds(above=0, most=10))
    interval: float = setting(
        10.0, "Time between two frames, in fs.", DATA, Bounds(above=0, most=1e6)
    )
    equilibration: float = setting(
        1_000.0,
        "Time before the first frame of each trajectory, in fs.",
        DATA,
        Bounds(least=0, most=1e9),
    )
    num_train: int = setting(1_000, "Training frames.", DATA, COUNT)
    num_valid: int = setting(200, "Validation frames.", DATA, COUNT)
    num_test: int = setting(1_000, "Test frames.", DATA, COUNT)
    trajectory_frames: int = setting(
        250,
        "Frames of a trajectory, at most. No two splits share one.",
        DATA,
        COUNT,
    )
    seed: int = setting(0, "Of the random numbers.", DATA, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        steps = self.interval / self.time_step
        if abs(steps - round(steps)) > 1e-9 * steps or round(steps) < 1:
            raise UserError(
                f"expected --interval to be a multiple of --time_step="
                f"{self.time_step:g}, found {self.interval:g}"
            )

    @property
    def steps(self) -> int:
        """Time steps from frame to frame."""
        return round(self.interval / self.time_step)

    @property
    def skipped(self) -> int:
        """Frames before the first that counts."""
        return math.ceil(self.equilibration / self.interval)

    @property
    def bath(self) -> langevin.Bath:
        """The heat bath."""
        return langevin.Bath(self.temperature, self.friction, self.time_step)

    def trajectories(self) -> list[Trajectory]:
        """All of them, split after split."""
        found = []
        for split, name in enumerate(SPLITS):
            total = getattr(self, f"num_{name}")
            count = math.ceil(total / self.trajectory_frames)
            for index in range(count):
                size = total // count + (index < total % count)
                found.append(Trajectory(split, index, size))
        return found


class Trajectory(NamedTuple):
    """One trajectory: its split, its number within it, and its frames that count."""

    split: int
    number: int
    num_frames: int

    @property
    def name(self) -> str:
        """As errors and files have it."""
        return f"{SPLITS[self.split]}-{self.number}"


class Simulator:
    """Computes the chunks of trajectories and keeps them in a folder.

    Args:
      molecule: whose.
      settings: of the frames.
      folder: of the chunks; those that are there are not computed again.
      make_engine: what computes energies and forces.
    """

    def __init__(
        self,
        molecule: Structure,
        settings: Settings,
        folder: pathlib.Path,
        make_engine: MakeEngine,
    ):
        self._molecule = molecule
        self._settings = settings
        self._folder = folder
        self._make_engine = make_engine
        self._stopped = threading.Event()

    def run(self, num_workers: int, told: Callable[[int], object]) -> list[Arrays]:
        """The arrays of all trajectories, without the frames before the first.

        Args:
          num_workers: trajectories at a time.
          told: is given the number of frames that a chunk adds, from any thread.

        Returns:
          For each trajectory `positions`, `velocities` and `forces` [F, n, 3] and
          `energies` [F].

        Raises:
          UserError: a trajectory left what a molecule can be, or the engine failed.
        """
        every = self._settings.trajectories()
        with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
            waiting = [pool.submit(self._trajectory, one, told) for one in every]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _trajectory(self, one: Trajectory, told: Callable[[int], object]) -> Arrays:
        total = self._settings.skipped + one.num_frames
        chunks: list[Arrays] = []
        for number, start in enumerate(range(0, total, CHUNK_FRAMES)):
            size = min(CHUNK_FRAMES, total - start)
            path = self._folder / f"{one.name}-{number}.npz"
            chunk = self._stored(path, size)
            if chunk is None:
                chunk = self._chunk(one, number, size, chunks[-1] if chunks else None)
                with files.replacing(path) as file:
                    np.savez(file, **chunk)  # type: ignore[arg-type]
            chunks.append(chunk)
            told(size)
        skipped = self._settings.skipped
        return {
            name: np.concatenate([chunk[name] for chunk in chunks])[skipped:]
            for name in chunks[0]
        }

    def _stored(self, path: pathlib.Path, size: int) -> Arrays | None:
        """A chunk that an earlier run left whole."""
        if not path.exists():
            return None
        try:
            arrays = archives.read_npz(path)
        except UserError:
            return None
        shapes = _shapes(size, len(self._molecule.numbers))
        right = {name: array.shape for name, array in arrays.items()} == shapes
        return arrays if right else None

    def _chunk(
        self, one: Trajectory, number: int, size: int, before: Arrays | None
    ) -> Arrays:
        """The frames of a chunk, after those of the one before."""
        settings, masses = self._settings, self._molecule.masses
        random = np.random.default_rng([settings.seed, one.split, one.number, number])
        engine = self._make_engine(self._molecule.numbers)
        if before is None:
            positions = self._molecule.positions
            velocities = langevin.thermal_velocities(
                masses, settings.temperature, random
            )
        else:
            positions, velocities = before["positions"][-1], before["velocities"][-1]
        state = langevin.State(positions, velocities, *engine(positions))
        shapes = _shapes(size, len(masses))
        arrays = {name: np.zeros(shape) for name, shape in shapes.items()}
        for row in range(size):
            for _ in range(settings.steps):
                state = langevin.step(state, masses, engine, settings.bath, random)
            if self._stopped.is_set():
                raise UserError("another trajectory failed")
            self._check(state, one)
            arrays["positions"][row] = state.positions
            arrays["velocities"][row] = state.velocities
            arrays["forces"][row] = state.forces
            arrays["energies"][row] = state.energy
        return arrays

    def _check(self, state: langevin.State, one: Trajectory) -> None:
        """Refuse what no molecule does at this temperature."""
        found = langevin.temperatures(state.velocities[None], self._molecule.masses)[0]
        values = (state.positions, state.forces, np.array(state.energy), found)
        finite = all(np.isfinite(value).all() for value in values)
        if not finite or found > _HOT * self._settings.temperature:
            raise UserError(
                f"the trajectory {one.name} left what a molecule can be (at "
                f"{found:.3g} K in a bath of {self._settings.temperature:g} K); use a "
                "smaller --time_step"
            )


def _shapes(size: int, num_atoms: int) -> dict[str, tuple[int, ...]]:
    vector = (size, num_atoms, 3)
    return {
        "positions": vector,
        "velocities": vector,
        "forces": vector,
        "energies": (size,),
    }
