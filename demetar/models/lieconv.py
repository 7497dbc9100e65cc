"""LieConv over the translations, T(3).

Source: Finzi, Stanton, Izmailov, Wilson 2020, arXiv 2002.12880, section 4; the
bottleneck blocks and the factored kernel as in the authors' code.

The convolution commutes with translations and permutations, and with nothing else: its
kernel reads the components of x_i - x_j, so a rotated molecule gets another prediction.
The paper trains on rotated copies.

Differs from the paper: layers are normalised over the channels of a point, not over the
batch, so that batch mates change nothing; the network of the kernel is not normalised.
The neighbourhood is the graph and the point itself, without a learned radius. The mean
is taken before the last linear map of a convolution. Edge features, where a task has
them, stand beside the displacement, and are zero between a point and itself.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.models import base
from demetar.nn import attention, capture, inputs, mlp, readout
from demetar.types import Array, Bucket


@dataclasses.dataclass
class Lieconv(base.Model):
    """Bottleneck blocks of point convolutions.

    The paper's model of QM9 has 6 blocks of 1,536 channels.

    Attributes:
      hidden_size: channels between the blocks.
      num_layers: blocks.
      bottleneck: a block convolves hidden_size / bottleneck channels.
      kernel_sizes: hidden layers of the network that makes the kernel.
      kernel_rank: numbers that it makes, the rank of a kernel.
      node_inputs: invariants that the points start from.
    """

    symmetry: ClassVar[str] = "T(3)"
    supports: ClassVar[frozenset[str]] = readout.SCALAR_KINDS

    hidden_size: int = 256
    num_layers: int = 6
    bottleneck: int = 4
    kernel_sizes: tuple[int, ...] = (32, 32)
    kernel_rank: int = 16
    node_inputs: tuple[str, ...] = (inputs.ALL,)

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        nodes: Array = mlp.Linear(self.hidden_size, name="embedding")(features)
        vectors = geometry.edge_vectors(graph, bucket)
        displacements = jnp.concatenate([vectors, graph.edges], axis=-1)  # [E, 3 + F]
        for layer in range(self.num_layers):
            nodes = nodes + self._block(layer, nodes, displacements, graph, bucket)
            capture.record(f"features_{layer}", nodes)
        nodes = jax.nn.silu(attention.layer_norm(nodes, "norm"))
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            values = mlp.Linear(head.size, name=f"readout_{head.name}")(nodes)
            if head.kind == "graph_scalar":
                values = graphs.pool_mean(values, graph, bucket)
            outputs[head.name] = values
        return outputs

    @hk.transparent
    def _block(
        self,
        layer: int,
        nodes: Array,
        displacements: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> Array:
        """Narrow, convolve, widen, each after a norm and a swish: [N, C]."""
        narrow = max(self.hidden_size // self.bottleneck, 1)

        def activate(values: Array, step: int) -> jax.Array:
            return jax.nn.silu(attention.layer_norm(values, f"norm_{layer}_{step}"))

        values = mlp.Linear(narrow, name=f"narrow_{layer}")(activate(nodes, 0))
        values = self._convolution(
            layer, activate(values, 1), displacements, graph, bucket
        )
        return mlp.Linear(self.hidden_size, name=f"widen_{layer}")(activate(values, 2))

    @hk.transparent
    def _convolution(
        self,
        layer: int,
        nodes: Array,
        displacements: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> Array:
        """Mean over the neighbourhood of the kernel times the features: [N, C'].

        The kernel is W k(x_i - x_j) with a matrix W of `kernel_rank` blocks, which
        multiplies the sum over neighbours, not each of them.
        """
        size = nodes.shape[-1]
        sizes = [*self.kernel_sizes, self.kernel_rank]
        kernel = mlp.MLP(sizes, activate_last=True, name=f"kernel_{layer}")
        at_zero = kernel(jnp.zeros_like(displacements[:1]))  # [1, P]
        sent = graphs.gather_senders(nodes, graph, bucket)
        products = _outer(kernel(displacements), sent)  # [E, P C']
        total = graphs.sum_to_receivers(products, graph, bucket) + _outer(
            jnp.broadcast_to(at_zero, (nodes.shape[0], self.kernel_rank)), nodes
        )
        ones = jnp.ones_like(displacements[:, :1])
        count = 1 + graphs.sum_to_receivers(ones, graph, bucket)  # [N, 1]
        return mlp.Linear(size, name=f"convolution_{layer}")(total / count)


def _outer(first: Array, second: Array) -> Array:
    """[X, P] and [X, C] -> [X, P C]."""
    return (first[:, :, None] * second[:, None]).reshape(first.shape[0], -1)
