"""Pairs of nodes: what the two edges between them have in common.

The second place, beside `graphs`, in which a regular bucket takes a path of its own: it
has each pair once, as a ring.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.types import Array, Bucket, Graph

# Up to so many rings each one is rolled into place by itself. Of more of them the
# program takes long to compile, and its gradient to run; a skewed copy has them all.
ROLLED_RINGS = 8


class Way(NamedTuple):
    """How edges carry messages: from sender to receiver, or back.

    Attributes:
      own, other: node values [..., N, C] at the end that hears and at the other one:
        [..., E, C].
      total: sums of edge values [..., E, C] at the nodes that hear.
      sign: of the directions, from the other end to the one that hears.
    """

    own: Callable[[Array, Graph], jax.Array]
    other: Callable[[Array, Graph], jax.Array]
    total: Callable[[Array, Graph], jax.Array]
    sign: int


FORWARD = Way(
    graphs.gather_receivers, graphs.gather_senders, graphs.sum_to_receivers, 1
)
BACK = Way(graphs.gather_senders, graphs.gather_receivers, graphs.sum_to_senders, -1)


def ways(graph: Graph, may_halve: bool = True) -> tuple[Graph, tuple[Way, ...]]:
    """The edges to compute for, and the ways in which they carry messages.

    Both edges of a pair have the functions of its distance in common, and but for signs
    those of its direction. So if all edges are mutual, one of them stands for both.

    Args:
      graph: the batch.
      may_halve: whether it may.
    """
    half = one_way(graph) if may_halve else None
    return (graph, (FORWARD,)) if half is None else (half, (FORWARD, BACK))


def one_way(graph: Graph) -> Graph | None:
    """The graph with one of the two edges of each pair, the one from the later node.

    What both edges of a pair have in common, as functions of the distance alone, needs
    to be computed for one of them.

    Returns:
      A graph of half the edges; None unless the bucket says that edges are mutual, and
      if they have features, which may differ in both directions.
    """
    bucket = graph.bucket
    if not bucket.mutual or graph.edges.shape[-1]:
        return None
    count, padding = bucket.max_edges // 2, bucket.max_nodes - 1
    (kept,) = jnp.nonzero(
        jnp.asarray(graph.senders) > graph.receivers,
        size=count,
        fill_value=bucket.max_edges,
    )
    senders, receivers = (
        jnp.asarray(ends).at[kept].get(mode="fill", fill_value=padding)
        for ends in (graph.senders, graph.receivers)
    )
    real = jnp.asarray(graph.n_edge[:-1]) // 2
    return dataclasses.replace(
        graph,
        edges=jnp.zeros((count, 0), graph.edges.dtype),
        senders=senders,
        receivers=receivers,
        n_edge=jnp.append(real, count - real.sum()),
        bucket=dataclasses.replace(
            bucket,
            max_edges=count,
            max_edges_per_graph=(bucket.max_edges_per_graph or 0) // 2 or None,
            mutual=False,
        ),
    )


def differences(values: Array, graph: Graph) -> jax.Array:
    """values_i - values_j of every pair of neighbours.

    In a regular bucket each pair is there once: body i and body i + k, counted round
    the ring of its graph, for k up to n/2 (and the two of k = n/2 twice). In a ragged
    one a pair is an edge, and is there in both directions.

    Args:
      values: [..., N, C].

    Returns:
      [..., P, C] for P pairs in the order that `sum_to_nodes` takes.
    """
    bucket = graph.bucket
    size, rings = bucket.nodes_per_graph, _num_rings(bucket)
    if size is None or not rings:
        receivers = graphs.gather_receivers(values, graph)
        return receivers - graphs.gather_senders(values, graph)
    *lead, _, channels = values.shape
    bodies = jnp.asarray(values).reshape(*lead, bucket.num_graphs, size, channels)
    if rings > ROLLED_RINGS:
        found = bodies[..., None, :, :] - _partners(bodies, rings)
    else:
        partners = [jnp.roll(bodies, -k, axis=-2) for k in range(1, rings + 1)]
        found = jnp.stack([bodies - other for other in partners], axis=-3)
    return found.reshape(*lead, -1, channels)


def _partners(bodies: jax.Array, rings: int) -> jax.Array:
    """Body i + k of each ring k from 1 to `rings`: [..., n, C] -> [..., rings, n, C].

    Entry k * (n + 1) + i of the n bodies repeated without end is body (i + k) mod n.
    So they are a broadcast, a reshape and a slice, and so is the gradient.
    """
    *lead, size, channels = bodies.shape
    copies = jnp.broadcast_to(
        bodies[..., None, :, :], (*lead, rings + 2, size, channels)
    )
    flat = copies.reshape(*lead, (rings + 2) * size, channels)
    skewed = flat[..., : (rings + 1) * (size + 1), :]
    rows = skewed.reshape(*lead, rings + 1, size + 1, channels)
    return rows[..., 1:, :size, :]


def features(edges: Array, graph: Graph) -> Array:
    """Edge features [E, F] of the pairs of `differences`: [P, F].

    They are those of the edge from j to i, so both paths agree if features are the
    same in both directions, as products of charges are.
    """
    bucket = graph.bucket
    size, rings = bucket.nodes_per_graph, _num_rings(bucket)
    if size is None or not rings:
        return edges
    grouped = edges.reshape(bucket.num_graphs, size, size - 1, edges.shape[-1])
    return grouped[:, :, :rings].swapaxes(1, 2).reshape(-1, edges.shape[-1])


def sum_to_nodes(values: Array, graph: Graph) -> jax.Array:
    """Sum of pair values over the pairs of each node; the partner gets the opposite.

    Args:
      values: [P, C] of `differences`' pairs, as body i feels them.

    Returns:
      [N, C], which sum to zero over each graph.
    """
    bucket = graph.bucket
    size, rings = bucket.nodes_per_graph, _num_rings(bucket)
    if size is None or not rings:
        return graphs.sum_to_receivers(values, graph)
    blocks = values.reshape(bucket.num_graphs, rings, size, values.shape[-1])
    total = blocks.sum(axis=1)
    whole = (size - 1) // 2  # rings; half round the ring both bodies are there
    if whole > ROLLED_RINGS:
        total = total - _sum_to_partners(blocks[:, :whole])
    else:
        for k in range(1, whole + 1):
            total = total - jnp.roll(blocks[:, k - 1], k, axis=-2)
    return total.reshape(-1, values.shape[-1])


def _sum_to_partners(blocks: Array) -> jax.Array:
    """Sums over the rings k of the values of body i - k: [G, rings, n, C] -> [G, n, C].

    The transpose of `_partners`, by the same skew.
    """
    count, rings, size, channels = blocks.shape
    rows = jnp.pad(blocks, ((0, 0), (1, 0), (0, 1), (0, 0)))
    skewed = rows.reshape(count, (rings + 1) * (size + 1), channels)
    missing = (rings + 2) * size - skewed.shape[1]
    flat = jnp.pad(skewed, ((0, 0), (0, missing), (0, 0)))
    return flat.reshape(count, rings + 2, size, channels).sum(axis=1)


def least(values: Array, graph: Graph) -> jax.Array:
    """Least value [P] among the pairs of each graph, at its nodes: [N, 1].

    Infinity if a graph has no pair.
    """
    bucket = graph.bucket
    size = bucket.nodes_per_graph
    if size is not None:
        grouped = values.reshape(bucket.num_graphs, -1)
        found = grouped.min(axis=1, initial=jnp.inf)  # [G]
    else:
        of_node = graphs.graph_of_node(graph)
        found = jax.ops.segment_min(
            values,
            of_node[graph.receivers],
            bucket.num_graphs,
            indices_are_sorted=True,
        )
    return graphs.broadcast_to_nodes(found[:, None], graph)


class Bonds(NamedTuple):
    """The pairs of nodes that edges join, each once: P of them, half the edges.

    Those of a graph follow each other, in the order of the graphs; padding comes last.
    """

    edges: Array  # [P, 2] the numbers of the edges in both directions
    of_edge: Array  # [E] the number of each edge's bond


def find_bonds(graph: Graph) -> Bonds:
    """The bonds of graphs that have every edge in both directions, and none twice."""
    ends = jnp.stack([graph.senders, graph.receivers])  # [2, E]
    order = jnp.lexsort((ends.max(axis=0), ends.min(axis=0)))
    ranks = (
        jnp.zeros_like(order)
        .at[order]
        .set(jnp.arange(graph.bucket.max_edges, dtype=order.dtype), unique_indices=True)
    )
    if graph.bucket.max_edges % 2:  # the last edge is padding
        order = jnp.concatenate([order, order[-1:]])
    return Bonds(order.reshape(-1, 2), ranks // 2)


def _num_rings(bucket: Bucket) -> int:
    """Distances k round the ring at which a regular bucket has pairs."""
    return (bucket.nodes_per_graph or 0) // 2
