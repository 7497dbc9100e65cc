"""Graphormer: a transformer among the atoms of a molecule that reads its bonds.

Source: Ying, Cai, Luo, Zheng, Ke, He, Shen, Liu 2021, arXiv 2106.05234: degrees
(equation 5), shortest paths (6), the bonds along them (7), layers (8 and 9) and the
virtual node of a graph (section 3.2). Sizes, start and the division of equation 7 are
those of the first release of the authors' code; with weights copied from it outputs are
the same.

Differs from the authors' code: where several paths between two atoms are equally short,
the bonds along them are averaged over all of them; the code takes the one that it finds
first, which depends on the numbers of the atoms. Beyond the last bond of a path there
is nothing to add; there, the first release has a random vector that is not trained, as
often as the longest path of the batch has bonds, so that an output depends on the rest
of the batch (the second release has 0). Tables have no rows for padding. Paths of all
lengths have a bias, as in the second release; the last row of the table is that of two
atoms without a path, the row before it that of all longer paths. Features of several
kinds add up and are not averaged. Extensive targets are sums over the atoms: one token
could not grow with the molecule. The second release normalises after each step and has
a deeper head.
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
from demetar.nn import attention, inputs, mlp, paths, readout
from demetar.types import Array, Graph, Head

POOLINGS = ("target", "token", "sum", "mean")
DEVIATION = 0.02  # of the weights at the start

_EMBEDDING = hk.initializers.RandomNormal(DEVIATION)


@dataclasses.dataclass
class Graphormer(base.Model):
    """Attention among all atoms of a molecule, biased by the paths of bonds.

    Reads which atoms are bonded and how, but no positions. The defaults are the
    authors' 'slim' size: 482,041 parameters on QM9 with bonds and their types.

    Attributes:
      hidden_size: channels of every token.
      num_layers: transformer layers.
      num_heads: attention heads.
      feed_forward_size: channels within a feed-forward step.
      num_degrees: rows of the tables of degrees; the last is that of all higher ones.
      num_distances: rows of the table of path lengths; the last is that of atoms that
        no path joins, the row before it that of all longer paths.
      max_hops: bonds of a path that are read, counted from the atom that asks.
      final_norm: whether tokens are normalised after the last layer, as in the code; by
        equations 8 and 9 they are not.
      pooling: of scalars of a graph: 'token', by the virtual node as published; 'sum'
        or 'mean' of the atoms; or 'target', the sum for extensive targets and the token
        for others.
      dropout: probability that what a step adds to a channel is left out in training.
      attention_dropout, activation_dropout: of an attention weight, and of a channel
        within a feed-forward step.
      max_nodes: atoms of a molecule beyond which it is refused: memory grows with their
        square.
      node_inputs: invariants that the atoms start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.SCALAR_KINDS
    ignores = frozenset({"position"})
    small = {
        "hidden_size": 11,
        "num_layers": 2,  # the token sees what the atoms see of each other
        "num_heads": 3,
        "feed_forward_size": 7,
        "num_degrees": 13,
        "num_distances": 17,
    }

    hidden_size: int = 80
    num_layers: int = 12
    num_heads: int = 8
    feed_forward_size: int = 80
    num_degrees: int = 64
    num_distances: int = 40
    max_hops: int = 5
    final_norm: bool = True
    pooling: str = "target"
    dropout: float = 0.0
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    max_nodes: int = 512
    node_inputs: tuple[str, ...] = (inputs.ALL,)

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        self._check(graph)
        atoms, mask = graphs.ragged_to_dense(self._atoms(graph), graph)  # [G, M, C]
        start = hk.get_parameter(
            "graph_token", (self.hidden_size,), atoms.dtype, _EMBEDDING
        )
        start = jnp.broadcast_to(start, (atoms.shape[0], 1, self.hidden_size))
        tokens: Array = jnp.concatenate([start, atoms], axis=1)  # [G, 1 + M, C]
        mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        bias = self._bias(graph)  # [G, H, 1 + M, 1 + M]
        for index in range(self.num_layers):
            layer = attention.BiasedLayer(self._layer_settings(), f"layer_{index}")
            tokens = layer(tokens, mask, bias, f"{index}", is_training)
        if self.final_norm:
            tokens = attention.layer_norm(tokens, "norm")
        return self._heads(tokens, graph)

    def _check(self, graph: Graph) -> None:
        if self.pooling not in POOLINGS:
            raise UserError(
                f"graphormer.pooling expects one of {', '.join(POOLINGS)}, "
                f"found {self.pooling!r}"
            )
        least = {"num_degrees": 1, "num_distances": 2, "max_hops": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(
                    f"graphormer.{name} expects at least {value}, "
                    f"found {getattr(self, name)}"
                )
        features = self.max_hops * max(graph.edges.shape[-1], 1)
        channels = max(self.num_heads, features)
        attention.check_size("graphormer", graph.bucket, channels, self.max_nodes)

    def _layer_settings(self) -> attention.LayerSettings:
        return attention.LayerSettings(
            self.num_heads,
            self.feed_forward_size,
            self.dropout,
            self.attention_dropout,
            self.activation_dropout,
            hk.initializers.RandomNormal(DEVIATION / max(self.num_layers, 1) ** 0.5),
            mlp.ZEROS,
        )

    @hk.transparent
    def _atoms(self, graph: Graph) -> jax.Array:
        """Equation 5: inputs and both degrees of each atom, [N, C]."""
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        embedding = mlp.Linear(self.hidden_size, False, _EMBEDDING, name="embedding")
        ones = jnp.ones_like(features, shape=(graph.bucket.max_edges, 1))
        shape = (self.num_degrees, self.hidden_size)
        total: Array = embedding(features)
        for name, count in (
            ("in_degrees", graphs.sum_to_receivers),
            ("out_degrees", graphs.sum_to_senders),
        ):
            table = hk.get_parameter(name, shape, total.dtype, _EMBEDDING)
            degrees = count(ones, graph)[:, 0].astype(jnp.int32)  # [N]
            rows = jnp.minimum(degrees, self.num_degrees - 1)
            total = total + jnp.asarray(table)[rows]
        return jnp.asarray(total)

    @hk.transparent
    def _bias(self, graph: Graph) -> jax.Array:
        """Equations 6 and 7, and one number per head for the virtual node.

        [G, H, 1 + M, 1 + M].
        """
        found = paths.shortest_paths(graph, self.max_hops)
        hops = found.hops
        by_distance = hk.get_parameter(
            "distances", (self.num_distances, self.num_heads), hops.dtype, _EMBEDDING
        )
        rows = jnp.where(
            found.distances == paths.UNREACHABLE,
            self.num_distances - 1,
            jnp.minimum(found.distances, self.num_distances - 2),
        )
        of_hops = self._hop_weights(hops.shape[2], hops.dtype)  # [L, F, H]
        along = jnp.einsum("glfij,lfh->ghij", hops, of_hops)
        read = jnp.clip(found.distances, 1, self.max_hops)[:, None]
        pairs = jnp.moveaxis(jnp.asarray(by_distance)[rows], -1, 1) + along / read
        virtual = hk.get_parameter(
            "virtual_distance", (self.num_heads,), hops.dtype, _EMBEDDING
        )
        padded = jnp.pad(pairs, ((0, 0), (0, 0), (1, 0), (1, 0)))
        is_token = jnp.arange(padded.shape[-1]) == 0
        with_token = is_token[:, None] | is_token  # [1 + M, 1 + M]
        return jnp.where(with_token, virtual[:, None, None], padded)

    @hk.transparent
    def _hop_weights(self, num_features: int, dtype: jnp.dtype) -> jax.Array:
        """What a feature of a hop adds to each head: [L, F, H].

        A row of the table of bonds times the matrix of the hop.
        """
        heads = self.num_heads
        bonds = hk.get_parameter("bonds", (num_features, heads), dtype, _EMBEDDING)
        shape = (self.max_hops, heads, heads)
        matrices = hk.get_parameter("hops", shape, dtype, _EMBEDDING)
        return jnp.einsum("fe,leh->lfh", bonds, matrices)

    def _has_token(self, head: Head) -> bool:
        """Whether a head is read from the virtual node."""
        by_target = self.pooling == "target" and not head.extensive
        return head.kind == "graph_scalar" and (by_target or self.pooling == "token")

    @hk.transparent
    def _heads(self, tokens: Array, graph: Graph) -> dict[str, Array]:
        """A linear map of tokens [G, 1 + M, C] per head: {head: [N, T] | [G, T]}."""
        outputs: dict[str, Array] = {}
        atoms = graphs.dense_to_ragged(tokens[:, 1:], graph)  # [N, C]
        own = self._layer_settings()
        for head in self.task.heads:
            name = f"readout_{head.name}"
            decoder = mlp.Linear(head.size, True, own.w_init, own.b_init, name)
            if self._has_token(head):
                outputs[head.name] = decoder(tokens[:, 0])
                continue
            values = decoder(atoms)
            if head.kind == "graph_scalar":
                values = readout.pool(values, head, self.pooling, graph)
            outputs[head.name] = values
        return outputs
