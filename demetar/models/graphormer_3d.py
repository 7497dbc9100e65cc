"""Graphormer-3D: a transformer among the atoms of a molecule that reads distances.

Source: Shi et al. 2022, arXiv 2203.04810, section 2, and the authors' code; with
weights copied from it outputs and gradients are the same.

Differs from the authors' code: its vector head has one linear map for each of x, y and
z, so its vectors do not turn with the molecule. `graphormer_3d_untied` has that head;
here the three are one map without bias, and the head is equivariant. A species is named
by the node inputs, so there are no tables of 64 elements, and no tags of surfaces. The
factor of a pair of species is 1 plus what is learned. Without species, as on N-body,
the table of a pair is a product of (1, species inputs) of both ends, which for charges
of -1 and 1 is a table again. Vector inputs enter by the projections of those of both
ends on the direction of a pair and by the length of their difference, beside the
Gaussians; in the vector head their differences stand beside the directions, and the own
vectors of a node are multiplied by learned scalars. The layers are fewer and slimmer,
and nothing is dropped out unless asked for.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.models import base
from demetar.nn import attention, capture, inputs, mlp, readout
from demetar.types import Array, Graph, Head

LARGEST_START = 3.0  # of means and widths, in the length unit
LEAST_WIDTH = 1e-5  # of a Gaussian; also what is added to the length of a direction


class Pairs(NamedTuple):
    """What is known of every two nodes i and j of each graph.

    Attributes:
      features: [G, M, M, P] Gaussians of their distance, and invariants of vectors.
      arrows: [G, M, M, D, 3] the direction from i to j, then the differences of the
        polar vector inputs.
      mask: [G, M] True if there is a node.
    """

    features: Array
    arrows: Array
    mask: Array


@dataclasses.dataclass
class Graphormer3d(base.Model):
    """Attention among all nodes of a graph, biased by their distances.

    Edges are not read: every node sees every other one. The defaults have 173,252
    parameters on N-body; the published model for catalysts is `num_layers=12
    num_blocks=4 hidden_size=768 feed_forward_size=768 num_heads=48`, with
    `dropout=0.1 attention_dropout=0.1`.

    Attributes:
      hidden_size: channels of every node.
      num_layers: transformer layers of a block.
      num_blocks: times that the layers are repeated, with the same weights.
      num_heads: attention heads.
      feed_forward_size: channels within a feed-forward step.
      num_basis: Gaussians of the distance of a pair.
      tied_maps: whether x, y and z of a vector have one linear map. Without, the
        symmetry is T(3), that of `graphormer_3d_untied`.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean', or 'target', the sum
        for extensive targets and the mean for others.
      dropout: probability that what a step adds to a channel is left out in training.
      attention_dropout, activation_dropout: of an attention weight, and of a channel
        within a feed-forward step.
      max_nodes: nodes of a graph beyond which it is refused: memory grows with their
        square.
      node_inputs: invariants that the nodes start from.
      species_inputs: invariants that name the species of both ends of a pair.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    ignores = frozenset({"edge feature"})
    small = {
        "hidden_size": 11,
        "num_layers": 1,
        "num_blocks": 1,
        "num_heads": 3,
        "feed_forward_size": 7,
        "num_basis": 5,
    }

    hidden_size: int = 80
    num_layers: int = 3
    num_blocks: int = 4
    num_heads: int = 8
    feed_forward_size: int = 80
    num_basis: int = 128
    tied_maps: bool = True
    pooling: str = "target"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    max_nodes: int = 512
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")
    species_inputs: tuple[str, ...] = ("charge",)

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        channels = max(self.num_basis, self.num_heads)
        attention.check_size("graphormer_3d", graph.bucket, channels, self.max_nodes)
        pairs = self._pairs(graph)
        tokens = self._first_tokens(pairs, graph)  # [G, M, C]
        sizes = [pairs.features.shape[-1], self.num_heads]
        bias = mlp.MLP(sizes, attention.gelu, name="bias")(pairs.features)
        bias = jnp.moveaxis(bias, -1, 1)  # [G, H, M, M]
        settings = attention.LayerSettings(
            self.num_heads,
            self.feed_forward_size,
            self.dropout,
            self.attention_dropout,
            self.activation_dropout,
        )
        layers = [
            attention.BiasedLayer(settings, f"layer_{index}")
            for index in range(self.num_layers)
        ]
        for index, layer in enumerate(layers * self.num_blocks):
            tokens = layer(tokens, pairs.mask, bias, f"{index}", is_training)
        tokens = attention.layer_norm(tokens, "norm")
        nodes = graphs.dense_to_ragged(tokens, graph)  # [N, C]
        outputs = readout.scalar_heads(
            self.task, nodes, graph, activation=attention.gelu, pooling=self.pooling
        )
        for head in base.vector_heads(self.task):
            outputs[head.name] = self._vectors(
                head, tokens, bias, pairs, graph, is_training
            )
        return outputs

    @hk.transparent
    def _pairs(self, graph: Graph) -> Pairs:
        """All pairs of nodes, of which each is one with itself too."""
        nodes = graph.nodes
        polar = jnp.stack(
            [nodes.positions, *inputs.polar_vectors(graph.nodes, self.task)], axis=1
        )  # [N, D, 3]
        count = polar.shape[1]
        dense, mask = graphs.ragged_to_dense(polar.reshape(-1, 3 * count), graph)
        vectors = dense.reshape(*dense.shape[:2], count, 3)  # [G, M, D, 3]
        differences = vectors[:, None] - vectors[:, :, None]  # [G, M, M, D, 3], j - i
        lengths = geometry.safe_norm(differences, keepdims=True)  # [G, M, M, D, 1]
        distances = lengths[..., 0, 0]
        directions = differences[..., :1, :] / (lengths[..., :1, :] + LEAST_WIDTH)
        along = jnp.sum(directions * vectors[:, None, :, 1:], axis=-1)
        across = jnp.sum(directions * vectors[:, :, None, 1:], axis=-1)
        features = [
            self._gaussians(distances, graph),
            *(along, across, lengths[..., 1:, 0]),  # [G, M, M, D - 1] each
        ]
        return Pairs(
            jnp.concatenate(features, axis=-1),
            jnp.concatenate([directions, differences[..., 1:, :]], axis=-2),
            mask,
        )

    @hk.transparent
    def _gaussians(self, distances: Array, graph: Graph) -> jax.Array:
        """Gaussians of a_zz' d + b_zz' for the species of both ends: [G, M, M, K]."""
        dense, _ = graphs.ragged_to_dense(self._species(graph), graph)  # [G, M, A]
        size = dense.shape[-1]

        def of_pair(name: str) -> jax.Array:
            table = hk.get_parameter(name, (size, size), dense.dtype, mlp.ZEROS)
            return jnp.einsum("gia,ab,gjb->gij", dense, table, dense)

        scaled = (1 + of_pair("factors")) * distances + of_pair("shifts")
        uniform = hk.initializers.RandomUniform(0.0, LARGEST_START)
        means, widths = (
            hk.get_parameter(name, (self.num_basis,), dense.dtype, uniform)
            for name in ("means", "widths")
        )
        widths = jnp.abs(widths) + LEAST_WIDTH
        exponents = -0.5 * jnp.square((scaled[..., None] - means) / widths)
        return jnp.exp(exponents) / (math.sqrt(2 * math.pi) * widths)

    def _species(self, graph: Graph) -> jax.Array:
        """One-hot species [N, A], or (1, species inputs) of a task without species.

        Raises:
          UserError: unknown input.
        """
        if self.task.species:
            columns = [self.task.scalars.index(name) for name in self.task.species]
            return jnp.asarray(graph.nodes.scalars)[:, jnp.array(columns)]
        ones = jnp.ones_like(graph.nodes.positions[:, :1])
        if not self.species_inputs:
            return ones
        values = inputs.invariants(graph.nodes, self.task, self.species_inputs)
        return jnp.concatenate([ones, values], axis=-1)

    @hk.transparent
    def _first_tokens(self, pairs: Pairs, graph: Graph) -> Array:
        """The species, and what all pairs of a node add up to: [G, M, C]."""
        given = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        start = hk.initializers.RandomNormal()
        embedding = mlp.Linear(self.hidden_size, False, start, name="embedding")
        tokens, _ = graphs.ragged_to_dense(embedding(given), graph)
        real = pairs.mask[:, None, :, None]
        total = jnp.where(real, pairs.features, 0).sum(axis=2)  # [G, M, P]
        return tokens + mlp.Linear(self.hidden_size, name="centrality")(total)

    @hk.transparent
    def _vectors(
        self,
        head: Head,
        tokens: Array,
        bias: Array,
        pairs: Pairs,
        graph: Graph,
        is_training: bool,
    ) -> jax.Array:
        """Vectors of a head: [N, K, 3]."""
        name = f"readout_{head.name}"
        attend = VectorAttention(
            self.num_heads, head.size, self.tied_maps, self.attention_dropout, name
        )
        found = attend(tokens, bias, pairs, is_training)  # [3, G, M, K]
        moved = jnp.moveaxis(found, 0, -1).reshape(*tokens.shape[:2], -1)
        vectors = graphs.dense_to_ragged(moved, graph).reshape(-1, head.size, 3)
        own = inputs.polar_vectors(graph.nodes, self.task)
        if own:
            nodes = graphs.dense_to_ragged(tokens, graph)
            gates = mlp.Linear(head.size * len(own), False, name=f"{name}_own")(nodes)
            gates = gates.reshape(-1, head.size, len(own))
            vectors = vectors + jnp.einsum(
                "nkv,nvx->nkx", gates, jnp.stack(own, axis=1)
            )
        return vectors


