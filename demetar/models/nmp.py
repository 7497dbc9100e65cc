"""NMP: neural message passing, the model enn-s2s of Gilmer et al.

Source: Gilmer, Schoenholz, Riley, Vinyals, Dahl 2017, arXiv 1704.01212, sections 2, 5.1
and 5.3. The readout is the set2set model of Vinyals, Bengio, Kudlur 2015, arXiv
1511.06391, equations 3 to 7. The network, its sizes and its start are those of the
authors' code; weights copied from it give the same states, outputs and gradients.

Differs from the paper: what the authors' code does. An atom sends to itself too, by the
matrix of no bond and distance 0. The readout compares a query with an atom by v .
tanh(W q + x), and the candidate of its recurrent cell is tanh(sigmoid(x)). There is no
master node and one tower.

Differs from the authors' code: an edge without bond has zero features in place of a
class of its own. The bias of the edge network stands for that class, so the functions
are the same. The network of the messages out reads the features of the same edge as
that of the messages in: bonds are the same in both directions.
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
from demetar.nn import attention, capture, inputs, mlp
from demetar.types import Array, Graph


@dataclasses.dataclass
class NMP(base.Model):
    """Messages are matrices, made of each edge, times the state of the sender.

    Reads distances alone. All steps share their weights.

    Attributes:
      hidden_size: channels of the states, at least as many as there are node inputs.
      num_layers: steps of message passing.
      edge_sizes: hidden layers of the edge networks.
      one_network: whether one edge network makes all messages. By default there are
        two, and a node reads their sums side by side, as in the authors' code and in
        the paper (section 2, "GG-NN").
      num_readout_steps: queries of the set2set readout.
      dot_attention: whether the readout compares by products of query and atom, as
        set2set does; the authors' other option, no better in their trials.
      standard_cell: whether the recurrent cell of the readout has the candidate
        tanh(x) of an LSTM, as set2set has.
      readout_size: hidden layer of the network that follows it.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"graph_scalar"})
    small = {
        "hidden_size": 11,
        "num_layers": 2,
        "edge_sizes": (7,),
        "num_readout_steps": 3,
        "readout_size": 13,
    }

    hidden_size: int = 50
    num_layers: int = 6
    edge_sizes: tuple[int, ...] = (50, 50, 50, 50)
    one_network: bool = False
    num_readout_steps: int = 12
    dot_attention: bool = False
    standard_cell: bool = False
    readout_size: int = 200
    node_inputs: tuple[str, ...] = (inputs.ALL,)

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        states: Array = self._first_states(features)
        directions = ("in",) if self.one_network else ("in", "out")
        matrices = [self._matrices(name, graph) for name in directions]
        width = len(directions) * self.hidden_size
        bias = hk.get_parameter(
            "message_bias", (width,), states.dtype, mlp.GLOROT_UNIFORM
        )
        update = GatedUnit(name="update")
        for step in range(self.num_layers):
            sent = graphs.gather_senders(states, graph)
            received = [
                graphs.sum_to_receivers(jnp.einsum("eab,eb->ea", of_edges, sent), graph)
                + states @ of_self.T
                for of_edges, of_self in matrices
            ]
            states = update(states, jnp.concatenate(received, axis=-1) + bias)
            capture.record(f"states_{step}", states)
        both = jnp.concatenate([states, features], axis=-1)  # [N, C + S]
        members = _linear(both.shape[-1], "members")(both)
        summary = self._set_to_set(members, graph)  # [G, 2 (C + S)]
        capture.record("summary", summary)
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            sizes = (self.readout_size, head.size)
            outputs[head.name] = _perceptron(sizes, f"readout_{head.name}")(summary)
        return outputs

    def _first_states(self, features: Array) -> jax.Array:
        """The inputs [N, S] with zeros up to [N, C].

        Raises:
          UserError: there are more inputs than channels.
        """
        missing = self.hidden_size - features.shape[-1]
        if missing < 0:
            raise UserError(
                f"nmp starts its states from the {features.shape[-1]} node inputs: "
                f"expected a hidden_size of at least that, found {self.hidden_size}"
            )
        return jnp.pad(features, ((0, 0), (0, missing)))

    @hk.transparent
    def _matrices(self, direction: str, graph: Graph) -> tuple[jax.Array, jax.Array]:
        """An edge network A(e_vw) of section 5.1.

        Returns:
          The matrices of the edges [E, C, C], and that of a node with itself [C, C],
          which has no bond and distance 0.
        """
        size = self.hidden_size
        lengths = geometry.safe_norm(geometry.edge_vectors(graph), keepdims=True)
        values = jnp.concatenate([lengths, graph.edges], axis=-1)  # [E, 1 + F]
        sizes = (*self.edge_sizes, size**2)
        network = _perceptron(sizes, f"edge_network_{direction}")
        of_edges = network(values).reshape(-1, size, size)
        return of_edges, network(jnp.zeros_like(values[:1])).reshape(size, size)

    @hk.transparent
    def _set_to_set(self, members: Array, graph: Graph) -> jax.Array:
        """Members [N, D] of each graph to one vector that knows no order: [G, 2 D].

        A recurrent network asks; each answer is the mean of the members that the query
        finds, and question and answer are what it reads next.
        """
        dense, mask = graphs.ragged_to_dense(members, graph)  # [G, M, D]
        query = memory = jnp.zeros_like(dense[:, 0])  # [G, D]
        asked = jnp.concatenate([query, query], axis=-1)
        cell = MemoryCell(self.standard_cell, name="query")
        compare = Comparison(self.dot_attention, name="comparison")
        for step in range(self.num_readout_steps):
            query, memory = cell(asked, memory)
            weights = attention.masked_softmax(compare(query, dense), mask)
            capture.record(f"readout_attention_{step}", weights)
            answer = jnp.einsum("gm,gmc->gc", weights, dense)
            asked = jnp.concatenate([query, answer], axis=-1)
        return asked


