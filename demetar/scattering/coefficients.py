"""Scattering coefficients of densities that are sums of Gaussians.

A molecule is three densities of Gaussians of width 1, which is the unit of all lengths
here, weighted by the nuclear charge, the valence electrons and the core electrons. With
wavelets psi of scales 2^j, j = 0..2, and degrees l = 0..3 (`harmonics`):

    U0 = density,  U1_lj = sqrt(sum_m |U0 * psi_lmj|²),
    U2_ljk = sqrt(sum_m |U1_lj * psi_lmk|²), j < k

and the coefficients are the integrals of these 25 fields to the powers 1/2, 1, 2, 3.

A Gaussian convolved with such a wavelet is one again, of width sqrt(1 + 4^j), so U1 is
summed over atoms in closed form. Gaussians times powers factor into x, y and z, so the
second convolution is a sum over the points of one axis after the other. Both are matrix
products. Nothing is periodic, and fields of large scales live on coarse grids.

Source: Eickenberg et al. 2018, arXiv 1805.00571, section III; the settings are those of
its table for QM7 (J = 2, L = 3).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from demetar.scattering import harmonics
from demetar.types import Array

NUM_SCALES = 3
POWERS = (0.5, 1.0, 2.0, 3.0)
DENSITIES = ("nuclear", "valence", "core")
PAIRS = tuple(
    (first, second)
    for first in range(NUM_SCALES)
    for second in range(first + 1, NUM_SCALES)
)
DEGREES = tuple(range(harmonics.MOST_DEGREE + 1))
NUM_FIELDS = 1 + len(DEGREES) * (NUM_SCALES + len(PAIRS))
NUM_COEFFICIENTS = len(DENSITIES) * NUM_FIELDS * len(POWERS)  # of a molecule


@dataclasses.dataclass(frozen=True)
class Grid:
    """Points around the origin.

    Attributes:
      spacing: between neighbours.
      counts: of points along x, y and z.
    """

    spacing: float
    counts: tuple[int, int, int]

    def axes(self) -> list[np.ndarray]:
        """Coordinates of the points along x, y and z, float32."""
        return [
            ((np.arange(count) - (count - 1) / 2) * self.spacing).astype(np.float32)
            for count in self.counts
        ]

    @property
    def volume(self) -> float:
        """Of the cell of a point."""
        return self.spacing**3


@dataclasses.dataclass(frozen=True)
class Grids:
    """Where the fields are integrated: the density, and those of each scale."""

    density: Grid
    scales: tuple[Grid, ...]


def width(scale: int) -> float:
    """Of the density convolved with a wavelet of that scale."""
    return math.sqrt(1 + 4**scale)


def coefficients(
    positions: Array, weights: Array, grids: Grids, over_all: bool = True
) -> jax.Array:
    """The coefficients of one molecule.

    Args:
      positions: [n, 3] of the atoms, in widths of their Gaussians.
      weights: [3, n] of the atoms in each density; 0 for padding.
      grids: that hold the molecule with its surroundings.
      over_all: of `modulus`.

    Returns:
      [3, 25, 4] by density, field and power. The fields are the density, then for each
      degree the scales 0, 1, 2 and the pairs of scales 01, 02, 12.
    """
    atoms = (positions, weights)
    density = modulus(first_order(atoms, grids.density, 0, None), 0)
    fields = [integrals(density, grids.density)]
    for degree in DEGREES:
        firsts = [
            modulus(first_order(atoms, grid, degree, scale), degree, over_all)
            for scale, grid in enumerate(grids.scales)
        ]
        fields += map(integrals, firsts, grids.scales)
        for j, k in PAIRS:
            ends = (grids.scales[j], grids.scales[k])
            terms = second_order(firsts[j], ends, degree, k)
            fields.append(integrals(modulus(terms, degree, over_all), ends[1]))
    return jnp.stack(fields, axis=1)


@functools.partial(jax.jit, static_argnames="grids")
def batch_coefficients(positions: Array, weights: Array, grids: Grids) -> jax.Array:
    """The coefficients of molecules of one box, one row each: [B, 300].

    Args:
      positions: [B, n, 3], see `coefficients`.
      weights: [B, 3, n].
      grids: of the box.
    """
    each = functools.partial(coefficients, grids=grids)
    if jax.default_backend() == "cpu":  # one molecule fits its cache
        found = jax.lax.map(lambda atoms: each(*atoms), (positions, weights))
    else:
        found = jax.vmap(each)(positions, weights)
    return jnp.reshape(found, (len(positions), NUM_COEFFICIENTS))


def first_order(
    atoms: tuple[Array, Array], grid: Grid, degree: int, scale: int | None
) -> jax.Array:
    """The densities convolved with the monomials of wavelets of a degree and a scale.

    Args:
      atoms: positions and weights, of `coefficients`.
      grid: of the result.
      degree: l.
      scale: j; None for the densities themselves.

    Returns:
      [terms, 3, x, y, z], in the order of `harmonics.monomials`.
    """
    positions, weights = atoms
    wide = 1.0 if scale is None else width(scale)
    factor = harmonics.norm(degree) / wide**3
    if scale is not None:
        factor *= (2**scale / wide) ** degree
    x, y, z = (
        _powers((jnp.asarray(axis) - positions[:, k, None]) / wide, degree)
        for k, axis in enumerate(grid.axes())
    )  # [l + 1, n, points]
    a, b, c = np.transpose(harmonics.monomials(degree))
    weighted = factor * weights[:, None] * jnp.swapaxes(x[a], 1, 2)[:, None]  # [tdxn]
    planes = y[b][..., None] * z[c][..., None, :]  # [tnyz]
    return _einsum("tdxn,tnyz->tdxyz", weighted, planes)


def second_order(
    field: Array, ends: tuple[Grid, Grid], degree: int, scale: int
) -> jax.Array:
    """A field convolved with the monomials of wavelets of a degree and a scale.

    Args:
      field: [3, x, y, z] on the first grid.
      ends: the grids of the field and of the result.
      degree: l.
      scale: of the wavelets.

    Returns:
      [terms, 3, X, Y, Z] on the second grid, in the order of `harmonics.monomials`.
    """
    wide = float(2**scale)
    factor = ends[0].volume * harmonics.norm(degree) / wide**3
    x, y, z = (
        _powers(jnp.asarray((after[:, None] - before) / wide), degree)
        for before, after in zip(*(grid.axes() for grid in ends), strict=True)
    )  # [l + 1, points after, points before]
    along_x = _einsum("dxyz,aXx->adXyz", factor * field, x)
    terms = []
    for a in range(degree + 1):
        others = degree + 1 - a  # powers of y, and in reverse those of z
        along_xy = _einsum("dXyz,bYy->bdXYz", along_x[a], y[:others])
        terms.append(_einsum("bdXYz,bZz->bdXYZ", along_xy, z[:others][::-1]))
    return jnp.concatenate(terms)


def modulus(terms: Array, degree: int, over_all: bool = True) -> jax.Array:
    """The modulus over m of the wavelets of a degree: [3, x, y, z].

    Args:
      terms: [terms, 3, x, y, z] by monomial.
      degree: l.
      over_all: False for |.| of the first m alone, which is not invariant: for tests.
    """
    squares = []
    for factors in harmonics.mixing(degree)[: None if over_all else 1]:
        used = np.flatnonzero(factors)
        component = sum(float(factors[index]) * terms[index] for index in used)
        squares.append(component**2)
    return jnp.sqrt(sum(squares))


def integrals(field: Array, grid: Grid) -> jax.Array:
    """The integrals of the powers of fields that are not negative: [3, 4]."""
    powers = (jnp.sqrt(field), field, field**2, field**3)
    return grid.volume * jnp.stack([p.sum(axis=(1, 2, 3)) for p in powers], axis=-1)


def _einsum(equation: str, first: Array, second: Array) -> jax.Array:
    """A matrix product in full precision, on accelerators too."""
    return jnp.einsum(equation, first, second, precision=jax.lax.Precision.HIGHEST)


def _powers(values: jax.Array, most: int) -> jax.Array:
    """exp(-u² / 2) times the powers 0 to `most` of u, stacked."""
    gaussian = jnp.exp(-(values**2) / 2)
    return jnp.stack([values**power * gaussian for power in range(most + 1)])
