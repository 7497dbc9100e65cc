"""How much of a molecule is left, and how much is noise, at each step of a diffusion.

    z_t = alpha_t x + sigma_t epsilon,  alpha_t^2 + sigma_t^2 = 1

for t = 0, ..., T. Source: Hoogeboom, Satorras, Vignac, Welling 2022, arXiv 2203.17003,
section 2.1 and appendix B, whose polynomial schedule this is.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from demetar.settings import DATA, Bounds, setting

LEAST_RATIO = 1e-3  # of alpha_t^2 to that of the step before
PRECISION = 1e-5  # how far alpha^2 stays from 0 and 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """The steps of a diffusion."""

    noise_steps: int = setting(
        1_000,
        "Steps from a molecule to noise, T; sampling takes them back one by one.",
        DATA,
        Bounds(least=2, most=100_000),
    )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The variance-preserving polynomial schedule.

    Attributes:
      num_steps: T.
      alphas, sigmas: [T + 1] float64.
    """

    num_steps: int
    alphas: np.ndarray
    sigmas: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """alpha_t^2 / sigma_t^2, the signal to noise, [T + 1]."""
        found: np.ndarray = np.square(self.alphas / self.sigmas)
        return found


def polynomial(num_steps: int) -> Schedule:
    """alpha_t = 1 - (t / T)^2, with its steps bounded and its ends drawn in."""
    times = np.arange(num_steps + 1) / num_steps
    squares = np.square(1 - np.square(times))
    ratios = squares[1:] / squares[:-1]
    bounded = np.cumprod(np.clip(ratios, LEAST_RATIO, 1))
    squares = np.concatenate([squares[:1], bounded])
    squares = (1 - 2 * PRECISION) * squares + PRECISION
    return Schedule(num_steps, np.sqrt(squares), np.sqrt(1 - squares))
