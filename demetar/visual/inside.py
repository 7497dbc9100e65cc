"""What a model computes on the way, of one system: recorded, named and without padding.

    inside = Recorder(net)(params, batch)
    inside.layers[0].features  # {irrep: [2l + 1, n, C]}

The values are those that `demetar.nn.capture` gets from a model.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import numpy as np

from demetar import graphs, pairs
from demetar.nn import capture, steerable
from demetar.types import Array, Batch, Graph, Params, TaskSpec

# What the entries of an axis belong to. A token is that of the graph, then the nodes.
NODE, EDGE, BOND, TOKEN = "node", "edge", "bond", "token"
COMPONENT, CHANNEL, HEAD, GRAPH, XYZ = "component", "channel", "head", "graph", "xyz"

ATTENTION, READOUT = "attention_", "readout_attention_"
_FEATURES = re.compile(r"features_(\d+)_(\d+[eo])")
VECTORS = ("acceleration",)  # recorded vectors of the nodes


@dataclasses.dataclass(frozen=True)
class Value:
    """One recorded array.

    Attributes:
      name: under which the model records it.
      axes: what the entries of each axis belong to.
      array: without padding; the axis of graphs is left out.
      irrep: how it turns; None if its axes say that.
    """

    name: str
    axes: tuple[str, ...]
    array: np.ndarray
    irrep: steerable.Irrep | None = None


@dataclasses.dataclass(frozen=True)
class Layer:
    """Steerable features of all nodes after one layer: {irrep: [2l + 1, n, C]}."""

    number: int
    features: dict[steerable.Irrep, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Inside:
    """What a forward pass of one system computes.

    Attributes:
      positions: [n, 3] relative to the centroid.
      senders, receivers: [e] of the edges.
      bonds: [p, 2] ends of the pairs that edges join in both directions, in the order
        of tokens that stand for bonds; [0, 2] if they do not.
      values: what was recorded, in the order in which it was.
      outputs: of the heads, without padding.
    """

    positions: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    bonds: np.ndarray
    values: tuple[Value, ...]
    outputs: dict[str, np.ndarray]

    @property
    def layers(self) -> list[Layer]:
        """The layers that record steerable features."""
        found: dict[int, dict[steerable.Irrep, np.ndarray]] = {}
        for value in self.values:
            match = _FEATURES.fullmatch(value.name)
            if match and value.irrep is not None:
                layer = found.setdefault(int(match[1]), {})
                layer[value.irrep] = value.array
        return [
            Layer(number, dict(sorted(own.items())))
            for number, own in sorted(found.items())
        ]

    @property
    def attention(self) -> list[Value]:
        """Weights of attention, in the order in which they act."""
        return [own for own in self.values if own.name.startswith((ATTENTION, READOUT))]

    def describe(self) -> str:
        """What there is to see, for a person who asked for something else."""
        names = [value.name for value in self.values]
        return ", ".join(names) or "nothing on the way to its outputs"


class Recorder:
    """Runs a model on single systems, and keeps what it records.

    Systems of one size share a compiled program.

    Args:
      net: the model.
      task: that it is for.
    """

    def __init__(self, net: hk.Transformed, task: TaskSpec):
        def run(params: Params, graph: Graph) -> Any:
            with capture.recording() as values:
                outputs = net.apply(params, None, graph, False)
            return outputs, values

        self._run = jax.jit(run)
        self.task = task

    def __call__(self, params: Params, batch: Batch) -> Inside:
        """What the model computes of the first system of a batch.

        Args:
          params: of one replica.
          batch: of one system.
        """
        outputs, values = jax.device_get(self._run(params, batch.graph))
        return of_graph(self.task, batch.graph, outputs, values)


def of_graph(
    task: TaskSpec,
    graph: Graph,
    outputs: Mapping[str, Array],
    values: Mapping[str, Array],
) -> Inside:
    """The first system of a batch with what was recorded of it."""
    count, num_edges = int(graph.n_node[0]), int(graph.n_edge[0])
    sizes = {NODE: count, EDGE: num_edges, BOND: num_edges // 2, TOKEN: count + 1}
    found = []
    for name in _ordered(values):
        array = np.asarray(values[name])
        axes = _axes(name, array.shape, graph)
        if axes:
            found.append(_trimmed(name, axes, array, sizes))
    senders, receivers = (
        np.asarray(end)[:num_edges] for end in (graph.senders, graph.receivers)
    )
    return Inside(
        positions=np.asarray(graph.nodes.positions)[:count],
        senders=senders,
        receivers=receivers,
        bonds=_bonds(graph, senders, receivers),
        values=tuple(found),
        outputs={
            head.name: np.asarray(outputs[head.name])[
                : 1 if head.kind == "graph_scalar" else count
            ]
            for head in task.heads
        },
    )


# DEMETAr's encoders in the order in which they act, and what comes last in any model.
_FIRST = (f"{ATTENTION}node", f"{ATTENTION}edge")
_LAST = (f"{ATTENTION}cross", "edge_encoding", f"{ATTENTION}joint", READOUT, "summary")


def _ordered(names: Iterable[str]) -> list[str]:
    """Names in the order in which they are recorded, which jit does not keep."""
    stages = [*_FIRST, None, *_LAST]

    def key(name: str) -> tuple[int, list[int], str]:
        known = [stage for stage in stages if stage and name.startswith(stage)]
        numbers = [int(text) for text in re.findall(r"_(\d+)", name)]
        return stages.index(known[0] if known else None), numbers, name

    return sorted(names, key=key)


def _axes(name: str, shape: Sequence[int], graph: Graph) -> tuple[str, ...]:
    """What the axes of a recorded array are; () if that is not known."""
    bucket = graph.bucket
    if _FEATURES.fullmatch(name):
        return (COMPONENT, NODE, CHANNEL)
    if name.startswith(READOUT):
        return (GRAPH, NODE)
    if name.startswith(ATTENTION) and len(shape) == 4:
        rows = _token_axis(name, shape[-1], graph)
        return (GRAPH, HEAD, rows, rows)
    if name.startswith(ATTENTION) and shape[0] == bucket.max_edges:
        return (EDGE, HEAD)
    if len(shape) != 2:
        return ()
    if name in VECTORS and tuple(shape) == (bucket.max_nodes, 3):
        return (NODE, XYZ)
    if shape[0] == bucket.max_nodes:
        return (NODE, CHANNEL)
    return (GRAPH, CHANNEL) if shape[0] == bucket.num_graphs else ()


def _token_axis(name: str, size: int, graph: Graph) -> str:
    """What the tokens of an attention stand for."""
    if name.startswith(f"{ATTENTION}edge"):
        return EDGE if size == graphs.dense_size(graph, "edges") else BOND
    return NODE if size == graphs.dense_size(graph, "nodes") else TOKEN


def _trimmed(
    name: str, axes: tuple[str, ...], array: np.ndarray, sizes: Mapping[str, int]
) -> Value:
    """The array without padding, and without the axis of graphs."""
    index = tuple(
        0 if axis == GRAPH else slice(sizes.get(axis)) if axis in sizes else slice(None)
        for axis in axes
    )
    match = _FEATURES.fullmatch(name)
    irrep = steerable.Irrep(match[2]) if match else None
    left = tuple(axis for axis in axes if axis != GRAPH)
    return Value(name, left, array[index], irrep)


def _bonds(graph: Graph, senders: np.ndarray, receivers: np.ndarray) -> np.ndarray:
    """Ends [p, 2] of the bonds of the first system, in the order of their tokens."""
    there = set(zip(senders.tolist(), receivers.tolist(), strict=True))
    if {(b, a) for a, b in there} != there or len(there) != len(senders):
        return np.zeros((0, 2), int)
    edges = np.asarray(pairs.find_bonds(graph).edges)[: len(senders) // 2, 0]
    return np.stack([senders[edges], receivers[edges]], axis=1)
