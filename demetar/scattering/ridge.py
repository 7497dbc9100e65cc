"""Ridge regression on standardised inputs, its strength by the validation error.

Beside the inputs there may be products of pairs of their leading principal components.
The paper's bilinear regression learns factors of such products; taking the products of
components that vary most leaves a linear problem with one solution. All strengths and
targets share one eigendecomposition, in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from demetar.errors import UserError

# What is added to the variances, which are 1 on average. Inputs are known to some 1e-5
# of their spread in float32, so less would fit their rounding.
STRENGTHS = tuple(float(10.0**power) for power in np.arange(-10, 2.5, 0.5))
LEAST_SAMPLES = 3  # of the training: a mean, a slope and something to err on
_CONSTANT = 1e-6  # relative spread below which a column says nothing
_BLOCK = 4_096  # samples whose features are made at once


@dataclasses.dataclass(frozen=True)
class Features:
    """What is linear in a target: standardised inputs, and products of some.

    Attributes:
      mean, scale: [F] of the inputs; the scale of a constant one is infinite.
      components: [F, K] that make the components of standardised inputs whose pairs
        are multiplied, in deviations of the first one: a product of two that hardly
        vary is small, and so costs much. K may be 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Features [D, F + K (K + 1) / 2] of inputs [D, F], float64."""
        known = (inputs.astype(np.float64) - self.mean) / self.scale
        parts = known @ self.components
        first, second = np.triu_indices(parts.shape[1])
        return np.concatenate([known, parts[:, first] * parts[:, second]], axis=1)

    @property
    def num_features(self) -> int:
        """Of those that vary."""
        count = int(self.components.shape[1])
        return int(np.isfinite(self.scale).sum()) + count * (count + 1) // 2

    def blocks(self, inputs: np.ndarray) -> Iterator[np.ndarray]:
        """The features of all inputs, of some samples at a time."""
        for start in range(0, len(inputs), _BLOCK):
            yield self(inputs[start : start + _BLOCK])


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear map of features.

    Attributes:
      features: of the inputs.
      slopes: of the features.
      intercept: the value where all features are 0.
      mean: of the training values.
      strength: that the validation chose.
    """

    features: Features
    slopes: np.ndarray
    intercept: float
    mean: float
    strength: float

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Predictions [D] for inputs [D, F]."""
        found = [block @ self.slopes for block in self.features.blocks(inputs)]
        return self.intercept + np.concatenate(found)

    @property
    def num_params(self) -> int:
        """Slopes and the intercept."""
        return self.features.num_features + 1


class Ridge:
    """Regressions of any targets on the same training samples.

    Args:
      train: [D, F] inputs.
      num_products: K of `Features`.

    Raises:
      UserError: there are too few samples.
    """

    def __init__(self, train: np.ndarray, num_products: int = 0):
        check(len(train))
        self._train = train
        self.features = make_features(train, num_products)
        count = len(train)
        size = self.features(train[:1]).shape[1]
        sums, squares = np.zeros(size), np.zeros((size, size))
        for block in self.features.blocks(train):
            sums += block.sum(axis=0)
            squares += block.T @ block
        self._center = sums / count
        covariance = squares / count - np.outer(self._center, self._center)
        self._variances, self._axes = np.linalg.eigh(covariance)

    def fit(
        self, values: np.ndarray, valid: tuple[np.ndarray, np.ndarray]
    ) -> tuple[Linear, float]:
        """The map with the smallest mean absolute error on the validation samples.

        Args:
          values: [D] of the training samples.
          valid: inputs and values of the validation samples.

        Returns:
          The map, and that error.
        """
        mean = float(values.mean())
        products = np.zeros(len(self._center))
        for start, block in enumerate(self.features.blocks(self._train)):
            rest = values[start * _BLOCK : (start + 1) * _BLOCK] - mean
            products += rest @ (block - self._center)
        along = self._axes.T @ products / len(values)
        variances = np.maximum(self._variances, 0)[:, None]  # rounding
        shrunk = along[:, None] / (variances + np.array(STRENGTHS))
        slopes = self._axes @ shrunk  # [P, strengths]
        intercepts = mean - self._center @ slopes
        inputs, expected = valid
        found = [block @ slopes for block in self.features.blocks(inputs)]
        errors = np.abs(np.concatenate(found) + intercepts - expected[:, None])
        losses = errors.mean(axis=0)
        best = int(losses.argmin())
        chosen = (slopes[:, best], float(intercepts[best]), mean, STRENGTHS[best])
        return Linear(self.features, *chosen), float(losses[best])


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


def make_features(train: np.ndarray, num_products: int) -> Features:
    """The features of inputs [D, F], with products of so many components."""
    inputs = train.astype(np.float64)
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    constant = spread <= _CONSTANT * np.abs(inputs).max(axis=0)
    scale = np.where(constant, np.inf, spread)
    known = (inputs - mean) / scale
    variances, axes = np.linalg.eigh(known.T @ known / len(known))
    leading = axes[:, ::-1][:, :num_products]
    return Features(mean, scale, leading / np.sqrt(variances[-1] or 1))
