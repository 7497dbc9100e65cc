"""Charged and gravitating bodies: their forces and what they conserve.

Arrays of a running simulation are batch-last, [3, n, B] and [n, B]. All units are
the dimensionless ones of the published simulators, where G, the unit charge's force and
its mass are 1.

Sources: `ChargedParticlesSim` of Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844,
and `GravitySim` of Brandstetter et al. 2022, arXiv 2110.02905.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from demetar import integrators

CHARGED, GRAVITY = "charged", "gravity"
SOURCES = {CHARGED: "charges", GRAVITY: "masses"}  # what makes the force
FORCE_LIMIT = 100.0  # charged: the total force on a body is clipped to this
CLIPS = ("component", "radial")  # each component to +-the limit, or the norm to it

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
