"""Charged and gravitating bodies: forces, conserved quantities and initial conditions.

Arrays of a running simulation are batch-last, [3, n, B] and [n, B]; initial conditions
come as batch-first NumPy arrays, (S, n, 3) and (S, n). All units are the dimensionless
ones of the published simulators, where G, the unit charge's force and its mass are 1.

Sources: `ChargedParticlesSim` of Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844,
and `GravitySim` of Brandstetter et al. 2022, arXiv 2110.02905.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from demetar import integrators

CHARGED, GRAVITY = "charged", "gravity"
SOURCES = {CHARGED: "charges", GRAVITY: "masses"}  # what makes the force
FORCE_LIMIT = 100.0  # charged: the total force on a body is clipped to this
CLIPS = ("component", "radial")  # each component to +-the limit, or the norm to it
WALL = 5.0  # charged: initial positions beyond +-this are reflected
SPEED = 0.5  # charged: initial speed of every body

# Up to the first number of bodies cyclic shifts pair them up without waste; up to the
# second, tiles of bodies keep what is computed per pair in the first cache (10 x 10
# pairs of 16 simulations are 13 kB); beyond it all pairs of tiles take long to compile,
# and a loop makes the shifts. As measured.
RING_BODIES, TILED_BODIES = 8, 125
NUM_TILES, TILE_BODIES = 4, 10


def acceleration_fn(
    system: str, sources: jax.Array, softening: float, clip: str = "component"
) -> integrators.AccelerationFn:
    """The accelerations of a system's bodies by their positions.

    Args:
      system: 'charged' or 'gravity'.
      sources: [n, B] charges of unit masses, or masses. Bodies whose charge or mass is
        zero feel nothing and do nothing.
      softening: length that is added in quadrature to every distance.
      clip: of the total force on a charged body: by 'component', or 'radial'.

    Returns:
      A function of positions [3, n, B] to accelerations [3, n, B].
    """
    forces_fn = _pair_forces_fn(sources, softening**2)
    if system == CHARGED and clip == "radial":
        return lambda positions: _clip_norms(forces_fn(positions))
    if system == CHARGED:
        # Not isotropic, but what the published data were made with.
        return lambda positions: jnp.clip(
            forces_fn(positions), -FORCE_LIMIT, FORCE_LIMIT
        )
    inverse = jnp.where(sources > 0, 1 / jnp.where(sources > 0, sources, 1), 0)
    return lambda positions: -inverse * forces_fn(positions)


def _clip_norms(forces: jax.Array) -> jax.Array:
    norms = jnp.sqrt(_sum_squares(forces))  # [n, B]
    return forces * (FORCE_LIMIT / jnp.maximum(norms, FORCE_LIMIT))


def _pair_forces_fn(
    sources: jax.Array, softening_squared: float
) -> integrators.AccelerationFn:
    """Sum over j of s_i s_j (x_i - x_j) / |x_i - x_j|^3."""
    if len(sources) <= RING_BODIES:
        return _ring_forces_fn(sources, softening_squared)
    if len(sources) <= TILED_BODIES:
        return _tiled_forces_fn(sources, softening_squared)
    return _looped_forces_fn(sources, softening_squared)


def _inverse_cube(coupling: jax.Array, squares: jax.Array) -> jax.Array:
    # One root and one division: `lax.rsqrt` costs the same two and a product more.
    return coupling / (squares * jnp.sqrt(squares))


def _ring_forces_fn(
    sources: jax.Array, softening_squared: float
) -> integrators.AccelerationFn:
    """Body i meets body i + k, counted round a ring, for k up to n/2."""
    num_bodies = len(sources)
    shifts = range(1, num_bodies // 2 + 1)
    couplings = [sources * jnp.roll(sources, -k, axis=0) for k in shifts]  # [n, B]

    def forces_fn(positions: jax.Array) -> jax.Array:
        total = jnp.zeros_like(positions)
        for k, coupling in zip(shifts, couplings, strict=True):
            offsets = positions - jnp.roll(positions, -k, axis=1)  # [3, n, B]
            squares = _sum_squares(offsets) + softening_squared  # [n, B]
            forces = _inverse_cube(coupling, squares) * offsets  # [3, n, B]
            total = total + forces
            if 2 * k != num_bodies:  # half round the ring, both ends are in `forces`
                total = total - jnp.roll(forces, k, axis=1)
        return total

    return forces_fn


def _tiled_forces_fn(
    sources: jax.Array, softening_squared: float
) -> integrators.AccelerationFn:
    """Tiles of bodies meet tiles of bodies: the weights of a tile serve both sides."""
    num_tiles = max(NUM_TILES, -(-len(sources) // TILE_BODIES))
    tiles = np.array_split(np.arange(len(sources)), num_tiles)
    charges = [sources[tile[0] : tile[-1] + 1] for tile in tiles]  # [b, B]

    def weights(i: int, j: int, first: jax.Array, second: jax.Array) -> jax.Array:
        squares = _sum_squares(first[:, :, None] - second[:, None])  # [b, b', B]
        squares = squares + softening_squared
        if i == j:  # a body does not meet itself: any weight but infinity will do
            squares = squares + jnp.eye(len(tiles[i]), dtype=squares.dtype)[..., None]
        return _inverse_cube(charges[i][:, None] * charges[j][None], squares)

    def forces_fn(positions: jax.Array) -> jax.Array:
        parts = [positions[:, tile[0] : tile[-1] + 1] for tile in tiles]  # [3, b, B]
        totals = [jnp.zeros_like(part) for part in parts]
        for i, first in enumerate(parts):
            for j, second in enumerate(parts[i:], start=i):
                weight = weights(i, j, first, second)  # [b, b', B]
                totals[i] = totals[i] + _tile_forces(weight, first, second)
                if i != j:
                    weight = weight.swapaxes(0, 1)
                    totals[j] = totals[j] + _tile_forces(weight, second, first)
        return jnp.concatenate(totals, axis=1)  # [3, n, B]

    return forces_fn


def _looped_forces_fn(
    sources: jax.Array, softening_squared: float
) -> integrators.AccelerationFn:
    """The ring with a loop over its shifts, in which every shift is a slice."""
    num_bodies, lanes = sources.shape
    size = num_bodies * lanes
    flat = sources.reshape(size)
    twice = jnp.tile(flat, 2)

    def forces_fn(positions: jax.Array) -> jax.Array:
        positions = positions.reshape(3, size)
        around = jnp.tile(positions, (1, 2))  # [3, 2 n B]

        def pulls(k: int | jax.Array) -> jax.Array:
            partners = lax.dynamic_slice_in_dim(around, k * lanes, size, 1)
            offsets = positions - partners  # [3, n B]
            coupling = flat * lax.dynamic_slice_in_dim(twice, k * lanes, size, 0)
            squares = _sum_squares(offsets) + softening_squared  # [n B]
            return _inverse_cube(coupling, squares) * offsets

        def add_shift(
            k: jax.Array, totals: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            forces, first = pulls(k), k * lanes
            total, back = totals
            slot = lax.dynamic_slice_in_dim(back, first, size, 1) - forces
            return total + forces, lax.dynamic_update_slice_in_dim(back, slot, first, 1)

        zeros = jnp.zeros_like(positions), jnp.zeros_like(around)
        total, back = lax.fori_loop(1, (num_bodies + 1) // 2, add_shift, zeros)
        total = total + back[:, :size] + back[:, size:]
        if num_bodies % 2 == 0:  # half round the ring
            total = total + pulls(num_bodies // 2)
        return total.reshape(3, num_bodies, lanes)

    return forces_fn


def _tile_forces(weight: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Forces on `first` [3, b, B] by `second` [3, b', B], with weights [b, b', B].

    Written out because a sum of slices is one vectorised loop over B, and a reduction
    over an axis that is not the last is not.
    """
    total = jnp.zeros_like(first)
    for j in range(second.shape[1]):
        total = total + weight[:, j] * (first - second[:, j : j + 1])
    return total


