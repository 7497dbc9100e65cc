"""Message passing on raw coordinates: the GNN of the EGNN paper's tables.

Source: Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844, section 5.1 and appendix
C.1; the messages are those of Gilmer et al. 2017, arXiv 1704.01212.

Differs from the paper: nothing on N-body. It has no GNN of molecules; here one reads
the coordinates beside the scalars, and pools a decoder of the nodes by the kind of the
target: the sum for an extensive one, the mean for any other.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.models import base
from demetar.nn import inputs, mlp, readout
from demetar.types import Array, Graph


@dataclasses.dataclass
class GNN(base.Model):
    """Not equivariant: reads and predicts coordinates.

    Attributes:
      hidden_size: channels of nodes and messages.
      num_layers: rounds of message passing.
      node_inputs: invariants that the nodes start from, beside the coordinates; none
        on N-body, where the charges enter by their products on the edges.
    """

    symmetry: ClassVar[str] = "S(n)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {"hidden_size": 11, "num_layers": 2}

    hidden_size: int = 64
    num_layers: int = 4
    node_inputs: tuple[str, ...] = ()

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        size = self.hidden_size
        features = base.raw_coordinates(graph)  # [N, 3 + 3V]
        if self.node_inputs:
            scalars = inputs.invariants(graph.nodes, self.task, self.node_inputs)
            features = jnp.concatenate([features, scalars], axis=-1)
        nodes = mlp.Linear(size, name="embedding")(features)  # [N, C]
        for layer in range(self.num_layers):
            messages = mlp.EdgeLinear(size, name=f"edge_linear_{layer}")(
                nodes, graph.edges, graph
            )  # [E, C]
            messages = mlp.MLP([size], activate_last=True, name=f"edge_mlp_{layer}")(
                jax.nn.silu(messages)
            )
            received = graphs.sum_to_receivers(messages, graph)  # [N, C]
            update = mlp.MLP([size, size], name=f"node_mlp_{layer}")
            nodes = nodes + update(jnp.concatenate([nodes, received], axis=-1))
        return {
            **base.absolute_heads(self.task, nodes, graph),
            **readout.scalar_heads(self.task, nodes, graph),
        }
