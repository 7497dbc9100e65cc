"""Depth-wise tensor products with an attribute, one weight per channel and path.

The "uvu" product of e3nn: every channel of the features couples with the one channel of
the attribute, and no two channels mix. Networks mix channels by linear maps before and
after it, which stand at the nodes if the algebra allows it. Used by NequIP, the
network of the e3nn tutorial and Equiformer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.nn import capture, mlp, steerable
from demetar.nn.steerable import Attribute, Channels, Features, Irrep, Path
from demetar.types import Array, Graph


def find_paths(
    inputs: Iterable[Irrep], attribute: Iterable[Irrep], outputs: Iterable[Irrep]
) -> list[Path]:
    """All couplings of the inputs with the attribute to the outputs, sorted."""
    wanted = set(outputs)
    return [
        Path(first, second, out)
        for first in sorted(inputs)
        for second in sorted(attribute)
        for out in first * second
        if out in wanted
    ]


def channels_of(features: Features) -> Channels:
    """The number of channels of each irrep."""
    return {irrep: values.shape[-1] for irrep, values in features.items()}


def num_weights(paths: Sequence[Path], channels: Channels) -> int:
    """Weights that a product on features of these channels takes."""
    return sum(channels[path.first] for path in paths)


def tensor_product(
    features: Features,
    attribute: Attribute,
    paths: Sequence[Path],
    weights: Array | None = None,
) -> Features:
    """The couplings of each channel, side by side in the order of the paths.

    Each path keeps the variance of components, as e3nn's 'component' normalisation.

    Args:
      features: {irrep: [2l + 1, X, C]}.
      attribute: {irrep: [2l + 1, X]}.
      paths: of `find_paths`.
      weights: [X, num_weights(paths, channels)], path by path; None multiplies by 1.

    Returns:
      {irrep: [2l + 1, X, channels of all paths that end in it]}.
    """
    parts: dict[Irrep, list[jax.Array]] = {}
    start = 0
    for path in paths:
        values = steerable.couple(features[path.first], attribute[path.second], path)
        if weights is not None:
            stop = start + values.shape[-1]
            values = values * weights[:, start:stop]
            start = stop
        parts.setdefault(path.out, []).append(values)
    outputs = {out: jnp.concatenate(parts[out], axis=-1) for out in sorted(parts)}
    couplings = [capture.Coupling(*path) for path in paths]
    capture.record_product(
        "depth-wise", channels_of(features), channels_of(outputs), couplings
    )
    return outputs


def convolve(
    nodes: Features,
    attribute: Attribute,
    paths: Sequence[Path],
    weights: Array,
    graph: Graph,
) -> Features:
    """Sum over the senders of each node of their product with the edge's attribute.

    Args:
      nodes: {irrep: [2l + 1, N, C]}, channels mixed already.
      attribute: {irrep: [2l + 1, E]}.
      paths: of `find_paths`.
      weights: [E, num_weights(paths, channels)].
      graph: the batch.

    Returns:
      {irrep: [2l + 1, N, C']}.
    """
    senders = {
        irrep: graphs.gather_senders(values, graph) for irrep, values in nodes.items()
    }
    messages = tensor_product(senders, attribute, paths, weights)
    return {
        irrep: graphs.sum_to_receivers(values, graph)
        for irrep, values in messages.items()
    }


def harmonics(vectors: Array, lmax: int) -> Attribute:
    """Spherical harmonics as an attribute, scaled so that the one of degree 0 is 1.

    e3nn's 'component' normalisation: the square of a component has the mean 1 over the
    sphere.

    Args:
      vectors: [X, 3]; a zero vector has zero harmonics above degree 0.
      lmax: highest degree.
    """
    values = geometry.spherical_harmonics(vectors, lmax)
    scale = math.sqrt(4 * math.pi)
    return {
        irrep: scale * value
        for irrep, value in steerable.natural_attribute(values).items()
    }


class NormedMLP(hk.Module):
    """A perceptron with layer norm and SiLU after every layer but the last.

    The radial networks of Equiformer and of the e3nn tutorial. Biases start from 0, but
    for the last in Equiformer's.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int],
        num_outputs: int,
        epsilon: float = 1e-5,
        w_init: mlp.Initializer | None = None,
        last_b_init: mlp.Initializer | None = None,
        name: str | None = None,
    ):
        """Sizes and starts.

        Args:
          hidden_sizes: channels of the layers with a norm.
          num_outputs: channels of the last layer.
          epsilon: added to the variances of the norms.
          w_init: of the weights; by default that of PyTorch.
          last_b_init: of the last bias; by default that of PyTorch.
          name: of the module.
        """
        super().__init__(name=name)
        self.hidden_sizes = tuple(hidden_sizes)
        self.num_outputs = num_outputs
        self.epsilon = epsilon
        self.w_init = w_init
        self.last_b_init = last_b_init

    def __call__(self, inputs: Array) -> Array:
        """[X, C] -> [X, num_outputs]."""
        values: Any = inputs
        for index, size in enumerate(self.hidden_sizes):
            name = f"linear_{index}"
            values = mlp.Linear(size, True, self.w_init, jnp.zeros, name)(values)
            norm = hk.LayerNorm(-1, True, True, self.epsilon, name=f"norm_{index}")
            values = jax.nn.silu(norm(values))
        name = f"linear_{len(self.hidden_sizes)}"
        last = mlp.Linear(self.num_outputs, True, self.w_init, self.last_b_init, name)
        return last(values)