class GatedUnit(hk.Module):
    """The gated recurrent unit of Cho et al. 2014, arXiv 1406.1078."""

    def __call__(self, states: Array, received: Array) -> Array:
        """States [N, C] and messages [N, C'] -> [N, C]."""
        size = states.shape[-1]
        given = _linear(3 * size, "received", parts=3)(received)
        own = _linear(2 * size, "states", parts=2)(states)
        gates = jax.nn.sigmoid(given[:, : 2 * size] + own)
        change, reset = gates[:, :size], gates[:, size:]
        kept = _linear(size, "reset_states")(reset * states)
        candidate = jnp.tanh(given[:, 2 * size :] + kept)
        return (1 - change) * states + change * candidate


class MemoryCell(hk.Module):
    """An LSTM without input, whose state is longer than its memory.

    Source: equation 3 of arXiv 1511.06391 if `standard`. The authors' code puts the
    candidate through a sigmoid before the tanh.
    """

    def __init__(self, standard: bool, name: str | None = None):
        super().__init__(name=name)
        self.standard = standard

    def __call__(self, asked: Array, memory: Array) -> tuple[jax.Array, jax.Array]:
        """[G, 2 D] and [G, D] -> the next query and memory, [G, D] each."""
        layer = mlp.Linear(
            4 * memory.shape[-1], True, _glorot_of_parts(4), mlp.ZEROS, "gates"
        )
        values = jnp.split(layer(asked), 4, axis=-1)
        write, keep, show = (jax.nn.sigmoid(value) for value in values[:3])
        candidate = values[3] if self.standard else jax.nn.sigmoid(values[3])
        memory = keep * memory + write * jnp.tanh(candidate)
        return show * jnp.tanh(memory), memory


class Comparison(hk.Module):
    """How much a query asks for each member: logits of the readout's attention.

    v . tanh(W q + x) of Vinyals, Fortunato, Jaitly 2015, arXiv 1506.03134, equation 3,
    or the product (W q) . x.
    """

    def __init__(self, dot: bool, name: str | None = None):
        super().__init__(name=name)
        self.dot = dot

    def __call__(self, query: Array, members: Array) -> Array:
        """Queries [G, D] and members [G, M, D] -> [G, M]."""
        query = _linear(members.shape[-1], "query")(query)
        if self.dot:
            return jnp.einsum("gmc,gc->gm", members, query)
        return _linear(1, "logits")(jnp.tanh(query[:, None] + members))[..., 0]


def _linear(size: int, name: str, parts: int = 1) -> mlp.Linear:
    """A layer without bias, drawn as `parts` layers side by side."""
    return mlp.Linear(size, False, _glorot_of_parts(parts), name=name)


def _perceptron(sizes: tuple[int, ...], name: str) -> mlp.MLP:
    """A perceptron whose biases are drawn too, as TensorFlow's default has it."""
    return mlp.MLP(sizes, jax.nn.relu, False, name, *[mlp.GLOROT_UNIFORM] * 2)


def _glorot_of_parts(parts: int) -> mlp.Initializer:
    """Glorot's start of `parts` matrices that stand side by side in one."""

    def draw(shape: tuple[int, int], dtype: jnp.dtype) -> jax.Array:
        limit = (6.0 / (shape[0] + shape[1] / parts)) ** 0.5
        return hk.initializers.RandomUniform(-limit, limit)(shape, dtype)

    return draw
