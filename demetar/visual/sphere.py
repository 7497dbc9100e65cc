"""Functions on the sphere: grids, harmonics, expansion in degrees.

A feature h of degree l is the function f(n) = sum_m h_m Y_lm(n), with the harmonics of
`demetar.geometry`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from demetar import geometry
from demetar.precision import precision

MOST_DEGREE = 6  # of expansions; what is compiled grows fast with it


class Grid(NamedTuple):
    """Directions on the sphere, with weights of a quadrature.

    Attributes:
      directions: [P, A, 3] of P polar and A azimuthal angles.
      weights: [P, A], which sum to 4 pi.
    """

    directions: np.ndarray
    weights: np.ndarray


def surface(num_polar: int, num_azimuthal: int) -> np.ndarray:
    """Directions [P + 1, A + 1, 3] from pole to pole that close all around."""
    polar = np.linspace(0, np.pi, num_polar + 1)[:, None]
    azimuth = np.linspace(0, 2 * np.pi, num_azimuthal + 1)[None]
    return _directions(np.cos(polar), np.sin(polar), azimuth)


def quadrature(lmax: int) -> Grid:
    """A grid that integrates all products of two harmonics up to a degree exactly.

    Gauss-Legendre in the polar angle, equal steps in the azimuthal one.
    """
    cosines, weights = np.polynomial.legendre.leggauss(lmax + 1)
    count = 2 * lmax + 2
    azimuth = 2 * np.pi * (np.arange(count) + 0.5) / count
    sines = np.sqrt(1 - cosines**2)
    directions = _directions(cosines[:, None], sines[:, None], azimuth[None])
    all_weights = np.repeat(weights[:, None] * 2 * np.pi / count, count, axis=1)
    return Grid(directions, all_weights)


def _directions(
    cosines: np.ndarray, sines: np.ndarray, azimuth: np.ndarray
) -> np.ndarray:
    found = np.broadcast_arrays(sines * np.cos(azimuth), sines * np.sin(azimuth))
    third = np.broadcast_to(cosines, found[0].shape)
    return np.stack([*found, third], axis=-1)


def harmonics(directions: np.ndarray, lmax: int) -> dict[int, np.ndarray]:
    """Harmonics of directions [..., 3] in double precision: {l: [2l + 1, ...]}."""
    flat = np.reshape(directions, (-1, 3))
    with precision("float64"):
        found = jax.device_get(_harmonics(flat, lmax))
    shape = directions.shape[:-1]
    return {degree: np.reshape(own, (-1, *shape)) for degree, own in found.items()}


@functools.partial(jax.jit, static_argnums=1)
def _harmonics(directions: np.ndarray, lmax: int) -> dict[int, jax.Array]:
    return geometry.spherical_harmonics(directions, lmax)


def evaluate(
    coefficients: np.ndarray, values: Mapping[int, np.ndarray], degree: int
) -> np.ndarray:
    """f(n) of features [2l + 1, ...] on the grid of harmonics: [..., P, A]."""
    return np.tensordot(np.moveaxis(coefficients, 0, -1), values[degree], axes=1)


def expand(
    function: np.ndarray, grid: Grid, lmax: int = MOST_DEGREE
) -> dict[int, np.ndarray]:
    """Coefficients {l: [2l + 1]} of a function [P, A] on a grid of `quadrature`."""
    values = harmonics(grid.directions, lmax)
    # Harmonics are orthonormal over the sphere.
    return {
        degree: np.einsum("mpa,pa->m", own, function * grid.weights)
        for degree, own in values.items()
    }


def power(coefficients: Mapping[int, np.ndarray]) -> np.ndarray:
    """Sum of squares of each degree, [lmax + 1]."""
    return np.array([np.sum(np.square(own)) for _, own in sorted(coefficients.items())])


def cubic(directions: np.ndarray) -> np.ndarray:
    """The harmonic of degree 4 with the symmetry of the cube, as a polynomial: [...].

    x^4 + y^4 + z^4 - 3/5, the only one of its degree up to a factor.
    """
    found: np.ndarray = np.sum(directions**4, axis=-1) - 0.6
    return found
