"""Motion of test systems: true paths, closest approaches, paths of models."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import demetar
from demetar import integrators
from demetar.nn import capture
from demetar.precision import precision
from demetar.predict import Predictor
from tools import simulation
from tools import systems as physics

# What a generator tells of its simulator; without it the motion is not known.
_MADE = {"system", "dt", "sample_every", "softening"}


@dataclasses.dataclass(frozen=True)
class States:
    """S systems at the start frame, padded to n bodies.

    Attributes:
      positions, velocities: [S, n, 3].
      sources: charges or masses [S, n].
      real: which bodies are there [S, n].
    """

    positions: np.ndarray
    velocities: np.ndarray
    sources: np.ndarray
    real: np.ndarray

    def rows(self, numbers: list[int]) -> States:
        """Some of the systems."""
        arrays = [getattr(self, own.name)[numbers] for own in dataclasses.fields(self)]
        return States(*arrays)

    def batch_last(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions and velocities [3, n, S] and sources [n, S] of the simulator.

        Bodies that are not there lie far from all others.
        """
        far = simulation.GHOST_DISTANCE * np.arange(1.0, 1 + self.real.shape[1])
        places = np.where(self.real[..., None], self.positions, far[:, None])
        return places.T, self.velocities.T, self.sources.T


def is_known(made: Mapping[str, Any]) -> bool:
    """Whether the settings of a data set tell how its motion is integrated."""
    return made.keys() >= _MADE and made["system"] in physics.SOURCES


def true_paths(
    made: Mapping[str, Any], states: States, num_steps: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The motion from the start, integrated as the generator does it.

    Args:
      made: settings of the generator.
      states: systems at the start.
      num_steps: steps of the generator from the start to the target.
      count: positions that are kept after that of the start, at equal times but for
        the rounding to steps.

    Returns:
      Times [F] from the start and positions [F, S, n, 3] in float64.
    """
    stops = np.unique(np.linspace(0, num_steps, min(count, num_steps) + 1).astype(int))
    places, speeds, sources = states.batch_last()
    with simulation.float64_on_cpu():
        step, motion = _start(made, places, speeds, sources)
        gaps = jnp.asarray(np.diff(stops))
        frames = jax.jit(functools.partial(integrators.integrate, step))(motion, gaps)
        kept = np.asarray(frames[1].positions)  # [F - 1, 3, n, S]
    paths = np.concatenate([places[None], kept]).transpose(0, 3, 2, 1)
    return made["dt"] * stops, paths


def closest(made: Mapping[str, Any], states: States, num_steps: int) -> np.ndarray:
    """The least distance of two bodies of each system [S] in the steps to the target.

    Of a system of one body it is infinite.
    """
    places, speeds, sources = states.batch_last()
    with simulation.float64_on_cpu():
        step, motion = _start(made, places, speeds, sources)

        def advance(
            _: int, carry: tuple[integrators.Motion, jax.Array]
        ) -> tuple[integrators.Motion, jax.Array]:
            moved = step(carry[0])
            return moved, jnp.minimum(carry[1], _least_squares(moved.positions))

        @jax.jit
        def run(motion: integrators.Motion) -> jax.Array:
            first = _least_squares(motion.positions)
            return lax.fori_loop(0, num_steps, advance, (motion, first))[1]

        return np.sqrt(np.asarray(run(motion)))


def _least_squares(positions: jax.Array) -> jax.Array:
    """The least squared distance of two bodies, by positions [3, n, S]: [S]."""
    count = positions.shape[1]
    least = jnp.full(positions.shape[2], jnp.inf)
    for shift in range(1, count // 2 + 1):
        offsets = positions - jnp.roll(positions, shift, axis=1)
        least = jnp.minimum(least, jnp.sum(offsets**2, axis=0).min(axis=0))
    return least


def _start(
    made: Mapping[str, Any],
    positions: np.ndarray,
    velocities: np.ndarray,
    sources: np.ndarray,
) -> tuple[Callable[[integrators.Motion], integrators.Motion], integrators.Motion]:
    """A step of the generator, and the motion that begins."""
    accelerations = physics.acceleration_fn(
        made["system"],
        jnp.asarray(sources),
        made["softening"],
        made.get("clip", simulation.Settings.clip),
    )
    charged = made["system"] == physics.CHARGED
    method = integrators.kick_drift if charged else integrators.kick_drift_kick
    start = integrators.start(
        jnp.asarray(positions), jnp.asarray(velocities), accelerations
    )
    return method(accelerations, made["dt"]), start


def path_of_model(
    model: Predictor, inputs: Mapping[str, Any], share: np.ndarray
) -> np.ndarray | None:
    """The path that a model takes to what it predicts, if it integrates one.

    Args:
      model: that is trained.
      inputs: of `Predictor`, with positions as a list of arrays [n_i, 3].
      share: of the time to the target, [F] from 0 to 1, at which the path is told.

    Returns:
      Shifts [F, sum of n_i, 3] of all bodies from the start, one system after the
      other; None of a model that predicts the end alone.
    """
    batch = demetar.make_batch(model.task, **inputs, dtype=model.dtype)

    def passed(params: Any) -> tuple[jax.Array, jax.Array] | None:
        with capture.recording() as values:
            model.net.apply(params, None, batch.graph, False)
        if "path" not in values:
            return None
        return jnp.asarray(values["path"]), jnp.asarray(values["path_time"])

    with precision(model.dtype):
        found = jax.jit(passed)(model.params)
    if found is None:
        return None
    shifts, times = map(np.asarray, found)  # [steps, N, 3], [steps, N, 1]
    count = sum(map(len, inputs["positions"]))
    paths = np.zeros((len(share), count, 3))
    for node in range(count):
        own = np.concatenate([[0], times[:, node, 0]])
        for axis in range(3):
            values = np.concatenate([[0], shifts[:, node, axis]])
            paths[:, node, axis] = np.interp(share * own[-1], own, values)
    return paths
