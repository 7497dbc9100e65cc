"""Graphs of a data set as flat arrays, one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from demetar import connectivity
from demetar.errors import UserError
from demetar.types import Head, Nodes

RADIAL_PERCENTILE = 99.9
EXTENT_GRAPHS = 2_000  # the first ones, whose edges make the radial extent


@dataclasses.dataclass(frozen=True)
class Samples:
    """D graphs, one after the other.

    Attributes:
      nodes: positions [sum of n_node, 3], scalars [.., S], vectors [.., V, 3].
      edges: [sum of n_edge, F], sorted by receiver within each graph; if they are
        small integers, a batch has them in the dtype of the positions.
      senders, receivers: [sum of n_edge] node numbers within their graph, of any
        integer type; None if all graphs are complete, in the order of
        `connectivity.complete_edges`.
      n_node, n_edge: [D].
      targets: {head: [sum of n_node, K, 3] | [sum of n_node, T] | [D, T]}, less what is
        known of them beforehand (`heads.residual`).
      centers: [D, 3] what `centred` subtracted from the positions; None for nothing.
    """

    nodes: Nodes
    edges: np.ndarray
    senders: np.ndarray | None
    receivers: np.ndarray | None
    n_node: np.ndarray
    n_edge: np.ndarray
    targets: dict[str, np.ndarray]
    centers: np.ndarray | None = None

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Senders and receivers if they are stored."""
        if self.senders is None or self.receivers is None:
            return None
        return self.senders, self.receivers

    def common_size(self) -> int | None:
        """N if all graphs are complete graphs of n nodes in cyclic edge order."""
        size = int(self.n_node[0])
        if (self.n_node != size).any() or (self.n_edge != size * (size - 1)).any():
            return None
        expected = connectivity.complete_edges(size)
        if self.ends is None:
            return size
        for found, row in zip(self.ends, expected, strict=True):
            if (found.reshape(-1, max(len(row), 1)) != row).any():
                return None
        return size

    def common_degree(self) -> int | None:
        """Senders per node if graphs of one size have as many at every node."""
        size, num_edges = int(self.n_node[0]), int(self.n_edge[0])
        if (self.n_node != size).any() or (self.n_edge != num_edges).any():
            return None
        if not num_edges or num_edges % size or self.receivers is None:
            return None
        expected = np.repeat(np.arange(size), num_edges // size)
        if (self.receivers.reshape(-1, num_edges) != expected).any():
            return None
        return num_edges // size

    def mutual(self) -> bool:
        """Whether every edge is there in both directions as often, and no self-loop.

        Told by sums of hashes: that edges which differ have the same is out of the
        question (once in 2^64).
        """
        if self.ends is None:
            return True
        senders, receivers = (end.astype(np.uint64) for end in self.ends)
        if (senders == receivers).any():
            return False
        graph = np.repeat(np.arange(len(self.n_edge), dtype=np.uint64), self.n_edge)
        there, back = (
            _hashes(graph, *ends).sum(dtype=np.uint64)
            for ends in ((senders, receivers), (receivers, senders))
        )
        return bool(there == back)


def _hashes(*columns: np.ndarray) -> np.ndarray:
    """One number for each row of columns of uint64: [X].

    Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014), once per column.
    """
    state = np.zeros_like(columns[0])
    for column in columns:
        state = (state ^ column) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    return state


def centred(samples: Samples, heads: Collection[Head]) -> Samples:
    """The samples with each graph's centroid at the origin.

    Far from the origin, single precision rounds positions more coarsely than the graph
    is large. So what is subtracted is subtracted before anything is rounded.

    Args:
      samples: in double precision.
      heads: of the task; the targets of those based on positions move along.
    """
    count, positions = len(samples.n_node), samples.nodes.positions
    graph = np.repeat(np.arange(count), samples.n_node)  # [sum of n_node]
    sums = [np.bincount(graph, column, count) for column in positions.T]
    centers = np.stack(sums, axis=1) / np.maximum(samples.n_node, 1)[:, None]  # [D, 3]
    moved = {
        head.name: samples.targets[head.name] - centers[graph][:, None]
        for head in heads
        if head.base == "positions"
    }
    return dataclasses.replace(
        samples,
        nodes=samples.nodes._replace(positions=positions - centers[graph]),
        targets={**samples.targets, **moved},
        centers=centers,
    )


def radial_extent(samples: Samples, count: int) -> float:
    """`TaskSpec.radial_extent` by the first graphs; 1 without any edge.

    Args:
      samples: in double precision.
      count: of the graphs, of which `EXTENT_GRAPHS` are enough.
    """
    lengths = []
    start = edge = 0
    count = min(count, EXTENT_GRAPHS)
    for size, degree in zip(
        samples.n_node[:count], samples.n_edge[:count], strict=True
    ):
        own = samples.nodes.positions[start : start + size]
        ends = connectivity.complete_edges(int(size))
        if samples.ends is not None:
            senders, receivers = samples.ends
            ends = senders[edge : edge + degree], receivers[edge : edge + degree]
        lengths.append(np.linalg.norm(own[ends[0]] - own[ends[1]], axis=-1))
        start, edge = start + size, edge + degree
    everything = np.concatenate(lengths)
    if not len(everything):
        return 1.0
    return float(np.float32(np.percentile(everything, RADIAL_PERCENTILE))) or 1.0


def average_neighbors(samples: Samples, count: int) -> float:
    """`TaskSpec.average_neighbors` by the first `count` graphs; 1 without any edge."""
    num_edges = int(samples.n_edge[:count].sum(dtype=np.int64))
    return num_edges / int(samples.n_node[:count].sum()) or 1.0


def to_dtype(samples: Samples, dtype: str) -> Samples:
    """The samples with every floating-point array in `dtype`.

    Raises:
      UserError: a finite number is too large for it.
    """

    def cast(leaf: np.ndarray) -> np.ndarray:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(leaf, dtype)
        lost = np.isinf(found) & np.isfinite(leaf)
        if lost.any():
            raise UserError(
                f"expected numbers that {dtype} can hold, found {leaf[lost][0]:g}; "
                "use other units or --dtype=float64"
            )
        return found

    fields = {
        field.name: jax.tree.map(cast, getattr(samples, field.name))
        for field in dataclasses.fields(samples)
    }
    return Samples(**fields)
