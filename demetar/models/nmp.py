"""NMP: neural message passing, the model enn-s2s of Gilmer et al.

Source: Gilmer, Schoenholz, Riley, Vinyals, Dahl 2017, arXiv 1704.01212, sections 2, 5.1
and 5.3. The readout is the set2set model of Vinyals, Bengio, Kudlur 2015, arXiv
1511.06391, equations 3 to 7. Sizes are the defaults of the authors' code.

Differs from the paper: nodes are embedded by a linear layer where the paper pads them
with zeros. One edge network serves for messages in and out, as each pair has an edge in
both directions. There is no master node and one tower.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.models import base
from demetar.nn import attention, capture, inputs, mlp
from demetar.types import Array, Bucket


@dataclasses.dataclass
class NMP(base.Model):
    """Messages are matrices, made of each edge, times the state of the sender.

    Reads distances alone. All steps share their weights.

    Attributes:
      hidden_size: channels of the states.
      num_layers: steps of message passing.
      edge_sizes: hidden layers of the edge network.
      num_readout_steps: queries of the set2set readout.
      readout_size: hidden layer of the network that follows it.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"graph_scalar"})

    hidden_size: int = 50
    num_layers: int = 6
    edge_sizes: tuple[int, ...] = (50, 50, 50, 50)
    num_readout_steps: int = 12
    readout_size: int = 200
    node_inputs: tuple[str, ...] = (inputs.ALL,)

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        size = self.hidden_size
        features = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        states: Array = mlp.Linear(size, name="embedding")(features)  # [N, C]
        matrices = self._matrices(graph, bucket)
        update = GatedUnit(name="update")
        for step in range(self.num_layers):
            sent = graphs.gather_senders(states, graph, bucket)
            messages = jnp.einsum("eab,eb->ea", matrices, sent)
            received = graphs.sum_to_receivers(messages, graph, bucket)
            states = update(states, received)
            capture.record(f"states_{step}", states)
        both = jnp.concatenate([states, features], axis=-1)  # [N, C + S]
        members = mlp.Linear(size, with_bias=False, name="members")(both)
        summary = self._set_to_set(members, graph, bucket)  # [G, 2C]
        capture.record("summary", summary)
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            sizes = [self.readout_size, head.size]
            readout = mlp.MLP(sizes, jax.nn.relu, name=f"readout_{head.name}")
            outputs[head.name] = readout(summary)
        return outputs

    @hk.transparent
    def _matrices(self, graph: graphs.Graph, bucket: Bucket) -> jax.Array:
        """The edge network A(e_vw) of section 5.1: [E, C, C]."""
        size = self.hidden_size
        lengths = geometry.safe_norm(
            geometry.edge_vectors(graph, bucket), keepdims=True
        )
        values = jnp.concatenate([lengths, graph.edges], axis=-1)  # [E, 1 + F]
        network = mlp.MLP([*self.edge_sizes, size**2], jax.nn.relu, name="edge_network")
        return network(values).reshape(-1, size, size)

    @hk.transparent
    def _set_to_set(
        self, members: Array, graph: graphs.Graph, bucket: Bucket
    ) -> jax.Array:
        """Members [N, C] of each graph to one vector that knows no order: [G, 2C].

        A recurrent network asks; each answer is the mean of the members that the query
        finds, and question and answer are what it reads next.
        """
        dense, mask = graphs.ragged_to_dense(members, graph, bucket)  # [G, M, C]
        query = memory = jnp.zeros_like(dense[:, 0])  # [G, C]
        asked = jnp.concatenate([query, query], axis=-1)
        cell = MemoryCell(name="query")
        for step in range(self.num_readout_steps):
            query, memory = cell(asked, memory)
            logits = jnp.einsum("gmc,gc->gm", dense, query)
            weights = attention.masked_softmax(logits, mask)
            capture.record(f"readout_attention_{step}", weights)
            answer = jnp.einsum("gm,gmc->gc", weights, dense)
            asked = jnp.concatenate([query, answer], axis=-1)
        return asked


class GatedUnit(hk.Module):
    """The gated recurrent unit of Cho et al. 2014, arXiv 1406.1078, with biases."""

    def __call__(self, states: Array, received: Array) -> Array:
        """States [N, C] and messages [N, C'] -> [N, C]."""
        size = states.shape[-1]
        given = mlp.Linear(3 * size, name="received")(received)
        own = mlp.Linear(2 * size, with_bias=False, name="states")(states)
        gates = jax.nn.sigmoid(given[:, : 2 * size] + own)
        change, reset = gates[:, :size], gates[:, size:]
        kept = mlp.Linear(size, with_bias=False, name="reset_states")(reset * states)
        candidate = jnp.tanh(given[:, 2 * size :] + kept)
        return (1 - change) * states + change * candidate


class MemoryCell(hk.Module):
    """An LSTM without input, whose state is longer than its memory.

    Source: equation 3 of arXiv 1511.06391.
    """

    def __call__(self, asked: Array, memory: Array) -> tuple[jax.Array, jax.Array]:
        """[G, 2C] and [G, C] -> the next query and memory, [G, C] each."""
        size = memory.shape[-1]
        values = jnp.split(mlp.Linear(4 * size, name="gates")(asked), 4, axis=-1)
        write, keep, show = (jax.nn.sigmoid(value) for value in values[:3])
        memory = keep * memory + write * jnp.tanh(values[3])
        return show * jnp.tanh(memory), memory
