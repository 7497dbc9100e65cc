"""Linear layers and perceptrons with PyTorch's default initialisation.

The published N-body codes are written in PyTorch, so their protocols include its
default initialisation: weights and biases uniform in +-1/sqrt(inputs). A model whose
authors draw otherwise names its own.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from demetar import graphs
from demetar.types import Array, Graph

Activation = Callable[[Array], jax.Array]
Initializer = Callable[..., jax.Array]

# Glorot, Bengio 2010, equation 16 (Xavier's in PyTorch): uniform in
# +-sqrt(6 / (inputs + outputs)).
GLOROT_UNIFORM: Initializer = hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform")
ZEROS: Initializer = hk.initializers.Constant(0.0)


def uniform_fan_in(num_inputs: int) -> Initializer:
    """Uniform in +-1/sqrt(num_inputs), as `torch.nn.Linear` draws."""
    bound = 1.0 / max(num_inputs, 1) ** 0.5
    return hk.initializers.RandomUniform(-bound, bound)


@jax.custom_jvp
def matmul(inputs: Array, w: Array) -> jax.Array:
    """Inputs [..., C] times a weight [C, C'].

    The gradient of the weight is a product with the transposed inputs. XLA's CPU code
    multiplies by a transpose that lies in memory faster than it transposes within the
    product; the barrier keeps it from undoing that. The derivative is written with that
    transpose, so that both modes have it, in any order and as often as one likes.
    """
    return jnp.matmul(inputs, w)


def _matmul_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[jax.Array, jax.Array]:
    """The product and what it changes by; inputs that do not change cost nothing."""
    (inputs, w), (of_inputs, of_w) = primals, tangents
    product = matmul(inputs, w)
    parts = []
    if not isinstance(of_inputs, SymbolicZero):
        parts.append(matmul(of_inputs, w))
    if not isinstance(of_w, SymbolicZero):
        num_rows = math.prod(inputs.shape[:-1])  # -1 fails if there are no channels
        rows = inputs.reshape(num_rows, inputs.shape[-1])
        transposed = jax.lax.optimization_barrier(rows.T)  # [C, X]
        change = jax.lax.dot_general(transposed, of_w, (((0,), (0,)), ((), ())))
        parts.append(change.reshape(product.shape))
    return product, functools.reduce(operator.add, parts)


matmul.defjvp(_matmul_jvp, symbolic_zeros=True)


def sigmoid(values: Array) -> jax.Array:
    """1 / (1 + exp(-x)), written with tanh, which XLA's CPU code computes faster."""
    return 0.5 * jnp.tanh(0.5 * values) + 0.5


def silu(values: Array) -> jax.Array:
    """The product x sigmoid(x)."""
    return jnp.multiply(values, sigmoid(values))


class Linear(hk.Module):
    """x W + b on the last axis."""

    def __init__(
        self,
        num_outputs: int,
        with_bias: bool = True,
        w_init: Initializer | None = None,
        b_init: Initializer | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.num_outputs = num_outputs
        self.with_bias = with_bias
        self.w_init = w_init
        self.b_init = b_init

    def __call__(self, inputs: Array) -> Array:
        """[..., C] -> [..., num_outputs]."""
        w, b = self.parameters(inputs.shape[-1], inputs.dtype)
        outputs = matmul(inputs, w)
        return outputs if b is None else outputs + b

    def parts(self, inputs: Array, count: int) -> list[jax.Array]:
        """[..., C] -> the layer in `count` arrays [..., num_outputs / count].

        Each is a product of its own: to cut a large array costs a pass over it, and in
        the gradient another that joins the pieces.
        """
        w, b = self.parameters(inputs.shape[-1], inputs.dtype)
        outputs = [matmul(inputs, part) for part in jnp.split(w, count, axis=-1)]
        if b is None:
            return outputs
        biases = jnp.split(b, count)
        return [part + bias for part, bias in zip(outputs, biases, strict=True)]

    def parameters(
        self, num_inputs: int, dtype: jnp.dtype
    ) -> tuple[jax.Array, jax.Array | None]:
        """Weight [num_inputs, num_outputs] and bias [num_outputs] or None."""
        init = uniform_fan_in(num_inputs)
        shape = (num_inputs, self.num_outputs)
        w = hk.get_parameter("w", shape, dtype, self.w_init or init)
        if not self.with_bias:
            return w, None
        return w, hk.get_parameter("b", shape[1:], dtype, self.b_init or init)


class EdgeLinear(Linear):
    """A linear layer on concat(h_i, h_j, e_ij) for each edge from j to i.

    Written as W_i h_i + W_j h_j + W_e e_ij: the node parts are multiplied at N nodes
    before they are gathered, not at E edges after. The parameters are those of the
    layer on the concatenation.
    """

    def __call__(  # type: ignore[override]
        self, nodes: Array, edges: Array, graph: Graph
    ) -> jax.Array:
        """Nodes [N, C] and edges [E, F] -> [E, num_outputs]."""
        channels = nodes.shape[-1]
        w, b = self.parameters(2 * channels + edges.shape[-1], nodes.dtype)
        receivers = matmul(nodes, w[:channels])
        if b is not None:
            receivers = receivers + b
        senders = matmul(nodes, w[channels : 2 * channels])
        return (
            graphs.gather_receivers(receivers, graph)
            + graphs.gather_senders(senders, graph)
            + matmul(edges, w[2 * channels :])
        )


class MLP(hk.Module):
    """Linear layers with an activation between them, and after the last if asked."""

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Activation = silu,
        activate_last: bool = False,
        name: str | None = None,
        w_init: Initializer | None = None,
        b_init: Initializer | None = None,
        last_w_init: Initializer | None = None,
    ):
        super().__init__(name=name)
        self.sizes = tuple(sizes)
        self.activation = activation
        self.activate_last = activate_last
        self.w_init = w_init
        self.b_init = b_init
        self.last_w_init = last_w_init or w_init

    def __call__(self, inputs: Array) -> jax.Array:
        """[..., C] -> [..., sizes[-1]]."""
        values: Any = inputs
        last = len(self.sizes) - 1
        for index, size in enumerate(self.sizes):
            w_init = self.w_init if index < last else self.last_w_init
            layer = Linear(size, True, w_init, self.b_init, f"linear_{index}")
            values = layer(values)
            if index < last or self.activate_last:
                values = self.activation(values)
        found: jax.Array = values
        return found
