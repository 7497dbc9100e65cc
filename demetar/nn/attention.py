"""Attention among the tokens of a graph, and transformer encoders made of it.

Tokens stand in dense arrays [G, M, C] with a mask [G, M], as `graphs.ragged_to_dense`
makes them; the attention of nodes to their own edges works on the edge list.
Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
"""

from __future__ import annotations

import dataclasses
import functools

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.errors import UserError
from demetar.nn import capture, mlp
from demetar.types import Array, Bucket, Graph

FLOAT_BYTES = 4

gelu = functools.partial(jax.nn.gelu, approximate=False)  # as PyTorch has it


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


def dropout(values: Array, rate: float, is_training: bool) -> Array:
    """In training, zeros with probability `rate`, and the rest grown by as much."""
    if not is_training or not rate:
        return values
    return hk.dropout(hk.next_rng_key(), rate, jnp.asarray(values))


def check_size(model: str, bucket: Bucket, channels: int, most: int) -> None:
    """Refuse graphs whose arrays of pairs would be too large, before one is made.

    Args:
      model: named in the error; it has a field `max_nodes`.
      bucket: of the batch.
      channels: of the largest array of pairs.
      most: nodes that a graph may have.

    Raises:
      UserError: a graph has more.
    """
    nodes = bucket.nodes_per_graph or bucket.max_nodes_per_graph or bucket.max_nodes - 1
    if nodes <= most:
        return
    memory = FLOAT_BYTES * bucket.num_graphs * channels * nodes**2 / 2**30
    raise UserError(
        f"{model} joins every node with every other one, and its max_nodes is {most}, "
        f"found a graph of {nodes}: one array of the pairs would take {memory:.1f} GiB "
        f"at {bucket.num_graphs} graphs; use smaller graphs or, with a smaller "
        f"--batch_size, --set max_nodes={nodes}"
    )


class SelfAttention(hk.Module):
    """Multi-head attention of every token of a graph to all tokens of the graph.

    The weights [G, H, M, M] are recorded under `attention_NAME`.
    """

    def __init__(
        self,
        num_heads: int,
        record: str,
        name: str | None = None,
        dropout: float = 0.0,
        w_init: mlp.Initializer | None = None,
        b_init: mlp.Initializer | None = None,
    ):
        """`dropout` is the probability that a weight is left out in training."""
        super().__init__(name=name)
        self.num_heads = num_heads
        self.record = record
        self.dropout = dropout
        self.w_init = w_init
        self.b_init = b_init

    def __call__(
        self,
        tokens: Array,
        mask: Array,
        bias: Array | None = None,
        is_training: bool = False,
    ) -> Array:
        """Tokens [G, M, C] -> [G, M, C].

        Args:
          tokens: [G, M, C].
          mask: [G, M] True for tokens that can be seen.
          bias: [G, H, M, M] added to the logits of queries and keys.
          is_training: whether weights are left out.
        """
        *lead, channels = tokens.shape
        size = head_size(channels, self.num_heads)
        width = self.num_heads * size
        linear = functools.partial(mlp.Linear, w_init=self.w_init, b_init=self.b_init)
        projected = linear(3 * width, name="query_key_value")(tokens)
        queries, keys, values = jnp.moveaxis(
            projected.reshape(*lead, 3, self.num_heads, size), -3, 0
        )  # [G, M, H, C / H] each
        logits = jnp.einsum("gmhc,gkhc->ghmk", queries, keys) / size**0.5
        if bias is not None:
            logits = logits + bias
        weights = masked_softmax(logits, mask[:, None, None])
        capture.record(f"attention_{self.record}", weights)
        kept = dropout(weights, self.dropout, is_training)
        mixed = jnp.einsum("ghmk,gkhc->gmhc", kept, values)
        return linear(channels, name="output")(mixed.reshape(*lead, width))


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


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """Sizes of a `BiasedLayer`.

    Attributes:
      num_heads: attention heads.
      feed_forward_size: channels within the feed-forward step.
      dropout: probability that what a step adds to a channel is left out in training.
      attention_dropout, activation_dropout: of an attention weight, and of a channel
        within the feed-forward step.
      w_init, b_init: what weights and biases are drawn by; None for PyTorch's default.
    """

    num_heads: int
    feed_forward_size: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    w_init: mlp.Initializer | None = None
    b_init: mlp.Initializer | None = None


class BiasedLayer(hk.Module):
    """A transformer block whose attention has a bias for every pair of tokens.

    The normalisation comes before each step. Used by both forms of Graphormer.
    """

    def __init__(self, settings: LayerSettings, name: str | None = None):
        super().__init__(name=name)
        self.settings = settings

    def __call__(
        self, tokens: Array, mask: Array, bias: Array, record: str, is_training: bool
    ) -> Array:
        """Tokens [G, M, C], mask [G, M] and bias [G, H, M, M] -> [G, M, C].

        The attention weights are recorded under `attention_RECORD`.
        """
        own = self.settings
        attend = SelfAttention(
            own.num_heads,
            record,
            "attention",
            own.attention_dropout,
            own.w_init,
            own.b_init,
        )
        step = attend(layer_norm(tokens, "norm_0"), mask, bias, is_training)
        tokens = tokens + dropout(step, own.dropout, is_training)
        rise = self._linear(own.feed_forward_size, "feed_forward_0")
        fall = self._linear(tokens.shape[-1], "feed_forward_1")
        hidden = gelu(rise(layer_norm(tokens, "norm_1")))
        step = fall(dropout(hidden, own.activation_dropout, is_training))
        return tokens + dropout(step, own.dropout, is_training)

    @hk.transparent
    def _linear(self, size: int, name: str) -> mlp.Linear:
        return mlp.Linear(size, True, self.settings.w_init, self.settings.b_init, name)
