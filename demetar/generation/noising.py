"""Noise that is added to molecules, and asked back of a model.

Source: Hoogeboom, Satorras, Vignac, Welling 2022, arXiv 2203.17003, algorithm 1. The
noise of positions has no mean over a molecule, so that the centroid stays where it is
(Koehler, Klein, Noe 2020, arXiv 2006.02425).

Differs from the authors' code: at t = 0, one draw in a thousand, features are trained
on their noise as at all other times, not on the likelihood of the rounded types; and
the error of a molecule is a mean over its atoms, not a sum over the largest number of
a batch.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from demetar import graphs
from demetar.generation import states
from demetar.generation.schedule import Schedule
from demetar.types import Array, Batch, Graph

FIRST = 2**31 - 1  # what is folded into a key for the time, beside the atoms


@dataclasses.dataclass(frozen=True, eq=False)
class Noising:
    """Replaces molecules by noisy ones, and their targets by the noise.

    Attributes:
      schedule: of the noise.
    """

    schedule: Schedule

    def __call__(self, keys: jax.Array, batch: Batch) -> Batch:
        """Every graph at a time of its own, uniform in 0, ..., T.

        Args:
          keys: [G] random, one per graph: its time and noise depend on it alone.
          batch: of clean molecules.
        """
        times = draw_times(keys, 0, self.schedule)
        noise = draw_noise(keys, batch.graph)
        graph = noisy(self.schedule, batch.graph, times, noise)
        return dataclasses.replace(batch, graph=graph, targets=as_targets(noise))


def draw_times(keys: jax.Array, first: int, schedule: Schedule) -> jax.Array:
    """A time of each graph, uniform in first, ..., T, by its key: [G]."""

    def one(key: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, FIRST)
        return jax.random.randint(own, (), first, schedule.num_steps + 1)

    found: jax.Array = jax.vmap(one)(keys)
    return found


def noisy(schedule: Schedule, graph: Graph, times: Array, noise: Array) -> Graph:
    """z_t of clean molecules: each at its time [G], with a noise [N, 3 + F]."""
    dtype = graph.nodes.positions.dtype
    known = np.stack([schedule.alphas, schedule.sigmas], axis=1).astype(dtype)
    scales = graphs.broadcast_to_nodes(jnp.asarray(known)[times], graph)  # [N, 2]
    clean = values_of(graph)
    return with_values(
        graph, scales[:, :1] * clean + scales[:, 1:] * noise, times, schedule
    )


def values_of(graph: Graph) -> jax.Array:
    """Positions and features of the atoms, [N, 3 + F]."""
    nodes = graph.nodes
    return jnp.concatenate([nodes.positions, nodes.scalars[:, :-1]], axis=1)


def with_values(graph: Graph, values: Array, times: Array, schedule: Schedule) -> Graph:
    """The graph with other positions and features [N, 3 + F], at the times [G]."""
    shares = jnp.asarray(times, values.dtype)[:, None] / schedule.num_steps
    time = graphs.broadcast_to_nodes(shares, graph)  # [N, 1]
    scalars = jnp.concatenate([values[:, 3:], time], axis=1)
    nodes = graph.nodes._replace(positions=values[:, :3], scalars=scalars)
    return dataclasses.replace(graph, nodes=nodes)


def draw_noise(keys: jax.Array, graph: Graph) -> jax.Array:
    """Standard normal numbers for each atom, [N, 3 + F]; those of positions centred.

    An atom's depend on the key [G] of its graph and on its place in it, not on the
    batch. Padding has none.
    """
    size = 2 + graph.nodes.scalars.shape[1]  # the time gets none
    graph_of = graphs.graph_of_node(graph)
    starts = jnp.cumsum(graph.n_node) - graph.n_node
    places = jnp.arange(graph.bucket.max_nodes) - starts[graph_of]
    dtype = graph.nodes.positions.dtype

    def one(key: jax.Array, place: Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, place), (size,), dtype)

    values = jax.vmap(one)(keys[graph_of], places)
    values = jnp.where(graphs.node_mask(graph)[:, None], values, 0)
    return centred(values, graph)


def centred(values: Array, graph: Graph) -> jax.Array:
    """Values [N, 3 + F] whose first three columns have no mean over a graph."""
    means = graphs.pool_mean(values[:, :3], graph)
    shifted = values[:, :3] - graphs.broadcast_to_nodes(means, graph)
    return jnp.concatenate([shifted, values[:, 3:]], axis=1)


def as_targets(noise: Array) -> dict[str, Array]:
    """The targets of the heads of a denoiser."""
    return {states.POSITIONS: noise[:, None, :3], states.FEATURES: noise[:, 3:]}


def as_noise(outputs: dict[str, Array]) -> jax.Array:
    """The noise [N, 3 + F] that a denoiser predicts."""
    vectors, scalars = outputs[states.POSITIONS], outputs[states.FEATURES]
    return jnp.concatenate([vectors[:, 0], scalars], axis=1)
