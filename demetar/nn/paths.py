"""Shortest paths between the nodes of a graph along its edges.

They are found in fixed shapes, within the model: one product with the adjacency matrix
for each further edge, as many as the longest of all shortest paths of the batch has.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.types import Array, Graph

UNREACHABLE = -1


class Paths(NamedTuple):
    """The shortest paths from node i to node j of each graph.

    Attributes:
      distances: [G, M, M] int32 number of their edges: 0 from a node to itself,
        `UNREACHABLE` if there is no path.
      hops: [G, L, F, M, M] features of their first L edges, each the mean over all
        shortest paths from i to j; 0 beyond the last edge.
    """

    distances: Array
    hops: Array


class _Front(NamedTuple):
    """The paths of one length, and what has been found with shorter ones.

    Attributes:
      length: number of their edges.
      counts: [G, M, M] shortest paths of that length.
      sums: [G, L, F, M, M] features of their edges, summed over the paths.
      found: what is known so far.
    """

    length: Array
    counts: Array
    sums: Array
    found: Paths


def shortest_paths(graph: Graph, num_hops: int) -> Paths:
    """All shortest paths. A path goes along edges from their senders to receivers.

    Where several paths are equally short, the means do not depend on the order of the
    nodes, as a choice of one would. Without edge features every edge has the feature 1.
    No gradient passes.

    Args:
      graph: the batch. M are the nodes per graph of `graphs.ragged_to_dense`.
      num_hops: L.
    """
    joined, bonds = _adjacency(graph)
    num_graphs, num_features, size, _ = bonds.shape
    alone = jnp.broadcast_to(jnp.eye(size, dtype=bonds.dtype), joined.shape)
    hops = jnp.zeros((num_graphs, num_hops, num_features, size, size), bonds.dtype)
    distances = jnp.where(alone > 0, 0, UNREACHABLE).astype(jnp.int32)
    start = _Front(jnp.zeros((), jnp.int32), alone, hops, Paths(distances, hops))

    def unfinished(front: _Front) -> Array:
        return (front.length < size - 1) & jnp.any(front.counts > 0)

    return jax.lax.while_loop(
        unfinished, lambda front: _longer(front, joined, bonds), start
    ).found


def _adjacency(graph: Graph) -> tuple[jax.Array, jax.Array]:
    """Whether two nodes are joined [G, M, M], and by which features [G, F, M, M].

    An edge from a node to itself is none; several between two nodes are their mean.
    """
    ones = jnp.ones_like(graph.edges, shape=(graph.edges.shape[0], 1))
    features = graph.edges if graph.edges.shape[-1] else ones
    values = jnp.concatenate([ones, features], axis=-1)
    dense = graphs.edges_to_dense(jax.lax.stop_gradient(values), graph)
    others = 1 - jnp.eye(dense.shape[1], dtype=dense.dtype)
    counts = dense[..., 0] * others
    means = dense[..., 1:] * others[..., None] / jnp.maximum(counts, 1)[..., None]
    return (counts > 0).astype(dense.dtype), jnp.moveaxis(means, -1, 1)


def _longer(front: _Front, joined: Array, bonds: Array) -> _Front:
    """The shortest paths that have one edge more."""
    counts = front.counts @ joined
    is_new = (front.found.distances == UNREACHABLE) & (counts > 0)
    counts = jnp.where(is_new, counts, 0)
    last = jnp.einsum("gik,gfkj->gfij", front.counts, bonds)
    here = jnp.arange(front.sums.shape[1]) == front.length  # [L]
    sums = jnp.einsum("glfik,gkj->glfij", front.sums, joined)
    sums = sums + jnp.where(here[:, None, None, None], last[:, None], 0)
    sums = jnp.where(is_new[:, None, None], sums, 0)
    length = front.length + 1
    found = Paths(
        jnp.where(is_new, length, front.found.distances),
        front.found.hops + sums / jnp.maximum(counts, 1)[:, None, None],
    )
    return _Front(length, counts, sums, found)
