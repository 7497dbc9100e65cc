"""The types that every part of the program shares, and the glossary of shape letters.

Letters used in shape comments throughout:

    N  nodes of a batch          G  graphs of a batch         M  nodes per graph
    E  edges of a batch          C  channels                  H  attention heads
    K  vectors per output head   T  scalars per output head   L  layers
    S  scalar inputs per node    V  vector inputs per node    F  features per edge
    R  replicas (seeds) trained in one program
    B  batches of a plan         D  samples of a data set

Every array of a batch is padded to the static sizes of its `Bucket`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jraph
import numpy as np

Array = jax.Array | np.ndarray
Params = Mapping[str, Mapping[str, jax.Array]]

HEAD_KINDS = ("node_vector", "node_scalar", "graph_scalar")
ERRORS = ("squared", "absolute")
QUANTITIES = ("", "dipole", "spatial_extent")


class Nodes(NamedTuple):
    """What a model may know about each node. Geometry is made inside the model."""

    positions: Array  # [N, 3] in the length unit, relative to the graph's centre
    scalars: Array  # [N, S] invariants in the order of `TaskSpec.scalars`
    vectors: Array  # [N, V, 3] in the order of `TaskSpec.vectors`


class Globals(NamedTuple):
    """What is known about each graph as a whole."""

    centers: Array  # [G, 3] that were subtracted from its positions; 0 for padding


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The static sizes of one padded batch: everything that decides on a compilation.

    Attributes:
      max_nodes: nodes of the batch, padding included.
      max_edges: edges of the batch, padding included.
      num_graphs: graph slots of the batch. In a ragged bucket the last slot is the
        padding graph that owns every padding node and edge.
      nodes_per_graph: if set, every slot is a graph of that many nodes and the
        bucket is regular: no padding, every node has the same number of senders, sums
        are reshapes. The graphs are complete, with their edges in the cyclic order of
        `connectivity.complete_edges`, so that every gather is a broadcast; or
      neighbors_per_node: if set, every node of a regular bucket has that many
        senders, whichever they are, with the edges sorted by receiver.
      max_nodes_per_graph, max_edges_per_graph: bounds for one graph of a ragged batch,
        if known; attention within graphs pads to them, else to the whole batch.
      mutual: whether every edge of a ragged batch is there in both directions as often,
        and none but padding joins a node to itself.
    """

    max_nodes: int
    max_edges: int
    num_graphs: int
    nodes_per_graph: int | None = None
    max_nodes_per_graph: int | None = None
    max_edges_per_graph: int | None = None
    neighbors_per_node: int | None = None
    mutual: bool = False

    def __post_init__(self) -> None:
        size, degree = self.nodes_per_graph, self.degree
        if size is None or degree is None:
            if self.neighbors_per_node is not None:
                raise ValueError("neighbors_per_node asks for nodes_per_graph too")
            return
        nodes = self.num_graphs * size
        if (self.max_nodes, self.max_edges) != (nodes, nodes * degree):
            raise ValueError(
                f"a regular bucket of {self.num_graphs} graphs with {size} nodes of "
                f"{degree} neighbors has {nodes} nodes and {nodes * degree} edges, "
                f"found {self.max_nodes} and {self.max_edges}"
            )

    @property
    def degree(self) -> int | None:
        """Senders per node of a regular bucket; None for a ragged one."""
        if self.nodes_per_graph is None or self.neighbors_per_node is not None:
            return self.neighbors_per_node
        return self.nodes_per_graph - 1


@dataclasses.dataclass(frozen=True)
class Graph:
    """The padded graphs of one bucket, with its sizes: what a model reads.

    A pytree of its arrays. The bucket is part of its structure, so whatever is jitted
    over a graph is compiled once per bucket.

    Attributes:
      nodes: `Nodes` with a leading axis N.
      edges: [E, F] features of the edges.
      senders, receivers: [E] nodes at the ends of each edge, sorted by receiver.
      n_node, n_edge: [G] nodes and edges of each graph.
      globals: what is known of each graph; None if nothing was subtracted from the
        positions.
      bucket: the static sizes.
    """

    nodes: Nodes
    edges: Array
    senders: Array
    receivers: Array
    n_node: Array
    n_edge: Array
    globals: Globals | None
    bucket: Bucket

    @classmethod
    def from_jraph(cls, graph: jraph.GraphsTuple, bucket: Bucket) -> Graph:
        """The padded graphs of a `jraph.GraphsTuple` that has these sizes.

        Its nodes are `Nodes` and its globals `Globals` or None.
        """
        return cls(**graph._asdict(), bucket=bucket)

    def to_jraph(self) -> jraph.GraphsTuple:
        """The same arrays for jraph, which knows no bucket."""
        arrays = {name: getattr(self, name) for name in jraph.GraphsTuple._fields}
        return jraph.GraphsTuple(**arrays)


