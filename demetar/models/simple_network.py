"""The network of the e3nn tutorial.

Source: Daigavane et al., tutorial on E(3) equivariant networks with e3nn-jax: embed,
couple with harmonics, weight by a radial perceptron, average over neighbours, gate,
concatenate with the input of the layer, mix to any irreps. e3nn is Geiger and Smidt
2022, arXiv 2207.09453.

Differs from the tutorial: nodes start from invariants and vectors; edge features stand
beside the length. Couplings are made only to irreps of the layer's output, and gates
only for degrees above 0. The gate is that of the other steerable models here (SiLU and
tanh, the tutorial's GELU and x (1 - exp(-x^2))), and harmonics have e3nn's 'component'
normalisation where the tutorial has 'norm', a constant that the radial perceptron can
absorb.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture, depthwise, readout, steerable
from demetar.nn.steerable import SCALAR, VECTOR, Attribute, Features
from demetar.types import Array, Bucket


@dataclasses.dataclass
class SimpleNetwork(base.Model):
    """Layers of a depth-wise tensor product, a gate and a concatenated skip.

    The defaults have 151,392 parameters on N-body.

    Attributes:
      embedding_irreps: features that the inputs are embedded in.
      layer_irreps: irreps after each layer. The last has to hold 0e, and 1o where a
        head asks for vectors.
      lmax: highest degree of the harmonics.
      radial_sizes: hidden layers of the radial perceptrons.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS

    embedding_irreps: str = "32x0e+16x1o"
    layer_irreps: tuple[str, ...] = (
        "48x0e+24x1o+12x1e+8x2e",
        "48x0e+24x1o+12x1e+8x2e",
        "48x0e+24x1o",
    )
    lmax: int = 2
    radial_sizes: tuple[int, ...] = (32,)
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        vectors = geometry.edge_vectors(graph, bucket)
        attribute = depthwise.harmonics(vectors, self.lmax)
        lengths = geometry.safe_norm(vectors, keepdims=True)
        radial_inputs = jnp.concatenate([lengths, graph.edges], axis=-1)  # [E, 1 + F]
        embedding = steerable.parse_channels(self.embedding_irreps)
        given = steerable.input_features(graph.nodes, self.task, self.node_inputs)
        nodes = steerable.Linear(embedding, name="embedding")(given)
        for layer in range(len(self.layer_irreps)):
            nodes = self._layer(layer, nodes, attribute, radial_inputs, graph, bucket)
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        self._check_last(nodes)
        return readout.heads(
            self.task,
            nodes[SCALAR][0],
            nodes.get(VECTOR),
            graph,
            bucket,
        )

    def _check_last(self, nodes: Features) -> None:
        """The heads need their irreps after the last layer."""
        kinds = {head.kind for head in self.task.heads}
        needed = {SCALAR, VECTOR} if "node_vector" in kinds else {SCALAR}
        if not needed <= set(nodes):
            raise UserError(
                f"simple_network needs {' and '.join(map(str, sorted(needed)))} after "
                f"its last layer, found layer_irreps {self.layer_irreps}"
            )

    @hk.transparent
    def _layer(
        self,
        layer: int,
        nodes: Features,
        attribute: Attribute,
        radial_inputs: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> Features:
        """{irrep: [2l + 1, N, C]} to the irreps of the layer."""
        outputs = steerable.parse_channels(self.layer_irreps[layer])
        paths = depthwise.find_paths(nodes, attribute, {SCALAR, *outputs})
        count = depthwise.num_weights(paths, depthwise.channels_of(nodes))
        network = depthwise.NormedMLP(self.radial_sizes, count, name=f"radial_{layer}")
        weights = network(radial_inputs)  # [E, count]
        received = depthwise.convolve(nodes, attribute, paths, weights, graph, bucket)
        neighbors = graphs.num_neighbors(graph, bucket).astype(weights.dtype)  # [N, 1]
        received = {irrep: values / neighbors for irrep, values in received.items()}
        channels = steerable.gated_channels(depthwise.channels_of(received))
        gated = steerable.gate(
            steerable.Linear(channels, name=f"linear_{layer}_0")(received)
        )
        joined = steerable.concatenate([gated, nodes])
        return steerable.Linear(outputs, name=f"linear_{layer}_1")(joined)
