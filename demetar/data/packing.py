"""How samples become batches of fixed shapes.

The samples of all splits lie in one set of arrays that stays on the device. The host
decides which samples form which batch: a plan, a sample number and a weight per slot.
`assemble` turns one row of a plan into a `Batch` inside the compiled program; rows of
nodes and edges follow from where each sample starts, and the ends of the edges of
complete graphs from arithmetic. So a whole epoch is one call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from demetar import connectivity
from demetar.data.samples import Samples
from demetar.errors import UserError
from demetar.types import Array, Batch, Bucket, Globals, Graph, Nodes, TaskSpec

Plan = dict[str, np.ndarray]  # every array has a leading axis B of batches

SPARE_NODES = 1.02  # nodes of a ragged budget, beside the average
MOST_ROWS = 2**31 - 1  # of nodes or of edges, which int32 counts
LOOK_AHEAD = 32  # graphs that wait while later ones fill a batch


class Packing(Protocol):
    """How samples become batches of one bucket."""

    bucket: Bucket
    samples: Samples

    def arrays(self) -> Any:
        """What stays on the device: a tree of arrays."""

    def plan(self, order: np.ndarray) -> Plan:
        """Batches that hold the samples of `order` [D'], each once.

        They come about in that order; `in_sample_order` gives it back exactly.
        """

    def empty(self) -> Plan:
        """One batch (B = 1) without samples."""

    def assemble(self, arrays: Any, row: Mapping[str, Array]) -> Batch:
        """The batch of one row of a plan. Pure; runs inside the compiled program."""


class RegularPacking:
    """Batches of graphs of `size` nodes: no padding node, every slot a real graph.

    They are complete or, if `degree` is given, every node has that many senders. A
    slot that is left over repeats sample 0 with weight 0.
    """

    def __init__(
        self, samples: Samples, batch_size: int, size: int, degree: int | None = None
    ):
        self.samples = samples
        senders, receivers = connectivity.complete_edges(size)
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
        samples, num_samples = self.samples, len(self.samples.n_node)
        # Complete graphs have the same senders: none are read from the device.
        stored = samples.senders if self._complete_senders is None else None
        return jax.tree.map(
            lambda leaf: leaf.reshape(
                num_samples, len(leaf) // num_samples, *leaf.shape[1:]
            ),
            (samples.nodes, samples.edges, stored, samples.centers, samples.targets),
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
        nodes, edges, senders, centers, targets = arrays
        nodes, edges, centers, targets = jax.tree.map(
            lambda leaf: leaf[row["sample"]].reshape(
                self.bucket.num_graphs * leaf.shape[1], *leaf.shape[2:]
            ),
            (nodes, edges, centers, targets),
        )
        edges = edges.astype(nodes.positions.dtype)
        senders = (
            senders[row["sample"]]
            if self._complete_senders is None
            else self._complete_senders
        )
        bucket, slots = self.bucket, self.bucket.num_graphs
        graph = Graph(
            nodes=nodes,
            edges=edges,
            senders=(senders + self._offsets).reshape(-1),
            receivers=self._receivers,
            n_node=np.full(slots, bucket.max_nodes // slots, np.int32),
            n_edge=np.full(slots, bucket.max_edges // slots, np.int32),
            globals=None if centers is None else Globals(centers),
            bucket=bucket,
        )
        return Batch(graph, targets, row["weight"].astype(edges.dtype))


class Stored(NamedTuple):
    """What `RaggedPacking` keeps on the device.

    Attributes:
      nodes, edges, targets, ends: of the samples, with one zero row more, to which
        padding points; the ends are None for complete graphs.
      n_node, n_edge, node_start, edge_start: [D].
      centers: [D, 3], or None if nothing was subtracted from the positions.
    """

    nodes: Nodes
    edges: Array
    targets: dict[str, Array]
    n_node: Array
    n_edge: Array
    node_start: Array
    edge_start: Array
    ends: tuple[Array, Array] | None
    centers: Array | None


class RaggedPacking:
    """Batches of graphs of any size, filled greedily into one budget.

    A graph that would not fit the nodes, the edges or the slots of the bucket waits for
    the next batch, whose first it is; graphs behind it may fill the gap, until
    `LOOK_AHEAD` of them wait. The last slot is the padding graph.
    """

    def __init__(self, samples: Samples, bucket: Bucket, node_targets: Collection[str]):
        self.samples = samples
        self.node_targets = frozenset(node_targets)
        self.bucket = bucket
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

    def arrays(self) -> Stored:
        samples = self.samples
        nodes, edges, targets, ends = jax.tree.map(
            lambda leaf: np.concatenate(
                [leaf, np.zeros((1, *leaf.shape[1:]), leaf.dtype)]
            ),
            (samples.nodes, samples.edges, samples.targets, samples.ends),
        )
        n_node, n_edge = (
            np.asarray(counts, np.int32) for counts in (samples.n_node, samples.n_edge)
        )
        node_start, edge_start = (
            np.cumsum(counts, dtype=np.int32) - counts for counts in (n_node, n_edge)
        )
        return Stored(
            *(nodes, edges, targets, n_node, n_edge, node_start, edge_start),
            *(ends, samples.centers),
        )

    def plan(self, order: np.ndarray) -> Plan:
        groups = self._groups(order)
        plan = self._blank(len(groups))
        for row, members in enumerate(groups):
            plan["sample"][row, : len(members)] = order[members]
            plan["weight"][row, : len(members)] = 1
            plan["position"][row, : len(members)] = members
        return plan

    def empty(self) -> Plan:
        return self._blank(1)

    def _blank(self, num_batches: int) -> Plan:
        shape = (num_batches, self.bucket.num_graphs)
        return {
            "sample": np.zeros(shape, np.int32),
            "weight": np.zeros(shape, np.float32),
            "position": np.zeros(shape, np.int32),  # in the order that was asked for
        }

    def _groups(self, order: np.ndarray) -> list[list[int]]:
        """Positions in `order` of the graphs of each batch."""
        n_node = self.samples.n_node[order].tolist()
        n_edge = self.samples.n_edge[order].tolist()
        bucket, groups = self.bucket, []
        waiting: list[int] = []
        position = 0  # of the first graph that nothing was done with
        while position < len(order) or waiting:
            nodes, edges = bucket.max_nodes - 1, bucket.max_edges
            slots = bucket.num_graphs - 1
            members: list[int] = []
            left: list[int] = []
            candidates = itertools.chain(waiting, range(position, len(order)))
            for candidate in candidates:
                if n_node[candidate] <= nodes and n_edge[candidate] <= edges and slots:
                    members.append(candidate)
                    nodes -= n_node[candidate]
                    edges -= n_edge[candidate]
                    slots -= 1
                else:
                    left.append(candidate)
                position = max(position, candidate + 1)
                if not slots or len(left) > LOOK_AHEAD:
                    break
            done = {*members, *left}
            waiting = left + [one for one in waiting if one not in done]
            groups.append(members)
        return groups or [[]]

    def assemble(self, arrays: Stored, row: Mapping[str, Array]) -> Batch:
        bucket, sample = self.bucket, row["sample"]
        xp: Any = np if isinstance(sample, np.ndarray) else jnp
        real = row["weight"] > 0
        n_node = _filled(xp, real, arrays.n_node[sample], bucket.max_nodes)
        n_edge = _filled(xp, real, arrays.n_edge[sample], bucket.max_edges)
        slot, column = _places(xp, n_node, bucket.max_nodes)
        node = _rows(xp, slot, column, arrays.node_start[sample], arrays.nodes[0])
        slot, column = _places(xp, n_edge, bucket.max_edges)
        edge = _rows(xp, slot, column, arrays.edge_start[sample], arrays.edges)
        if arrays.ends is None:
            degree = xp.maximum(n_node[slot] - 1, 1)
            receivers = column // degree
            senders = (receivers + 1 + column % degree) % xp.maximum(n_node[slot], 1)
        else:
            senders, receivers = (end[edge] for end in arrays.ends)
        first = (xp.cumsum(n_node) - n_node)[slot]
        inner = slot < bucket.num_graphs - 1
        senders, receivers = (
            xp.where(inner, first + end, bucket.max_nodes - 1).astype(np.int32)
            for end in (senders, receivers)
        )
        dtype = arrays.nodes.positions.dtype
        known = None
        if arrays.centers is not None:
            known = Globals(xp.where(real[:, None], arrays.centers[sample], 0))
        graph = Graph(
            nodes=jax.tree.map(lambda leaf: leaf[node], arrays.nodes),
            edges=arrays.edges[edge].astype(dtype),
            senders=senders,
            receivers=receivers,
            n_node=n_node,
            n_edge=n_edge,
            globals=known,
            bucket=bucket,
        )
        targets = {
            name: leaf[node if name in self.node_targets else sample]
            for name, leaf in arrays.targets.items()
        }
        return Batch(graph, targets, row["weight"].astype(dtype))


def _filled(xp: Any, real: Array, counts: Array, total: int) -> Array:
    """Counts [G] of a batch, the last one so that their sum is `total`."""
    counts = xp.where(real, counts, 0)
    rest = total - counts[:-1].sum()
    found: Array = xp.concatenate([counts[:-1], rest[None]]).astype(np.int32)
    return found


def _places(xp: Any, counts: Array, total: int) -> tuple[Array, Array]:
    """Of each row of a batch, its graph's slot and its number within the graph."""
    slots = np.arange(len(counts), dtype=np.int32)
    length = {} if xp is np else {"total_repeat_length": total}
    slot = xp.repeat(slots, counts, **length)
    starts = (xp.cumsum(counts) - counts).astype(np.int32)
    return slot, np.arange(total, dtype=np.int32) - starts[slot]


def _rows(xp: Any, slot: Array, column: Array, starts: Array, rows: Array) -> Array:
    """Rows of the data set, those of the last slot the zero row at its end."""
    inner = slot < len(starts) - 1
    found: Array = xp.where(inner, starts[slot] + column, len(rows) - 1)
    return found


def make_packing(samples: Samples, task: TaskSpec, batch_size: int) -> Packing:
    """The packing that suits the samples: regular if all have the same size and the
    same number of senders per node, as complete and k-nearest-neighbour graphs have.

    The ragged budget holds the nodes and edges of `batch_size` graphs of average size,
    2 % more of the nodes, and at least the largest graph. So the edges fill up first,
    and on QM9's complete graphs little of either is padding. There are slots for the
    smaller graphs that chance brings together.

    A batch holds no more graphs than there are samples.

    Raises:
      UserError: batch_size is not positive, or there are too many nodes or edges.
    """
    if batch_size < 1:
        raise UserError(f"expected a batch size of at least 1, found {batch_size}")
    for counts, what in ((samples.n_node, "nodes"), (samples.n_edge, "edges")):
        total = counts.sum(dtype=np.int64)
        if total > MOST_ROWS:
            raise UserError(
                f"expected at most {MOST_ROWS} {what} in a data set, found {total}; "
                "use fewer samples or graphs of nearest neighbours"
            )
    batch_size = min(batch_size, len(samples.n_node))
    size = samples.common_size()
    if size is not None:
        return RegularPacking(samples, batch_size, size)
    degree = samples.common_degree()
    if degree is not None:
        return RegularPacking(samples, batch_size, int(samples.n_node[0]), degree)

    def budget(counts: np.ndarray, more: float) -> int:
        average = math.ceil(float(counts.mean()) * batch_size * more)
        return max(average, int(counts.max()))

    spread = samples.n_node.std() / samples.n_node.mean()
    slots = batch_size + math.ceil(4 * spread * batch_size**0.5)
    bucket = Bucket(
        budget(samples.n_node, SPARE_NODES) + 1,
        budget(samples.n_edge, 1.0),
        slots + 1,
        max_nodes_per_graph=int(samples.n_node.max()),
        max_edges_per_graph=int(samples.n_edge.max()),
        mutual=samples.mutual(),
    )
    node_targets = [head.name for head in task.heads if head.kind != "graph_scalar"]
    return RaggedPacking(samples, bucket, node_targets)


def only_batch(packing: Packing) -> Batch:
    """The batch of all samples, in their order, of a packing that has room for them."""
    plan = packing.plan(np.arange(len(packing.samples.n_node)))
    row = {name: value[0] for name, value in plan.items()}
    # With NumPy's arrays nothing is compiled to assemble them.
    return packing.assemble(packing.arrays(), row)


def pad_plan(plan: Plan, packing: Packing, num_batches: int) -> Plan:
    """The plan with empty batches at its end, so that it has `num_batches`."""
    missing = num_batches - len(plan["weight"])
    empty = packing.empty()
    return {
        name: np.concatenate(
            [values, np.repeat(empty.get(name, 0 * values[:1]), missing, axis=0)]
        )
        for name, values in plan.items()
    }


def in_sample_order(values: Array, plan: Plan) -> np.ndarray:
    """Values [..., B, G] of a plan's graphs, in the order the plan was made of.

    Returns:
      [..., D'], padding left out.
    """
    real = plan["weight"] > 0
    found = np.asarray(values)[..., real]
    if "position" not in plan:
        return found
    ordered = np.empty_like(found)
    ordered[..., plan["position"][real]] = found
    return ordered


def concatenate_plans(plans: Sequence[Plan]) -> Plan:
    """Plans one after the other."""
    return {name: np.concatenate([plan[name] for plan in plans]) for name in plans[0]}
