"""SEGNN: steerable E(3) equivariant message passing.

Source: Brandstetter, Hesselink, van der Pol, Bekkers, Welling 2021, arXiv 2110.02905,
sections 3.1 and 3.2 and appendix C.

Differs from the authors' code: positions are centred on the particles of each graph;
theirs subtract the mean over the three coordinates of each particle, which depends on
the axes. The first message layer is multiplied at the nodes, not at the edges, which is
the same function. Activations are normalised by the constants of e3nn-jax; theirs are
Monte Carlo estimates, which move a displacement of N-body by 0.05 to 0.07 %. With
positions centred and constants made equal, outputs and gradients agree to 1e-14. Theirs
average all graph scalars; here an extensive target is summed, unless `pooling` is mean.
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
from demetar.nn import capture, depthwise, inputs, mlp, readout, steerable
from demetar.types import Array, Graph, Head

Features = steerable.Features
Attribute = steerable.Attribute


@dataclasses.dataclass
class SEGNN(base.Model):
    """Messages and updates are tensor products with harmonics of the geometry.

    The paper's model of QM9 has 7 layers of 128 units, hidden features up to degree 2
    and attributes up to 3, reads `all` scalars and no positions, normalises, and has
    component harmonics and squared lengths.

    Attributes:
      hidden_units: width in units of a scalar network: the number of channels per
        degree is such that a layer has the weights of hidden_units x hidden_units.
      lmax_hidden: highest degree of the hidden features.
      lmax_attributes: highest degree of the harmonics that steer the layers.
      num_layers: rounds of message passing.
      node_inputs: invariants that the nodes start from, beside positions and vectors.
      read_positions: nodes start from their positions relative to the centroid too.
      instance_norm: every layer normalises over the nodes of each graph.
      node_vectors: vector inputs that the nodes start from; None for all. The direction
        of each one, whether or not named here, steers the updates.
      edge_vectors: vector inputs whose difference between sender and receiver steers
        the messages too, as the relative momentum of section 3.1 ("more cues").
      component_harmonics: the square of a component of the harmonics has the mean 1
        over the sphere, as in the authors' code for QM9; else 1 / 4 pi, as in theirs
        for N-body.
      squared_lengths: messages read the square of the length of the edge, as in the
        authors' code for QM9; else the length.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean' as in the authors'
        code, or 'target', the sum for extensive targets and the mean for others.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {"hidden_units": 13, "num_layers": 2}
    small_molecular = {"read_positions": False, "instance_norm": True}

    hidden_units: int = 64
    lmax_hidden: int = 1
    lmax_attributes: int = 1
    num_layers: int = 4
    node_inputs: tuple[str, ...] = ("|velocity|",)
    read_positions: bool = True
    instance_norm: bool = False
    node_vectors: tuple[str, ...] | None = None
    edge_vectors: tuple[str, ...] = ()
    component_harmonics: bool = False
    squared_lengths: bool = False
    pooling: str = "target"

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        hidden = self._hidden_channels()
        gated = steerable.gated_channels(hidden)
        edge_attribute, edges = self._edge_inputs(graph)
        node_attribute = self._node_attribute(edge_attribute, graph)
        nodes = steerable.TensorProduct(hidden, name="embedding")(
            self._node_inputs(graph), node_attribute
        )
        for layer in range(self.num_layers):
            messages = steerable.gate(
                steerable.EdgeTensorProduct(gated, name=f"message_{layer}_0")(
                    nodes, edges, edge_attribute, graph
                )
            )
            messages = steerable.gate(
                steerable.TensorProduct(gated, name=f"message_{layer}_1")(
                    messages, edge_attribute
                )
            )
            received = {
                irrep: graphs.sum_to_receivers(message, graph)
                for irrep, message in messages.items()
            }
            update = steerable.gate(
                steerable.TensorProduct(gated, name=f"update_{layer}_0")(
                    steerable.concatenate([nodes, received]), node_attribute
                )
            )
            update = steerable.TensorProduct(hidden, name=f"update_{layer}_1")(
                update, node_attribute
            )
            nodes = {irrep: nodes[irrep] + update[irrep] for irrep in nodes}
            if self.instance_norm:
                nodes = InstanceNorm(name=f"norm_{layer}")(nodes, graph)
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        nodes = steerable.gate(
            steerable.TensorProduct(gated, name="readout_0")(nodes, node_attribute)
        )
        return {
            head.name: self._readout(head, nodes, node_attribute, graph)
            for head in self.task.heads
        }

    def _hidden_channels(self) -> dict[steerable.Irrep, int]:
        """Channels per degree that balance the weights with a scalar network."""
        if self.lmax_hidden < 0 or self.lmax_attributes < 1:
            raise UserError(
                "segnn needs lmax_hidden >= 0 and lmax_attributes >= 1 (vectors in, "
                f"vectors out), found {self.lmax_hidden} and {self.lmax_attributes}"
            )
        given = 1 if self.read_positions or self._vector_names() else 0
        if self.lmax_hidden > given + self.lmax_attributes:
            raise UserError(
                f"segnn cannot make hidden features of degree {self.lmax_hidden} from "
                f"inputs of degree {given} and attributes of degree "
                f"{self.lmax_attributes}; raise lmax_attributes"
            )
        paths = steerable.natural_paths(self.lmax_hidden, self.lmax_attributes)
        channels = math.ceil(self.hidden_units / math.sqrt(paths))
        degrees = range(self.lmax_hidden + 1)
        return {steerable.natural_irrep(degree): channels for degree in degrees}

    def _vector_names(self) -> tuple[str, ...]:
        """The vector inputs that the nodes start from."""
        if self.node_vectors is not None:
            return self.node_vectors
        return tuple(vector.name for vector in self.task.vectors)

    def _edge_inputs(self, graph: Graph) -> tuple[Attribute, Features]:
        """Harmonics of the edge, and its length or the square, and features."""
        vectors = geometry.edge_vectors(graph)
        # The direction that the paper embeds points from receiver to sender.
        attribute = self._harmonics(-vectors)
        for name in self.edge_vectors:
            values = inputs.vector(graph.nodes, self.task, name)
            differences = geometry.edge_differences(values, graph)
            attribute = _add_directions(attribute, self._harmonics(-differences))
        if self.squared_lengths:
            lengths = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
        else:
            lengths = geometry.safe_norm(vectors, keepdims=True)
        scalars = jnp.concatenate([lengths, graph.edges], axis=-1)  # [E, F + 1]
        return attribute, {steerable.SCALAR: scalars[None]}

    def _harmonics(self, vectors: Array) -> Attribute:
        if self.component_harmonics:
            return depthwise.harmonics(vectors, self.lmax_attributes)
        return steerable.natural_attribute(
            geometry.spherical_harmonics(vectors, self.lmax_attributes)
        )

    def _node_attribute(self, edge_attribute: Attribute, graph: Graph) -> Attribute:
        """Mean harmonics of the edges plus those of the vectors; the scalar is 1."""
        attribute = {
            irrep: graphs.mean_to_receivers(values[..., None], graph)[..., 0]
            for irrep, values in edge_attribute.items()
        }
        for index in range(graph.nodes.vectors.shape[1]):
            harmonics = self._harmonics(graph.nodes.vectors[:, index])
            attribute = _add_directions(attribute, harmonics)
        attribute[steerable.SCALAR] = jnp.ones_like(attribute[steerable.SCALAR])
        return attribute

    def _node_inputs(self, graph: Graph) -> Features:
        """Centred positions, vectors and invariants: [3, N, 1 + V] and [1, N, S]."""
        scalars = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        features = {steerable.SCALAR: scalars[None]}
        names = self._vector_names()
        vectors = [inputs.vector(graph.nodes, self.task, name) for name in names]
        if self.read_positions:
            vectors = [geometry.centred_positions(graph), *vectors]
        if vectors:
            stacked = jnp.stack(vectors, axis=-1)  # [N, 3, 1 + V]
            features[steerable.VECTOR] = stacked.swapaxes(0, 1)
        return features

    @hk.transparent
    def _readout(
        self, head: Head, nodes: Features, node_attribute: Attribute, graph: Graph
    ) -> jax.Array:
        """A tensor product; for graphs to scalars, that are pooled and mixed."""
        name = f"readout_{head.name}"

        def product(irrep: steerable.Irrep, size: int) -> jax.Array:
            layer = steerable.TensorProduct({irrep: size}, name=name)
            return layer(nodes, node_attribute)[irrep]  # [2l + 1, N, size]

        if head.kind == "node_vector":
            return product(steerable.VECTOR, head.size).transpose(1, 2, 0)
        if head.kind == "node_scalar":
            return product(steerable.SCALAR, head.size)[0]
        # As many scalars as all irreps of the hidden features, for each output.
        size = sum(values.shape[-1] for values in nodes.values()) * head.size
        scalars = product(steerable.SCALAR, size)[0]
        pooled = readout.pool(scalars, head, self.pooling, graph)
        return mlp.MLP([size, head.size], name=f"{name}_graph")(pooled)


