"""Depth-wise tensor products with an attribute, one weight per channel and path.

The "uvu" product of e3nn: every channel of the features couples with the one channel of
the attribute, and no two channels mix. Networks mix channels by linear maps before and
after it, which stand at the nodes if the algebra allows it. Used by NequIP, the
network of the e3nn tutorial and Equiformer.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, pairs
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
    _record(features, paths)
    found = _products(features, attribute, paths, _split(weights, features, paths))
    return _side_by_side(paths, found)


class LinearProduct(steerable.Linear):
    """A linear map of the channels that `tensor_product` gives.

    The function and the parameters are those of `steerable.Linear` on it. But a path
    that has fewer components before the coupling mixes channels there.
    """

    def __call__(  # type: ignore[override]
        self,
        features: Features,
        attribute: Attribute,
        paths: Sequence[Path],
        weights: Array | None = None,
    ) -> Features:
        """As `tensor_product`, to {irrep: [2l + 1, X, channels[irrep]]}."""
        _record(features, paths)
        parts = dict(zip(paths, _split(weights, features, paths), strict=True))
        outputs = {}
        for out in sorted(set(self.channels) & {path.out for path in paths}):
            own = {path: parts[path] for path in paths if path.out == out}
            values = self._sum_of_paths(out, features, attribute, own)
            outputs[out] = self.biased(out, values)
        return outputs

    @hk.transparent
    def _sum_of_paths(
        self,
        out: Irrep,
        features: Features,
        attribute: Attribute,
        weights: Mapping[Path, jax.Array | None],
    ) -> jax.Array:
        """What all paths that end in `out` give, mixed: [2l + 1, X, C']."""
        inputs = [features[path.first] for path in weights]
        sizes = [values.shape[-1] for values in inputs]
        w = self.weight(out, sum(sizes), inputs[0].dtype)
        blocks = jax.lax.split(w, sizes, 0)
        terms, coupled, late = [], [], []
        for (path, own), values, block in zip(
            weights.items(), inputs, blocks, strict=True
        ):
            if path.first.l < out.l:
                mixed = mlp.matmul(values if own is None else values * own, block)
                terms.append(steerable.couple(mixed, attribute[path.second], path))
            else:
                values = steerable.couple(values, attribute[path.second], path)
                coupled.append(values if own is None else values * own)
                late.append(block)
        if coupled:  # one wide product
            joined = jnp.concatenate(coupled, axis=-1)
            terms.append(mlp.matmul(joined, jnp.concatenate(late)))
        return functools.reduce(operator.add, terms)


def convolve(
    nodes: Features,
    attribute: Attribute,
    paths: Sequence[Path],
    weights: Array,
    graph: Graph,
    ways: Sequence[pairs.Way] = (pairs.FORWARD,),
) -> Features:
    """Sum over the senders of each node of their product with the edge's attribute.

    Args:
      nodes: {irrep: [2l + 1, N, C]}, channels mixed already.
      attribute: {irrep: [2l + 1, E]} of the directions from sender to receiver, or
        back; of degree l, it changes with them by (-1)^l.
      paths: of `find_paths`.
      weights: [E, num_weights(paths, channels)].
      graph, ways: the batch, or those of `pairs.ways`.

    Returns:
      {irrep: [2l + 1, N, C']}.
    """
    _record(nodes, paths)
    parts = _split(weights, nodes, paths)
    totals: list[jax.Array] = []
    for way in ways:
        ends = {irrep: way.other(values, graph) for irrep, values in nodes.items()}
        # Path by path: nodes are fewer than edges, and what is joined is of nodes.
        sums = [
            way.sign**path.second.l * way.total(values, graph)
            for path, values in zip(
                paths, _products(ends, attribute, paths, parts), strict=True
            )
        ]
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    return _side_by_side(paths, totals)


def _split(
    weights: Array | None, features: Features, paths: Sequence[Path]
) -> Sequence[jax.Array | None]:
    """The weights [X, C] of each path.

    The gradient of a split is one concatenation; that of slices adds up arrays as large
    as the whole, one for each.
    """
    if weights is None:
        return [None] * len(paths)
    sizes = [features[path.first].shape[-1] for path in paths]
    return jax.lax.split(jnp.asarray(weights), sizes, 1)


def _products(
    features: Features,
    attribute: Attribute,
    paths: Sequence[Path],
    weights: Sequence[jax.Array | None],
) -> Iterator[jax.Array]:
    """The coupling of each path times its weights: [2l + 1, X, C]."""
    for path, own in zip(paths, weights, strict=True):
        values = steerable.couple(features[path.first], attribute[path.second], path)
        yield values if own is None else values * own


def _side_by_side(paths: Sequence[Path], values: Iterable[jax.Array]) -> Features:
    """What the paths give, joined by the irreps that they end in."""
    parts: dict[Irrep, list[jax.Array]] = {}
    for path, value in zip(paths, values, strict=True):
        parts.setdefault(path.out, []).append(value)
    return {out: jnp.concatenate(parts[out], axis=-1) for out in sorted(parts)}


def _record(features: Features, paths: Sequence[Path]) -> None:
    """The couplings and the channels that they give, for those who look on."""
    channels = channels_of(features)
    outputs = dict.fromkeys(sorted({path.out for path in paths}), 0)
    for path in paths:
        outputs[path.out] += channels[path.first]
    couplings = [capture.Coupling(*path) for path in paths]
    capture.record_product("depth-wise", channels, outputs, couplings)


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
