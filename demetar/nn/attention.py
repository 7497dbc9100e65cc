"""Attention among the tokens of a graph, and transformer encoders made of it.

Tokens stand in dense arrays [G, M, C] with a mask [G, M], as `graphs.ragged_to_dense`
makes them; the attention of nodes to their own edges works on the edge list.
Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
"""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.nn import capture, mlp
from demetar.types import Array, Graph


def masked_softmax(logits: Array, mask: Array) -> jax.Array:
    """Softmax over the last axis where the mask is True, and 0 elsewhere.

    Args:
      logits: [..., M].
      mask: broadcasts to `logits`. A row without any True gives zeros, with zero
        gradient.
    """
    lowest = jnp.finfo(logits.dtype).min
    weights = jax.nn.softmax(jnp.where(mask, logits, lowest), axis=-1)
    return jnp.where(mask, weights, 0)


def layer_norm(values: Array, name: str) -> jax.Array:
    """Layer normalisation of the last axis, with scale and offset."""
    norm = hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)
    return norm(jnp.asarray(values))


def head_size(channels: int, num_heads: int) -> int:
    """Channels per head: the share of `channels`, rounded up."""
    return -(-channels // num_heads)


class SelfAttention(hk.Module):
    """Multi-head attention of every token of a graph to all tokens of the graph.

    The weights [G, H, M, M] are recorded under `attention_NAME`.
    """

    def __init__(self, num_heads: int, record: str, name: str | None = None):
        super().__init__(name=name)
        self.num_heads = num_heads
        self.record = record

    def __call__(self, tokens: Array, mask: Array) -> Array:
        """[G, M, C] and [G, M] True for tokens that can be seen -> [G, M, C]."""
        *lead, channels = tokens.shape
        size = head_size(channels, self.num_heads)
        width = self.num_heads * size
        projected = mlp.Linear(3 * width, name="query_key_value")(tokens)
        queries, keys, values = jnp.moveaxis(
            projected.reshape(*lead, 3, self.num_heads, size), -3, 0
        )  # [G, M, H, C / H] each
        logits = jnp.einsum("gmhc,gkhc->ghmk", queries, keys) / size**0.5
        weights = masked_softmax(logits, mask[:, None, None])
        capture.record(f"attention_{self.record}", weights)
        mixed = jnp.einsum("ghmk,gkhc->gmhc", weights, values)
        return mlp.Linear(channels, name="output")(mixed.reshape(*lead, width))


class EdgeAttention(hk.Module):
    """Multi-head attention of every node to the edges that end at it.

    Equal to attention of N queries to E keys with an incidence mask of 0 and -inf, but
    only the pairs that the mask lets through are computed. The weights [E, H] are
    recorded under `attention_NAME`.
    """

    def __init__(self, num_heads: int, record: str, name: str | None = None):
        super().__init__(name=name)
        self.num_heads = num_heads
        self.record = record

    def __call__(self, nodes: Array, edges: Array, graph: Graph) -> Array:
        """Nodes [N, C] and edges [E, F] -> [N, C]; b for a node without edges."""
        channels = nodes.shape[-1]
        size = head_size(channels, self.num_heads)
        width = self.num_heads * size
        queries = mlp.Linear(width, name="query")(nodes)  # [N, H C']
        keys, values = jnp.split(
            mlp.Linear(2 * width, name="key_value")(edges), 2, axis=-1
        )  # [E, H C'] each
        products = graphs.gather_receivers(queries, graph) * keys
        heads = (-1, self.num_heads, size)
        logits = products.reshape(heads).sum(axis=-1) / size**0.5  # [E, H]
        weights = graphs.softmax_to_receivers(logits, graph)
        capture.record(f"attention_{self.record}", weights)
        weighted = (weights[..., None] * values.reshape(heads)).reshape(-1, width)
        mixed = graphs.sum_to_receivers(weighted, graph)  # [N, H C']
        return mlp.Linear(channels, name="output")(mixed)


class Encoder(hk.Module):
    """Transformer blocks with the normalisation before each step, and one at the end.

    Source: Xiong et al. 2020, arXiv 2002.04745, figure 1b. A feed-forward step has
    twice the channels.
    """

    def __init__(self, num_layers: int, num_heads: int, name: str):
        super().__init__(name=name)
        self.num_layers = num_layers
        self.num_heads = num_heads

    def __call__(self, tokens: Array, mask: Array) -> Array:
        """[G, M, C] and [G, M] -> [G, M, C]."""
        channels = tokens.shape[-1]
        for layer in range(self.num_layers):
            attend = SelfAttention(
                self.num_heads, f"{self.name}_{layer}", name=f"attention_{layer}"
            )
            tokens = tokens + attend(layer_norm(tokens, f"norm_{layer}_0"), mask)
            feed = mlp.MLP([2 * channels, channels], name=f"mlp_{layer}")
            tokens = tokens + feed(layer_norm(tokens, f"norm_{layer}_1"))
        return layer_norm(tokens, "norm")
