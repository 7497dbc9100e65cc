"""Deep Set on raw coordinates.

Source: Zaheer et al. 2017, arXiv 1703.06114, section 3.1 and appendix H: a layer that
commutes with permutations is sigma(x Lambda + 1 pool(x) Gamma + beta). A row of the
N-body table of Fuchs et al. 2020, arXiv 2006.10503, table 1.

Differs from the papers: pooling is the mean, so that a layer does not grow with the
set. The sizes are chosen for the number of parameters of the other models.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from demetar import graphs
from demetar.models import base
from demetar.nn import mlp
from demetar.types import Array, Graph


@dataclasses.dataclass
class DeepSet(base.Model):
    """Not equivariant: reads coordinates, and other particles through means alone.

    The defaults have 150,403 parameters on N-body.

    Attributes:
      hidden_size: channels.
      num_layers: layers that commute with permutations.
    """

    symmetry: ClassVar[str] = "S(n)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})
    ignores = frozenset({"edge feature"})
    small = {"hidden_size": 11, "num_layers": 2}

    hidden_size: int = 128
    num_layers: int = 5

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        nodes: Array = base.raw_inputs(graph)  # [N, S + 3 + 3V]
        for layer in range(self.num_layers):
            means = graphs.pool_mean(nodes, graph)  # [G, C]
            pooled = mlp.Linear(
                self.hidden_size, with_bias=False, name=f"pooled_linear_{layer}"
            )(means)
            own = mlp.Linear(self.hidden_size, name=f"own_linear_{layer}")(nodes)
            nodes = jax.nn.relu(own + graphs.broadcast_to_nodes(pooled, graph))
        return base.absolute_heads(self.task, nodes, graph)
