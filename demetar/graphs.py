"""Graphs in fixed shapes: padding, gathers and sums.

The one place where a regular bucket (equal graphs in which every node has as many
senders) takes a faster path than a ragged one. Both paths compute the same function.

The ragged convention: real graphs come first, the last slot of the bucket is the
padding graph. It owns every padding node and edge; padding edges join its last node to
itself, so no real node ever receives from padding. Slots in between may be empty.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from demetar.errors import UserError
from demetar.types import Array, Batch, Bucket, Graph

Rows: TypeAlias = Literal["nodes", "edges", "bonds"]


def node_mask(graph: Graph) -> jax.Array:
    """[N] True for nodes that are not padding."""
    bucket = graph.bucket
    if bucket.nodes_per_graph is not None:
        return jnp.ones(bucket.max_nodes, bool)
    return jnp.arange(bucket.max_nodes) < bucket.max_nodes - graph.n_node[-1]


def edge_mask(graph: Graph) -> jax.Array:
    """[E] True for edges that are not padding."""
    bucket = graph.bucket
    if bucket.nodes_per_graph is not None:
        return jnp.ones(bucket.max_edges, bool)
    return jnp.arange(bucket.max_edges) < bucket.max_edges - graph.n_edge[-1]


def graph_of_node(graph: Graph) -> jax.Array:
    """[N] index of the graph slot that each node belongs to."""
    return jnp.repeat(
        jnp.arange(graph.bucket.num_graphs),
        graph.n_node,
        total_repeat_length=graph.bucket.max_nodes,
    )


def centers_of_nodes(graph: Graph) -> Array:
    """What was subtracted from the position of each node: [N, 3]."""
    if graph.globals is None:
        return jnp.zeros_like(graph.nodes.positions)
    return broadcast_to_nodes(graph.globals.centers, graph)


def gather_receivers(values: Array, graph: Graph) -> jax.Array:
    """Node values at the receiving end of each edge.

    Args:
      values: [..., N, C].

    Returns:
      [..., E, C].
    """
    bucket = graph.bucket
    degree = bucket.degree
    if degree is None:
        return _take(values, graph.receivers)
    *lead, _, channels = values.shape
    copies = jnp.broadcast_to(
        values[..., :, None, :], (*lead, bucket.max_nodes, degree, channels)
    )
    return copies.reshape(*lead, bucket.max_edges, channels)


def gather_senders(values: Array, graph: Graph) -> jax.Array:
    """Node values at the sending end of each edge.

    In complete graphs, entry i * (n + 1) + k of the n values repeated without end is
    value (i + k) mod n: the k-th sender of receiver i. So the gather is a broadcast, a
    reshape and a slice, and so is its transpose.

    Args:
      values: [..., N, C].

    Returns:
      [..., E, C].
    """
    bucket = graph.bucket
    size = bucket.nodes_per_graph
    if size is None or bucket.neighbors_per_node is not None:
        return _take(values, graph.senders)
    *lead, _, channels = values.shape
    blocks = (*lead, bucket.num_graphs)
    values = values.reshape(*blocks, 1, size, channels)
    copies = jnp.broadcast_to(values, (*blocks, size + 1, size, channels))
    rows = copies.reshape(*blocks, size, size + 1, channels)
    return rows[..., 1:size, :].reshape(*lead, bucket.max_edges, channels)


def _take(values: Array, rows: Array) -> jax.Array:
    """Rows [..., E, C] of values [..., N, C]; all are there, so that none is checked.

    `jnp.take` would compare every index with the bounds, and the gradient of every
    value with that.
    """
    return jnp.asarray(values).at[..., rows, :].get(mode="promise_in_bounds")


def sum_to_receivers(values: Array, graph: Graph) -> jax.Array:
    """Sum of edge values over the edges that end at each node.

    Args:
      values: [..., E, C].

    Returns:
      [..., N, C]; zero for a node without edges.
    """
    bucket = graph.bucket
    degree = bucket.degree
    *lead, _, channels = values.shape
    if degree is not None:
        grouped = values.reshape(*lead, bucket.max_nodes, degree, channels)
        return grouped.sum(axis=-2)
    return _add_up(values, graph.receivers, graph, is_sorted=True)


def sum_to_senders(values: Array, graph: Graph) -> jax.Array:
    """As `sum_to_receivers`, over the edges that start at each node."""
    return _add_up(values, graph.senders, graph, is_sorted=False)


def _add_up(values: Array, rows: Array, graph: Graph, is_sorted: bool) -> jax.Array:
    """Sums of edge values [..., E, C] at the rows [E] of nodes: [..., N, C]."""
    summed = jax.ops.segment_sum(
        jnp.moveaxis(values, -2, 0),
        rows,
        graph.bucket.max_nodes,
        indices_are_sorted=is_sorted,
        mode="promise_in_bounds",
    )
    return jnp.moveaxis(summed, 0, -2)


def num_neighbors(graph: Graph) -> jax.Array:
    """[N, 1] number of edges that end at each node, at least 1 (so that it divides)."""
    bucket = graph.bucket
    degree = bucket.degree
    if degree is not None:
        return jnp.full((bucket.max_nodes, 1), max(degree, 1), jnp.float32)
    ones = jnp.ones((bucket.max_edges, 1), jnp.float32)
    return jnp.maximum(sum_to_receivers(ones, graph), 1)


def mean_to_receivers(values: Array, graph: Graph) -> jax.Array:
    """As `sum_to_receivers`, divided by the number of edges of the node."""
    totals = sum_to_receivers(values, graph)
    return totals / num_neighbors(graph).astype(totals.dtype)


def pool_sum(values: Array, graph: Graph) -> jax.Array:
    """Sum of node values [N, C] over the nodes of each graph: [G, C]."""
    bucket = graph.bucket
    size = bucket.nodes_per_graph
    if size is not None:
        return values.reshape(bucket.num_graphs, size, values.shape[-1]).sum(axis=1)
    return jax.ops.segment_sum(
        values,
        graph_of_node(graph),
        bucket.num_graphs,
        indices_are_sorted=True,
    )


def pool_mean(values: Array, graph: Graph) -> jax.Array:
    """Mean of node values [N, C] over the nodes of each graph: [G, C]; 0 if empty."""
    counts = jnp.maximum(graph.n_node, 1)[:, None]
    return pool_sum(values, graph) / counts


def broadcast_to_nodes(values: Array, graph: Graph) -> jax.Array:
    """Graph values [G, C] at each node of the graph: [N, C]."""
    size = graph.bucket.nodes_per_graph
    if size is not None:
        return jnp.repeat(
            values, size, axis=0, total_repeat_length=graph.bucket.max_nodes
        )
    return jnp.asarray(values)[graph_of_node(graph)]


def single_graphs(batch: Batch) -> Batch:
    """The graphs of a regular batch as batches of one, stacked along a leading axis G.

    For functions of one graph that `jax.vmap` is to apply to each.

    Raises:
      UserError: the bucket is ragged.
    """
    bucket = batch.graph.bucket
    if bucket.nodes_per_graph is None:
        raise UserError(
            "the gradient of each graph needs graphs of equal size, found a batch of "
            "graphs of different sizes; leave --clip_each at 0 and use --clip_norm"
        )
    count, size = bucket.num_graphs, bucket.nodes_per_graph
    split = jax.tree.map(
        lambda leaf: jnp.reshape(
            leaf, (count, leaf.shape[0] // count, *leaf.shape[1:])
        ),
        batch,
    )
    starts = size * np.arange(count, dtype=np.int32)[:, None]
    senders, receivers = (
        ends - starts for ends in (split.graph.senders, split.graph.receivers)
    )
    own = Bucket(
        size,
        bucket.max_edges // count,
        1,
        size,
        neighbors_per_node=bucket.neighbors_per_node,
    )
    graph = dataclasses.replace(
        split.graph, senders=senders, receivers=receivers, bucket=own
    )
    found: Batch = dataclasses.replace(split, graph=graph)
    return found


def softmax_to_receivers(logits: Array, graph: Graph) -> jax.Array:
    """Softmax of edge values over the edges that end at the same node.

    Args:
      logits: [E, H].

    Returns:
      [E, H], which sum to 1 over the edges of every node that has any.
    """
    bucket = graph.bucket
    degree = bucket.degree
    if degree is not None:
        grouped = logits.reshape(bucket.max_nodes, degree, logits.shape[-1])
        return jax.nn.softmax(grouped, axis=1).reshape(logits.shape)
    peaks = jax.ops.segment_max(
        logits, graph.receivers, bucket.max_nodes, indices_are_sorted=True
    )
    shifted = jnp.exp(logits - jax.lax.stop_gradient(peaks)[graph.receivers])
    sums = sum_to_receivers(shifted, graph)
    return shifted / sums[graph.receivers]


def ragged_to_dense(
    values: Array, graph: Graph, rows: Rows = "nodes"
) -> tuple[jax.Array, jax.Array]:
    """Values of nodes, edges or bonds with an axis of graphs, padded to the largest.

    Args:
      values: [N, C], or [E, C] if `rows` is 'edges', or [P, C] if it is 'bonds'.
      graph: the batch. M is `max_nodes_per_graph` or `max_edges_per_graph` of
        a ragged bucket (half of it for bonds), or without these the rows of the whole
        batch.
      rows: 'nodes', 'edges' or 'bonds'.

    Returns:
      [G, M, C], zero if there is no value, and [G, M] True where there is one. The
      padding graph has none.
    """
    counts, total, size = _rows(graph, rows)
    if graph.bucket.nodes_per_graph is not None:
        dense = jnp.reshape(values, (graph.bucket.num_graphs, size, values.shape[-1]))
        return dense, jnp.ones(dense.shape[:2], bool)
    columns = jnp.arange(size)
    starts = jnp.cumsum(counts) - counts
    mask = (columns < counts[:, None]).at[-1].set(False)
    index = jnp.minimum(starts[:, None] + columns, total - 1)
    return jnp.where(mask[..., None], values[index], 0), mask


def dense_to_ragged(values: Array, graph: Graph, rows: Rows = "nodes") -> jax.Array:
    """Back from `ragged_to_dense`: [G, M, C] -> [N, C], [E, C] or [P, C].

    Padding is zero.
    """
    bucket = graph.bucket
    counts, total, size = _rows(graph, rows)
    flat = jnp.reshape(values, (-1, values.shape[-1]))  # [G M, C]
    if bucket.nodes_per_graph is not None:
        return flat
    slots = jnp.repeat(
        jnp.arange(bucket.num_graphs), counts, total_repeat_length=total
    )  # graph of each row
    columns = jnp.arange(total) - (jnp.cumsum(counts) - counts)[slots]
    real = slots < bucket.num_graphs - 1
    index = jnp.where(real, slots * size + columns, 0)
    return jnp.where(real[:, None], flat[index], 0)


def dense_size(graph: Graph, rows: Rows = "nodes") -> int:
    """M: how many rows `ragged_to_dense` has for each graph."""
    return _rows(graph, rows)[2]


def edges_to_dense(values: Array, graph: Graph) -> jax.Array:
    """Edge values by the two nodes that they join, within each graph.

    Args:
      values: [E, C].
      graph: the batch, of M nodes per graph as in `ragged_to_dense`.

    Returns:
      [G, M, M, C]; at [g, i, j] the sum over the edges from node i to node j of the
      graph g. Zero if there is none, and all over the padding graph.
    """
    counts, total, size = _rows(graph, "nodes")
    slots = graph_of_node(graph)  # [N]
    columns = jnp.arange(total) - (jnp.cumsum(counts) - counts)[slots]
    senders, receivers = columns[graph.senders], columns[graph.receivers]
    real = jnp.where(edge_mask(graph)[:, None], values, 0)
    shape = (graph.bucket.num_graphs, size, size, values.shape[-1])
    dense = jnp.zeros(shape, real.dtype)
    return dense.at[slots[graph.receivers], senders, receivers].add(real, mode="drop")


def _rows(graph: Graph, rows: Rows) -> tuple[Array, int, int]:
    """Rows of each graph [G], of the batch, and of the largest graph."""
    bucket = graph.bucket
    counts, total, largest = (
        (graph.n_node, bucket.max_nodes, bucket.max_nodes_per_graph)
        if rows == "nodes"
        else (graph.n_edge, bucket.max_edges, bucket.max_edges_per_graph)
    )
    if rows == "bonds":
        total = -(-total // 2)
        counts, largest = counts // 2, largest and largest // 2
    if bucket.nodes_per_graph is not None:
        return counts, total, total // bucket.num_graphs
    return counts, total, largest or total