@dataclasses.dataclass
class Graphormer3dUntied(Graphormer3d):
    """The authors' vector head, which is not equivariant: a negative control.

    A scalar head is that of `graphormer_3d`.
    """

    symmetry: ClassVar[str] = "T(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})

    tied_maps: bool = False


class VectorAttention(hk.Module):
    """One more attention, whose weights times the arrows of pairs mix the values.

    The weights [G, H, M, M] are recorded under `attention_NAME`.
    """

    def __init__(
        self, num_heads: int, size: int, tied: bool, dropout: float, name: str
    ):
        """`size` vectors per node; `tied`: one map for x, y and z."""
        super().__init__(name=name)
        self.num_heads = num_heads
        self.size = size
        self.tied = tied
        self.dropout = dropout

    def __call__(
        self, tokens: Array, bias: Array, pairs: Pairs, is_training: bool
    ) -> jax.Array:
        """Tokens [G, M, C] and bias [G, H, M, M] -> [3, G, M, K]."""
        *lead, channels = tokens.shape
        size = attention.head_size(channels, self.num_heads)
        num_arrows = pairs.arrows.shape[-2]
        width = self.num_heads * size
        projected = mlp.Linear((2 + num_arrows) * width, name="query_key_values")(
            tokens
        )
        queries, keys, *values = jnp.moveaxis(
            projected.reshape(*lead, -1, self.num_heads, size), -3, 0
        )  # [G, M, H, C / H] each
        logits = jnp.einsum("gmhc,gkhc->ghmk", queries, keys) / size**0.5 + bias
        weights: Array = attention.masked_softmax(logits, pairs.mask[:, None, None])
        capture.record(f"attention_{self.name}", weights)
        weights = attention.dropout(weights, self.dropout, is_training)
        mixed = jnp.einsum(
            "ghmk,gmkdx,dgkhc->xgmdhc", weights, pairs.arrows, jnp.stack(values)
        )
        return self._mapped(mixed.reshape(3, *lead, num_arrows * width))

    @hk.transparent
    def _mapped(self, mixed: Array) -> jax.Array:
        """[3, G, M, D C] -> [3, G, M, K]."""
        if self.tied:
            return jnp.asarray(mlp.Linear(self.size, False, name="map")(mixed))
        maps = [mlp.Linear(self.size, name=f"map_{axis}") for axis in "xyz"]
        return jnp.stack([own(part) for own, part in zip(maps, mixed, strict=True)])
