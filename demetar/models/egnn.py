"""EGNN: with moving coordinates if a head asks for vectors, else with fixed ones.

Source: Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844, section 3 (equations 3 to
6), section 3.2 (equation 7) and section 3.3 (equation 8); appendix C.1 for the N-body
model and C.3 for that of QM9. Bounded moves: Hoogeboom, Satorras, Vignac, Welling 2022,
arXiv 2203.17003, appendix B.

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
from demetar.nn import capture, inputs, mlp, readout
from demetar.types import Array, Graph


@dataclasses.dataclass
class EGNN(base.Model):
    """E(n) equivariant graph network.

    The heads of the task decide whether coordinates move in every layer, as on N-body,
    or stay where they are, as on QM9. Velocities carry them along if the task has some
    (equation 7), else there are none (equation 4). The paper's model of QM9 has 7
    layers of 128 channels with attention, and reads `all` scalars.

    Attributes:
      hidden_size: channels of nodes and messages.
      num_layers: rounds of message passing.
      node_inputs: invariants that the nodes start from; on N-body the speed alone, the
        charges enter by their products on the edges.
      coordinate_clip: bound on each component of a coordinate message, as in the code
        of the authors, in the length unit of the data.
      move_range: if above 0, coordinate messages are the sums, not the means, of
        vectors over their length + 1, times this times the tanh of their weight, as a
        denoiser of molecules has them.
      attention: messages are multiplied by a learned gate, equation 8.
      node_attributes: every update reads the inputs of the nodes again.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {"hidden_size": 11, "num_layers": 2}
    small_molecular = {"attention": True, "node_attributes": True}

    hidden_size: int = 64
    num_layers: int = 4
    node_inputs: tuple[str, ...] = ("|velocity|",)
    coordinate_clip: float = 100.0
    move_range: float = 0.0
    attention: bool = False
    node_attributes: bool = False

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        nodes = mlp.Linear(self.hidden_size, name="embedding")(features)  # [N, C]
        attributes = features if self.node_attributes else features[:, :0]
        moving = bool(base.vector_heads(self.task))
        size = self.hidden_size
        vectors = vectors_0 = geometry.edge_vectors(graph)  # [E, 3]
        edges = graph.edges
        if moving:  # else these are the squares that every layer reads
            edges = jnp.concatenate([edges, _squares(vectors_0)], axis=-1)  # [E, F + 1]
        shift = moves = jnp.zeros_like(graph.nodes.positions)  # [N, 3]
        for layer in range(self.num_layers):
            if moving and layer:
                drift = geometry.edge_differences(shift, graph)
                vectors = vectors_0 + drift
            messages = self._messages(layer, nodes, vectors, edges, graph)
            if moving:
                moves = self._moves(layer, nodes, messages, vectors, graph)
                shift = shift + moves
            # No vector head reads the update of the last layer, and then it is never
            # computed; its parameters are part of the published count.
            nodes = self._node_update(layer, nodes, attributes, messages, graph)
        return {
            **base.moved_heads(self.task, "egnn", shift, moves, graph.nodes),
            **readout.summed_heads(  # appendix C.3
                self.task, nodes, [size, size], size, mlp.silu, graph
            ),
        }

    @hk.transparent
    def _messages(
        self, layer: int, nodes: Array, vectors: Array, edges: Array, graph: Graph
    ) -> jax.Array:
        """Equation 3, and 8 if attention is asked for: [E, C]."""
        invariants = jnp.concatenate([_squares(vectors), edges], axis=-1)
        first = mlp.EdgeLinear(self.hidden_size, name=f"edge_linear_{layer}")
        second = mlp.Linear(self.hidden_size, name=f"edge_linear_{layer}_1")
        hidden = mlp.silu(first(nodes, invariants, graph))
        messages = mlp.silu(second(hidden))
        if self.attention:
            logits = mlp.Linear(1, name=f"attention_{layer}")(messages)
            weights = mlp.sigmoid(logits)  # [E, 1]
            capture.record(f"attention_{layer}", weights)
            messages = messages * weights
        return messages

    @hk.transparent
    def _moves(
        self, layer: int, nodes: Array, messages: Array, vectors: Array, graph: Graph
    ) -> jax.Array:
        """Equation 4, and 7 if there are velocities: [N, 3]."""
        first = mlp.Linear(self.hidden_size, name=f"coordinate_linear_{layer}")
        second = mlp.Linear(
            1,
            with_bias=False,
            w_init=hk.initializers.VarianceScaling(1e-6, "fan_avg", "uniform"),
            name=f"coordinate_linear_{layer}_1",
        )
        weights = second(mlp.silu(first(messages)))  # [E, 1]
        moves = self._received(vectors, weights, graph)
        if not inputs.has_vector(self.task, "velocity"):
            return moves
        velocities = inputs.vector(graph.nodes, self.task, "velocity")  # [N, 3]
        drift = mlp.MLP([self.hidden_size, 1], name=f"velocity_mlp_{layer}")(nodes)
        return moves + drift * velocities

    def _received(self, vectors: Array, weights: Array, graph: Graph) -> jax.Array:
        """What the coordinate messages of the edges amount to at the nodes: [N, 3]."""
        if self.move_range:
            lengths = geometry.safe_norm(vectors, keepdims=True)  # [E, 1]
            steps = self.move_range * jnp.tanh(weights) / (lengths + 1)
            return graphs.sum_to_receivers(vectors * steps, graph)
        clip = self.coordinate_clip
        return graphs.mean_to_receivers(jnp.clip(vectors * weights, -clip, clip), graph)

    @hk.transparent
    def _node_update(
        self, layer: int, nodes: Array, attributes: Array, messages: Array, graph: Graph
    ) -> Array:
        """Equations 5 and 6, residual: [N, C]."""
        received = graphs.sum_to_receivers(messages, graph)
        size = self.hidden_size
        update = mlp.MLP([size, size], name=f"node_mlp_{layer}")
        return nodes + update(jnp.concatenate([nodes, received, attributes], axis=-1))


def _squares(vectors: Array) -> jax.Array:
    """Squared lengths of vectors [E, 3]: [E, 1]."""
    return jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
