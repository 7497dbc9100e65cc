"""The network of the e3nn tutorial.

Source: Daigavane et al., tutorial on E(3) equivariant networks with e3nn-jax: embed,
couple with harmonics, weight by a radial perceptron, average over neighbours, gate,
concatenate with the input of the layer, mix to any irreps. e3nn is Geiger and Smidt
2022, arXiv 2207.09453. As in the code of the tutorial's authors, atomicarchitects/
PriceofFreedom; with the weights of that code the outputs are the same.

Differs from the authors' code: nodes start from invariants and vectors by a linear map
with a bias, which for the species of an atom alone is their table of embeddings, but
starts from variance 1 / inputs, theirs from 1 / channels. Edge features stand beside
the length. Couplings that the next linear map would not read are not made. A linear map
holds the factor 1 / sqrt(inputs) that e3nn multiplies its weights by: the same function
at the start, other steps of Adam. Vector heads are linear maps of the vectors, where
the tutorial has scalars alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import e3nn_jax as e3nn
import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture, depthwise, mlp, readout, steerable
from demetar.nn.steerable import (
    PSEUDOSCALAR,
    SCALAR,
    VECTOR,
    Attribute,
    Features,
    Path,
)
from demetar.types import Array, Graph

GATES = ("e3nn", "silu")


@dataclasses.dataclass
class SimpleNetwork(base.Model):
    """Layers of a depth-wise tensor product, a gate and a concatenated skip.

    The defaults have 148,570 parameters on N-body.

    Attributes:
      embedding_irreps: features that the inputs are embedded in.
      layer_irreps: irreps after each layer, any that the layer can reach; others are
        absent. The last has to hold what the heads read: 0e for scalars, 1o for
        vectors.
      lmax: highest degree of the harmonics.
      radial_sizes: hidden layers of the radial perceptrons.
      gate: 'e3nn', that of the tutorial: GELU on scalars, (1 - exp(-x^2)) x on
        pseudoscalars, and one more scalar for each irrep, scalars included; or 'silu':
        SiLU, tanh, and one more scalar for each irrep above degree 0.
      mix_products: a linear map of the products before their radial weights, as in an
        earlier version of the authors' code. It costs every edge a matrix product of
        the channels of all couplings.
      norm_epsilon: added to the variances of the layer norms.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean', or 'target', the sum
        for extensive targets and the mean for others.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {
        "radial_sizes": (7,),
        "embedding_irreps": "5x0e+3x1o",
        "layer_irreps": ("7x0e+2x0o+5x1o+3x1e",) * 2,
    }

    embedding_irreps: str = "32x0e+16x1o"
    layer_irreps: tuple[str, ...] = (
        "40x0e+22x1o+12x1e+8x2e",
        "40x0e+22x1o+12x1e+8x2e",
        "40x0e+22x1o",
    )
    lmax: int = 2
    radial_sizes: tuple[int, ...] = (32,)
    gate: str = "e3nn"
    mix_products: bool = False
    norm_epsilon: float = 1e-6
    pooling: str = "target"
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        if self.gate not in GATES:
            raise UserError(
                f"expected a gate of {', '.join(GATES)}, found {self.gate!r}"
            )
        vectors = geometry.edge_vectors(graph)
        # e3nn's 'norm' normalisation: the harmonics of a degree have the length 1.
        attribute = {
            irrep: values / math.sqrt(irrep.dim)
            for irrep, values in depthwise.harmonics(vectors, self.lmax).items()
        }
        lengths = geometry.safe_norm(vectors, keepdims=True)
        radial_inputs = jnp.concatenate([lengths, graph.edges], axis=-1)  # [E, 1 + F]
        embedding = steerable.parse_channels(self.embedding_irreps)
        given = steerable.input_features(graph.nodes, self.task, self.node_inputs)
        nodes = steerable.Linear(embedding, name="embedding")(given)
        for layer in range(len(self.layer_irreps)):
            nodes = self._layer(layer, nodes, attribute, radial_inputs, graph)
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        return self._heads(nodes, graph)

    @hk.transparent
    def _heads(self, nodes: Features, graph: Graph) -> dict[str, Array]:
        """Linear maps of the last layer, summed or averaged over graphs."""
        vectors = {head.kind == "node_vector" for head in self.task.heads}
        needed = {VECTOR if is_vector else SCALAR for is_vector in vectors}
        if not needed <= set(nodes):
            raise UserError(
                f"simple_network needs {' and '.join(map(str, sorted(needed)))} after "
                f"its last layer, found layer_irreps {self.layer_irreps}"
            )
        outputs = readout.vector_heads(self.task, nodes.get(VECTOR))
        if SCALAR in needed:
            outputs |= readout.linear_heads(
                self.task, nodes[SCALAR][0], graph, self.pooling
            )
        return outputs

    @hk.transparent
    def _layer(
        self,
        layer: int,
        nodes: Features,
        attribute: Attribute,
        radial_inputs: Array,
        graph: Graph,
    ) -> Features:
        """{irrep: [2l + 1, N, C]} to the irreps of the layer."""
        outputs = steerable.parse_channels(self.layer_irreps[layer])
        paths = depthwise.find_paths(nodes, attribute, {SCALAR, *outputs})
        count = depthwise.num_weights(paths, depthwise.channels_of(nodes))
        network = depthwise.NormedMLP(
            self.radial_sizes,
            count,
            self.norm_epsilon,
            hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal"),
            jnp.zeros,
            name=f"radial_{layer}",
        )
        weights = network(radial_inputs)  # [E, count]
        if self.mix_products:
            received = self._mixed(layer, nodes, attribute, paths, weights, graph)
        else:
            received = depthwise.convolve(nodes, attribute, paths, weights, graph)
        neighbors = graphs.num_neighbors(graph).astype(weights.dtype)  # [N, 1]
        received = {irrep: values / neighbors for irrep, values in received.items()}
        gated = self._gated(layer, received, self._extra_scalars(nodes, attribute))
        joined = steerable.concatenate([gated, nodes])
        return steerable.Linear(outputs, False, name=f"linear_{layer}_1")(joined)

    @hk.transparent
    def _mixed(
        self,
        layer: int,
        nodes: Features,
        attribute: Attribute,
        paths: Sequence[Path],
        weights: Array,
        graph: Graph,
    ) -> Features:
        """The convolution with a linear map between the product and its weights."""
        senders = {
            irrep: graphs.gather_senders(values, graph)
            for irrep, values in nodes.items()
        }
        products = depthwise.tensor_product(senders, attribute, paths)
        channels = depthwise.channels_of(products)
        products = steerable.Linear(channels, False, name=f"product_{layer}")(products)
        parts = jax.lax.split(jnp.asarray(weights), list(channels.values()), 1)
        return {
            irrep: graphs.sum_to_receivers(values * part, graph)
            for (irrep, values), part in zip(products.items(), parts, strict=True)
        }

    def _extra_scalars(self, nodes: Features, attribute: Attribute) -> int:
        """Scalars that the gate makes of the gates of degree 0, which gate nothing."""
        if self.gate == "silu":
            return 0
        paths = depthwise.find_paths(nodes, attribute, {SCALAR, PSEUDOSCALAR})
        return depthwise.num_weights(paths, depthwise.channels_of(nodes))

    @hk.transparent
    def _gated(self, layer: int, received: Features, extra: int) -> Features:
        """A linear map and the gate: {irrep: [2l + 1, N, C]} to the same irreps."""
        if SCALAR not in received:
            raise UserError(
                f"layer {layer} of simple_network couples to no scalar that could gate "
                f"the others: layer_irreps {self.layer_irreps}, harmonics up to degree "
                f"{self.lmax}"
            )
        channels = steerable.gated_channels(depthwise.channels_of(received))
        channels = {**channels, SCALAR: channels[SCALAR] + extra}
        linear = steerable.Linear(channels, False, name=f"linear_{layer}_0")
        if self.gate == "silu":
            return steerable.gate(linear(received))
        return steerable.gate(linear(received), mlp.sigmoid, jax.nn.gelu, e3nn.soft_odd)
