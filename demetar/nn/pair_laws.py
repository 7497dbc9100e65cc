"""Laws of the force between two bodies, learned: acceleration over distance by pairs.

A law is made once per roll-out from the features of the pairs, and called at every step
with their distances. Its parameters belong to the module that makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar.nn import mlp
from demetar.types import Array

BUMP_RATIO = 1.7  # of the distances of neighbouring bumps
BUMP_WIDTH = 0.7  # of a bump, in multiples of the gap to the next one

Law: TypeAlias = Callable[[jax.Array], jax.Array]  # distances [P, 1] -> [P, 1]


def network_law(features: Array, network: mlp.MLP) -> Law:
    """network(log r, features) / r^(p + 1) with a learned p.

    Args:
      features: [P, F] of the pairs.
      network: with one output.
    """
    power = hk.get_parameter("power", (), features.dtype, jnp.ones)

    def law(distances: jax.Array) -> jax.Array:
        logs = jnp.log(distances)
        own = jnp.concatenate([logs, features, logs * features], axis=-1)
        return network(own) * jnp.exp(-(power + 1) * logs)  # [P, 1]

    return law


def separable_law(
    features: Array, network: mlp.MLP, smoothing: float, num_bumps: int, extent: float
) -> Law:
    """network(features) (r^2 + s^2)^(-(p + 1) / 2) exp(bumps of log r).

    Learned are the network, p, s and the heights of the bumps, Gaussians of log r. So
    any smooth positive function of the distance can be learned, and each bump changes
    it at its distances alone.

    Args:
      features: [P, F] of the pairs.
      network: with one output.
      smoothing: from which s is learned. One that is too long lets long steps follow
        the motion at first; the data shorten it.
      num_bumps: the first one at `extent`, each next one `BUMP_RATIO` times closer.
      extent: of the distances.
    """
    amplitudes = network(features)  # [P, 1]
    power = hk.get_parameter("power", (), features.dtype, jnp.ones)
    start = hk.initializers.Constant(np.log(smoothing))
    log_smoothing = hk.get_parameter("log_smoothing", (), features.dtype, start)
    heights = hk.get_parameter("heights", (num_bumps,), features.dtype, jnp.zeros)
    gap = np.log(BUMP_RATIO)
    centers = (np.log(extent) - gap * np.arange(num_bumps)).tolist()

    def law(distances: jax.Array) -> jax.Array:
        squares = jnp.square(distances)
        smooth = jnp.log(squares + jnp.exp(2 * log_smoothing)) / 2  # [P, 1]
        logs = jnp.log(squares) / 2
        exponents = -(power + 1) * smooth
        # One after the other: there is no array of pairs and bumps.
        for height, center in zip(heights, centers, strict=True):
            off = (logs - center) / (BUMP_WIDTH * gap)
            exponents = exponents + height * jnp.exp(-jnp.square(off) / 2)
        return amplitudes * jnp.exp(exponents)

    return law
