"""What is known of a target beforehand, and what remains of it: both directions.

A total energy of -1528 that varies by 2e-5 from one molecule to the next has nothing
left of that variation in float32. So what is large and known is subtracted in float64,
before anything is rounded:

    value = known + residual,  known = mean + sum over the nodes of offsets[species]

Samples hold residuals, models are trained and evaluated on them, and errors, which are
differences, need nothing else. `absolute` gives the values that a person reads. What
is known is that of the task that the model was trained on, on every data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from demetar.types import Array, Head, TaskSpec

OFFSETS = ("species", "mean")

_DETERMINED = 1e-9  # of the largest eigenvalue: what is above is determined
_ROUNDING = 1e-15  # relative to the values: what remains of those that are all alike


def composition(task: TaskSpec, scalars: Array, n_node: Array) -> np.ndarray:
    """Number of nodes of each species in each graph, [G, Z] float64.

    Args:
      task: species, of which there may be none: Z = 0.
      scalars: [N, S] of `Nodes`.
      n_node: [G].
    """
    columns = [task.scalars.index(name) for name in task.species]
    sums = np.zeros((len(scalars) + 1, len(columns)))
    np.cumsum(np.asarray(scalars)[:, columns], axis=0, dtype=np.float64, out=sums[1:])
    stops = np.cumsum(n_node)
    found: np.ndarray = sums[stops] - sums[stops - np.asarray(n_node)]
    return found


def known_values(head: Head, counts: Array) -> Array:
    """What is known of each value of a head, in its unit.

    Args:
      head: of any kind; only graph scalars have offsets.
      counts: [G, Z] of `composition`.

    Returns:
      [G, 1], or [1, 1] without offsets, if it is the same for all; float64 for
      counts that are NumPy's.
    """
    if not head.offsets:
        return np.full((1, 1), head.mean, np.float64)
    return head.mean + counts @ np.array(head.offsets)[:, None]


def residual(head: Head, values: Array, counts: np.ndarray) -> np.ndarray:
    """Values [G, T] less what is known of them, in float64."""
    found: np.ndarray = np.asarray(values, np.float64) - np.asarray(
        known_values(head, counts)
    )
    return found


def absolute(head: Head, residuals: Array, counts: np.ndarray) -> np.ndarray:
    """Values of residuals [..., G, T], in float64."""
    found: np.ndarray = np.asarray(residuals, np.float64) + np.asarray(
        known_values(head, counts)
    )
    return found


def knows(head: Head) -> bool:
    """Whether a head's values differ from its residuals."""
    return bool(head.mean or head.offsets)


def absolute_all(
    task: TaskSpec, residuals: Mapping[str, Array], counts: np.ndarray
) -> dict[str, np.ndarray]:
    """`absolute` of all heads; those of which nothing is known are left as they are.

    Args:
      task: heads.
      residuals: {head: [..., G, T] | [..., N, T] | [..., N, K, 3]}.
      counts: [G, Z] of `composition`.
    """
    return {
        head.name: absolute(head, residuals[head.name], counts)
        if knows(head)
        else np.asarray(residuals[head.name])
        for head in task.heads
    }


def residual_all(
    task: TaskSpec, values: Mapping[str, Array], counts: np.ndarray
) -> dict[str, np.ndarray]:
    """`residual` of all heads; those of which nothing is known are left as they are.

    Args:
      task, counts: of `absolute_all`.
      values: {head: [..., G, T] | [..., N, T] | [..., N, K, 3]}.
    """
    return {
        head.name: residual(head, values[head.name], counts)
        if knows(head)
        else np.asarray(values[head.name])
        for head in task.heads
    }


def fit(head: Head, values: np.ndarray, counts: np.ndarray, offsets: str) -> Head:
    """The graph scalar with what is known of it, and its scale, by training values.

    With 'species', an extensive head gets the offsets of least squares, those of the
    smallest norm if the compositions do not determine them, and as its scale the
    mean of |residual| per node: what one node of a sum is to account for. A mean joins
    the offsets only if totals were shifted (`_joined`), so that a shift makes no
    difference. Otherwise the head gets the mean of the values, and as
    its scale their mean absolute deviation, as in the protocol of Satorras,
    Hoogeboom, Welling 2021, arXiv 2102.09844, appendix C.3. Values that do not vary
    have a scale of 1.

    Args:
      head: a graph scalar of size 1.
      values: [D] of the training graphs, float64.
      counts: [D, Z] of `composition`.
      offsets: a member of `OFFSETS`.
    """
    values = np.asarray(values, np.float64)
    mean, weights = values.mean(), np.ones(len(values))
    fitted: tuple[float, ...] = ()
    unknown: tuple[tuple[float, ...], ...] = ()
    if head.extensive and offsets == "species" and counts.shape[1]:
        weights = counts.sum(axis=1)
        found = _joined(counts, values)
        mean = found[-1]
        fitted = tuple(map(float, found[:-1]))
        unknown = _unknown(counts, bool(mean))
    known = dataclasses.replace(head, mean=float(mean), offsets=fitted, unknown=unknown)
    remains = residual(known, values[:, None], counts)[:, 0]
    scale = float(np.mean(np.abs(remains) / weights))
    if scale <= _ROUNDING * np.abs(values).max():
        scale = 1.0
    return dataclasses.replace(known, scale=scale)


def are_known(head: Head, counts: np.ndarray) -> np.ndarray:
    """Whether training has determined what is known of the values, [G] of [G, Z].

    Training on one molecule does not say what each of its elements accounts for, so
    that the value of another molecule is anything.
    """
    if not head.unknown:
        return np.ones(len(counts), bool)
    design = np.concatenate([counts, np.ones((len(counts), 1))], axis=1)
    parts = np.abs(design @ np.array(head.unknown).T).max(axis=1)
    found: np.ndarray = parts < 1e-6 * np.linalg.norm(design, axis=1)
    return found


def _unknown(counts: np.ndarray, has_mean: bool) -> tuple[tuple[float, ...], ...]:
    """`Head.unknown` of the compositions [D, Z] of the training graphs."""
    ones = np.ones((len(counts), int(has_mean)))
    design = np.concatenate([counts, ones], axis=1)
    sizes, vectors = np.linalg.eigh(design.T @ design)
    null = vectors[:, sizes < _DETERMINED * sizes[-1]].T
    padded = np.zeros((len(null), counts.shape[1] + 1))
    padded[:, : null.shape[1]] = null
    return tuple(tuple(map(float, vector)) for vector in padded)


def _joined(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Offsets of the species [Z] and the mean that joins them, or 0: [Z + 1].

    It joins if the offsets alone leave more than a mean alone would, or twice as much
    (as a standard error) as both together.
    """
    design = np.concatenate([counts, np.ones((len(values), 1))], axis=1)
    alone = np.append(_least_squares(counts, values), 0.0)
    both = _least_squares(design, values)
    of_alone, of_both, of_mean = (
        float(left @ left)
        for left in (
            values - design @ alone,
            values - design @ both,
            values - values.mean(),
        )
    )
    free = len(values) - design.shape[1]  # degrees of freedom with the mean
    most = 1.0001 * of_mean
    if free > 0:
        most = min(most, 2**2 * of_both * (free + 1) / free)
    return both if of_alone > most + _ROUNDING**2 * (values @ values) else alone


def _least_squares(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The solution of the smallest norm, corrected once for its own rounding."""
    found = np.linalg.lstsq(design, values)[0]
    result: np.ndarray = found + np.linalg.lstsq(design, values - design @ found)[0]
    return result
