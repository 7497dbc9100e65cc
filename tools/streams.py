"""Initial conditions of charged and gravitating bodies, from two random streams.

They come as batch-first NumPy arrays, (S, n, 3) and (S, n), in the units and from the
sources that `tools.systems` names.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import jax
import numpy as np

from tools import systems

WALL = 5.0  # charged: initial positions beyond +-this are reflected
SPEED = 0.5  # charged: initial speed of every body


@dataclasses.dataclass(frozen=True)
class Initial:
    """Initial conditions of S simulations of up to n bodies, padded with zeros.

    Attributes:
      positions, velocities: (S, n, 3).
      sources: (S, n) charges or masses.
      num_bodies: (S,) integers.
    """

    positions: np.ndarray
    velocities: np.ndarray
    sources: np.ndarray
    num_bodies: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """(S, n), true for bodies and false for padding."""
        return np.arange(self.sources.shape[1]) < self.num_bodies[:, None]


class Stream(Protocol):
    """A source of initial conditions."""

    def draw(self, split: int, first: int, count: int) -> Initial:
        """Simulations `first` to `first + count` of a split (0, 1, 2)."""


def make_stream(
    kind: str, system: str, sizes: tuple[int, int], num_frames: int, seed: int
) -> Stream:
    """A stream of initial conditions.

    Args:
      kind: 'numpy' for the published stream, 'jax' for one in which every simulation
        has a key of its own, whatever the sizes of the splits before it.
      system: 'charged' or 'gravity'.
      sizes: smallest and largest number of bodies.
      num_frames: frames that the published simulator would save: it draws noise for
        them, which moves its stream.
      seed: 0 to 2^32 - 1.
    """
    if kind == "numpy":
        return NumpyStream(system, sizes, num_frames, seed)
    return JaxStream(system, sizes, seed)


class NumpyStream:
    """The random stream of the published simulators, replayed to the last bit.

    Splits and simulations are drawn in order, each once. Where the number of bodies
    varies, which is not published, `randint` draws it before everything else.
    """

    def __init__(self, system: str, sizes: tuple[int, int], num_frames: int, seed: int):
        self._system = system
        self._sizes = sizes
        self._num_frames = num_frames
        self._random = np.random.RandomState(seed)

    def draw(self, split: int, first: int, count: int) -> Initial:
        largest = self._sizes[1]
        draws = [self._draw_one() for _ in range(count)]
        initial = Initial(
            positions=np.zeros((count, largest, 3)),
            velocities=np.zeros((count, largest, 3)),
            sources=np.zeros((count, largest)),
            num_bodies=np.array([len(uniforms) for uniforms, _ in draws], np.int64),
        )
        for size in np.unique(initial.num_bodies):
            rows = np.flatnonzero(initial.num_bodies == size)
            uniforms = np.stack([draws[row][0] for row in rows])  # (S, n)
            normals = np.stack([draws[row][1] for row in rows])  # (S, 2 * 3 * n)
            for part, values in zip(
                (initial.positions, initial.velocities, initial.sources),
                _initial(self._system, uniforms, normals),
                strict=True,
            ):
                part[rows, :size] = values
        return initial

    def _draw_one(self) -> tuple[np.ndarray, np.ndarray]:
        """The uniform (n,) and normal (2 * 3 * n,) numbers of one simulation."""
        low, high = self._sizes
        size = low if low == high else self._random.randint(low, high + 1)
        charged = self._system == systems.CHARGED
        # `choice` takes one number per charge. Masses are all 1 and take none.
        uniforms = self._random.random_sample(size) if charged else np.empty(size)
        # The simulators draw noise for every saved frame, in 2 or 3 arrays, and
        # multiply it by zero; one call draws the same numbers.
        num_arrays = 2 + (2 if charged else 3) * self._num_frames
        normals = self._random.randn(num_arrays * 3 * size)
        return uniforms, normals[: 2 * 3 * size].copy()


class JaxStream:
    """A stream in which simulation k of a split follows from (seed, split, k) alone."""

    def __init__(self, system: str, sizes: tuple[int, int], seed: int):
        self._system = system
        self._sizes = sizes
        self._key = jax.random.key(seed)

    def draw(self, split: int, first: int, count: int) -> Initial:
        key = jax.random.fold_in(self._key, split)
        sizes, uniforms, normals = (
            np.array(numbers)
            for numbers in _draw_keyed(
                key, np.arange(first, first + count), self._sizes
            )
        )
        largest = self._sizes[1]
        positions, velocities = np.zeros((2, count, largest, 3))
        sources = np.zeros((count, largest))
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            flat = normals[rows][..., :size].reshape(len(rows), -1)
            positions[rows, :size], velocities[rows, :size], sources[rows, :size] = (
                _initial(self._system, uniforms[rows, :size], flat)
            )
        return Initial(positions, velocities, sources, sizes)


@functools.partial(jax.jit, static_argnums=2)
def _draw_keyed(
    key: jax.Array, indices: jax.Array, sizes: tuple[int, int]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sizes (S,), uniform (S, n) and normal (S, 2, 3, n) numbers, by index."""

    def one(index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        size, uniform, normal = jax.random.split(jax.random.fold_in(key, index), 3)
        return (
            jax.random.randint(size, (), sizes[0], sizes[1] + 1),
            jax.random.uniform(uniform, sizes[1:]),
            jax.random.normal(normal, (2, 3, sizes[1])),
        )

    return jax.vmap(one)(indices)


def _initial(
    system: str, uniforms: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities (S, n, 3) and sources (S, n) by the published recipes.

    Args:
      uniforms: (S, n) in [0, 1).
      normals: (S, 2 * 3 * n), in the order in which the recipe uses them.
    """
    num_bodies = uniforms.shape[1]
    if system == systems.GRAVITY:
        positions, velocities = normals.reshape(-1, 2, num_bodies, 3).swapaxes(0, 1)
        masses = np.ones_like(uniforms)
        velocities = velocities - velocities.mean(axis=1, keepdims=True)
        return positions, velocities, masses
    charges = np.where(uniforms < 0.5, -1.0, 1.0)
    positions, velocities = normals.reshape(-1, 2, 3, num_bodies).swapaxes(0, 1)
    positions = positions * (num_bodies / 5.0) ** (1 / 3)  # (S, 3, n)
    speeds = np.sqrt((velocities**2).sum(axis=1, keepdims=True))
    velocities = velocities * SPEED / speeds
    return positions.swapaxes(1, 2), velocities.swapaxes(1, 2), charges


def reflect(
    positions: np.ndarray, velocities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bodies beyond the walls at +-5 put back inside, and sent there.

    Only the start of the published charged systems knows of walls.
    """
    above, below = positions > WALL, positions < -WALL
    velocities = np.where(above, -abs(velocities), velocities)
    velocities = np.where(below, abs(velocities), velocities)
    positions = np.where(above, 2 * WALL - positions, positions)
    positions = np.where(below, -2 * WALL - positions, positions)
    return positions, velocities
