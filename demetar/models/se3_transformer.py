"""SE(3)-Transformer.

Source: Fuchs, Worrall, Fischer, Welling 2020, arXiv 2006.10503, section 3. The
comparison of Satorras et al. 2021, arXiv 2102.09844, ends in a point convolution and
scales its output, as here.

Differs from the paper: relative positions are not added to the vector features. Each
pair of degrees has its own radial network, for keys and for values, unless
`shared_radial` is on. To stay near the size of the other models, keys and values have
fewer channels than the features, as with the `div` of the authors' code.

Differs from the authors' code: with the fields of the protocol 'paper' it is the same
function as in the comparison (to 1e-14, gradients by positions included, against
vgsatorras/egnn e9ca6c0), but for what the header of `tfn` names.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import attention, capture, kernels, mlp, readout, steerable
from demetar.types import Array, Graph

Features = steerable.Features

SELF_INTERACTIONS = ("linear", "attentive", "none")
OUTPUT_SCALE = 0.01  # of the vectors at the start, as in the comparison


@dataclasses.dataclass
class SE3Transformer(base.Model):
    """Attention whose keys and values are kernels applied to the neighbours.

    The defaults have 173,083 parameters on N-body, the comparison 1,763,134.

    Attributes:
      hidden_size: channels of each degree that a self-interaction makes.
      lmax: highest degree of the features.
      num_layers: attention layers; a point convolution follows them.
      num_heads: attention heads.
      head_size: channels of each degree in keys, values and queries, per head.
      self_interaction: what follows the attention. 'linear' or 'attentive' mix its
        output with the node's features; 'none' passes it on, without skip connection.
      radial_size: hidden channels of the radial functions.
      num_basis: Gaussians of the distance that they read; 0: the distance itself.
      read_edges: whether they read the edge features too.
      shared_radial: whether the radial functions of a layer share their hidden layers.
      node_inputs: invariants that the nodes start from, beside the vectors.
    """

    symmetry: ClassVar[str] = "SE(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {"hidden_size": 11, "num_layers": 2, "num_basis": 5}

    hidden_size: int = 21
    lmax: int = 2
    num_layers: int = 4
    num_heads: int = 3
    head_size: int = 1
    self_interaction: str = "linear"
    radial_size: int = 16
    num_basis: int = 16
    read_edges: bool = True
    shared_radial: bool = False
    node_inputs: tuple[str, ...] = ("charge",)

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        self._check()
        steering = kernels.steer(
            graph, self.task, self.lmax, self.num_basis, self.read_edges
        )
        nodes = kernels.input_features(graph.nodes, self.task, self.node_inputs)
        for layer in range(self.num_layers):
            attended = self._attention(layer, nodes, steering, graph)
            nodes = self._self_interaction(layer, attended, nodes)
            nodes = kernels.NormNonlinearity(mixes=False, name=f"nonlinearity_{layer}")(
                nodes
            )
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        outputs = kernels.PointConvolution(
            kernels.output_channels(self.task, self.hidden_size),
            self.radial_size,
            self.shared_radial,
            name="output",
        )(nodes, steering, graph)
        if steerable.VECTOR in outputs:
            start = hk.initializers.Constant(OUTPUT_SCALE)
            dtype = outputs[steerable.VECTOR].dtype
            scale = hk.get_parameter("output_scale", (), dtype, start)
            outputs[steerable.VECTOR] *= scale
        return kernels.output_heads(self.task, outputs, graph)

    def _check(self) -> None:
        """The fields fit together.

        Raises:
          UserError: they do not.
        """
        kernels.check_degrees("se3_transformer", self.lmax)
        if self.self_interaction not in SELF_INTERACTIONS:
            raise UserError(
                f"se3_transformer has no self_interaction {self.self_interaction!r}; "
                f"expected one of {', '.join(SELF_INTERACTIONS)}"
            )

    @hk.transparent
    def _attention(
        self, layer: int, nodes: Features, steering: kernels.Steering, graph: Graph
    ) -> Features:
        """Section 3.2 without the self-interaction: {irrep: [2l + 1, N, C']}.

        Queries and keys are those of the degrees of the input. The logits are divided
        by the root of the number of their components, over all heads, as the authors'
        code does.
        """
        size = self.num_heads * self.head_size
        hidden = kernels.hidden_channels(self.lmax, size)
        queried = {irrep: size for irrep in sorted(nodes)}
        messages = kernels.Kernels(
            [hidden, queried],
            self.radial_size,
            self.shared_radial,
            name=f"kernels_{layer}",
        )(nodes, steering, graph)  # values and keys side by side
        keys = jnp.concatenate([messages[irrep][..., size:] for irrep in queried], 1)
        values = jnp.concatenate([messages[irrep][..., :size] for irrep in hidden], 1)
        queries = steerable.Linear(queried, with_bias=False, name=f"queries_{layer}")(
            nodes
        )
        rows = jnp.concatenate(list(queries.values()))  # [Q, N, C']
        weights = self._attention_weights(rows, keys, graph)  # [E, H]
        capture.record(f"attention_{layer}", weights)
        weighted = values * jnp.repeat(weights, self.head_size, axis=1)[:, None]
        received = graphs.sum_to_receivers(
            jnp.swapaxes(weighted, 0, 1), graph
        )  # [V, N, C']
        starts = [irrep.l**2 for irrep in hidden]
        return dict(zip(hidden, jnp.split(received, starts[1:]), strict=True))

    def _attention_weights(
        self, queries: jax.Array, keys: jax.Array, graph: Graph
    ) -> jax.Array:
        """Softmax of queries [Q, N, C'] . keys [E, Q, C'] over neighbours: [E, H]."""
        received = graphs.gather_receivers(queries, graph)  # [Q, E, C']
        products = jnp.sum(jnp.swapaxes(received, 0, 1) * keys, axis=1)  # [E, C']
        per_head = products.reshape(-1, self.num_heads, self.head_size)
        num_components = keys.shape[1] * keys.shape[2]
        logits = per_head.sum(axis=-1) / num_components**0.5
        return graphs.softmax_to_receivers(logits, graph)

    @hk.transparent
    def _self_interaction(
        self, layer: int, attended: Features, nodes: Features
    ) -> Features:
        """Attention output and input side by side, mixed within each degree."""
        if self.self_interaction == "none":
            return attended
        stacked = steerable.concatenate([attended, nodes])
        hidden = kernels.hidden_channels(self.lmax, self.hidden_size)
        if self.self_interaction == "linear":
            return steerable.Linear(
                hidden, with_bias=False, name=f"self_interaction_{layer}"
            )(stacked)
        outputs = {}
        for irrep, values in stacked.items():
            weights = self._attentive_weights(f"{layer}_{irrep}", values)
            outputs[irrep] = jnp.einsum("mnc,noc->mno", values, weights)
        return outputs

    @hk.transparent
    def _attentive_weights(self, name: str, values: jax.Array) -> jax.Array:
        """Weights of channels by the inner products of channels: [N, C', C].

        They sum to 1 over the channels in, as in the authors' code.
        """
        _, num_nodes, channels = values.shape
        products = jnp.einsum("mna,mnb->nab", values, values)
        products = products.reshape(num_nodes, channels**2)
        normalised = attention.layer_norm(products, f"attentive_norm_{name}")
        logits = mlp.Linear(
            channels * self.hidden_size,
            w_init=kernels.KAIMING_UNIFORM,
            name=f"attentive_linear_{name}",
        )(jax.nn.leaky_relu(normalised))
        return jax.nn.softmax(logits.reshape(num_nodes, self.hidden_size, channels))
