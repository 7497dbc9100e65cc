"""Set Transformer on raw coordinates.

Source: Lee et al. 2019, arXiv 1810.00825, equations 6 to 8: a stack of self-attention
blocks SAB(X) = MAB(X, X). A row of the N-body table of Fuchs et al. 2020, arXiv
2006.10503, table 1.

Differs from the papers: no inducing points and no pooling by attention, since sets are
small and every element has an output. The row-wise layer rFF has one hidden layer. The
sizes are chosen for the number of parameters of the other models.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax

from demetar import graphs
from demetar.models import base
from demetar.nn import attention, mlp
from demetar.types import Array, Graph


@dataclasses.dataclass
class SetTransformer(base.Model):
    """Not equivariant: attention among tokens made of coordinates.

    The defaults have 138,755 parameters on N-body.

    Attributes:
      hidden_size: channels of a token.
      num_heads: attention heads.
      num_layers: self-attention blocks.
    """

    symmetry: ClassVar[str] = "S(n)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})
    ignores = frozenset({"edge feature"})
    small = {"hidden_size": 11, "num_layers": 2}

    hidden_size: int = 64
    num_heads: int = 8
    num_layers: int = 4

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        coordinates = base.raw_inputs(graph)  # [N, S + 3 + 3V]
        nodes = mlp.Linear(self.hidden_size, name="embedding")(coordinates)
        tokens, mask = graphs.ragged_to_dense(nodes, graph)  # [G, M, C]
        for layer in range(self.num_layers):
            tokens = self._block(layer, tokens, mask)
        nodes = graphs.dense_to_ragged(tokens, graph)
        return base.absolute_heads(self.task, nodes, graph)

    @hk.transparent
    def _block(self, layer: int, tokens: Array, mask: Array) -> jax.Array:
        """Equation 8, normalised after each step: [G, M, C]."""
        size = self.hidden_size
        attend = attention.SelfAttention(
            self.num_heads, f"{layer}", name=f"attention_{layer}"
        )
        hidden = attention.layer_norm(
            tokens + attend(tokens, mask), f"norm_{layer}_0"
        )  # equation 7
        feed = mlp.MLP([2 * size, size], jax.nn.relu, name=f"mlp_{layer}")
        return attention.layer_norm(hidden + feed(hidden), f"norm_{layer}_1")
