"""EGNN, the variant with velocities.

Source: Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844, section 3 (equations 3 to
6) and section 3.2 (equation 7); appendix C.1 for the N-body model.

Differs from the paper: nothing that changes the function. The coordinates are carried
as displacements from the input, so that a far-away origin costs no precision, and the
first layer of the edge network is multiplied at the nodes, not at the edges.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.models import base
from demetar.nn import inputs, mlp
from demetar.types import Array, Bucket


@dataclasses.dataclass
class EGNN(base.Model):
    """E(n) equivariant graph network that moves its coordinates in every layer.

    Attributes:
      hidden_size: channels of nodes and messages.
      num_layers: rounds of message passing.
      node_inputs: invariants that the nodes start from; on N-body the speed alone, the
        charges enter by their products on the edges.
      coordinate_clip: bound on each component of a coordinate message, as in the code
        of the authors, in the length unit of the data.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})

    hidden_size: int = 64
    num_layers: int = 4
    node_inputs: tuple[str, ...] = ("|velocity|",)
    coordinate_clip: float = 100.0

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        nodes = mlp.Linear(self.hidden_size, name="embedding")(features)  # [N, C]
        velocities = inputs.vector(graph.nodes, self.task, "velocity")  # [N, 3]
        vectors_0 = geometry.edge_vectors(graph, bucket)  # [E, 3]
        squares = jnp.sum(jnp.square(vectors_0), axis=-1, keepdims=True)  # [E, 1]
        edges = jnp.concatenate([graph.edges, squares], axis=-1)  # [E, F + 1]
        shift = moves = jnp.zeros_like(velocities)  # [N, 3] displacement, velocity
        for layer in range(self.num_layers):
            vectors = vectors_0
            if layer:
                vectors = vectors + geometry.edge_differences(shift, graph, bucket)
            messages = self._messages(layer, nodes, vectors, edges, graph, bucket)
            moves = self._coordinate_update(layer, messages, vectors, graph, bucket)
            drift = mlp.MLP([self.hidden_size, 1], name=f"velocity_mlp_{layer}")(nodes)
            moves = moves + drift * velocities  # the velocity of equation 7
            shift = shift + moves
            # The update of the last layer reaches no output and is never computed; its
            # parameters are part of the published count.
            nodes = self._node_update(layer, nodes, messages, graph, bucket)
        return base.moved_heads(self.task, "egnn", shift, moves, graph.nodes)

    @hk.transparent
    def _messages(
        self,
        layer: int,
        nodes: Array,
        vectors: Array,
        edges: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> jax.Array:
        """Equation 3: [E, C]."""
        squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)  # [E, 1]
        invariants = jnp.concatenate([squares, edges], axis=-1)  # [E, F + 2]
        first = mlp.EdgeLinear(self.hidden_size, name=f"edge_linear_{layer}")
        second = mlp.Linear(self.hidden_size, name=f"edge_linear_{layer}_1")
        hidden = jax.nn.silu(first(nodes, invariants, graph, bucket))
        return jax.nn.silu(second(hidden))

    @hk.transparent
    def _coordinate_update(
        self,
        layer: int,
        messages: Array,
        vectors: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> jax.Array:
        """Equation 4, the mean over neighbours: [N, 3]."""
        first = mlp.Linear(self.hidden_size, name=f"coordinate_linear_{layer}")
        second = mlp.Linear(
            1,
            with_bias=False,
            w_init=hk.initializers.VarianceScaling(1e-6, "fan_avg", "uniform"),
            name=f"coordinate_linear_{layer}_1",
        )
        weights = second(jax.nn.silu(first(messages)))  # [E, 1]
        clip = self.coordinate_clip
        moves = jnp.clip(vectors * weights, -clip, clip)  # [E, 3]
        return graphs.mean_to_receivers(moves, graph, bucket)

    @hk.transparent
    def _node_update(
        self,
        layer: int,
        nodes: Array,
        messages: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> Array:
        """Equations 5 and 6, residual: [N, C]."""
        received = graphs.sum_to_receivers(messages, graph, bucket)
        size = self.hidden_size
        update = mlp.MLP([size, size], name=f"node_mlp_{layer}")
        return nodes + update(jnp.concatenate([nodes, received], axis=-1))
