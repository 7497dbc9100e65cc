"""TorchMD-NET's equivariant transformer.

Source: Thoelke, De Fabritiis 2022, arXiv 2202.02541, section 2.

Differs from the paper: nodes start from invariants in place of an atom type, and their
vector features from the vector inputs (the velocity on N-body) in place of zero. Edge
features stand beside the radial basis. Without a cutoff the basis spans the distances
of the task and no envelope silences a pair; with one, the envelope acts on all values,
so that vector features are continuous at the cutoff too. A node does not attend to
itself, as it does in the authors' code. Of the two gated blocks of the output network
the last is a linear head.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.models import base
from demetar.nn import attention, capture, mlp, radial, readout, steerable
from demetar.types import Array, Bucket

XAVIER_UNIFORM = hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform")


@dataclasses.dataclass(frozen=True)
class Edges:
    """What every layer reads of the edges.

    Attributes:
      radial: [E, R] radial basis and edge features.
      directions: [3, E, 1] unit vectors from sender to receiver.
      envelope: [E, 1] cutoff function, or 1.
    """

    radial: jax.Array
    directions: jax.Array
    envelope: jax.Array | float


@dataclasses.dataclass
class TorchmdEt(base.Model):
    """Attention over scalar and vector features with distances in keys and values.

    The defaults have 146,616 parameters on N-body.

    Attributes:
      num_heads: attention heads.
      head_size: channels per head. Nodes have num_heads * head_size channels.
      num_layers: attention layers.
      num_basis: radial functions.
      cutoff: distance beyond which pairs do not interact; None: all pairs do.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean', or 'target', the sum
        for extensive targets and the mean for others.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS

    num_heads: int = 8
    head_size: int = 6
    num_layers: int = 4
    num_basis: int = 32
    cutoff: float | None = None
    pooling: str = "target"
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        edges = self._edges(graph, bucket)
        given = steerable.input_features(graph.nodes, self.task, self.node_inputs)
        scalars = self._embedding(given[steerable.SCALAR][0], edges, graph, bucket)
        vectors: Array = jnp.zeros((3, *scalars.shape), scalars.dtype)  # [3, N, C]
        if steerable.VECTOR in given:
            vectors = _linear(scalars.shape[-1], "vector_embedding", False)(
                given[steerable.VECTOR]
            )
        for layer in range(self.num_layers):
            scalar_step, vector_step = self._attention(
                layer, scalars, vectors, edges, graph, bucket
            )
            scalars, vectors = scalars + scalar_step, vectors + vector_step
            capture.record(f"features_{layer}_0e", scalars[None])
            capture.record(f"features_{layer}_1o", vectors)
        scalars = attention.layer_norm(scalars, "output_norm")
        scalars, vectors = self._gated_block(scalars, vectors)
        return readout.heads(self.task, scalars, vectors, graph, bucket, self.pooling)

    def _edges(self, graph: graphs.Graph, bucket: Bucket) -> Edges:
        """Equation 1 beside the edge features, directions and envelope."""
        vectors = geometry.edge_vectors(graph, bucket)  # [E, 3]
        lengths = geometry.safe_norm(vectors)  # [E]
        directions = vectors / jnp.where(lengths > 0, lengths, 1.0)[:, None]
        envelope: jax.Array | float = 1.0
        extent = self.task.radial_extent
        if self.cutoff is not None:
            extent = self.cutoff
            envelope = radial.cosine_cutoff(lengths, extent)[:, None]
        basis = radial.exp_normal(lengths, self.num_basis, extent) * envelope
        values = jnp.concatenate([basis, graph.edges], axis=-1)
        return Edges(values, directions.T[..., None], envelope)

    @hk.transparent
    def _embedding(
        self, invariants: Array, edges: Edges, graph: graphs.Graph, bucket: Bucket
    ) -> Array:
        """Equations 2 and 3: the node's own embedding and that of its neighbours."""
        size = self.num_heads * self.head_size
        own = _linear(size, "embedding")(invariants)  # [N, C]
        neighbors = _linear(size, "neighbor_embedding")(invariants)
        filters = _linear(size, "neighbor_filter")(edges.radial)  # [E, C]
        messages = graphs.gather_senders(neighbors, graph, bucket) * filters
        received = graphs.sum_to_receivers(messages * edges.envelope, graph, bucket)
        return _linear(size, "combine")(jnp.concatenate([own, received], axis=-1))

    @hk.transparent
    def _attention(
        self,
        layer: int,
        scalars: Array,
        vectors: Array,
        edges: Edges,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> tuple[jax.Array, jax.Array]:
        """Steps of scalars [N, C] and vectors [3, N, C]: equations 4 to 11."""
        size = scalars.shape[-1]
        normed = attention.layer_norm(scalars, f"norm_{layer}")
        queries = _linear(size, f"queries_{layer}")(normed)  # [N, C]
        sent = jnp.concatenate(
            [
                _linear(size, f"keys_{layer}")(normed),
                _linear(3 * size, f"values_{layer}")(normed),
            ],
            axis=-1,
        )
        sent = graphs.gather_senders(sent, graph, bucket)  # [E, 4C]
        key_filters = _linear(size, f"key_filters_{layer}")(edges.radial)
        keys = sent[:, :size] * jax.nn.silu(key_filters)  # [E, C]
        value_filters = _linear(3 * size, f"value_filters_{layer}")(edges.radial)
        values = sent[:, size:] * jax.nn.silu(value_filters) * edges.envelope
        old, new, mixed = jnp.split(values, 3, axis=-1)  # [E, C] each
        weights = self._attention_weights(queries, keys, graph, bucket)  # [E, H]
        capture.record(f"attention_{layer}", weights)
        mixed = mixed * jnp.repeat(weights, self.head_size, axis=-1)
        received = graphs.sum_to_receivers(mixed, graph, bucket)  # [N, C]
        senders = graphs.gather_senders(vectors, graph, bucket)  # [3, E, C]
        messages = graphs.sum_to_receivers(
            old * senders + new * edges.directions, graph, bucket
        )  # [3, N, C]
        projected = _linear(3 * size, f"vectors_{layer}", False)(vectors)
        left, right, kept = jnp.split(projected, 3, axis=-1)  # [3, N, C] each
        output = _linear(3 * size, f"output_{layer}")(received)
        shift, scale, gate = jnp.split(output, 3, axis=-1)  # [N, C] each
        products = jnp.sum(left * right, axis=0)  # [N, C]
        return shift + scale * products, messages + gate * kept

    def _attention_weights(
        self, queries: Array, keys: Array, graph: graphs.Graph, bucket: Bucket
    ) -> jax.Array:
        """SiLU of the products of queries [N, C] and keys [E, C] per head: [E, H].

        There is no softmax: the weights do not sum to 1 over the neighbours.
        """
        products = graphs.gather_receivers(queries, graph, bucket) * keys
        products = products.reshape(-1, self.num_heads, self.head_size)
        return jax.nn.silu(products.sum(axis=-1))

    @hk.transparent
    def _gated_block(self, scalars: Array, vectors: Array) -> tuple[Array, Array]:
        """The gated equivariant block of the output network, to half the channels.

        Source: Schuett et al. 2021, arXiv 2102.03150, figure 3.
        """
        size = scalars.shape[-1]
        half = max(size // 2, 1)
        norms = _linear(size, "gated_norms", False)(vectors)
        mixed = _linear(half, "gated_vectors", False)(vectors)  # [3, N, C / 2]
        values = jnp.concatenate([scalars, geometry.safe_norm(norms, axis=0)], -1)
        hidden = jax.nn.silu(_linear(size, "gated_linear_0")(values))
        outputs = _linear(2 * half, "gated_linear_1")(hidden)
        return jax.nn.silu(outputs[:, :half]), outputs[:, half:] * mixed


def _linear(size: int, name: str, with_bias: bool = True) -> mlp.Linear:
    """A layer whose weights are drawn as in the authors' code."""
    return mlp.Linear(size, with_bias=with_bias, w_init=XAVIER_UNIFORM, name=name)
