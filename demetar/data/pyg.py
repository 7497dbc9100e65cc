"""Graphs of the PyTorch world: PyTorch-Geometric-style objects as our samples.

Nothing of PyTorch is imported: what has `detach` and `cpu` is taken for a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from demetar.data.samples import Samples
from demetar.errors import UserError
from demetar.types import Nodes


def from_pyg(
    source: Iterable[Any], target: str = "y", vectors: Sequence[str] = ()
) -> Samples:
    """Samples of a list of graphs, or of a loader whose batches hold several.

    Read of each object are `pos` [N, 3] and `edge_index` [2, E] (from sender to
    receiver), and if there are any `x` [N, S], `edge_attr` [E, F], `y` and, of a
    batch, the graph number `batch` [N] of each node. `y` is [G, T], or one number per
    graph; its first axis may be missing for a single graph. Edges are sorted by
    receiver. `base.make_packing` makes batches of the samples.

    Args:
      source: the objects.
      target: name of the head that `y` belongs to.
      vectors: names of attributes [N, 3] that are the vectors of the samples.

    Returns:
      Samples with the target {target: [D, T]} or no target.

    Raises:
      UserError: an array is missing or has another shape than those above, or an edge
        joins two graphs; the message names the object.
    """
    parts = [
        part
        for number, item in enumerate(source)
        for part in _graphs(item, number, vectors)
    ]
    if not parts:
        raise UserError("expected at least one graph, found none")
    shapes = [tuple(leaf.shape[1:] for leaf in part) for part in parts]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise UserError(
                f"graph {number} has features or targets of other sizes ({shape}) than "
                f"the first ({shapes[0]})"
            )
    columns = list(zip(*parts, strict=True))
    positions, scalars, directed, senders, receivers, edges, targets = map(
        np.concatenate, columns
    )
    return Samples(
        nodes=Nodes(positions, scalars, directed),
        edges=edges,
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
        n_node=np.array([len(part) for part in columns[0]], np.int32),
        n_edge=np.array([len(part) for part in columns[3]], np.int32),
        targets={target: targets} if targets.shape[1] else {},
    )


def _graphs(
    item: Any, number: int, vectors: Sequence[str]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Positions, scalars, vectors, senders, receivers, edges, targets of each graph."""
    positions = _array(item, "pos", number)
    ends = _array(item, "edge_index", number)
    if positions is None or ends is None:
        raise UserError(f"object {number} has no pos or no edge_index; both are needed")
    num_nodes, num_edges = len(positions), ends.shape[-1]
    slots = _array(item, "batch", number)
    if slots is None:
        slots = np.zeros(num_nodes, int)
    _check(number, positions, ends, slots)
    scalars = _matrix(item, "x", number, num_nodes)
    directed = _vectors(item, vectors, number, positions)
    edges = _matrix(item, "edge_attr", number, num_edges)
    num_graphs = int(slots[-1]) + 1
    targets = _array(item, "y", number)
    if targets is None:
        targets = np.zeros((num_graphs, 0))
    if targets.size % num_graphs or (targets.ndim > 1 and len(targets) != num_graphs):
        raise UserError(
            f"object {number} has {num_graphs} graphs but y of shape {targets.shape}"
        )
    targets = targets.reshape(num_graphs, -1)
    senders, receivers = ends
    order = np.argsort(receivers, kind="stable")
    senders, receivers, edges = senders[order], receivers[order], edges[order]
    node_stops = np.searchsorted(slots, np.arange(num_graphs + 1))
    edge_stops = np.searchsorted(receivers, node_stops)
    for slot in range(num_graphs):
        own = slice(*node_stops[slot : slot + 2])
        pairs = slice(*edge_stops[slot : slot + 2])
        start = node_stops[slot]
        yield (
            *(positions[own], scalars[own], directed[own]),
            *(senders[pairs] - start, receivers[pairs] - start),
            *(edges[pairs], targets[slot : slot + 1]),
        )


def _vectors(
    item: Any, names: Sequence[str], number: int, positions: np.ndarray
) -> np.ndarray:
    """The attributes of these names as [N, V, 3]."""
    found = np.zeros_like(positions, shape=(len(positions), len(names), 3))
    for column, name in enumerate(names):
        array = _array(item, name, number)
        if array is None or array.shape != positions.shape:
            shape = "none" if array is None else array.shape
            raise UserError(
                f"object {number}: expected {name} of shape {positions.shape}, "
                f"found {shape}"
            )
        found[:, column] = array
    return found


def _check(
    number: int, positions: np.ndarray, ends: np.ndarray, slots: np.ndarray
) -> None:
    if positions.ndim != 2 or positions.shape[1] != 3 or not len(positions):
        raise UserError(
            f"object {number}: expected pos of shape (N, 3), found {positions.shape}"
        )
    if ends.ndim != 2 or len(ends) != 2:
        raise UserError(
            f"object {number}: expected edge_index of shape (2, E), found {ends.shape}"
        )
    if ends.dtype.kind not in "iu":
        raise UserError(
            f"object {number}: expected whole numbers in edge_index, found {ends.dtype}"
        )
    if slots.shape != positions.shape[:1] or (np.diff(slots) < 0).any():
        raise UserError(
            f"object {number}: expected batch to number the graph of each node in "
            "ascending order"
        )
    if ends.size and not 0 <= ends.min() <= ends.max() < len(positions):
        raise UserError(
            f"object {number}: expected edge_index below {len(positions)}, "
            f"found {ends.min()} to {ends.max()}"
        )
    if (slots[ends[0]] != slots[ends[1]]).any():
        raise UserError(f"object {number}: an edge joins two graphs of the batch")


def _array(item: Any, name: str, number: int) -> np.ndarray | None:
    value = getattr(item, name, None)
    if value is None:
        return None
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"object {number}: {name} is no array ({error})") from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"object {number}: {name} holds no numbers")
    return array


def _matrix(item: Any, name: str, number: int, length: int) -> np.ndarray:
    """Features [length, F] in floating point, of no columns if there are none."""
    array = _array(item, name, number)
    if array is None:
        return np.zeros((length, 0))
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != length:
        raise UserError(
            f"object {number}: expected {name} of {length} rows, found {array.shape}"
        )
    return array if array.dtype.kind == "f" else array.astype(np.float32)