jax.tree_util.register_dataclass(
    Graph,
    data_fields=[field.name for field in dataclasses.fields(Graph)][:-1],
    meta_fields=["bucket"],
)


@dataclasses.dataclass(frozen=True)
class Head:
    """One output of a task.

    Attributes:
      name: key of the model's output and of `Batch.targets`.
      kind: 'node_vector' [N, K, 3], 'node_scalar' [N, T] or 'graph_scalar' [G, T].
      size: K or T.
      base: what the model's output is added to: 'positions', the name of a vector
        input, or '' for nothing. Only node vectors have a base.
      unit: unit of the prediction and of its targets.
      mean: what is known of every value beforehand, in the unit.
      scale: residual = base + scale * output of the model. The value is the residual
        and what is known: `heads.absolute`.
      error: 'squared', in unit^2, or 'absolute', in the unit; training on the latter is
        in multiples of the scale.
      extensive: whether a graph scalar grows with the graph, as an energy does. Such a
        scalar is a sum over the nodes, any other one their mean.
      quantity: of a graph scalar, what it is of a molecule: 'dipole' for the length of
        its dipole moment, 'spatial_extent' for its electronic spatial extent, '' for
        anything else. Some models compute these two from charges and places.
      offsets: of an extensive scalar, what is known of each node by its species, in the
        unit and in the order of `TaskSpec.species`; none where only the mean is known.
      gradient_of: of a vector per node, the graph scalar whose negative gradient by the
        positions it is, as a force is that of an energy; '' for an output of the model.
      weight: of the head in the loss.
      zero_mean: of a vector per node, whether its mean over each graph is zero, as that
        of a noise that moves no centre. The mean of what a model says is subtracted.
      training_error: 'squared' or 'absolute', what is trained on in multiples of the
        scale; '' for `error`, which is what is reported.
      unknown: [V][Z + 1] unit vectors in the space of compositions, the last of the
        mean, along which the training values do not determine the offsets.
    """

    name: str
    kind: str
    size: int = 1
    base: str = ""
    unit: str = ""
    mean: float = 0.0
    scale: float = 1.0
    error: str = "squared"
    extensive: bool = False
    offsets: tuple[float, ...] = ()
    quantity: str = ""
    gradient_of: str = ""
    weight: float = 1.0
    training_error: str = ""
    zero_mean: bool = False
    unknown: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for what, known in (
            ("kind", HEAD_KINDS),
            ("error", ERRORS),
            ("quantity", QUANTITIES),
            ("training_error", ("", *ERRORS)),
        ):
            found = getattr(self, what)
            if found not in known:
                raise ValueError(
                    f"head {self.name!r} has {what} {found!r}, "
                    f"expected one of {', '.join(known)}"
                )
        if self.kind == "node_vector" and self.mean:
            raise ValueError(f"head {self.name!r}: a vector head cannot have a mean")
        if self.kind != "node_vector" and self.base:
            raise ValueError(f"head {self.name!r}: only a vector head has a base")
        if self.kind != "graph_scalar" and self.extensive:
            raise ValueError(f"head {self.name!r}: only a graph scalar is extensive")
        if self.kind != "graph_scalar" and self.quantity:
            raise ValueError(f"head {self.name!r}: only a graph scalar has a quantity")
        if self.offsets and not self.extensive:
            raise ValueError(
                f"head {self.name!r}: only an extensive head has offsets of species"
            )
        if not 0 <= self.weight < math.inf:
            raise ValueError(
                f"head {self.name!r} has weight {self.weight}, expected one from 0 on"
            )
        if self.kind != "node_vector" and self.zero_mean:
            raise ValueError(
                f"head {self.name!r}: only a vector head has a mean of zero"
            )
        is_plain = self.kind == "node_vector" and self.size == 1 and not self.base
        if self.gradient_of and not is_plain:
            raise ValueError(
                f"head {self.name!r}: a gradient is a node_vector of size 1 without "
                f"base, found {self.kind} of size {self.size}, base {self.base!r}"
            )


