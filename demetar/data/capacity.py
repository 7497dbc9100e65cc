"""Batches of few fixed shapes for systems of any size and number.

A shape that is there is taken again if its rooms are filled well enough; new ones have
sizes that grow geometrically. So that little is compiled, whatever comes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import jax

from demetar.data.packing import Packing, RaggedPacking, RegularPacking
from demetar.data.samples import Samples
from demetar.types import Bucket

MOST_GRAPHS = 256  # of one batch
MOST_EDGES = 2**18
GROWTH = 1.4  # from one capacity to the next
PARTS = 4  # of a batch of the largest graphs, in which its rooms are counted
ROOM = 2.0  # a shape takes what fills each of its rooms by one part in so many
LEAST_ROOM = 64  # so much of anything costs nothing
REGULAR_SIZES = 4  # sizes of systems that have a shape of their own


class Shapes:
    """The shapes that were needed so far.

    Systems of one size are batches without padding, for up to `REGULAR_SIZES` sizes;
    all others share ragged ones.

    Args:
      regular: whether the graphs of systems of one size are regular as a rule, as
        complete ones are; those of a cutoff are so by chance.
    """

    def __init__(self, regular: bool = True) -> None:
        self._regular = regular
        self._shapes: dict[Bucket, None] = {}
        self._sizes: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._shapes)

    def packing(self, samples: Samples) -> Packing:
        """The samples in a batch of one of the shapes."""
        if not self._regular:
            return RaggedPacking(samples, self._ragged_bucket(samples), ())
        size, count = samples.common_size(), len(samples.n_node)
        degree = None
        if size is None and samples.common_degree() is not None:
            size, degree = int(samples.n_node[0]), samples.common_degree()
        known = self._sizes
        if size is not None and (size in known or len(known) < REGULAR_SIZES):
            known[size] = None
            slots = _capacity(count, MOST_GRAPHS)
            packing = RegularPacking(samples, slots, size, degree)
            self._shapes[packing.bucket] = None
            return packing
        return RaggedPacking(samples, self._ragged_bucket(samples), ())

    def _ragged_bucket(self, samples: Samples) -> Bucket:
        """The smallest bucket of an earlier call that suits, or a new one."""
        needed = (
            int(samples.n_node.sum()) + 1,
            int(samples.n_edge.sum()),
            len(samples.n_node) + 1,
            int(samples.n_node.max()),
            int(samples.n_edge.max()),
        )
        suiting = [
            bucket
            for bucket in self._shapes
            if bucket.nodes_per_graph is None
            and all(
                need <= room <= max(ROOM * need, LEAST_ROOM)
                for need, room in zip(needed, _rooms(bucket), strict=True)
            )
        ]
        if suiting:
            return min(suiting, key=_rooms)
        bucket = _new_bucket(*needed)
        self._shapes[bucket] = None
        return bucket


def _rooms(bucket: Bucket) -> tuple[int, ...]:
    return (
        bucket.max_nodes,
        bucket.max_edges,
        bucket.num_graphs,
        bucket.max_nodes_per_graph or 0,
        bucket.max_edges_per_graph or 0,
    )


def _new_bucket(
    nodes: int, edges: int, slots: int, most_nodes: int, most_edges: int
) -> Bucket:
    """The bucket of the next capacities.

    Sizes of single graphs grow geometrically, those of the batch are parts of as many
    graphs of that size: so one system after the other takes few shapes.
    """
    size, count = _capacity(most_nodes), _capacity(slots - 1)
    is_complete = most_edges == most_nodes * (most_nodes - 1)
    degree = size * (size - 1) if is_complete else _capacity(most_edges)
    parts = min(count, PARTS)
    return Bucket(
        _part_of(count * size, parts, nodes - 1) + 1,
        _part_of(count * degree, parts, edges),
        count + 1,
        max_nodes_per_graph=size,
        max_edges_per_graph=degree,
    )


def _part_of(whole: int, parts: int, count: int) -> int:
    """As many of the equal parts of the whole as hold the count."""
    part = -(-whole // parts)
    return -(-count // max(part, 1)) * part


def _capacity(count: int, most: int | None = None) -> int:
    """The next of the numbers 0, 1, 2, 3, 4, 6, 9, ... that grow by `GROWTH`."""
    room = 0
    while room < count:
        room = max(room + 1, math.ceil(room * GROWTH))
    return room if most is None else min(room, most)


def chunks(samples: Samples) -> Iterator[Samples]:
    """The samples in parts that one batch holds."""
    start, edges = 0, 0
    for stop, count in enumerate(samples.n_edge.tolist()):
        if stop > start and (stop - start == MOST_GRAPHS or edges + count > MOST_EDGES):
            yield part(samples, start, stop)
            start, edges = stop, 0
        edges += count
    yield part(samples, start, len(samples.n_edge))


def alone(samples: Samples, row: int) -> Samples:
    """One sample, without targets."""
    return part(dataclasses.replace(samples, targets={}), row, row + 1)


def part(samples: Samples, start: int, stop: int) -> Samples:
    """The samples `start` to `stop - 1`."""
    if (start, stop) == (0, len(samples.n_node)):
        return samples
    nodes, edges = (
        slice(int(counts[:start].sum()), int(counts[:stop].sum()))
        for counts in (samples.n_node, samples.n_edge)
    )
    ends = samples.ends
    return dataclasses.replace(
        samples,
        nodes=jax.tree.map(lambda leaf: leaf[nodes], samples.nodes),
        edges=samples.edges[edges],
        senders=None if ends is None else ends[0][edges],
        receivers=None if ends is None else ends[1][edges],
        n_node=samples.n_node[start:stop],
        n_edge=samples.n_edge[start:stop],
        centers=None if samples.centers is None else samples.centers[start:stop],
    )
