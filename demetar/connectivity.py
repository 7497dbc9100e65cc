"""Which nodes of a graph are joined: all of them, or the nearest ones."""

from __future__ import annotations

import numpy as np

_DISTANCES_AT_ONCE = 2**22  # of `nearest_neighbors`: 32 MiB in float64


def complete_edges(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Senders and receivers of the complete graph without self-loops.

    Edges are sorted by receiver i; its senders follow in cyclic order
    i + 1, i + 2, ..., i - 1 (modulo the number of nodes).

    Returns:
      Two int32 arrays of num_nodes * (num_nodes - 1) entries.
    """
    receivers = np.repeat(np.arange(num_nodes), num_nodes - 1)
    offsets = np.tile(np.arange(1, num_nodes), num_nodes)
    senders = (receivers + offsets) % max(num_nodes, 1)
    return senders.astype(np.int32), receivers.astype(np.int32)


def nearest_neighbors(positions: np.ndarray, num_neighbors: int) -> np.ndarray:
    """The nearest nodes of every node, itself left out.

    Args:
      positions: [D, n, 3] of D graphs with n nodes each.
      num_neighbors: k, from 1 to n - 1.

    Returns:
      [D, n, k] int32 node numbers, the nearest first.
    """
    num_graphs, num_nodes, _ = positions.shape
    nearest = np.empty((num_graphs, num_nodes, num_neighbors), np.int32)
    chunk = max(1, _DISTANCES_AT_ONCE // num_nodes**2)
    for start in range(0, num_graphs, chunk):
        part = positions[start : start + chunk]
        squares = np.zeros((len(part), num_nodes, num_nodes), positions.dtype)
        for axis in range(3):
            squares += np.square(part[:, :, None, axis] - part[:, None, :, axis])
        squares[:, np.arange(num_nodes), np.arange(num_nodes)] = np.inf
        found = np.argpartition(squares, num_neighbors - 1)[..., :num_neighbors]
        order = np.argsort(np.take_along_axis(squares, found, -1), kind="stable")
        nearest[start : start + chunk] = np.take_along_axis(found, order, -1)
    return nearest
