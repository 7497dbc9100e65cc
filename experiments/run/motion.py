"""What a potential is for: dynamics, minima and vibrations, under any engine.

An engine is a function of positions [n, 3] in Å that gives an energy in eV and forces
[n, 3] in eV/Å: a trained model's, or a quantum-chemical one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np

from demetar.errors import UserError
from tools import langevin
from tools.langevin import ACCELERATION, BOLTZMANN, Engine, State

HOTTEST = 20_000  # K: no molecule any more
STIFFNESS = 70.0  # eV/Å^2, of a minimum of which nothing is known yet
LONGEST = 0.2  # Å, of a step towards it
MOST_STEPS = 1_000
DISPLACEMENT = 0.01  # Å, of the central differences of forces
LIGHT = 2.99792458e-5  # cm/fs
NULL = 1e-6  # singular values below this share of the largest are rounding

Progress = Callable[[Iterable[int]], Iterable[int]]


# --- Dynamics -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trace:
    """Energies along a trajectory of constant energy.

    Attributes:
      times: [F] in fs.
      potential, kinetic: [F] in eV.
      num_atoms: of the molecule.
      num_degrees: of freedom, that have a share in the kinetic energy.
      is_whole: whether it came to its end; it stops where the molecule breaks.
    """

    times: np.ndarray
    potential: np.ndarray
    kinetic: np.ndarray
    num_atoms: int
    num_degrees: int
    is_whole: bool

    @property
    def total(self) -> np.ndarray:
        """Total energy per atom less that at the start, in meV: [F]."""
        total = self.potential + self.kinetic
        found: np.ndarray = 1e3 * (total - total[0]) / self.num_atoms
        return found

    @property
    def drift(self) -> float:
        """Slope of the total energy in meV per atom and ps, by least squares."""
        if len(self.times) < 2:
            return math.nan
        return float(np.polyfit(1e-3 * self.times, self.total, 1)[0])

    @property
    def spread(self) -> float:
        """Standard deviation of the total energy about that line, in meV per atom."""
        if len(self.times) < 3:
            return math.nan
        line = np.polyfit(self.times, self.total, 1)
        return float(np.std(self.total - np.polyval(line, self.times)))

    @property
    def temperature(self) -> float:
        """Mean kinetic temperature in K."""
        return float(2 * self.kinetic.mean() / (self.num_degrees * BOLTZMANN))


def start_velocities(
    positions: np.ndarray,
    masses: np.ndarray,
    temperature: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Velocities of a temperature in K, without drift and turning: [n, 3] in Å/fs."""
    roots = np.sqrt(masses)[:, None]
    drawn = roots * langevin.thermal_velocities(masses, temperature, random)
    rigid = rigid_motions(positions, masses)
    inner = drawn.ravel() - rigid @ (rigid.T @ drawn.ravel())
    found: np.ndarray = inner.reshape(-1, 3) / roots
    return found


def degrees_of_freedom(positions: np.ndarray, masses: np.ndarray) -> int:
    """How many remain of 3 n where nothing drifts and turns: 3 n - 6.

    Of a linear molecule they are 3 n - 5, as it has no turns about its axis.
    """
    return positions.size - rigid_motions(positions, masses).shape[1]


def constant_energy(
    positions: np.ndarray,
    velocities: np.ndarray,
    masses: np.ndarray,
    engine: Engine,
    time_step: float,
    frames: Iterable[int],
    interval: int,
) -> Trace:
    """A trajectory of constant energy, by velocity Verlet.

    Args:
      positions, velocities: [n, 3] in Å and Å/fs.
      masses: [n] in u.
      engine: what moves it.
      time_step: in fs.
      frames: one for each frame that is kept after the first; behind a progress bar.
      interval: time steps from frame to frame.
    """
    bath = langevin.Bath(0.0, 0.0, time_step)  # without friction: velocity Verlet
    random = np.random.default_rng(0)  # whose numbers are multiplied by 0
    state = State(positions, velocities, *engine(positions))
    rows = [_row(state, masses)]
    hottest = 1.5 * len(masses) * BOLTZMANN * HOTTEST
    is_whole = True
    for _ in frames:
        for _ in range(interval):
            state = langevin.step(state, masses, engine, bath, random)
            is_whole = is_whole and _kinetic(state, masses) < hottest
            if not is_whole:  # what follows may be no number
                break
        if not is_whole:
            break
        rows.append(_row(state, masses))
    potential, kinetic = np.array(rows).T
    times = time_step * interval * np.arange(len(rows))
    free = degrees_of_freedom(positions, masses)
    return Trace(times, potential, kinetic, len(masses), free, is_whole)


def _row(state: State, masses: np.ndarray) -> tuple[float, float]:
    return state.energy, _kinetic(state, masses)


def _kinetic(state: State, masses: np.ndarray) -> float:
    """Kinetic energy in eV."""
    squares = masses[:, None] * state.velocities**2
    return float(squares.sum() / (2 * ACCELERATION))


