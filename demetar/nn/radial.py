"""Functions of the distance: bases, cutoff envelopes and radial networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from demetar.nn import mlp
from demetar.types import Array

Basis = Callable[[Array, int, float], jax.Array]


def bessel(lengths: Array, num_basis: int, extent: float) -> jax.Array:
    """sqrt(2 / c) sin(n pi r / c) / r for n = 1 .. num_basis.

    Source: Gasteiger et al. 2020, arXiv 2003.03123, equation 7.

    Args:
      lengths: [E], >= 0; finite and smooth at 0, oscillating on beyond `extent`.
      num_basis: number of functions.
      extent: c, in the unit of `lengths`.

    Returns:
      [E, num_basis].
    """
    frequencies = jnp.arange(1, num_basis + 1, dtype=lengths.dtype) / extent
    # jnp.sinc(x) is sin(pi x) / (pi x), with its limit at 0.
    waves = jnp.pi * frequencies * jnp.sinc(frequencies * lengths[:, None])
    return jnp.sqrt(2.0 / extent).astype(lengths.dtype) * waves


def rooted_bessel(lengths: Array, roots: Array, extent: float) -> jax.Array:
    """(2 / c) sin(w_n r / c) / r with roots w_n that a network learns.

    Source: the code of NequIP (arXiv 2101.03164), whose roots start from n pi.

    Args:
      lengths: [E], >= 0; finite and smooth at 0.
      roots: [num_basis].
      extent: c, in the unit of `lengths`.

    Returns:
      [E, num_basis].
    """
    frequencies = jnp.asarray(roots) / extent
    return (
        2.0 / extent * frequencies * jnp.sinc(frequencies / jnp.pi * lengths[:, None])
    )


def gaussian_steps(
    lengths: Array, step: float, extent: float, gamma: float
) -> jax.Array:
    """exp(-gamma (r - mu)^2) for mu = 0, step, 2 step, ... up to `extent`.

    Source: Schuett et al. 2017, arXiv 1706.08566, section 4.2.

    Args:
      lengths: [E].
      step, extent: in the unit of `lengths`.
      gamma: in its inverse square.

    Returns:
      [E, 1 + the steps that fit].
    """
    count = 1 + math.floor(extent / step + 1e-6)
    centres = step * jnp.arange(count, dtype=lengths.dtype)
    return jnp.exp(-gamma * jnp.square(lengths[:, None] - centres))


def gaussian(lengths: Array, num_basis: int, extent: float) -> jax.Array:
    """Gaussians at num_basis >= 2 equal steps from 0 to `extent`, one step wide.

    Args:
      lengths: [E].
      num_basis: number of functions.
      extent: centre of the last one, in the unit of `lengths`.

    Returns:
      [E, num_basis].
    """
    step = extent / (num_basis - 1)
    return gaussian_steps(lengths, step, extent, 0.5 / step**2)


class TrainedGaussians(hk.Module):
    """Normal densities of the length over `extent`, whose means and widths are learned.

    Source: the code of Equiformer (arXiv 2206.11990), after Graphormer's: means start
    uniform in (0, 1), widths in (1 / num_basis, 1); the length is shifted and scaled
    by two more parameters.
    """

    EPSILON = 1e-5

    def __init__(self, num_basis: int, extent: float, name: str | None = None):
        super().__init__(name=name)
        self.num_basis = num_basis
        self.extent = extent

    def __call__(self, lengths: Array) -> jax.Array:
        """[E] -> [E, num_basis]."""
        shape, dtype = (1, self.num_basis), lengths.dtype
        uniform: type = hk.initializers.RandomUniform
        mean = hk.get_parameter("mean", shape, dtype, uniform(0.0, 1.0))
        width_init = uniform(1.0 / self.num_basis, 1.0)
        width = hk.get_parameter("width", shape, dtype, width_init)
        factor = hk.get_parameter("factor", (1, 1), dtype, jnp.ones)
        shift = hk.get_parameter("shift", (1, 1), dtype, jnp.zeros)
        width = jnp.abs(width) + self.EPSILON
        scaled = factor * (lengths[:, None] / self.extent) + shift
        density = jnp.exp(-0.5 * jnp.square((scaled - mean) / width))
        return density / (math.sqrt(2.0 * math.pi) * width)


def exp_normal(lengths: Array, num_basis: int, extent: float) -> jax.Array:
    """exp(-beta (exp(-5 r / c) - mu_k)^2): Gaussians in a coordinate dense at small r.

    The num_basis >= 2 centres mu_k are equally spaced from exp(-5) to 1, beta is
    (2 (1 - exp(-5)) / num_basis)^-2. Source: Thoelke and De Fabritiis 2022, arXiv
    2202.02541, equation 1 without its cutoff, for c = 5 Angstrom; for other extents
    distances are scaled to that.

    Args:
      lengths: [E].
      num_basis: number of functions.
      extent: c, in the unit of `lengths`.

    Returns:
      [E, num_basis].
    """
    start = math.exp(-5.0)
    step = (1.0 - start) / (num_basis - 1)
    centres = start + step * jnp.arange(num_basis, dtype=lengths.dtype)
    beta = (2.0 * (1.0 - start) / num_basis) ** -2
    decays = jnp.exp(-5.0 * lengths[:, None] / extent)
    return jnp.exp(-beta * jnp.square(decays - centres))


def polynomial_cutoff(lengths: Array, cutoff: float, power: int = 6) -> jax.Array:
    """An envelope that falls from 1 at 0 to 0 at the cutoff, smooth to second order.

    Source: Gasteiger et al. 2020, arXiv 2003.03123, equation 8.

    Args:
      lengths: [E].
      cutoff: in the unit of `lengths`.
      power: p of the equation.

    Returns:
      [E]; 0 beyond the cutoff.
    """
    x = lengths / cutoff
    a, b, c = (
        (power + 1) * (power + 2) / 2,
        power * (power + 2),
        power * (power + 1) / 2,
    )
    values = 1 - a * x**power + b * x ** (power + 1) - c * x ** (power + 2)
    return jnp.where(x < 1, values, 0.0)


def cosine_cutoff(lengths: Array, cutoff: float) -> jax.Array:
    """(cos(pi r / c) + 1) / 2 up to the cutoff c and 0 beyond: [E].

    Source: Behler 2011, J. Chem. Phys. 134, 074106, equation 4.
    """
    values = 0.5 * (jnp.cos(jnp.pi * lengths / cutoff) + 1.0)
    return jnp.where(lengths < cutoff, values, 0.0)


def edge_inputs(
    lengths: Array, edges: Array, basis: Basis, num_basis: int, extent: float
) -> jax.Array:
    """What a radial network reads: the basis of the length beside the edge features.

    On complete N-body graphs the charge products enter here, and no envelope is
    applied: charges stay distinguishable at any distance.

    Args:
      lengths: [E].
      edges: [E, F].
      basis: `bessel`, `gaussian` or `exp_normal`.
      num_basis: number of functions.
      extent: of the basis, in the unit of `lengths`.

    Returns:
      [E, num_basis + F].
    """
    return jnp.concatenate([basis(lengths, num_basis, extent), edges], axis=-1)


def network(
    inputs: Array, hidden_sizes: tuple[int, ...], num_outputs: int, name: str
) -> Array:
    """A perceptron on radial inputs [E, C]: [E, num_outputs]."""
    return mlp.MLP([*hidden_sizes, num_outputs], name=name)(inputs)
