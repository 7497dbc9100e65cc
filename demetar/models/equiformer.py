"""Equiformer: equivariant graph attention.

Source: Liao, Smidt 2023, arXiv 2206.11990, section 4 (attention in 4.2, feed-forward
networks and layer norm in 4.1 and 4.3); constants from the authors' code.

Differs from the paper: nodes start from invariants and vectors, and edge features stand
beside the radial basis. Features have the parity of harmonics, so the model is E(3)
equivariant; the paper's without parities are SE(3) equivariant. What a following linear
map absorbs is left out: the learned constant of the edge-degree embedding and the
weights of the second tensor product of the attention, which do not depend on the edge.
Squares in the layer norm are averaged over components, as in the authors' code. The
last norm acts on the scalars alone: over vectors it would take the length from the
displacement. No dropout.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture, depthwise, radial, readout, steerable
from demetar.nn.steerable import SCALAR, VECTOR, Attribute, Channels, Features
from demetar.types import Array, Bucket


@dataclasses.dataclass
class Equiformer(base.Model):
    """Transformer blocks of equivariant graph attention and gated feed-forward layers.

    The defaults have 147,644 parameters on N-body.

    Attributes:
      hidden_irreps: features of the nodes, of the parity of harmonics.
      num_layers: blocks.
      num_heads: attention heads, which share the channels of each irrep out evenly.
      expansion: width of the feed-forward layers over that of the features.
      num_basis: Gaussian radial functions.
      radial_sizes: hidden layers of the radial networks.
      negative_slope: of the leaky ReLU in the attention scores.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean', or 'target', the sum
        for extensive targets and the mean for others.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS

    hidden_irreps: str = "32x0e+16x1o+8x2e"
    num_layers: int = 4
    num_heads: int = 4
    expansion: int = 3
    num_basis: int = 32
    radial_sizes: tuple[int, ...] = (36, 36)
    negative_slope: float = 0.2
    pooling: str = "target"
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        hidden = self._hidden_channels()
        attribute, radial_inputs = self._edge_inputs(hidden, graph, bucket)
        given = steerable.input_features(graph.nodes, self.task, self.node_inputs)
        nodes = _add(
            self._degree_embedding(hidden, attribute, radial_inputs, graph, bucket),
            steerable.Linear(hidden, name="embedding")(given),
        )
        for layer in range(self.num_layers):
            normed = LayerNorm(name=f"norm_{layer}_0")(nodes)
            attended = self._attention(
                layer, normed, attribute, radial_inputs, graph, bucket
            )
            nodes = _add(nodes, attended)
            normed = LayerNorm(name=f"norm_{layer}_1")(nodes)
            nodes = _add(nodes, self._feed_forward(layer, normed))
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        scalars = LayerNorm(name="norm")({SCALAR: nodes[SCALAR]})[SCALAR][0]
        return readout.heads(
            self.task, scalars, nodes[VECTOR], graph, bucket, self.pooling
        )

    def _hidden_channels(self) -> Channels:
        """The hidden irreps, checked."""
        channels = steerable.parse_channels(self.hidden_irreps)
        natural = all(i == steerable.natural_irrep(i.l) for i in channels)
        even = all(num % self.num_heads == 0 for num in channels.values())
        if not (natural and even and SCALAR in channels and VECTOR in channels):
            raise UserError(
                f"equiformer needs hidden irreps of 0e, 1o, 2e, ..., with 0e and 1o "
                f"and channels that {self.num_heads} heads divide, found "
                f"{self.hidden_irreps!r}"
            )
        return channels

    def _edge_inputs(
        self, hidden: Channels, graph: graphs.Graph, bucket: Bucket
    ) -> tuple[Attribute, jax.Array]:
        """Harmonics of the edges, and what the radial networks read: [E, R]."""
        vectors = geometry.edge_vectors(graph, bucket)
        # The direction of the paper points from receiver to sender.
        attribute = depthwise.harmonics(-vectors, max(irrep.l for irrep in hidden))
        values = radial.edge_inputs(
            geometry.safe_norm(vectors),
            graph.edges,
            radial.gaussian,
            self.num_basis,
            self.task.radial_extent,
        )
        return attribute, values

    @hk.transparent
    def _degree_embedding(
        self,
        hidden: Channels,
        attribute: Attribute,
        radial_inputs: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> Features:
        """The neighbourhood of each node: radial functions times harmonics, summed."""
        num_scalars = hidden[SCALAR]
        ones = jnp.ones((1, bucket.max_nodes, num_scalars), radial_inputs.dtype)
        paths = depthwise.find_paths([SCALAR], attribute, hidden)
        count = len(paths) * num_scalars
        network = depthwise.NormedMLP(self.radial_sizes, count, name="degree_radial")
        weights = network(radial_inputs) / math.sqrt(self.task.average_neighbors)
        received = depthwise.convolve(
            {SCALAR: ones}, attribute, paths, weights, graph, bucket
        )
        return steerable.Linear(hidden, name="degree_linear")(received)

    @hk.transparent
    def _attention(
        self,
        layer: int,
        nodes: Features,
        attribute: Attribute,
        radial_inputs: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> Features:
        """Equivariant graph attention: {irrep: [2l + 1, N, C]} to the same."""
        hidden = depthwise.channels_of(nodes)
        messages, scores = self._messages(
            layer, nodes, attribute, radial_inputs, graph, bucket
        )
        weights = graphs.softmax_to_receivers(scores, graph, bucket)  # [E, H]
        capture.record(f"attention_{layer}", weights)
        paths = depthwise.find_paths(messages, attribute, hidden)
        values = depthwise.tensor_product(messages, attribute, paths)
        values = steerable.Linear(hidden, name=f"value_{layer}")(values)
        attended = {}
        for irrep, value in values.items():
            repeats = value.shape[-1] // self.num_heads
            weighted = value * jnp.repeat(weights, repeats, axis=-1)
            attended[irrep] = graphs.sum_to_receivers(weighted, graph, bucket)
        return steerable.Linear(hidden, name=f"projection_{layer}")(attended)

    @hk.transparent
    def _messages(
        self,
        layer: int,
        nodes: Features,
        attribute: Attribute,
        radial_inputs: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> tuple[Features, jax.Array]:
        """Gated messages {irrep: [2l + 1, E, C]} and attention scores [E, H]."""
        hidden = depthwise.channels_of(nodes)
        senders = steerable.Linear(hidden, name=f"senders_{layer}")(nodes)
        receivers = steerable.Linear(hidden, False, name=f"receivers_{layer}")(nodes)
        pairs = {
            irrep: graphs.gather_senders(senders[irrep], graph, bucket)
            + graphs.gather_receivers(receivers[irrep], graph, bucket)
            for irrep in hidden
        }
        paths = depthwise.find_paths(hidden, attribute, hidden)
        count = depthwise.num_weights(paths, hidden)
        network = depthwise.NormedMLP(self.radial_sizes, count, name=f"radial_{layer}")
        pairs = depthwise.tensor_product(
            pairs, attribute, paths, network(radial_inputs)
        )
        gated = steerable.gated_channels(hidden)
        num_scalars = hidden[SCALAR]
        both = {**gated, SCALAR: num_scalars + gated[SCALAR]}
        messages = steerable.Linear(both, name=f"message_{layer}")(pairs)
        scalars = messages[SCALAR]  # first those of the scores, then those of the gate
        messages[SCALAR] = scalars[..., num_scalars:]
        scores = self._scores(layer, scalars[0, :, :num_scalars])
        return steerable.gate(messages), scores

    @hk.transparent
    def _scores(self, layer: int, scalars: Array) -> jax.Array:
        """The product a . LeakyReLU(f) of each head: [E, C] -> [E, H]."""
        size = scalars.shape[-1] // self.num_heads
        vectors = hk.get_parameter(
            f"attention_{layer}",
            (self.num_heads, size),
            scalars.dtype,
            hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform"),
        )
        hidden = jax.nn.leaky_relu(scalars, self.negative_slope)
        per_head = hidden.reshape(-1, self.num_heads, size) * vectors
        return per_head.sum(axis=-1)

    @hk.transparent
    def _feed_forward(self, layer: int, nodes: Features) -> Features:
        """Linear, gate, linear."""
        hidden = depthwise.channels_of(nodes)
        wide = {irrep: self.expansion * num for irrep, num in hidden.items()}
        first = steerable.Linear(
            steerable.gated_channels(wide), name=f"feed_forward_{layer}_0"
        )
        second = steerable.Linear(hidden, name=f"feed_forward_{layer}_1")
        return second(steerable.gate(first(nodes)))


class LayerNorm(hk.Module):
    """Each irrep over the root mean square of its components, times a learned scale.

    The mean of the scalars over channels is taken off first, and a learned offset
    added last. Source: section 4.1 of the paper.
    """

    EPSILON = 1e-5

    def __call__(self, features: Features) -> Features:
        """{irrep: [2l + 1, X, C]} to the same."""
        outputs = {}
        for irrep, values in features.items():
            shape, dtype = values.shape[-1:], values.dtype
            scale = hk.get_parameter(f"scale_{irrep}", shape, dtype, jnp.ones)
            if irrep == SCALAR:
                values = values - values.mean(axis=-1, keepdims=True)
            square = jnp.mean(jnp.square(values), axis=(0, 2), keepdims=True)
            outputs[irrep] = values * jax.lax.rsqrt(square + self.EPSILON) * scale
            if irrep == SCALAR:
                outputs[irrep] += hk.get_parameter("offset", shape, dtype, jnp.zeros)
        return outputs


def _add(first: Features, second: Features) -> Features:
    """The sum, where the second may lack irreps of the first."""
    return {
        irrep: values + second[irrep] if irrep in second else values
        for irrep, values in first.items()
    }