class InstanceNorm(hk.Module):
    """Each channel over the root mean square of its components in the graph.

    The mean of the scalars over the nodes is taken off first; a learned scale follows,
    and an offset for the scalars. Source: the authors' code.
    """

    EPSILON = 1e-5

    def __call__(self, features: Features, graph: Graph) -> Features:
        """{irrep: [2l + 1, N, C]} to the same."""

        def mean(values: jax.Array) -> jax.Array:
            """Of [N, C] over the nodes of each graph, at every node."""
            pooled = graphs.pool_mean(values, graph)
            return graphs.broadcast_to_nodes(pooled, graph)

        outputs = {}
        for irrep, values in features.items():
            shape, dtype = values.shape[-1:], values.dtype
            if irrep == steerable.SCALAR:
                values = values - mean(values[0])
            squares = mean(jnp.mean(jnp.square(values), axis=0))  # [N, C]
            scale = hk.get_parameter(f"scale_{irrep}", shape, dtype, jnp.ones)
            outputs[irrep] = values * jax.lax.rsqrt(squares + self.EPSILON) * scale
            if irrep == steerable.SCALAR:
                outputs[irrep] += hk.get_parameter("offset", shape, dtype, jnp.zeros)
        return outputs


def _add_directions(attribute: Attribute, harmonics: Attribute) -> Attribute:
    """Their sum in every degree but 0, which knows no direction."""
    return {
        irrep: value if irrep == steerable.SCALAR else value + harmonics[irrep]
        for irrep, value in attribute.items()
    }
