"""DEMETAr: a transformer with one encoder for nodes, one for edges, and one for both.

Source: Simion, Vasilev, Schaefer, Go, Kersten 2023, "DEMETAr: Double Encoder Method for
an Equivariant Transformer Architecture", a report without arXiv id; equations 9 to 11.

Differs from the paper: equation 9 is softmax(Q_n K_e^T / sqrt(d) + M) V_e, as its text
and shapes ask (printed, it divides after the softmax and mixes edge queries with node
keys). Padding is masked in every attention. Edges reach the outputs of graphs too.
Vectors of nodes and edges are multiplied by learned scalars, where the report has a
free 3-vector, so the predictions are equivariant by construction; velocities enter by
their angles and projections and, on edges, by the relative speed, without which the
motion of a pair is not determined; edge lengths enter by a Bessel basis. Encoders
normalise before each step. The bonds of molecules are one token each. An extensive
scalar of a graph is a sum over its nodes: one token could not grow with the molecule.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs, pairs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import attention, capture, inputs, mlp, radial, readout
from demetar.types import Array, Bucket, Graph, Head

EQUIVARIANCE = ("full", "none")
POOLINGS = ("target", "cls", "sum", "mean")
LOGIT_BYTES = 4


@dataclasses.dataclass
class Demetar(base.Model):
    """Tokens are invariants; vectors are multiplied by what becomes of the tokens.

    The defaults have 177,664 parameters on N-body.

    Attributes:
      hidden_size: channels of every token.
      num_heads: attention heads.
      node_layers: r, transformer blocks among the nodes.
      edge_layers: p, steps of the edge encoder: p - 1 transformer blocks among all
        edges of a graph, then the attention of nodes to their own edges.
      joint_layers: h, transformer blocks among the nodes after both are added.
      num_basis: Bessel functions of the edge length over the extent of the task.
      node_inputs: invariants that the nodes start from, beside distances and angles.
      node_only: leave the edges out: no edge encoder, and scalars of edges that are
        made of their two nodes alone.
      bond_tokens: one token for both directions of an edge, which both its ends attend
        to. Without vectors both directions are the same token twice, and the attention
        among edges then costs four times as much for the same result. Every edge must
        be there in both directions.
      max_edge_tokens: tokens of one graph beyond which the attention among them is
        refused: it takes memory that grows with their square. 0: any number.
      pooling: of the scalars of a graph: 'cls', by the token of the graph as in the
        report; 'sum' or 'mean' of the nodes; or 'target', the sum for extensive targets
        and the token for others.
      equivariance: 'full', or 'none' to read raw coordinates and predict their free
        combinations; the symmetry is then S(n), that of `demetar_free`.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {"hidden_size": 11, "joint_layers": 1, "num_basis": 5}
    small_molecular = {"bond_tokens": True}

    hidden_size: int = 64
    num_heads: int = 8
    node_layers: int = 1
    edge_layers: int = 2
    joint_layers: int = 2
    num_basis: int = 16
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")
    node_only: bool = False
    bond_tokens: bool = False
    max_edge_tokens: int = 640
    pooling: str = "target"
    equivariance: str = "full"

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        self._check(graph.bucket)
        size = self.hidden_size
        tokens = self._node_tokens(graph)
        nodes = mlp.MLP([size, size], name="node_embedding")(tokens)  # [N, C]
        dense, mask = graphs.ragged_to_dense(nodes, graph)  # [G, M, C]
        encoder = attention.Encoder(self.node_layers, self.num_heads, name="node")
        nodes = graphs.dense_to_ragged(encoder(dense, mask), graph)
        edges = None
        if not self.node_only:
            edges = self._encode_edges(graph)  # [E, C]
            attend = attention.EdgeAttention(self.num_heads, "cross", name="cross")
            received = attend(nodes, edges, graph)  # [N, C]
            capture.record("edge_encoding", received)
            nodes = nodes + received
        nodes, summary = self._encode_jointly(nodes, graph)
        return self._heads(nodes, edges, summary, graph)

    def _check(self, bucket: Bucket) -> None:
        if self.equivariance not in EQUIVARIANCE:
            raise UserError(
                f"demetar.equivariance expects one of {', '.join(EQUIVARIANCE)}, "
                f"found {self.equivariance!r}"
            )
        if self.pooling not in POOLINGS:
            raise UserError(
                f"demetar.pooling expects one of {', '.join(POOLINGS)}, "
                f"found {self.pooling!r}"
            )
        if self.edge_layers < 1:
            raise UserError(
                f"demetar.edge_layers expects at least 1, found {self.edge_layers}; "
                "node_only=true leaves the edges out"
            )
        if self.bond_tokens and self.task.connectivity == "knn":
            raise UserError(
                "demetar.bond_tokens expects every edge in both directions, which "
                "graphs of nearest neighbours do not have; --set bond_tokens=false"
            )
        self._check_memory(bucket)

    def _check_memory(self, bucket: Bucket) -> None:
        if self.node_only or self.edge_layers == 1 or self.max_edge_tokens == 0:
            return
        edges = bucket.max_edges_per_graph or bucket.max_edges
        if bucket.nodes_per_graph is not None:
            edges = bucket.max_edges // bucket.num_graphs
        tokens = -(-edges // 2) if self.bond_tokens else edges
        if tokens <= self.max_edge_tokens:
            return
        memory = LOGIT_BYTES * bucket.num_graphs * self.num_heads * tokens**2 / 2**30
        raise UserError(
            f"a graph has {edges} edges, of which demetar makes {tokens} tokens, but "
            f"max_edge_tokens is {self.max_edge_tokens}: the attention among them "
            f"would take {memory:.1f} GiB per layer at {bucket.num_graphs} graphs; use "
            "graphs of bonds (--connectivity=bonds), a smaller --batch_size, or "
            f"--set max_edge_tokens={tokens}"
        )

    def _has_token(self, head: Head) -> bool:
        """Whether a head is decoded from the token of the graph."""
        if head.kind != "graph_scalar":
            return False
        by_target = self.pooling == "target" and not head.extensive
        return by_target or self.pooling == "cls"

    def _node_tokens(self, graph: Graph) -> Array:
        """Invariants, distance to the centroid and angles with it: [N, S + 1 + V]."""
        scalars = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        if self.equivariance == "none":
            coordinates = base.raw_coordinates(graph)  # [N, 3 + 3V]
            return jnp.concatenate([scalars, coordinates], axis=-1)
        inward = -geometry.centred_positions(graph)  # [N, 3]
        distances = geometry.safe_norm(inward, keepdims=True) / self.task.radial_extent
        direction = geometry.unit_vectors(inward)
        cosines = [
            jnp.sum(geometry.unit_vectors(vector) * direction, -1, keepdims=True)
            for vector in inputs.polar_vectors(graph.nodes, self.task)
        ]
        return jnp.concatenate([scalars, distances, *cosines], axis=-1)

    def _edge_tokens(self, graph: Graph) -> Array:
        """Length, edge features, vectors of both ends along the edge, relative speed.

        [E, F'].
        """
        vectors = geometry.edge_vectors(graph)  # [E, 3]
        if self.equivariance == "none":
            return jnp.concatenate([graph.edges, vectors], axis=-1)
        lengths = geometry.safe_norm(vectors)  # [E]
        tokens = radial.edge_inputs(
            lengths,
            graph.edges,
            radial.bessel,
            self.num_basis,
            self.task.radial_extent,
        )
        direction = geometry.unit_vectors(vectors)
        for vector in inputs.polar_vectors(graph.nodes, self.task):
            of_receiver = graphs.gather_receivers(vector, graph)
            of_sender = graphs.gather_senders(vector, graph)
            projections = [
                jnp.sum(of_end * direction, -1, keepdims=True)
                for of_end in (of_receiver, of_sender)
            ]
            relative = geometry.safe_norm(of_receiver - of_sender, keepdims=True)
            tokens = jnp.concatenate([tokens, *projections, relative], axis=-1)
        return tokens

    @hk.transparent
    def _encode_edges(self, graph: Graph) -> jax.Array:
        """The edge encoder up to its last step: [E, C].

        The token of a bond is the mean of what its directions are embedded to, and so
        knows neither.
        """
        size = self.hidden_size
        embed = mlp.MLP([size, size], name="edge_embedding")
        encoder = attention.Encoder(self.edge_layers - 1, self.num_heads, name="edge")

        def encode(tokens: Array, rows: graphs.Rows) -> jax.Array:
            dense, mask = graphs.ragged_to_dense(tokens, graph, rows)
            return graphs.dense_to_ragged(encoder(dense, mask), graph, rows)

        tokens = self._edge_tokens(graph)
        if not self.bond_tokens:
            return encode(embed(tokens), "edges")
        bonds = pairs.find_bonds(graph)
        both = embed(jnp.asarray(tokens)[bonds.edges])  # [P, 2, C]
        return encode(both.mean(axis=1), "bonds")[bonds.of_edge]

    @hk.transparent
    def _encode_jointly(
        self, nodes: Array, graph: Graph
    ) -> tuple[jax.Array, Array | None]:
        """Nodes [N, C] and, if a head reads it, the token [CLS] of graphs [G, C]."""
        encoder = attention.Encoder(self.joint_layers, self.num_heads, name="joint")
        tokens, mask = graphs.ragged_to_dense(nodes, graph)  # [G, M, C]
        if not any(map(self._has_token, self.task.heads)):
            encoded = encoder(tokens, mask)
            return graphs.dense_to_ragged(encoded, graph), None
        num_graphs, _, size = tokens.shape
        cls = hk.get_parameter(
            "cls", (size,), tokens.dtype, hk.initializers.RandomNormal(0.02)
        )
        cls = jnp.broadcast_to(cls, (num_graphs, 1, size))
        mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        encoded = encoder(jnp.concatenate([cls, tokens], axis=1), mask)
        return graphs.dense_to_ragged(encoded[:, 1:], graph), encoded[:, 0]

    @hk.transparent
    def _heads(
        self, nodes: Array, edges: Array | None, summary: Array | None, graph: Graph
    ) -> dict[str, Array]:
        """All outputs: {head: [N, K, 3] | [N, T] | [G, T]}."""
        size = self.hidden_size
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            if head.kind == "node_vector":
                make = self._vectors if self.equivariance == "full" else self._free
                outputs[head.name] = make(head, nodes, edges, graph)
                continue
            decoder = mlp.MLP([size, head.size], name=f"readout_{head.name}")
            if summary is not None and self._has_token(head):
                outputs[head.name] = decoder(summary)
                continue
            values = decoder(nodes)
            if head.kind == "graph_scalar":
                values = readout.pool(values, head, self.pooling, graph)
            outputs[head.name] = values
        return outputs

    @hk.transparent
    def _vectors(
        self, head: Head, nodes: Array, edges: Array | None, graph: Graph
    ) -> jax.Array:
        """Vectors of nodes and edges times learned scalars, summed: [N, K, 3].

        A node has x_i - centroid and v_i, an edge x_i - x_j and v_i - v_j: without the
        last, a particle could not be carried along by another that it is bound to.
        """
        name, size = f"readout_{head.name}", self.hidden_size
        polar = inputs.polar_vectors(graph.nodes, self.task)
        own = jnp.stack([geometry.centred_positions(graph), *polar], axis=1)
        hidden = jax.nn.silu(mlp.Linear(size, name=f"{name}_nodes")(nodes))
        count = own.shape[1]  # 1 + V vectors per node and per edge
        scalars = _small(head.size * count, f"{name}_node_scalars")(hidden)
        if edges is None:
            edges = jnp.zeros((graph.bucket.max_edges, 0), nodes.dtype)
        pairs = mlp.EdgeLinear(size, name=f"{name}_edges")(nodes, edges, graph)
        weights = _small(head.size * count, f"{name}_edge_scalars")(jax.nn.silu(pairs))
        relative = geometry.edge_differences(own.reshape(-1, 3 * count), graph).reshape(
            -1, count, 3
        )  # the centroid cancels
        moves = graphs.sum_to_receivers(
            _combine(weights, relative, head.size), graph
        )  # [N, 3K]
        return (_combine(scalars, own, head.size) + moves).reshape(-1, head.size, 3)

    @hk.transparent
    def _free(
        self, head: Head, nodes: Array, edges: Array | None, graph: Graph
    ) -> jax.Array:
        """Three numbers per vector, whatever they mean: [N, K, 3]."""
        decoder = mlp.MLP(
            [self.hidden_size, head.size * 3], name=f"readout_{head.name}"
        )
        return decoder(nodes).reshape(-1, head.size, 3)


@dataclasses.dataclass
class DemetarFree(Demetar):
    """The ablation `equivariance=none`: the same encoders on raw coordinates."""

    symmetry: ClassVar[str] = "S(n)"

    equivariance: str = "none"


def _small(num_outputs: int, name: str) -> mlp.Linear:
    """A linear layer that starts close to zero, and with it the predicted vectors."""
    init = hk.initializers.VarianceScaling(1e-6, "fan_avg", "uniform")
    return mlp.Linear(num_outputs, with_bias=False, w_init=init, name=name)


def _combine(scalars: Array, vectors: Array, size: int) -> jax.Array:
    """Scalars [X, K (1 + V)] times vectors [X, 1 + V, 3], summed: [X, 3K]."""
    scalars = scalars.reshape(-1, size, vectors.shape[1])
    return jnp.einsum("xkv,xvc->xkc", scalars, vectors).reshape(-1, 3 * size)
