"""Predictions that are fed back, and what they do to energy and momentum."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demetar import integrators
from demetar.data import edges
from demetar.data.systems import Systems
from demetar.errors import UserError
from demetar.precision import precision
from demetar.predict import Function
from demetar.types import TaskSpec
from tools import systems as physics

POSITION, VELOCITY = "position", "velocity"
ENERGY_DRIFT, MOMENTUM_DRIFT = "energy_drift", "momentum_drift"
_SOURCES = {"charge": physics.CHARGED, "mass": physics.GRAVITY}
_FAR = 1e6  # between the places of bodies that are not there


def check(task: TaskSpec) -> None:
    """Make sure that predictions of a task can be fed back.

    Raises:
      UserError: the model predicts no positions, or reads vectors that it does not
        predict.
    """
    heads = {
        head.name
        for head in task.heads
        if head.size == 1 and head.kind == "node_vector"
    }
    if POSITION not in heads:
        raise UserError(
            f"a rollout needs a model that predicts positions, found one of "
            f"{', '.join(head.name for head in task.heads)}; leave out --rollout_steps"
        )
    missing = [own.name for own in task.vectors if own.name not in heads]
    if missing:
        raise UserError(
            f"a rollout feeds back every vector that the model reads, and it does not "
            f"predict the {missing[0]}; train it with --target=both and --cues=velocity"
        )


def roll(
    model: Function, start: Systems, steps: int, softening: float | None
) -> dict[str, np.ndarray]:
    """The values of every head at each step, and the drifts over all steps.

    Args:
      model: that predicts positions.
      start: the systems at the beginning.
      steps: how often the model is applied.
      softening: length that the law of force adds in quadrature to every distance;
        None if it is not known, and then no energy is told of.

    Returns:
      {head: [systems x steps x nodes, K, 3]}, one system after the other, and
      `energy_drift` and `momentum_drift` [systems], relative as in the files of the
      generator, if they can be computed.

    Raises:
      UserError: the motion left what numbers can hold.
    """
    task, current = model.task, start
    found: dict[str, list[np.ndarray]] = {head.name: [] for head in task.heads}
    for step in range(steps):
        values = model.values(current)
        for name, value in values.items():
            found[name].append(value)
        if not all(np.isfinite(value).all() for value in values.values()):
            raise UserError(
                f"the rollout is not finite after step {step + 1}; choose fewer "
                "--rollout_steps"
            )
        vectors = [values[own.name][:, 0] for own in task.vectors]
        current = dataclasses.replace(
            start,
            positions=values[POSITION][:, 0],
            vectors=np.stack(vectors, axis=1) if vectors else start.vectors,
        )
    rows = _rows(start.n_node, steps)
    stacked = {name: np.concatenate(own)[rows] for name, own in found.items()}
    return stacked | drifts(task, start, current, softening)


def _rows(n_node: np.ndarray, steps: int) -> np.ndarray:
    """Rows of values step after step, in the order system, step, node."""
    starts = np.cumsum(n_node, dtype=np.int64) - n_node
    total = int(n_node.sum())
    begins = starts[:, None] + total * np.arange(steps)  # [D, steps]
    return edges.ranges(begins.ravel(), np.repeat(n_node, steps))


def drifts(
    task: TaskSpec, begin: Systems, end: Systems, softening: float | None
) -> dict[str, np.ndarray]:
    """Changes of energy and momentum [systems], relative to the sizes of their parts.

    None of them without velocities, or without charges or masses.
    """
    sources = [name for name in task.scalars if name in _SOURCES]
    if [own.name for own in task.vectors] != [VELOCITY] or len(sources) != 1:
        return {}
    system = _SOURCES[sources[0]]
    column = task.scalars.index(sources[0])
    with precision("float64"):
        first, last = (
            jax.device_get(_conserved(own, column, system, softening or 0.0))
            for own in (begin, end)
        )
    change = np.linalg.norm(last.momentum - first.momentum, axis=0)
    found = {MOMENTUM_DRIFT: _relative(change, first.momentum_scale)}
    if softening is not None or system == physics.CHARGED:
        change = np.abs(last.energy - first.energy)
        found[ENERGY_DRIFT] = _relative(change, first.energy_scale)
    return found


def _relative(change: np.ndarray, scale: Any) -> np.ndarray:
    """0 if nothing moves."""
    return np.asarray(change / np.where(scale > 0, scale, 1))


def _conserved(
    own: Systems, column: int, system: str, softening: float
) -> physics.Conserved:
    """Of systems of any size, as arrays batch last with bodies that are far away."""
    count, most = len(own.n_node), int(own.n_node.max())
    real = np.arange(most) < own.n_node[:, None]  # [D, n]
    ghosts = _FAR * np.arange(1.0, 1 + most)[:, None] * np.ones(3)
    positions = np.tile(ghosts, (count, 1, 1))
    velocities, sources = np.zeros_like(positions), np.zeros((count, most))
    positions[real] = own.positions
    velocities[real] = own.vectors[:, 0]
    sources[real] = own.scalars[:, column]
    places, speeds, charges, present = (
        jnp.asarray(array.T) for array in (positions, velocities, sources, real)
    )
    motion = integrators.Motion(places, speeds, jnp.zeros_like(places))
    return physics.conserved(system, motion, charges, present, softening)


def describe(collected: Mapping[str, np.ndarray], steps: int) -> list[str]:
    """One line per drift: the median over the systems, and the largest."""
    return [
        f"{name.replace('_', ' ')} over {steps} steps: median {np.median(values):.2e}, "
        f"largest {values.max():.2e}, relative to the size of its parts"
        for name, values in collected.items()
    ]
