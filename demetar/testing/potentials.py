"""The promises of a potential: an energy, and the forces that follow from it.

Any model with a scalar of each graph is one if it reads positions; `models.build`
differentiates it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demetar import graphs, models
from demetar.testing.batches import (
    CUTOFF,
    POTENTIAL,
    SHORT_RANGED,
    System,
    random_system,
    systems,
)
from demetar.testing.measure import require, tell_small
from demetar.testing.subject import Subject
from demetar.types import Array, Batch, Head, Nodes, TaskSpec

STEP = 1e-5  # Å, of central differences
SLOPE_TOLERANCE = 1e-6  # of forces against them, relative to the largest force
NUM_POINTS = 1000  # of a scan across the cutoff
AT_ONCE = 8  # of them that a batch holds
SPAN = 1e-3  # Å on either side of the cutoff
JUMP = 1e-9  # the largest difference of neighbouring slopes times their distance


def potential_task(name: str) -> TaskSpec:
    """What a model is tried on as a potential: within a cutoff, if it fades there."""
    fades = models.model_class(name).fades_at_cutoff
    return SHORT_RANGED if fades else POTENTIAL


def assert_both_modes(subject: Subject) -> str:
    """Forward mode and reverse mode give the same derivatives by the nodes.

    The outputs J v of a change v, and the gradient u J of weights u, satisfy u (J v) =
    (u J) v. Where forces are among the outputs, these are second derivatives of the
    energy.
    """
    batch = subject.batch(systems())
    generator = np.random.default_rng(3)
    change = jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(subject.dtype),
        batch.graph.nodes,
    )

    @jax.jit
    def both(params: Any, batch: Batch, change: Nodes) -> tuple[jax.Array, jax.Array]:
        def outputs(nodes: Nodes) -> list[jax.Array]:
            graph = dataclasses.replace(batch.graph, nodes=nodes)
            found = subject.model.apply(params, jax.random.key(0), graph, False)
            return [_real(found[head.name], head, batch) for head in subject.task.heads]

        _, changes = jax.jvp(outputs, (batch.graph.nodes,), (change,))
        weights = [
            jnp.cos(jnp.arange(v.size)).reshape(v.shape).astype(v.dtype)
            for v in changes
        ]
        (slopes,) = jax.vjp(outputs, batch.graph.nodes)[1](weights)
        return _products(weights, changes), _products(slopes, change)

    (forward, size), (reverse, _) = map(np.asarray, both(subject.params, batch, change))
    require(size > 1e-3, "the outputs do not change with the nodes")
    error = float(np.abs(forward - reverse) / size)
    return tell_small(error, subject, "forward and reverse mode disagree")


def _products(first: Any, second: Any) -> jax.Array:
    """The sum of the products of two trees, and that of their absolute values: [2]."""
    terms = jax.tree.map(lambda one, other: jnp.ravel(one * other), first, second)
    products = jnp.concatenate(jax.tree.leaves(terms))
    return jnp.stack([jnp.sum(products), jnp.sum(jnp.abs(products))])


def assert_slopes(subject: Subject) -> str:
    """Forces are central differences of the energy, at every atom; padding has none."""
    batch = subject.batch(systems())
    energy, force = subject.task.heads
    forces = force.scale * np.asarray(subject.outputs(batch)[force.name])[:, 0]
    real = np.asarray(graphs.node_mask(batch.graph))
    require(not forces[~real].any(), "there are forces on padding")
    expected = np.zeros_like(forces)
    starts = np.cumsum(batch.graph.n_node) - batch.graph.n_node
    owners = np.asarray(graphs.graph_of_node(batch.graph))
    # The graphs do not hear of each other, so an atom of each is moved at once.
    largest = int(np.asarray(batch.graph.n_node)[:-1].max())
    for index, axis in itertools.product(range(largest), range(3)):
        rows = (starts + index)[owners] == np.arange(len(owners))
        rows &= real
        ends = [
            energy.scale * np.asarray(_moved(subject, batch, rows, axis, sign * STEP))
            for sign in (1, -1)
        ]
        slopes = (ends[0] - ends[1])[:, 0] / (2 * STEP)  # [G]
        expected[rows, axis] = -slopes[owners[rows]]
    size = float(np.abs(expected).max())
    require(size > 1e-3, f"forces are {size:.1g} in size: the energy is flat")
    error = float(np.abs(forces - expected)[real].max()) / size
    told = f"relative error {error:.1e}, at most {SLOPE_TOLERANCE:.0e}"
    require(
        error < SLOPE_TOLERANCE, f"forces are not minus the slope of the energy: {told}"
    )
    return told


def assert_at_rest(subject: Subject) -> str:
    """No net force, and no net torque: what translations and rotations imply.

    Of models without these symmetries nothing is asked.
    """
    symmetry = models.model_class(subject.name).symmetry
    if symmetry == "S(n)":
        return "not asked: the model knows an origin"
    batch = subject.batch(systems())
    forces = np.asarray(subject.outputs(batch)[subject.task.heads[1].name])  # [N, 1, 3]
    arms = np.asarray(batch.graph.nodes.positions)[:, None]
    size = float(np.abs(forces).max())
    require(size > 1e-3, f"forces are {size:.1g} in size: the energy is flat")
    net = _sums(forces, batch) / size
    worst = float(np.abs(net).max())
    told = tell_small(worst, subject, "the forces on a molecule do not cancel")
    if symmetry not in ("E(3)", "SE(3)"):
        return f"net force alone: {told}"
    torque = _sums(np.cross(arms, forces), batch) / (size * np.abs(arms).max())
    worst = max(worst, float(np.abs(torque).max()))
    return tell_small(worst, subject, "the forces turn a molecule")


def assert_fades(subject: Subject) -> str:
    """The energy and its slope have no jump where an atom crosses the cutoff.

    A scan of `NUM_POINTS` equal steps h. A jump of the energy by J shows as J in
    E(x + h) - 2 E(x) + E(x - h), one of the slope as h times as much; what is smooth
    has h^2 times its curvature.
    """
    worst = largest_jump(subject)
    told = f"jumps up to {worst:.1e}, at most {JUMP:.0e}"
    require(
        worst < JUMP,
        f"the energy jumps as an atom crosses the cutoff: {told}; multiply what an "
        "edge says by an envelope (demetar.nn.radial), or leave fades_at_cutoff False",
    )
    return told


def largest_jump(subject: Subject) -> float:
    """The largest second difference of the energy along the scan of `assert_fades`."""
    head = subject.task.heads[0]
    members = crossing_systems()
    parts = []
    for start in range(0, len(members), AT_ONCE):
        batch = subject.batch(members[start : start + AT_ONCE])
        parts.append(head.scale * subject.displacements(batch)[:, 0])
    energies = np.concatenate(parts)  # [NUM_POINTS]
    require(np.ptp(energies) > 1e-6 * SPAN, "the atom that moves is not felt at all")
    return float(np.abs(np.diff(energies, 2)).max())


def crossing_systems() -> list[System]:
    """Four atoms each, one of which is at and about the cutoff from another."""
    still = random_system(4, 12)
    positions = still.positions * 0.5
    away = np.array([0.6, 0.0, 0.8])
    others = []
    for distance in np.linspace(CUTOFF - SPAN, CUTOFF + SPAN, NUM_POINTS):
        moved = positions.copy()
        moved[3] = moved[0] + distance * away
        others.append(dataclasses.replace(still, positions=moved))
    return others


def _real(values: Array, head: Head, batch: Batch) -> jax.Array:
    """Outputs with those of padding at 0, which no symmetry holds."""
    mask = batch.weights > 0
    if head.kind != "graph_scalar":
        mask = graphs.node_mask(batch.graph)
    return jnp.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, 0)


def _moved(
    subject: Subject, batch: Batch, rows: np.ndarray, axis: int, step: float
) -> Array:
    """Energies [G, 1] in multiples of their scale, with some atoms moved."""
    positions = np.array(batch.graph.nodes.positions)
    positions[rows, axis] += step
    nodes = batch.graph.nodes._replace(positions=positions)
    graph = dataclasses.replace(batch.graph, nodes=nodes)
    moved = dataclasses.replace(batch, graph=graph)
    return subject.outputs(moved)[subject.task.heads[0].name]


def _sums(values: Sequence[Any] | np.ndarray, batch: Batch) -> np.ndarray:
    """Sums [g, 3] of vectors [N, 1, 3] over the atoms of each graph."""
    summed = graphs.pool_sum(jnp.asarray(values)[:, 0], batch.graph)
    found: np.ndarray = np.asarray(summed)[np.asarray(batch.weights) > 0]
    return found
