"""TorchMD-NET's equivariant transformer.

Source: Thoelke, De Fabritiis 2022, arXiv 2202.02541, section 2. The network and its
start are those of the authors' code; weights copied from it give the same outputs and
gradients, in the form of 2022 and in that of today.

Differs from the paper: a node attends to itself too, as in the authors' code.

Differs from the authors' code: nodes start from invariants in place of an atom type,
and their vector features from the vector inputs (the velocity on N-body) in place of
zero. Edge features stand beside the radial basis; a node has none with itself. Without
a cutoff the basis spans the distances of the task and no envelope silences a pair. The
basis of another cutoff than 5 is that of 5 in scaled distances, while the code has its
first centre at exp(-cutoff): at a cutoff of 10, 64 functions differ by up to 0.18. A
node reads all its neighbours, not 32 at most. Mean and deviation of the training data
belong to the head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, pairs
from demetar.models import base
from demetar.nn import attention, capture, mlp, radial, readout, steerable
from demetar.types import Array, Graph, Head


@dataclasses.dataclass(frozen=True)
class Edges:
    """What every layer reads of the edges.

    Attributes:
      graph: whose edges these are.
      ways: the directions in which they carry messages.
      radial: [E, R] radial basis and edge features.
      own: [1, R] those of a node with itself.
      directions: [3, E, 1] unit vectors from sender to receiver.
      envelope: [E, 1] cutoff function, or 1.
      inside: [E, 1] 1 up to the cutoff and 0 beyond, or 1.
    """

    graph: Graph
    ways: Sequence[pairs.Way]
    radial: jax.Array
    own: jax.Array
    directions: jax.Array
    envelope: jax.Array | float
    inside: jax.Array | float


@dataclasses.dataclass
class TorchmdEt(base.Model):
    """Attention over scalar and vector features with distances in keys and values.

    The defaults have 148,322 parameters on N-body.

    Attributes:
      num_heads: attention heads.
      head_size: channels per head. Nodes have num_heads * head_size channels.
      num_layers: attention layers.
      num_basis: radial functions.
      cutoff: distance beyond which pairs do not interact; None: all pairs do.
      vector_cutoff: whether the envelope of the cutoff acts on all values, so that the
        output is continuous at the cutoff, as the authors' code can today; or on the
        attention alone, as in the paper (equation 8) and in its experiments. The
        vectors of pairs then vanish beyond the cutoff at once.
      self_loops: whether a node attends to itself at distance 0 and without direction,
        as in the authors' code; the paper sums over neighbours.
      output: what a scalar of a graph is made of: a pooled 'scalar', the length of a
        'dipole' moment, a 'spatial_extent', or 'target', what the head asks for. The
        last two are the authors' for mu and R2 of QM9 (section 3.1), from the centre of
        mass of the elements that the node inputs name.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean', or 'target', the sum
        for extensive targets and the mean for others. Dipoles and extents are sums.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    fades_at_cutoff: ClassVar[bool] = True
    small = {"num_layers": 2, "num_basis": 5}

    num_heads: int = 8
    head_size: int = 6
    num_layers: int = 4
    num_basis: int = 32
    cutoff: float | None = None
    vector_cutoff: bool = True
    self_loops: bool = True
    output: str = "target"
    pooling: str = "target"
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")

    @classmethod
    def fades(cls, fields: Mapping[str, Any]) -> bool:
        return bool(fields.get("vector_cutoff", True))

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        # Both edges of a pair have the same filters.
        edges = self._edges(*pairs.ways(graph, not capture.is_recording()))
        given = steerable.input_features(graph.nodes, self.task, self.node_inputs)
        scalars = self._embedding(given[steerable.SCALAR][0], edges)
        vectors: Array = jnp.zeros((3, *scalars.shape), scalars.dtype)  # [3, N, C]
        if steerable.VECTOR in given:
            vectors = _linear(scalars.shape[-1], "vector_embedding", False)(
                given[steerable.VECTOR]
            )
        for layer in range(self.num_layers):
            scalar_step, vector_step = self._attention(layer, scalars, vectors, edges)
            scalars, vectors = scalars + scalar_step, vectors + vector_step
            capture.record(f"features_{layer}_0e", scalars[None])
            capture.record(f"features_{layer}_1o", vectors)
        scalars = attention.layer_norm(scalars, "output_norm")
        return self._readout(scalars, vectors, graph)

    def _edges(self, graph: Graph, ways: Sequence[pairs.Way]) -> Edges:
        """Equation 1 beside the edge features, directions and envelope."""
        vectors = geometry.edge_vectors(graph)  # [E, 3]
        lengths = geometry.safe_norm(vectors)  # [E]
        directions = vectors / jnp.where(lengths > 0, lengths, 1.0)[:, None]
        envelope: jax.Array | float = 1.0
        inside: jax.Array | float = 1.0
        extent = self.task.radial_extent
        if self.cutoff is not None:
            extent = self.cutoff
            envelope = radial.cosine_cutoff(lengths, extent)[:, None]
            inside = (lengths < extent)[:, None].astype(lengths.dtype)
        basis = radial.exp_normal(lengths, self.num_basis, extent) * envelope
        own = radial.exp_normal(jnp.zeros_like(lengths[:1]), self.num_basis, extent)
        no_features = ((0, 0), (0, graph.edges.shape[-1]))
        return Edges(
            graph,
            ways,
            jnp.concatenate([basis, graph.edges], axis=-1),
            jnp.pad(own, no_features),
            directions.T[..., None],
            envelope,
            inside,
        )

    @hk.transparent
    def _embedding(self, invariants: Array, edges: Edges) -> Array:
        """Equations 2 and 3: the node's own embedding and that of its neighbours."""
        size = self.num_heads * self.head_size
        normal = hk.initializers.RandomNormal()
        own, neighbors = (
            mlp.Linear(size, False, normal, name=name)(invariants)
            for name in ("embedding", "neighbor_embedding")
        )  # [N, C] each
        filters = _linear(size, "neighbor_filter")(edges.radial)  # [E, C]
        filters = filters * edges.envelope
        received = sum(
            way.total(way.other(neighbors, edges.graph) * filters, edges.graph)
            for way in edges.ways
        )
        return _linear(size, "combine")(jnp.concatenate([own, received], axis=-1))

    @hk.transparent
    def _attention(
        self, layer: int, scalars: Array, vectors: Array, edges: Edges
    ) -> tuple[jax.Array, jax.Array]:
        """Steps of scalars [N, C] and vectors [3, N, C]: equations 4 to 11."""
        size = scalars.shape[-1]
        received, messages = self._messages(layer, scalars, vectors, edges)
        projected = _linear(3 * size, f"vectors_{layer}", False)(vectors)
        left, right, kept = jnp.split(projected, 3, axis=-1)  # [3, N, C] each
        output = _linear(3 * size, f"output_{layer}")(received)
        shift, scale, gate = jnp.split(output, 3, axis=-1)  # [N, C] each
        products = jnp.sum(left * right, axis=0)  # [N, C]
        return shift + scale * products, messages + gate * kept

    @hk.transparent
    def _messages(
        self, layer: int, scalars: Array, vectors: Array, edges: Edges
    ) -> tuple[jax.Array, jax.Array]:
        """What nodes receive: scalars y [N, C] and vectors w [3, N, C]."""
        size = scalars.shape[-1]
        normed = attention.layer_norm(scalars, f"norm_{layer}")
        queries = _linear(size, f"queries_{layer}")(normed)  # [N, C]
        keys = _linear(size, f"keys_{layer}")(normed)
        sent = _linear(3 * size, f"values_{layer}")(normed)
        parts = [keys, *jnp.split(sent, 3, axis=-1)]  # [N, C] each
        attend = Attend(self.num_heads, self.head_size, name=f"attend_{layer}")
        filters = attend(edges.radial)
        envelope = edges.envelope if self.vector_cutoff else edges.inside
        key, *rest = filters
        filters = [key, *(filter_ * envelope for filter_ in rest)]  # [E, C] each
        steps = [
            self._one_way(
                layer, attend, [queries, *parts], vectors, filters, edges, way
            )
            for way in edges.ways
        ]
        received, messages = (sum(step) for step in zip(*steps, strict=True))
        if self.self_loops:
            weights, values = attend.weigh(queries, parts, attend(edges.own))
            received += values[2] * jnp.repeat(weights, self.head_size, axis=-1)
            messages += values[0] * vectors
        return received, messages

    @hk.transparent
    def _one_way(
        self,
        layer: int,
        attend: Attend,
        nodes: Sequence[Array],
        vectors: Array,
        filters: Sequence[Array],
        edges: Edges,
        way: pairs.Way,
    ) -> tuple[jax.Array, jax.Array]:
        """What nodes receive by the edges in one direction."""
        graph = edges.graph
        weights, (old, new, mixed) = attend.weigh(
            way.own(nodes[0], graph),
            [way.other(part, graph) for part in nodes[1:]],
            filters,
        )
        if not self.vector_cutoff:
            weights = weights * edges.envelope
        capture.record(f"attention_{layer}", weights)
        received = way.total(
            mixed * jnp.repeat(weights, self.head_size, axis=-1), graph
        )
        # One component after the other: edges are summed as they are made.
        components = [
            way.total(old * way.other(vector, graph) + new * direction, graph)
            for vector, direction in zip(
                vectors, way.sign * edges.directions, strict=True
            )
        ]
        return received, jnp.stack(components)

    @hk.transparent
    def _readout(
        self, scalars: Array, vectors: Array, graph: Graph
    ) -> dict[str, Array]:
        """Two gated blocks, the second per head; no vectors for a spatial extent."""
        half = max(scalars.shape[-1] // 2, 1)
        kinds = {
            head.name: readout.output_of(head, self.output) for head in self.task.heads
        }
        gated: tuple[Array, Array] | None = None
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            name, kind = f"readout_{head.name}", kinds[head.name]
            if kind == "spatial_extent":
                sizes = [half, head.size]
                start = mlp.GLOROT_UNIFORM, mlp.ZEROS
                values = mlp.MLP(sizes, jax.nn.silu, False, name, *start)(scalars)
                outputs[head.name] = readout.spatial_extent(
                    self.task, head, values, graph
                )
                continue
            if gated is None:
                gated = GatedBlock(half, True, name="gated")(scalars, vectors)
            block = GatedBlock(head.size, False, name=name)
            outputs[head.name] = self._gated_head(head, kind, *block(*gated), graph)
        return outputs

    def _gated_head(
        self, head: Head, kind: str, values: Array, moments: Array, graph: Graph
    ) -> Array:
        """The output of a head from what its block gives: [N, T] and [3, N, T]."""
        if head.kind == "node_vector":
            return jnp.transpose(moments, (1, 2, 0))
        if kind == "dipole":
            return readout.dipole(self.task, head, values, moments, graph)
        return readout.pooled(self.task, {head.name: values}, graph, self.pooling)[
            head.name
        ]


class Attend(hk.Module):
    """Attention weights and values of pairs: equations 5 to 7.

    There is no softmax: the weights do not sum to 1 over the neighbours.
    """

    def __init__(self, num_heads: int, head_size: int, name: str | None = None):
        super().__init__(name=name)
        self.num_heads = num_heads
        self.head_size = head_size

    def __call__(self, inputs: Array) -> list[Array]:
        """Filters of keys and of three values: radial inputs [X, R] -> [X, C] each."""
        size = self.num_heads * self.head_size
        parts = [
            *_linear(size, "key_filters").parts(inputs, 1),
            *_linear(3 * size, "value_filters").parts(inputs, 3),
        ]
        return [mlp.silu(part) for part in parts]

    def weigh(
        self, queries: Array, sent: Sequence[Array], filters: Sequence[Array]
    ) -> tuple[Array, list[Array]]:
        """Weights per head [X, H] and three values [X, C].

        Args:
          queries: [X, C] of the receivers.
          sent: [X, C] each: keys and three values of the senders.
          filters: [X, C] or [1, C] each, of keys and values.
        """
        key, *values = (
            part * filter_ for part, filter_ in zip(sent, filters, strict=True)
        )
        products = (queries * key).reshape(-1, self.num_heads, self.head_size)
        return mlp.silu(products.sum(axis=-1)), values


class GatedBlock(hk.Module):
    """A gated equivariant block, which reads the lengths of mixed vectors.

    Source: Schuett et al. 2021, arXiv 2102.03150, figure 3.
    """

    def __init__(self, size: int, activate: bool, name: str | None = None):
        super().__init__(name=name)
        self.size = size
        self.activate = activate

    def __call__(self, scalars: Array, vectors: Array) -> tuple[Array, Array]:
        """[N, C] and [3, N, C] -> [N, size] and [3, N, size]."""
        channels = scalars.shape[-1]
        norms = geometry.safe_norm(_linear(channels, "norms", False)(vectors), axis=0)
        mixed = _linear(self.size, "vectors", False)(vectors)
        hidden = _linear(channels, "linear_0")(jnp.concatenate([scalars, norms], -1))
        outputs = _linear(2 * self.size, "linear_1")(jax.nn.silu(hidden))
        values, gates = outputs[:, : self.size], outputs[:, self.size :]
        return jax.nn.silu(values) if self.activate else values, gates * mixed


def _linear(size: int, name: str, with_bias: bool = True) -> mlp.Linear:
    """A layer whose weights are drawn as in the authors' code."""
    return mlp.Linear(size, with_bias, mlp.GLOROT_UNIFORM, mlp.ZEROS, name)
