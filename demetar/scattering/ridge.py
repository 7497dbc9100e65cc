"""Ridge regression on standardised inputs, its strength by the validation error.

All strengths and targets share one eigendecomposition, in float64.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from demetar.errors import UserError

# Times the number of training samples: what is added to the diagonal.
STRENGTHS = tuple(float(10.0**power) for power in np.arange(-13, 2.5, 0.5))
LEAST_SAMPLES = 3  # of the training: a mean, a slope and something to err on
_CONSTANT = 1e-6  # relative spread below which a column says nothing


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear map of standardised inputs.

    Attributes:
      mean, scale: [F] of the inputs; the scale of a constant column is infinite.
      slopes: [F] of the standardised inputs.
      intercept: the value at the mean.
      strength: that the validation chose.
    """

    mean: np.ndarray
    scale: np.ndarray
    slopes: np.ndarray
    intercept: float
    strength: float

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Predictions [D] for inputs [D, F]."""
        known = standardised(inputs, self.mean, self.scale)
        return np.asarray(self.intercept + known @ self.slopes)

    @property
    def num_params(self) -> int:
        """Slopes that are not of constant columns, and the intercept."""
        return int(np.isfinite(self.scale).sum()) + 1


def standardised(inputs: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Inputs [D, F] less their mean, in multiples of their scale, in float64."""
    return np.asarray((inputs.astype(np.float64) - mean) / scale)


def statistics(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [F] of inputs; infinite for a constant column."""
    inputs = inputs.astype(np.float64)
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    constant = spread <= _CONSTANT * np.abs(inputs).max(axis=0)
    return mean, np.where(constant, np.inf, spread)


def check(num_train: int) -> None:
    """Refuse too few training molecules.

    Raises:
      UserError: there are fewer than `LEAST_SAMPLES`.
    """
    if num_train < LEAST_SAMPLES:
        raise UserError(
            f"expected at least {LEAST_SAMPLES} training molecules for a ridge "
            f"regression, found {num_train}; pass a larger --num_train"
        )


def fit(
    inputs: tuple[np.ndarray, np.ndarray], values: tuple[np.ndarray, np.ndarray]
) -> tuple[Linear, float]:
    """The map with the smallest mean absolute error on the validation samples.

    Args:
      inputs: [D, F] of the training and of the validation.
      values: [D] the targets of both.

    Returns:
      The map, and that error.

    Raises:
      UserError: there are too few training samples.
    """
    train, valid = inputs
    check(len(train))
    mean, scale = statistics(train)
    known = standardised(train, mean, scale)
    held = standardised(valid, mean, scale)
    intercept = float(values[0].mean())
    variances, axes = np.linalg.eigh(known.T @ known / len(known))
    variances = np.maximum(variances, 0)  # rounding
    along = axes.T @ (known.T @ (values[0] - intercept)) / len(known)
    found = []
    for strength in STRENGTHS:
        slopes = axes @ (along / (variances + strength))
        error = np.abs(intercept + held @ slopes - values[1]).mean()
        found.append((float(error), strength, slopes))
    error, strength, slopes = min(found, key=lambda item: item[0])
    return Linear(mean, scale, slopes, intercept, strength), error
