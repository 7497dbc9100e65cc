"""Radial Field, the variant with velocities of the EGNN paper's tables.

Source: Koehler, Klein, Noe 2019, arXiv 1910.00753; with velocities Satorras, Hoogeboom,
Welling 2021, arXiv 2102.09844, table 1 and appendix C.1.

Differs from the papers: nothing that changes the function. The coordinates are carried
as displacements from the input, so that a far-away origin costs no precision.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.models import base
from demetar.nn import inputs, mlp
from demetar.types import Array, Graph


@dataclasses.dataclass
class RadialField(base.Model):
    """Particles move along their edges by a function of the edge alone.

    There are no node features. The defaults have 2,052 parameters.

    Attributes:
      hidden_size: channels of the perceptrons.
      num_layers: steps; each has its own perceptrons and sees the moved particles.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})
    needs = frozenset({"velocity"})
    small = {"hidden_size": 11, "num_layers": 2}

    hidden_size: int = 64
    num_layers: int = 4

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        velocities = inputs.vector(graph.nodes, self.task, "velocity")  # [N, 3]
        speeds = geometry.safe_norm(velocities, keepdims=True)  # [N, 1]
        vectors_0 = geometry.edge_vectors(graph)  # [E, 3]
        squares = jnp.sum(jnp.square(vectors_0), axis=-1, keepdims=True)  # [E, 1]
        edges = jnp.concatenate([graph.edges, squares], axis=-1)  # [E, F + 1]
        shift = moves = jnp.zeros_like(velocities)  # [N, 3] displacement, last step
        for layer in range(self.num_layers):
            vectors = vectors_0
            if layer:
                vectors = vectors + geometry.edge_differences(shift, graph)
            weights = self._weights(layer, vectors, edges)  # [E, 1]
            moves = graphs.mean_to_receivers(weights * vectors, graph)
            drift = mlp.MLP([self.hidden_size, 1], name=f"velocity_mlp_{layer}")
            moves = moves + drift(speeds) * velocities
            shift = shift + moves
        return base.moved_heads(self.task, "radial_field", shift, moves, graph.nodes)

    @hk.transparent
    def _weights(self, layer: int, vectors: Array, edges: Array) -> jax.Array:
        """The radial function of every edge, between -1 and 1: [E, 1]."""
        lengths = geometry.safe_norm(vectors, keepdims=True)
        first = mlp.Linear(self.hidden_size, name=f"radial_linear_{layer}")
        second = mlp.Linear(
            1,
            with_bias=False,
            w_init=hk.initializers.VarianceScaling(1e-6, "fan_avg", "uniform"),
            name=f"radial_linear_{layer}_1",
        )
        values = jnp.concatenate([lengths, edges], axis=-1)  # [E, F + 2]
        return jnp.tanh(second(jax.nn.silu(first(values))))
