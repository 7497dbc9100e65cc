"""LieConv over the translations, T(3).

Source: Finzi, Stanton, Izmailov, Wilson 2020, arXiv 2002.12880, section 4; the
bottleneck blocks and the factored kernel as in the authors' code.

The convolution commutes with translations and permutations, and with nothing else: its
kernel reads the components of x_i - x_j, so a rotated molecule gets another prediction.
The paper trains on rotated copies.

Differs from the authors' code: a model here is a function of its weights alone, and
batch mates change nothing. Batch normalisation keeps neither promise: its statistics
are a state, and while it trains a molecule's output depends on the others. So layers
are normalised over the channels of a point, and the network of the kernel is not. What
batch normalisation computes after the training is one scale and one offset for each
channel: that function is `norm='affine'`, with which their weights and statistics give
their outputs and gradients to 1e-14. How their network trains is not reproduced.

Their layers learn the radius of the neighbourhood, so that it holds a given part of the
molecule. It is a statistic of the data that no weight changes: with the whole molecule,
as they train on QM9, it stays at 6.2 +- 0.04 Angstrom, which leaves out the farthest
2.6 % of the pairs. Here the neighbourhood is the graph, and the point itself, and that
radius is the cutoff of the paper's protocol.

Theirs average all graph scalars; here an extensive target is summed, unless `pooling`
is mean. Edge features, if a task has them, stand beside the displacement, and are
zero between a point and itself.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import attention, capture, inputs, mlp, readout
from demetar.types import Array, Graph


@dataclasses.dataclass
class Lieconv(base.Model):
    """Bottleneck blocks of point convolutions.

    The paper's model of QM9 has 6 blocks of 1,536 channels.

    Attributes:
      hidden_size: channels between the blocks.
      num_layers: blocks.
      norm: before each activation of the blocks: 'layer', over the channels of a point,
        or 'affine', a scale and an offset for each channel, which is what batch
        normalisation computes after its training.
      bottleneck: a block convolves hidden_size / bottleneck channels.
      kernel_sizes: hidden layers of the network that makes the kernel.
      kernel_rank: numbers that it makes, the rank of a kernel.
      node_inputs: invariants that the points start from.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean' as in the authors'
        code, or 'target', the sum for extensive targets and the mean for others.
    """

    symmetry: ClassVar[str] = "T(3)"
    supports: ClassVar[frozenset[str]] = readout.SCALAR_KINDS
    small = {
        "hidden_size": 11,
        "num_layers": 2,
        "kernel_sizes": (7,),
        "kernel_rank": 5,
    }

    hidden_size: int = 256
    num_layers: int = 6
    norm: str = "layer"
    bottleneck: int = 4
    kernel_sizes: tuple[int, ...] = (32, 32)
    kernel_rank: int = 16
    node_inputs: tuple[str, ...] = (inputs.ALL,)
    pooling: str = "target"

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        if self.norm not in NORMS:
            raise UserError(
                f"lieconv has the norms {', '.join(NORMS)}, found {self.norm!r}"
            )
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        nodes: Array = mlp.Linear(self.hidden_size, name="embedding")(features)
        vectors = geometry.edge_vectors(graph)
        displacements = jnp.concatenate([vectors, graph.edges], axis=-1)  # [E, 3 + F]
        for layer in range(self.num_layers):
            nodes = nodes + self._block(layer, nodes, displacements, graph)
            capture.record(f"features_{layer}", nodes)
        nodes = self._activate(nodes, "norm")
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            values = mlp.Linear(head.size, name=f"readout_{head.name}")(nodes)
            if head.kind == "graph_scalar":
                values = readout.pool(values, head, self.pooling, graph)
            outputs[head.name] = values
        return outputs

    @hk.transparent
    def _activate(self, values: Array, name: str) -> jax.Array:
        """A norm and a swish."""
        return jax.nn.silu(NORMS[self.norm](values, name))

    @hk.transparent
    def _block(
        self, layer: int, nodes: Array, displacements: Array, graph: Graph
    ) -> Array:
        """Narrow, convolve, widen, each after a norm and a swish: [N, C]."""
        narrow = max(self.hidden_size // self.bottleneck, 1)
        values: Array = self._activate(nodes, f"norm_{layer}_0")
        values = mlp.Linear(narrow, name=f"narrow_{layer}")(values)
        values = self._activate(values, f"norm_{layer}_1")
        values = self._convolution(layer, values, displacements, graph)
        values = self._activate(values, f"norm_{layer}_2")
        return mlp.Linear(self.hidden_size, name=f"widen_{layer}")(values)

    @hk.transparent
    def _convolution(
        self, layer: int, nodes: Array, displacements: Array, graph: Graph
    ) -> Array:
        """Mean over the neighbourhood of the kernel times the features: [N, C'].

        The kernel is W k(x_i - x_j) with a matrix W of `kernel_rank` blocks, which
        multiplies the sum over neighbours, not each of them.
        """
        size = nodes.shape[-1]
        sizes = [*self.kernel_sizes, self.kernel_rank]
        kernel = mlp.MLP(sizes, activate_last=True, name=f"kernel_{layer}")
        at_zero = kernel(jnp.zeros_like(displacements[:1]))  # [1, P]
        sent = graphs.gather_senders(nodes, graph)
        products = _outer(kernel(displacements), sent)  # [E, P C']
        total = graphs.sum_to_receivers(products, graph) + _outer(
            jnp.broadcast_to(at_zero, (nodes.shape[0], self.kernel_rank)), nodes
        )
        ones = jnp.ones_like(displacements[:, :1])
        count = 1 + graphs.sum_to_receivers(ones, graph)  # [N, 1]
        return mlp.Linear(size, name=f"convolution_{layer}")(total) / count


def affine(values: Array, name: str) -> jax.Array:
    """A scale and an offset for each channel of the last axis."""

    def layer(values: jax.Array) -> jax.Array:
        shape, dtype = values.shape[-1:], values.dtype
        scale = hk.get_parameter("scale", shape, dtype, jnp.ones)
        return values * scale + hk.get_parameter("offset", shape, dtype, jnp.zeros)

    found: jax.Array = hk.to_module(layer)(name)(jnp.asarray(values))
    return found


NORMS = {"layer": attention.layer_norm, "affine": affine}


def _outer(first: Array, second: Array) -> Array:
    """[X, P] and [X, C] -> [X, P C]."""
    return (first[:, :, None] * second[:, None]).reshape(first.shape[0], -1)