def _sum_squares(vectors: jax.Array) -> jax.Array:
    return vectors[0] * vectors[0] + vectors[1] * vectors[1] + vectors[2] * vectors[2]


class Conserved(NamedTuple):
    """What an exact motion of B systems keeps, and the sizes to compare changes with.

    Attributes:
      energy: [B] kinetic and potential energy.
      energy_scale: [B] kinetic energy plus the absolute potential energy of each body.
      momentum: [3, B] total momentum.
      momentum_scale: [B] sum of the absolute momenta.
    """

    energy: jax.Array
    energy_scale: jax.Array
    momentum: jax.Array
    momentum_scale: jax.Array


def conserved(
    system: str,
    motion: integrators.Motion,
    sources: jax.Array,
    real: jax.Array,
    softening: float,
) -> Conserved:
    """Energy and momentum of B systems, whose velocities belong to their positions.

    Args:
      sources: [n, B] charges or masses.
      real: [n, B], true for bodies and false for padding.
    """
    masses = jnp.where(real, sources if system == GRAVITY else 1.0, 0.0)  # [n, B]
    momenta = masses * motion.velocities  # [3, n, B]
    kinetic = 0.5 * (momenta * motion.velocities).sum((0, 1))  # [B]
    potentials = _potentials(motion.positions, sources, softening)  # [n, B]
    potentials = 0.5 * jnp.where(real, sources * potentials, 0.0)  # [n, B]
    if system == GRAVITY:
        potentials = -potentials
    return Conserved(
        energy=kinetic + potentials.sum(0),
        energy_scale=kinetic + abs(potentials).sum(0),
        momentum=momenta.sum(1),
        momentum_scale=jnp.sqrt(_sum_squares(momenta)).sum(0),
    )


def _potentials(
    positions: jax.Array, sources: jax.Array, softening: float
) -> jax.Array:
    """Sum over j of s_j / |x_i - x_j|, [n, B], one body i after the other."""
    bodies = jnp.arange(positions.shape[1])

    def potential(i: jax.Array) -> jax.Array:
        squares = _sum_squares(positions[:, i, None] - positions) + softening**2
        other = (bodies != i)[:, None]  # [n, 1]
        return jnp.where(other, sources / jnp.sqrt(squares + ~other), 0.0).sum(0)

    return lax.map(potential, bodies)


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
        charged = self._system == CHARGED
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
    if system == GRAVITY:
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
