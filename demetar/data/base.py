"""Data sets as flat arrays, and their batches in fixed shapes.

The samples of all splits lie in one set of arrays that stays on the device. The host
decides which samples form which batch: a plan, small integer arrays whose shapes depend
on the bucket alone. `assemble` turns one row of a plan into a `Batch` inside the
compiled program. So a whole epoch is one call, and its order is a function of
(seed, epoch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from demetar import graphs
from demetar.errors import UserError
from demetar.types import Array, Batch, Bucket, Nodes, TaskSpec

Plan = dict[str, np.ndarray]  # every array has a leading axis B of batches


@dataclasses.dataclass(frozen=True)
class Samples:
    """D graphs, one after the other.

    Attributes:
      nodes: positions [sum of n_node, 3], scalars [.., S], vectors [.., V, 3].
      edges: [sum of n_edge, F], sorted by receiver within each graph.
      senders, receivers: [sum of n_edge] node numbers within their graph.
      n_node, n_edge: [D].
      targets: {head: [sum of n_node, K, 3] | [sum of n_node, T] | [D, T]}.
    """

    nodes: Nodes
    edges: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    n_node: np.ndarray
    n_edge: np.ndarray
    targets: dict[str, np.ndarray]

    def common_size(self) -> int | None:
        """N where all graphs are complete graphs of n nodes in cyclic edge order."""
        size = int(self.n_node[0])
        if (self.n_node != size).any() or (self.n_edge != size * (size - 1)).any():
            return None
        expected = graphs.complete_edges(size)
        for found, row in zip((self.senders, self.receivers), expected, strict=True):
            if (found.reshape(-1, max(len(row), 1)) != row).any():
                return None
        return size

    def common_degree(self) -> int | None:
        """Senders per node where graphs of one size have as many at every node."""
        size, num_edges = int(self.n_node[0]), int(self.n_edge[0])
        if (self.n_node != size).any() or (self.n_edge != num_edges).any():
            return None
        if not num_edges or num_edges % size:
            return None
        expected = np.repeat(np.arange(size), num_edges // size)
        if (self.receivers.reshape(-1, num_edges) != expected).any():
            return None
        return num_edges // size


class Packing(Protocol):
    """How samples become batches of one bucket."""

    bucket: Bucket

    def arrays(self) -> Any:
        """What stays on the device: a tree of arrays."""

    def plan(self, order: np.ndarray) -> Plan:
        """Batches that hold the samples of `order` [D'], each once, in that order."""

    def empty(self) -> Plan:
        """One batch (B = 1) without samples."""

    def assemble(self, arrays: Any, row: Mapping[str, Array]) -> Batch:
        """The batch of one row of a plan. Pure; runs inside the compiled program."""


class RegularPacking:
    """Batches of graphs of `size` nodes: no padding node, every slot a real graph.

    They are complete or, where `degree` is given, every node has that many senders. A
    slot that is left over repeats sample 0 with weight 0.
    """

    def __init__(
        self, samples: Samples, batch_size: int, size: int, degree: int | None = None
    ):
        self._samples = samples
        senders, receivers = graphs.complete_edges(size)
        if degree is not None:
            receivers = np.repeat(np.arange(size, dtype=np.int32), degree)
        self._complete_senders = senders if degree is None else None
        self._offsets = size * np.arange(batch_size, dtype=np.int32)[:, None]
        self._receivers = (receivers + self._offsets).ravel()
        self.bucket = Bucket(
            batch_size * size,
            len(self._receivers),
            batch_size,
            size,
            neighbors_per_node=degree,
        )

    def arrays(self) -> Any:
        samples, num_samples = self._samples, len(self._samples.n_node)
        # Complete graphs have the same senders: none are read from the device.
        stored = samples.senders if self._complete_senders is None else None
        return jax.tree.map(
            lambda leaf: leaf.reshape(
                num_samples, len(leaf) // num_samples, *leaf.shape[1:]
            ),
            (samples.nodes, samples.edges, stored, samples.targets),
        )

    def plan(self, order: np.ndarray) -> Plan:
        slots = self.bucket.num_graphs
        num_batches = -(-len(order) // slots)
        sample = np.zeros(num_batches * slots, np.int32)
        sample[: len(order)] = order
        weight = (np.arange(num_batches * slots) < len(order)).astype(np.float32)
        return {
            "sample": sample.reshape(num_batches, slots),
            "weight": weight.reshape(num_batches, slots),
        }

    def empty(self) -> Plan:
        shape = (1, self.bucket.num_graphs)
        return {"sample": np.zeros(shape, np.int32), "weight": np.zeros(shape, "f4")}

    def assemble(self, arrays: Any, row: Mapping[str, Array]) -> Batch:
        nodes, edges, senders, targets = arrays
        nodes, edges, targets = jax.tree.map(
            lambda leaf: leaf[row["sample"]].reshape(
                self.bucket.num_graphs * leaf.shape[1], *leaf.shape[2:]
            ),
            (nodes, edges, targets),
        )
        senders = (
            senders[row["sample"]]
            if self._complete_senders is None
            else self._complete_senders
        )
        bucket, slots = self.bucket, self.bucket.num_graphs
        graph = graphs.Graph(
            nodes=nodes,
            edges=edges,
            senders=(senders + self._offsets).reshape(-1),
            receivers=self._receivers,
            n_node=np.full(slots, bucket.max_nodes // slots, np.int32),
            n_edge=np.full(slots, bucket.max_edges // slots, np.int32),
            globals=None,
        )
        return Batch(graph, self.bucket, targets, row["weight"].astype(edges.dtype))


class RaggedPacking:
    """Batches of graphs of any size, filled greedily into one budget.

    A batch ends when the next graph would not fit the nodes, the edges or the slots of
    the bucket. The last slot is the padding graph.
    """

    def __init__(self, samples: Samples, bucket: Bucket, node_targets: Sequence[str]):
        self._samples = samples
        self._node_targets = frozenset(node_targets)
        self.bucket = bucket
        self._node_starts = np.concatenate([[0], np.cumsum(samples.n_node)])
        self._edge_starts = np.concatenate([[0], np.cumsum(samples.n_edge)])
        for total, most, counts, what in (
            (bucket.max_nodes - 1, bucket.max_nodes_per_graph, samples.n_node, "nodes"),
            (bucket.max_edges, bucket.max_edges_per_graph, samples.n_edge, "edges"),
        ):
            limit = total if most is None else min(total, most)
            largest = int(np.argmax(counts))
            if counts[largest] > limit:
                raise UserError(
                    f"graph {largest} has {counts[largest]} {what} but a batch holds "
                    f"{limit}; ask for a larger --batch_size"
                )

    def arrays(self) -> Any:
        # One zero row at the end is what padding points to.
        return jax.tree.map(
            lambda leaf: np.concatenate([leaf, np.zeros_like(leaf[:1])]),
            (self._samples.nodes, self._samples.edges, self._samples.targets),
        )

    def plan(self, order: np.ndarray) -> Plan:
        rows = [self._row(members) for members in self._groups(order)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def empty(self) -> Plan:
        row = self._row(np.zeros(0, np.int64))
        return {name: values[None] for name, values in row.items()}

    def _groups(self, order: np.ndarray) -> list[np.ndarray]:
        n_node, n_edge = self._samples.n_node[order], self._samples.n_edge[order]
        limits = (
            self.bucket.max_nodes - 1,
            self.bucket.max_edges,
            self.bucket.num_graphs - 1,
        )
        groups, start, sizes = [], 0, [0, 0, 0]
        for index in range(len(order)):
            added = [int(n_node[index]), int(n_edge[index]), 1]
            grown = [a + b for a, b in zip(sizes, added, strict=True)]
            if any(a > b for a, b in zip(grown, limits, strict=True)):
                groups.append(order[start:index])
                start, grown = index, added
            sizes = grown
        return [*groups, order[start:]]

    def _row(self, members: np.ndarray) -> Plan:
        bucket, samples = self.bucket, self._samples
        slots = bucket.num_graphs
        sample = np.zeros(slots, np.int32)
        sample[: len(members)] = members
        n_node, n_edge = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
        n_node[: len(members)] = samples.n_node[members]
        n_edge[: len(members)] = samples.n_edge[members]
        node_index = _ranges(self._node_starts[members], n_node[: len(members)])
        edge_index = _ranges(self._edge_starts[members], n_edge[: len(members)])
        offsets = np.repeat(np.cumsum(n_node) - n_node, n_edge)
        n_node[-1] = bucket.max_nodes - len(node_index)
        n_edge[-1] = bucket.max_edges - len(edge_index)
        last = bucket.max_nodes - 1
        return {
            "sample": sample,
            "weight": (np.arange(slots) < len(members)).astype(np.float32),
            "n_node": n_node,
            "n_edge": n_edge,
            "node": _padded(node_index, bucket.max_nodes, self._node_starts[-1]),
            "edge": _padded(edge_index, bucket.max_edges, self._edge_starts[-1]),
            "senders": _padded(
                samples.senders[edge_index] + offsets, bucket.max_edges, last
            ),
            "receivers": _padded(
                samples.receivers[edge_index] + offsets, bucket.max_edges, last
            ),
        }

    def assemble(self, arrays: Any, row: Mapping[str, Array]) -> Batch:
        nodes, edges, targets = arrays
        graph = graphs.Graph(
            nodes=jax.tree.map(lambda leaf: leaf[row["node"]], nodes),
            edges=edges[row["edge"]],
            senders=row["senders"],
            receivers=row["receivers"],
            n_node=row["n_node"],
            n_edge=row["n_edge"],
            globals=None,
        )
        index = {
            name: row["node"] if name in self._node_targets else row["sample"]
            for name in targets
        }
        targets = {name: leaf[index[name]] for name, leaf in targets.items()}
        return Batch(graph, self.bucket, targets, row["weight"].astype(edges.dtype))


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... for each start, one after the other."""
    firsts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)


def _padded(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    padded = np.full(length, fill, np.int32)
    padded[: len(values)] = values
    return padded


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A task with its samples, splits and batches.

    Attributes:
      task: what the models need to know.
      packing: how samples become batches.
      splits: {'train' | 'valid' | 'test': [D'] sample numbers}.
      fingerprint: SHA-256 of the data as they were read.
    """

    task: TaskSpec
    packing: Packing
    splits: Mapping[str, np.ndarray]
    fingerprint: str

    def train_plan(self, seed: int, epoch: int) -> Plan:
        """The training samples in the order of (seed, epoch)."""
        generator = np.random.default_rng([seed, epoch])
        return self.packing.plan(generator.permutation(self.splits["train"]))

    def plan(self, split: str) -> Plan:
        """The samples of a split in their own order."""
        return self.packing.plan(self.splits[split])


def make_packing(samples: Samples, task: TaskSpec, batch_size: int) -> Packing:
    """The packing that suits the samples: regular where all have the same size and the
    same number of senders per node, as complete and k-nearest-neighbour graphs have.

    The ragged budget holds `batch_size` graphs of average size and one standard
    deviation of their sum more, and at least the largest graph.

    Raises:
      UserError: batch_size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"expected a batch size of at least 1, found {batch_size}")
    size = samples.common_size()
    if size is not None:
        return RegularPacking(samples, batch_size, size)
    degree = samples.common_degree()
    if degree is not None:
        return RegularPacking(samples, batch_size, int(samples.n_node[0]), degree)

    def budget(counts: np.ndarray) -> int:
        spread = counts.std() * batch_size**0.5
        return max(int(counts.mean() * batch_size + spread) + 1, int(counts.max()))

    bucket = Bucket(
        budget(samples.n_node) + 1,
        budget(samples.n_edge),
        batch_size + 1,
        max_nodes_per_graph=int(samples.n_node.max()),
        max_edges_per_graph=int(samples.n_edge.max()),
    )
    node_targets = [head.name for head in task.heads if head.kind != "graph_scalar"]
    return RaggedPacking(samples, bucket, node_targets)


def pad_plan(plan: Plan, packing: Packing, num_batches: int) -> Plan:
    """The plan with empty batches at its end, so that it has `num_batches`."""
    missing = num_batches - len(plan["weight"])
    empty = packing.empty()
    return {
        name: np.concatenate([values, np.repeat(empty[name], missing, axis=0)])
        for name, values in plan.items()
    }


def in_sample_order(values: Array, plan: Plan) -> np.ndarray:
    """Values [..., B, G] of a plan's graphs, in the order the plan was made of.

    Returns:
      [..., D'], padding left out.
    """
    return np.asarray(values)[..., plan["weight"] > 0]


def concatenate_plans(plans: Sequence[Plan]) -> Plan:
    """Plans one after the other."""
    return {name: np.concatenate([plan[name] for plan in plans]) for name in plans[0]}


def to_dtype(samples: Samples, dtype: str) -> Samples:
    """The samples with every floating-point array in `dtype`."""

    def cast(leaf: np.ndarray) -> np.ndarray:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return np.ascontiguousarray(leaf, dtype) if is_float else leaf

    fields = {
        field.name: jax.tree.map(cast, getattr(samples, field.name))
        for field in dataclasses.fields(samples)
    }
    return Samples(**fields)
