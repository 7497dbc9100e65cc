"""SchNet: continuous-filter convolutions.

Source: Schuett, Kindermans, Sauceda, Chmiela, Tkatchenko, Mueller 2017, arXiv
1706.08566, section 4.

Differs from the paper: edge features, where a task has them, stand beside the
Gaussians. A convolution runs over the edges of the graph, so an atom's own features
pass by the skip connection alone, as in the authors' code.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.models import base
from demetar.nn import capture, inputs, mlp, radial, readout
from demetar.types import Array, Bucket


def shifted_softplus(values: Array) -> jax.Array:
    """ln(0.5 exp(x) + 0.5), which is 0 at 0."""
    return jax.nn.softplus(values) - math.log(2.0)


@dataclasses.dataclass
class Schnet(base.Model):
    """Interaction blocks of convolutions whose filters are functions of the distance.

    Reads distances alone. Lengths are in the unit of the data, the defaults in
    Angstrom. The authors use 3 blocks here and 6 on QM9 in their article of 2018 (J.
    Chem. Phys. 148, 241722), whose errors the tables of other papers quote.

    Attributes:
      hidden_size: channels of the atoms and of the filters.
      num_layers: interaction blocks.
      basis_step: distance between the centres of the Gaussians.
      basis_extent: the last centre. Beyond the longest distance of the data they are
        zero; a smaller extent gives the same function in less time.
      basis_gamma: inverse square of the width of the Gaussians.
      cutoff: distance beyond which a cosine envelope silences pairs; None: none.
      pooling: of the atoms: 'sum', 'mean', or 'target', the sum for extensive targets
        and the mean for others.
      node_inputs: invariants that the atoms are embedded by.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.SCALAR_KINDS

    hidden_size: int = 64
    num_layers: int = 3
    basis_step: float = 0.1
    basis_extent: float = 30.0
    basis_gamma: float = 10.0
    cutoff: float | None = None
    pooling: str = "target"
    node_inputs: tuple[str, ...] = (inputs.ALL,)

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        nodes = mlp.Linear(self.hidden_size, with_bias=False, name="embedding")(
            features
        )  # [N, C]
        lengths = geometry.safe_norm(geometry.edge_vectors(graph, bucket))  # [E]
        basis = radial.gaussian_steps(
            lengths, self.basis_step, self.basis_extent, self.basis_gamma
        )
        values = jnp.concatenate([basis, graph.edges], axis=-1)  # [E, R]
        for layer in range(self.num_layers):
            filters = self._filters(layer, values, lengths)
            nodes = nodes + self._interaction(layer, nodes, filters, graph, bucket)
            capture.record(f"features_{layer}", nodes)
        return readout.scalar_heads(
            self.task,
            nodes,
            graph,
            bucket,
            max(self.hidden_size // 2, 1),
            shifted_softplus,
            self.pooling,
        )

    @hk.transparent
    def _filters(self, layer: int, values: Array, lengths: Array) -> jax.Array:
        """The filter-generating network on radial inputs [E, R]: [E, C]."""
        sizes = [self.hidden_size, self.hidden_size]
        network = mlp.MLP(sizes, shifted_softplus, True, name=f"filters_{layer}")
        filters = network(values)
        if self.cutoff is not None:
            filters *= radial.cosine_cutoff(lengths, self.cutoff)[:, None]
        return filters

    @hk.transparent
    def _interaction(
        self,
        layer: int,
        nodes: Array,
        filters: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> jax.Array:
        """Atom-wise layer, convolution (equation 2), two more: [N, C]."""
        size = self.hidden_size
        sent = mlp.Linear(size, name=f"atoms_{layer}")(nodes)
        messages = graphs.gather_senders(sent, graph, bucket) * filters  # [E, C]
        received = graphs.sum_to_receivers(messages, graph, bucket)
        return mlp.MLP([size, size], shifted_softplus, name=f"output_{layer}")(received)
