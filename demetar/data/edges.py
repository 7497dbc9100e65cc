"""The edges of graphs, one graph after the other, as a task joins its nodes.

Edges are sorted by receiver within each graph, and the numbers of nodes are those
within their graph. Training and prediction find them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from demetar import connectivity

CHUNK_PAIRS = 2_000_000  # pairs of nodes whose distances are computed at once

# `types(members, size)` gives [D', n, n] uint8 codes of the bonds of the graphs that
# are `members`, all of one size; 0: none.
BondTypes = Callable[[np.ndarray, int], np.ndarray]


class Edges(NamedTuple):
    """The edges of D graphs, E in all.

    Attributes:
      n_edge: [D].
      senders, receivers: [E], or None if all graphs are complete, in the order of
        `connectivity.complete_edges`.
      types: [E] uint8 codes of the bonds along the edges, 0 if there is none; empty
        if none were asked for.
    """

    n_edge: np.ndarray
    senders: np.ndarray | None
    receivers: np.ndarray | None
    types: np.ndarray

    def ends(self, n_node: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Senders and receivers [E] as numbers of nodes within their graph."""
        if self.senders is not None and self.receivers is not None:
            return self.senders, self.receivers
        pairs = {n: connectivity.complete_edges(n) for n in np.unique(n_node).tolist()}
        return (
            np.concatenate([pairs[size][0] for size in n_node.tolist()]),
            np.concatenate([pairs[size][1] for size in n_node.tolist()]),
        )


def complete(n_node: np.ndarray) -> Edges:
    """Every node is joined with every other one of its graph."""
    sizes = n_node.astype(np.int64)
    return Edges(sizes * (sizes - 1), None, None, np.zeros(0, np.uint8))


def nearest(positions: np.ndarray, n_node: np.ndarray, num_neighbors: int) -> Edges:
    """Every node hears its nearest ones.

    Args:
      positions: [sum of n_node, 3].
      n_node: [D], each above `num_neighbors`.
      num_neighbors: senders per node.
    """
    starts = np.cumsum(n_node) - n_node
    n_edge = n_node.astype(np.int64) * num_neighbors
    edge_starts = np.cumsum(n_edge) - n_edge
    senders = np.zeros(int(n_edge.sum()), np.int32)
    receivers = np.zeros_like(senders)
    for members in of_equal_size(n_node):
        size = int(n_node[members[0]])
        own = positions[starts[members][:, None] + np.arange(size)]  # [D', n, 3]
        found = connectivity.nearest_neighbors(own, num_neighbors)
        rows = edge_starts[members][:, None] + np.arange(size * num_neighbors)
        senders[rows] = found.reshape(len(members), -1)
        receivers[rows] = np.repeat(np.arange(size), num_neighbors)
    return Edges(n_edge, senders, receivers, np.zeros(0, np.uint8))


def chosen(
    positions: np.ndarray,
    n_node: np.ndarray,
    cutoff: float | None = None,
    types: BondTypes | None = None,
    bonded: bool = False,
) -> Edges:
    """The pairs of nodes that are closer than a cutoff, or bonded.

    Args:
      positions: [sum of n_node, 3].
      n_node: [D].
      cutoff: in the unit of the positions; None for none.
      types: the bonds, or None if neither edges nor their features need them.
      bonded: whether bonds alone are edges.
    """
    is_complete = cutoff is None and not bonded
    sizes = n_node.astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    n_edge = np.zeros(len(sizes), np.int64)
    chunks = []
    for members in of_equal_size(sizes):
        size = int(sizes[members[0]])
        if types is None and cutoff is not None and size**2 > CHUNK_PAIRS:
            start = starts[members[0]]
            senders, receivers = within(positions[start : start + size], cutoff)
            n_edge[members] = len(senders)
            none = np.zeros(len(senders), np.uint8)
            chunks.append((members, senders, receivers, none))
            continue
        senders, receivers = connectivity.complete_edges(size)
        codes = np.zeros((len(members), len(senders)), np.uint8)
        if types is not None:
            codes = types(members, size)[:, receivers, senders]
        kept = codes > 0 if bonded else np.ones(codes.shape, bool)
        if cutoff is not None:
            own = positions[starts[members][:, None] + np.arange(size)]
            distances = np.linalg.norm(own[:, receivers] - own[:, senders], axis=-1)
            kept = distances < cutoff
        n_edge[members] = kept.sum(axis=1)
        _, pairs = np.nonzero(kept)
        chunks.append((members, senders[pairs], receivers[pairs], codes[kept]))
    edge_starts = np.cumsum(n_edge) - n_edge
    # Nodes of small graphs are counted in one byte.
    kind = np.uint8 if sizes.max(initial=0) <= 256 else np.int32
    columns = np.zeros((3, int(n_edge.sum())), kind)  # senders, receivers, types
    for members, *values in chunks:
        columns[:, ranges(edge_starts[members], n_edge[members])] = values
    senders, receivers, codes = columns
    codes = codes.astype(np.uint8)
    if is_complete:
        return Edges(n_edge, None, None, codes)
    return Edges(n_edge, senders, receivers, codes)


def within(positions: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Senders and receivers of the pairs closer than a cutoff, without looking at all.

    Args:
      positions: [n, 3].
      cutoff: in their unit.
    """
    # A little more than the cutoff: the distances below decide, as of small graphs.
    pairs = KDTree(positions).query_pairs(cutoff * (1 + 1e-9), output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    kept = np.linalg.norm(positions[first] - positions[second], axis=-1) < cutoff
    first, second = first[kept], second[kept]
    senders, receivers = np.append(first, second), np.append(second, first)
    # The order of `connectivity.complete_edges`.
    order = np.lexsort(((senders - receivers) % len(positions), receivers))
    return senders[order], receivers[order]


def of_equal_size(n_node: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of the graphs of one size, up to `CHUNK_PAIRS` pairs of nodes."""
    for size in np.unique(n_node).tolist():
        members = np.flatnonzero(n_node == size)
        count = max(1, CHUNK_PAIRS // size**2)
        for start in range(0, len(members), count):
            yield members[start : start + count]


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... for each start, one after the other."""
    firsts = np.cumsum(lengths) - lengths
    found: np.ndarray = np.arange(int(lengths.sum())) + np.repeat(
        starts - firsts, lengths
    )
    return found


def located(row: int, sizes: np.ndarray) -> tuple[int, int]:
    """The graph of a row of all nodes, and its place there.

    Args:
      row: among the nodes of all graphs, one after the other.
      sizes: [D] nodes of each.
    """
    stops = np.cumsum(sizes)
    graph = int(np.searchsorted(stops, row, side="right"))
    return graph, row - int(stops[graph] - sizes[graph])
