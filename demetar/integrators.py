"""Integrators of N-body motion: pure functions on batch-last arrays [3, n, B].

n counts the bodies and B independent simulations, which lie last so that every
operation of a step is one vectorised loop. A step works on any other layout too, such
as the [N, 3] of a batch of graphs, with a time step that broadcasts against it. The
generators of data and the models that integrate share them; units are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
from jax import lax


class Motion(NamedTuple):
    """The state of B simulations of n bodies.

    Attributes:
      positions: [3, n, B].
      velocities: [3, n, B]; which time they belong to is the integrator's affair.
      accelerations: [3, n, B], at `positions`.
    """

    positions: jax.Array
    velocities: jax.Array
    accelerations: jax.Array


AccelerationFn = Callable[[jax.Array], jax.Array]  # [3, n, B] -> [3, n, B]
StepFn = Callable[[Motion], Motion]
TimeStep: TypeAlias = float | jax.Array  # of all, [B] of each simulation, [N, 1] ...


def start(
    positions: jax.Array, velocities: jax.Array, acceleration_fn: AccelerationFn
) -> Motion:
    """The motion that begins at positions and velocities, both [3, n, B]."""
    return Motion(positions, velocities, acceleration_fn(positions))


def kick_drift(acceleration_fn: AccelerationFn, dt: TimeStep) -> StepFn:
    """One step v += dt a(x), x += dt v, as the charged systems are published.

    Velocities are half a step older than the positions: where those of the start belong
    to time -dt/2 the error falls as dt^2, where they belong to time 0 as dt. Source:
    `ChargedParticlesSim` of Satorras et al. 2021, arXiv 2102.09844, whose loop makes
    the same kicks and drifts in the same order and saves between a drift and a kick.
    """

    def step(motion: Motion) -> Motion:
        velocities = motion.velocities + dt * motion.accelerations  # [3, n, B]
        positions = motion.positions + dt * velocities  # [3, n, B]
        return Motion(positions, velocities, acceleration_fn(positions))

    return step


def kick_drift_kick(acceleration_fn: AccelerationFn, dt: TimeStep) -> StepFn:
    """One step of the leapfrog with synchronised velocities; the error falls as dt^2.

    Source: `GravitySim` of Brandstetter et al. 2022, arXiv 2110.02905.
    """

    def step(motion: Motion) -> Motion:
        halfway = motion.velocities + 0.5 * dt * motion.accelerations  # [3, n, B]
        positions = motion.positions + dt * halfway  # [3, n, B]
        accelerations = acceleration_fn(positions)  # [3, n, B]
        velocities = halfway + 0.5 * dt * accelerations  # [3, n, B]
        return Motion(positions, velocities, accelerations)

    return step


def integrate(
    step_fn: StepFn, motion: Motion, gaps: jax.Array
) -> tuple[Motion, Motion]:
    """Make steps and keep the motion after some of them.

    Args:
      gaps: [F] integers, the number of steps before each saved frame.

    Returns:
      The last motion, [3, n, B] each, and the saved ones, [F, 3, n, B] each.
    """

    def advance(motion: Motion, gap: jax.Array) -> tuple[Motion, Motion]:
        motion = lax.fori_loop(0, gap, lambda _, moved: step_fn(moved), motion)
        return motion, motion

    return lax.scan(advance, motion, gaps)
