"""Equiformer: equivariant graph attention.

Source: Liao, Smidt 2023, arXiv 2206.11990, section 4 (attention in 4.2, feed-forward
networks and layer norm in 4.1 and 4.3); constants from the authors' code. With the
weights of that code, atomicarchitects/equiformer, the outputs are the same.

Differs from the authors' code: nodes start from invariants and vectors, and edge
features stand beside the radial basis. What a following linear map absorbs is left out:
the learned constant of the edge-degree embedding, the weights of the second tensor
product of the attention, which do not depend on the edge, and the division of the
output by the root of the average number of atoms (by 4.2 on QM9): 79,296 of the 3.53
million parameters of the published model. The basis spans the distances of the task,
not its cutoff. Activations are scaled by e3nn-jax's constants, 0.2 % from e3nn's. The
last norm acts on the scalars alone: over vectors it would take the length from the
displacement. Of the dropouts there is that of the attention, the only one that the
authors use on QM9.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture, depthwise, mlp, radial, readout, steerable
from demetar.nn.steerable import SCALAR, VECTOR, Attribute, Channels, Features
from demetar.types import Array, Graph


@dataclasses.dataclass
class Equiformer(base.Model):
    """Transformer blocks of equivariant graph attention and gated feed-forward layers.

    The defaults have 147,710 parameters on N-body.

    Attributes:
      hidden_irreps: features of the nodes. Either of the parity of harmonics (0e, 1o,
        2e, ...), or all even (0e, 1e, 2e, ...) as the published models: then vectors
        are taken for even, more products are allowed (15 for 11 up to degree 2), and
        reflections are noticed.
      num_layers: blocks.
      num_heads: attention heads, which share the channels of each irrep out evenly.
      expansion: width of the feed-forward layers over that of the features.
      feature_size: scalars after the last block; None keeps the hidden irreps.
      num_basis: Gaussian radial functions, whose means and widths are trained.
      radial_sizes: hidden layers of the radial networks.
      negative_slope: of the smooth leaky ReLU in the attention scores.
      attention_dropout: probability that an attention weight is left out in training.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean', or 'target', the sum
        for extensive targets and the mean for others.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {
        "hidden_irreps": "8x0e+4x1o+4x2e",
        "num_layers": 2,
        "num_basis": 5,
        "radial_sizes": (7,),
    }

    hidden_irreps: str = "32x0e+16x1o+8x2e"
    num_layers: int = 4
    num_heads: int = 4
    expansion: int = 3
    feature_size: int | None = None
    num_basis: int = 32
    radial_sizes: tuple[int, ...] = (36, 36)
    negative_slope: float = 0.2
    attention_dropout: float = 0.0
    pooling: str = "target"
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        hidden = self._hidden_channels()
        attribute, radial_inputs = self._edge_inputs(hidden, graph)
        given = steerable.input_features(graph.nodes, self.task, self.node_inputs)
        vector = self._vector(hidden)
        if vector != VECTOR:
            given = steerable.even_features(given)
        nodes = _add(
            self._degree_embedding(hidden, attribute, radial_inputs, graph),
            # A species starts from a standard normal vector.
            steerable.Linear(
                hidden, w_init=hk.initializers.RandomNormal(), name="embedding"
            )(given),
        )
        for layer in range(self.num_layers):
            normed = LayerNorm(name=f"norm_{layer}_0")(nodes)
            attended = self._attention(
                layer, normed, attribute, radial_inputs, graph, is_training
            )
            nodes = _add(nodes, attended)
            nodes = self._feed_forward(layer, nodes, self._outputs(layer, hidden))
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        scalars = LayerNorm(name="norm")({SCALAR: nodes[SCALAR]})[SCALAR][0]
        return readout.heads(self.task, scalars, nodes.get(vector), graph, self.pooling)

    def _hidden_channels(self) -> Channels:
        """The hidden irreps, checked."""
        channels = steerable.parse_channels(self.hidden_irreps)
        natural = all(i == steerable.natural_irrep(i.l) for i in channels)
        even = all(i == steerable.even_irrep(i) for i in channels)
        divided = all(num % self.num_heads == 0 for num in channels.values())
        vectors = {irrep for irrep in channels if irrep.l == 1}
        if not ((natural or even) and divided and SCALAR in channels and vectors):
            raise UserError(
                f"equiformer needs hidden irreps of 0e, 1o, 2e, ... or of 0e, 1e, 2e, "
                f"..., with scalars and vectors, whose channels {self.num_heads} heads "
                f"divide; found {self.hidden_irreps!r}"
            )
        return channels

    def _vector(self, hidden: Channels) -> steerable.Irrep:
        """The irrep of vectors: 1o, or 1e if all features are even."""
        return VECTOR if VECTOR in hidden else steerable.even_irrep(VECTOR)

    def _outputs(self, layer: int, hidden: Channels) -> Channels:
        """Channels after a block: fewer irreps and more scalars after the last."""
        if layer < self.num_layers - 1 or self.feature_size is None:
            return hidden
        vector = self._vector(hidden)
        kinds = {head.kind for head in self.task.heads}
        vectors = {vector: hidden[vector]} if "node_vector" in kinds else {}
        return {SCALAR: self.feature_size, **vectors}

    @hk.transparent
    def _edge_inputs(
        self, hidden: Channels, graph: Graph
    ) -> tuple[Attribute, jax.Array]:
        """Harmonics of the edges, and what the radial networks read: [E, R]."""
        vectors = geometry.edge_vectors(graph)
        # The direction of the paper points from receiver to sender.
        attribute = depthwise.harmonics(-vectors, max(irrep.l for irrep in hidden))
        if VECTOR not in hidden:
            attribute = {steerable.even_irrep(ir): y for ir, y in attribute.items()}
        basis = radial.TrainedGaussians(
            self.num_basis, self.task.radial_extent, name="basis"
        )
        values = [basis(geometry.safe_norm(vectors)), graph.edges]
        return attribute, jnp.concatenate(values, axis=-1)

    @hk.transparent
    def _degree_embedding(
        self, hidden: Channels, attribute: Attribute, radial_inputs: Array, graph: Graph
    ) -> Features:
        """The neighbourhood of each node: radial functions times harmonics, summed."""
        num_scalars = hidden[SCALAR]
        ones = jnp.ones((1, graph.bucket.max_nodes, num_scalars), radial_inputs.dtype)
        paths = depthwise.find_paths([SCALAR], attribute, hidden)
        count = len(paths) * num_scalars
        network = depthwise.NormedMLP(self.radial_sizes, count, name="degree_radial")
        scale = 1 / math.sqrt(self.task.average_neighbors)
        received = depthwise.convolve(
            {SCALAR: ones}, attribute, paths, network(radial_inputs), graph
        )
        summed = steerable.Linear(hidden, False, name="degree_linear")(received)
        # Every edge brings a bias, so a node has it once for each neighbour.
        bias = hk.get_parameter(
            "degree_bias", (num_scalars,), radial_inputs.dtype, jnp.zeros
        )
        counted = jnp.ones((graph.bucket.max_edges, 1), radial_inputs.dtype)
        summed[SCALAR] += bias * graphs.sum_to_receivers(counted, graph)
        return {irrep: scale * values for irrep, values in summed.items()}

    @hk.transparent
    def _attention(
        self,
        layer: int,
        nodes: Features,
        attribute: Attribute,
        radial_inputs: Array,
        graph: Graph,
        is_training: bool,
    ) -> Features:
        """Equivariant graph attention: {irrep: [2l + 1, N, C]} to the same."""
        hidden = depthwise.channels_of(nodes)
        messages, scores = self._messages(layer, nodes, attribute, radial_inputs, graph)
        weights = graphs.softmax_to_receivers(scores, graph)  # [E, H]
        capture.record(f"attention_{layer}", weights)
        if is_training and self.attention_dropout > 0:
            weights = hk.dropout(hk.next_rng_key(), self.attention_dropout, weights)
        paths = depthwise.find_paths(messages, attribute, hidden)
        product = depthwise.LinearProduct(hidden, name=f"value_{layer}")
        attended = {}
        for irrep, value in product(messages, attribute, paths).items():
            repeats = value.shape[-1] // self.num_heads
            weighted = value * jnp.repeat(weights, repeats, axis=-1)
            attended[irrep] = graphs.sum_to_receivers(weighted, graph)
        return steerable.Linear(hidden, name=f"projection_{layer}")(attended)

    @hk.transparent
    def _messages(
        self,
        layer: int,
        nodes: Features,
        attribute: Attribute,
        radial_inputs: Array,
        graph: Graph,
    ) -> tuple[Features, jax.Array]:
        """Gated messages {irrep: [2l + 1, E, C]} and attention scores [E, H]."""
        hidden = depthwise.channels_of(nodes)
        senders = steerable.Linear(hidden, name=f"senders_{layer}")(nodes)
        receivers = steerable.Linear(hidden, False, name=f"receivers_{layer}")(nodes)
        pairs = {
            irrep: graphs.gather_senders(senders[irrep], graph)
            + graphs.gather_receivers(receivers[irrep], graph)
            for irrep in hidden
        }
        paths = depthwise.find_paths(hidden, attribute, hidden)
        count = depthwise.num_weights(paths, hidden)
        network = depthwise.NormedMLP(self.radial_sizes, count, name=f"radial_{layer}")
        gated = steerable.gated_channels(hidden)
        num_scalars = hidden[SCALAR]
        both = {**gated, SCALAR: num_scalars + gated[SCALAR]}
        product = depthwise.LinearProduct(both, name=f"message_{layer}")
        messages = product(pairs, attribute, paths, network(radial_inputs))
        scalars = messages[SCALAR]  # first those of the scores, then those of the gate
        messages[SCALAR] = scalars[..., num_scalars:]
        scores = self._scores(layer, scalars[0, :, :num_scalars])
        return steerable.gate(messages), scores

    @hk.transparent
    def _scores(self, layer: int, scalars: Array) -> jax.Array:
        """The product a . SmoothLeakyReLU(f) of each head: [E, C] -> [E, H]."""
        size = scalars.shape[-1] // self.num_heads
        vectors = hk.get_parameter(
            f"attention_{layer}",
            (self.num_heads, size),
            scalars.dtype,
            hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform"),
        )
        activation = smooth_leaky_relu(self.negative_slope)
        hidden = steerable.normalized(activation, scalars.dtype)(scalars)
        per_head = hidden.reshape(-1, self.num_heads, size) * vectors
        return per_head.sum(axis=-1)

    @hk.transparent
    def _feed_forward(self, layer: int, nodes: Features, outputs: Channels) -> Features:
        """Norm, linear, gate, linear, and the sum with the input.

        If it ends in other channels than it starts from, a linear map of the input
        stands for the input.
        """
        hidden = depthwise.channels_of(nodes)
        normed = LayerNorm(name=f"norm_{layer}_1")(nodes)
        wide = {irrep: self.expansion * num for irrep, num in hidden.items()}
        first = steerable.Linear(
            steerable.gated_channels(wide), name=f"feed_forward_{layer}_0"
        )
        second = steerable.Linear(outputs, name=f"feed_forward_{layer}_1")
        found = second(steerable.gate(first(normed)))
        if outputs != hidden:
            nodes = steerable.Linear(outputs, name="shortcut")(nodes)
        return _add(nodes, found)


@functools.cache
def smooth_leaky_relu(negative_slope: float) -> mlp.Activation:
    """The identity for large x, negative_slope x for large -x, a sigmoid in between.

    Source: the authors' code, where it stands for the leaky ReLU of the paper.
    """
    linear, bent = (1 + negative_slope) / 2, (1 - negative_slope) / 2
    return lambda x: jnp.multiply(x, linear + bent * jnp.tanh(0.5 * x))


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
    """The sum; the second may lack irreps of the first."""
    return {
        irrep: values + second[irrep] if irrep in second else values
        for irrep, values in first.items()
    }
