"""How well a mean over test samples is known, and whether two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_DRAWS_PER_CHUNK = 2_000_000  # bounds the memory of a bootstrap to about 32 MB


def bootstrap_mean(
    errors: np.ndarray,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over samples.

    It tells how far another test set of this size may move the mean, not how far
    another seed of the training may.

    Args:
      errors: [D] or [R, D]; samples are drawn, each with the mean over its R seeds.
      num_resamples: resampled test sets.
      seed: of the resampling; equal input gives an equal interval.
      level: probability that the interval should hold.

    Returns:
      Both ends, in the unit of `errors`.
    """
    samples = _mean_over_seeds(errors)
    drawn = _drawn(samples.size, num_resamples, seed)
    means = [samples[rows].mean(axis=1) for rows in drawn]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    errors_a: np.ndarray,
    errors_b: np.ndarray,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean difference a - b over the same samples, and its bootstrap interval.

    Args:
      errors_a: [D] or [R, D].
      errors_b: the same samples in the same order; seeds may differ in number.
      num_resamples: resampled test sets.
      seed: of the resampling.
      level: probability that the interval should hold.

    Returns:
      (mean, low, high), in the unit of the errors.

    Raises:
      ValueError: the numbers of samples differ.
    """
    a, b = _mean_over_seeds(errors_a), _mean_over_seeds(errors_b)
    if a.shape != b.shape:
        raise ValueError(
            f"a paired difference needs the same samples, "
            f"found {a.size} and {b.size} of them"
        )
    low, high = bootstrap_mean(a - b, num_resamples, seed, level)
    return float((a - b).mean()), low, high


def all_paired_differences(
    errors: Sequence[np.ndarray],
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> np.ndarray:
    """`paired_difference` of every pair of K models: a set that is drawn serves all.

    Args:
      errors: of each model, [D] or [R, D], of the same samples in the same order.
      num_resamples, seed, level: of `paired_difference`.

    Returns:
      [K, K, 3]: mean, low and high of the first less the second. What is not finite
      makes the differences of its model NaN.

    Raises:
      ValueError: the numbers of samples differ.
    """
    samples = np.stack([_mean_over_seeds(own) for own in errors])  # [K, D]
    count, size = samples.shape
    parts = []
    for rows in _drawn(size, num_resamples, seed):
        times = np.stack([np.bincount(row, minlength=size) for row in rows])
        parts.append(times @ samples.T / size)  # [B, K]
    means = np.concatenate(parts)
    tail = (1 - level) / 2
    found = np.zeros((count, count, 3))
    found[..., 0] = samples.mean(1)[:, None] - samples.mean(1)
    for first in range(count):
        differences = means[:, first, None] - means
        found[first, :, 1:] = np.quantile(differences, [tail, 1 - tail], axis=0).T
    return found


def _drawn(size: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sample numbers of resampled test sets, some of them [B, D] at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWS_PER_CHUNK // size)
    for start in range(0, num_resamples, rows):
        shape = (min(rows, num_resamples - start), size)
        yield generator.integers(size, size=shape)


def _mean_over_seeds(errors: np.ndarray) -> np.ndarray:
    """[D] or [R, D] -> [D] in float64."""
    errors = np.asarray(errors, np.float64)
    return errors.reshape(-1, errors.shape[-1]).mean(axis=0)
