"""Batches spread over devices: each assembles its own share of a batch's graphs.

However many devices there are, a batch holds the same samples, so that an update is the
same but for the order of its sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar.data.packing import Packing, Plan, RaggedPacking, RegularPacking
from demetar.errors import UserError
from demetar.types import Array, Batch

SLOT = "slot"  # array of a plan: the slot that a graph has in the whole batch


class SharedPacking:
    """The batches of another packing, each in `num_shares` shares of one bucket.

    The slots of a plan are those of the first share, then those of the second, and so
    on; `assemble` takes the slots of one share. Slots that no graph is left for have
    weight 0.

    Attributes:
      whole: the packing whose batches these are.
      bucket: of a share.
    """

    def __init__(self, whole: Packing, num_shares: int):
        self.whole = whole
        self.samples = whole.samples
        self._num_shares = num_shares
        self._share = _share(whole, num_shares)
        self.bucket = self._share.bucket

    def arrays(self) -> Any:
        return self._share.arrays()

    def plan(self, order: np.ndarray) -> Plan:
        return self._spread(self.whole.plan(order))

    def empty(self) -> Plan:
        return self._spread(self.whole.empty())

    def assemble(self, arrays: Any, row: Mapping[str, Array]) -> Batch:
        return self._share.assemble(arrays, row)

    def _spread(self, plan: Plan) -> Plan:
        if self.bucket.nodes_per_graph is None:
            slots = self._dealt(plan)
        else:
            slots = np.arange(self._num_shares * self.bucket.num_graphs)
            slots = np.where(slots < self.whole.bucket.num_graphs, slots, -1)
            slots = np.tile(slots, (len(plan["weight"]), 1))
        found, slots = slots >= 0, np.maximum(slots, 0)
        spread = {
            name: np.where(found, np.take_along_axis(values, slots, axis=1), 0)
            for name, values in plan.items()
        }
        return {**spread, SLOT: slots.astype(np.int32)}

    def _dealt(self, plan: Plan) -> np.ndarray:
        """Slots of the whole batch, the largest graphs first, dealt to and fro.

        Two shares differ in what grows with the size of a graph, such as the nodes and
        edges of complete graphs, by no more than its largest graph has.

        Returns:
          [B, slots of all shares], -1 if there is none.

        Raises:
          UserError: a share would hold more than its bucket.
        """
        real = plan["weight"] > 0  # [B, G]
        n_node, n_edge = (
            np.where(real, counts[plan["sample"]], 0)
            for counts in (self.samples.n_node, self.samples.n_edge)
        )
        order = np.lexsort((-n_node, -n_edge, ~real), axis=1)
        num_rows, num_slots = order.shape
        rank = np.arange(num_slots)
        turn, place = np.divmod(rank, self._num_shares)
        share = np.where(turn % 2, self._num_shares - 1 - place, place)
        dealt = np.full((num_rows, self._num_shares, self.bucket.num_graphs), -1)
        rows, ranks = np.nonzero(np.take_along_axis(real, order, axis=1))
        slots = order[rows, ranks]
        dealt[rows, share[ranks], turn[ranks]] = slots
        for what, counts, most in (
            ("nodes", n_node, self.bucket.max_nodes - 1),
            ("edges", n_edge, self.bucket.max_edges),
        ):
            held = np.zeros((num_rows, self._num_shares), np.int64)
            np.add.at(held, (rows, share[ranks]), counts[rows, slots])
            if held.size and held.max() > most:
                raise UserError(
                    f"a batch cannot be spread over {self._num_shares} devices: one "
                    f"would hold {held.max()} {what} and has room for {most}; use "
                    "fewer devices or a larger --batch_size"
                )
        return dealt.reshape(num_rows, -1)


def _share(whole: Packing, num_shares: int) -> Packing:
    """The packing of one share: of a ragged one, with room for one more graph."""
    bucket, samples = whole.bucket, whole.samples
    if bucket.nodes_per_graph is not None:
        return RegularPacking(
            samples,
            -(-bucket.num_graphs // num_shares),
            bucket.nodes_per_graph,
            bucket.neighbors_per_node,
        )
    share = dataclasses.replace(
        bucket,
        max_nodes=_part(bucket.max_nodes - 1, num_shares, samples.n_node) + 1,
        max_edges=_part(bucket.max_edges, num_shares, samples.n_edge),
        num_graphs=-(-(bucket.num_graphs - 1) // num_shares) + 1,
    )
    assert isinstance(whole, RaggedPacking)
    return RaggedPacking(samples, share, whole.node_targets)


def _part(total: int, num_shares: int, counts: np.ndarray) -> int:
    return min(total, -(-total // num_shares) + int(counts.max()))