# --- Minima -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Minimum:
    """Where a relaxation ends: positions [n, 3] in Å, energy in eV, calls it took."""

    positions: np.ndarray
    energy: float
    num_calls: int


def relax(positions: np.ndarray, engine: Engine, largest_force: float) -> Minimum:
    """The next minimum, by the quasi-Newton method BFGS.

    Steps follow from forces alone, so that it serves forces that are no gradient too,
    and no step is longer than `LONGEST` for any atom.

    Args:
      positions: [n, 3] where it starts.
      engine: what has the minimum.
      largest_force: in eV/Å, that an atom may have at the end.

    Raises:
      UserError: it was not found in `MOST_STEPS` steps.
    """
    curvature = STIFFNESS * np.eye(positions.size)
    energy, forces = engine(positions)
    for count in range(1, MOST_STEPS + 1):
        if np.linalg.norm(forces, axis=1).max() <= largest_force:
            return Minimum(positions, energy, count)
        step = _newton_step(curvature, forces)
        energy, moved = engine(positions + step)
        curvature = _updated(curvature, step.ravel(), (forces - moved).ravel())
        positions, forces = positions + step, moved
    raise UserError(
        f"no minimum was found in {MOST_STEPS:,} steps, forces are still up to "
        f"{np.linalg.norm(forces, axis=1).max():.2g} eV/Å; try a larger --force, or "
        "start nearer to it with --molecule=FILE.xyz"
    )


def _newton_step(curvature: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """Downhill along every principal axis, and not too far: [n, 3]."""
    values, axes = np.linalg.eigh(curvature)
    along = axes.T @ forces.ravel()
    step = (axes @ (along / np.maximum(np.abs(values), 1e-3))).reshape(-1, 3)
    longest = np.linalg.norm(step, axis=1).max()
    found: np.ndarray = step * min(1.0, LONGEST / longest)
    return found


def _updated(curvature: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The formula of Broyden, Fletcher, Goldfarb and Shanno."""
    old = curvature @ step
    along = change @ step
    if abs(along) < 1e-12:
        return curvature
    found: np.ndarray = (
        curvature + np.outer(change, change) / along - np.outer(old, old) / (step @ old)
    )
    return found


def deviation(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square distance in Å of the atoms of two structures, superposed.

    Source: Kabsch 1976, doi 10.1107/S0567739476001873.
    """
    first, second = (values - values.mean(axis=0) for values in (first, second))
    left, _, right = np.linalg.svd(first.T @ second)
    left[:, -1] *= np.sign(np.linalg.det(left @ right))  # no reflection
    return float(np.sqrt(np.mean(np.sum((first @ left @ right - second) ** 2, axis=1))))


# --- Vibrations ---------------------------------------------------------------------


def frequencies(
    positions: np.ndarray,
    masses: np.ndarray,
    engine: Engine,
    progress: Progress = lambda items: items,
) -> np.ndarray:
    """Harmonic vibrations about a minimum, [3 n - 6] in 1/cm, ascending.

    Of a linear molecule there are 3 n - 5. Those of directions that lead downhill are
    imaginary, and come as negative numbers.

    Args:
      positions: [n, 3] of a minimum.
      masses: [n] in u.
      engine: whose forces are differentiated, by central differences.
      progress: put about the coordinates, for a bar.
    """
    hessian = np.zeros((positions.size, positions.size))
    for index in progress(range(positions.size)):
        moved = np.zeros(positions.size)
        moved[index] = DISPLACEMENT
        ends = [
            engine(positions + sign * moved.reshape(-1, 3))[1].ravel()
            for sign in (1, -1)
        ]
        hessian[index] = (ends[1] - ends[0]) / (2 * DISPLACEMENT)
    roots = np.repeat(np.sqrt(masses), 3)
    weighted = 0.5 * (hessian + hessian.T) / np.outer(roots, roots)  # eV / (Å^2 u)
    inner = _complement(rigid_motions(positions, masses))
    values = np.linalg.eigvalsh(inner.T @ weighted @ inner) * ACCELERATION  # 1 / fs^2
    found: np.ndarray = (
        np.sign(values) * np.sqrt(np.abs(values)) / (2 * math.pi * LIGHT)
    )
    return found


def rigid_motions(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """An orthonormal basis of displacements and turns, times the roots of the masses.

    Returns:
      [3 n, 6], of a linear molecule [3 n, 5].
    """
    centred = positions - np.average(positions, axis=0, weights=masses)
    axes = np.eye(3)
    moves = [
        *(np.tile(axis, (len(masses), 1)) for axis in axes),
        *(np.cross(axis, centred) for axis in axes),
    ]
    weighted = [(move * np.sqrt(masses)[:, None]).ravel() for move in moves]
    basis, sizes, _ = np.linalg.svd(np.stack(weighted, axis=1), full_matrices=False)
    found: np.ndarray = basis[:, sizes > NULL * sizes[0]]
    return found


def _complement(basis: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what is orthogonal to the columns."""
    whole, _, _ = np.linalg.svd(basis, full_matrices=True)
    found: np.ndarray = whole[:, basis.shape[1] :]
    return found