def _read_head(data: Mapping[str, Any]) -> Head:
    """A head from JSON; `error` was called `loss` once, and there were no offsets."""
    fields = dict(data)
    if "loss" in fields:
        fields["error"] = fields.pop("loss")
    fields["offsets"] = tuple(fields.get("offsets", ()))
    fields["unknown"] = tuple(map(tuple, fields.get("unknown", ())))
    return Head(**fields)


@dataclasses.dataclass(frozen=True)
class VectorInput:
    """A vector per node. Parity -1 is a polar vector (1o), +1 an axial one (1e)."""

    name: str
    parity: int = -1


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """What a model needs to know of its task. Stored in every checkpoint.

    Attributes:
      name: name of the data set and target.
      heads: outputs.
      scalars: names of the scalar inputs per node, in the order of `Nodes.scalars`.
      species: those of the scalars that are 1 at the nodes of a species and 0 at all
        others.
      vectors: vector inputs per node, in the order of `Nodes.vectors`.
      edge_features: names of the invariant features per edge.
      length_unit: unit of positions.
      connectivity: 'complete', 'knn', 'radius R' with its cutoff in the length unit, or
        'bonds'.
      cutoff: distance in the length unit beyond which nothing is an edge, envelopes are
        0 and bases end; None if there is none.
      num_neighbors: senders per node of 'knn', the nearest ones.
      radial_extent: distance that a radial basis spans; the 99.9th percentile of the
        lengths of the training edges. No pair beyond it is silenced.
      average_neighbors: average number of neighbours per node of the training set.
      judged_by: the head whose error selects the best epoch and is the error of a run,
        where the heads have different units; '' for the mean over all by their weights.
    """

    name: str
    heads: tuple[Head, ...]
    scalars: tuple[str, ...] = ()
    vectors: tuple[VectorInput, ...] = ()
    edge_features: tuple[str, ...] = ()
    length_unit: str = ""
    connectivity: str = "complete"
    num_neighbors: int | None = None
    radial_extent: float = 1.0
    average_neighbors: float = 1.0
    species: tuple[str, ...] = ()
    cutoff: float | None = None
    judged_by: str = ""

    def __post_init__(self) -> None:
        names = [head.name for head in self.heads]
        if self.judged_by and self.judged_by not in names:
            raise ValueError(
                f"task {self.name!r} is judged by {self.judged_by!r}, expected one of "
                f"its heads: {', '.join(names)}"
            )
        for head in self.heads:
            if head.offsets and len(head.offsets) != len(self.species):
                raise ValueError(
                    f"head {head.name!r} has {len(head.offsets)} offsets, the task "
                    f"{len(self.species)} species"
                )

        scalars = {
            head.name
            for head in self.heads
            if head.kind == "graph_scalar" and head.size == 1
        }
        for head in self.heads:
            if head.gradient_of and head.gradient_of not in scalars:
                raise ValueError(
                    f"head {head.name!r} is a gradient of {head.gradient_of!r}, "
                    f"expected a graph scalar of size 1: "
                    f"{', '.join(sorted(scalars)) or 'the task has none'}"
                )

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dictionary that `from_json` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskSpec:
        """The task that `to_json` wrote, also that of an earlier release."""
        fields = dict(data)
        fields["heads"] = tuple(map(_read_head, data["heads"]))
        fields["vectors"] = tuple(VectorInput(**vector) for vector in data["vectors"])
        for name in ("scalars", "edge_features", "species"):
            fields[name] = tuple(data.get(name, ()))
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Graphs of one bucket with what is known about them.

    Attributes:
      graph: the padded graphs.
      targets: {head: [N, K, 3] | [N, T] | [G, T]}, less what is known of them
        beforehand (`heads.residual`).
      weights: [G] 1 for a graph that counts, 0 for padding.
    """

    graph: Graph
    targets: dict[str, Array]
    weights: Array


jax.tree_util.register_dataclass(
    Batch, data_fields=["graph", "targets", "weights"], meta_fields=[]
)


class TrainState(NamedTuple):
    """Everything that a training step changes. Leaves have a leading axis R."""

    params: Params
    opt_state: Any
    step: Array  # updates made
    key: Array  # the replica's root key; step i uses fold_in(key, i)
    average: Params  # moving average of `params`; empty if it is not asked for
