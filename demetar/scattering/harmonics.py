"""Real solid harmonics as polynomials, and solid harmonic wavelets made of them.

R_lm is scaled so that the sum of R_lm² over m is r^(2 l). The wavelet of degree l and
scale s is N_l s^-3 R_lm(r / s) exp(-r² / (2 s²)), N_l such that its modulus over m has
the integral 1 (Eickenberg et al. 2018, arXiv 1805.00571, section III).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

MOST_DEGREE = 3

# Of each R_lm its terms {powers of x, y and z: factor}.
Terms = Mapping[tuple[int, int, int], float]
_A, _B, _C = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15)
_HARMONICS: tuple[tuple[Terms, ...], ...] = (
    ({(0, 0, 0): 1.0},),
    ({(1, 0, 0): 1.0}, {(0, 1, 0): 1.0}, {(0, 0, 1): 1.0}),
    (
        {(1, 1, 0): math.sqrt(3)},
        {(0, 1, 1): math.sqrt(3)},
        {(1, 0, 1): math.sqrt(3)},
        {(0, 0, 2): 1.0, (2, 0, 0): -0.5, (0, 2, 0): -0.5},
        {(2, 0, 0): math.sqrt(3) / 2, (0, 2, 0): -math.sqrt(3) / 2},
    ),
    (
        {(2, 1, 0): 3 * _A, (0, 3, 0): -_A},
        {(3, 0, 0): _A, (1, 2, 0): -3 * _A},
        {(0, 1, 2): 4 * _B, (2, 1, 0): -_B, (0, 3, 0): -_B},
        {(1, 0, 2): 4 * _B, (3, 0, 0): -_B, (1, 2, 0): -_B},
        {(0, 0, 3): 1.0, (2, 0, 1): -1.5, (0, 2, 1): -1.5},
        {(2, 0, 1): _C / 2, (0, 2, 1): -_C / 2},
        {(1, 1, 1): _C},
    ),
)


def monomials(degree: int) -> tuple[tuple[int, int, int], ...]:
    """The powers of x, y and z of all terms of a degree; those of z vary last."""
    return tuple(
        (a, b, degree - a - b) for a in range(degree + 1) for b in range(degree + 1 - a)
    )


def mixing(degree: int) -> np.ndarray:
    """The harmonics [2 l + 1] of a degree in terms of its monomials: [m, terms]."""
    place = {powers: index for index, powers in enumerate(monomials(degree))}
    table = np.zeros((2 * degree + 1, len(place)))
    for row, terms in enumerate(_HARMONICS[degree]):
        for powers, factor in terms.items():
            table[row, place[powers]] = factor
    return table


def norm(degree: int) -> float:
    """N_l: 1 over the integral of r^l exp(-r² / 2) over all space."""
    radial = 2 ** ((degree + 1) / 2) * math.gamma((degree + 3) / 2)
    return 1 / (4 * math.pi * radial)
