"""The distribution of the errors of a test set, with its tail, and compact numbers."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

WORST = (0.01, 0.05, 0.10)  # shares of the samples
LOWEST, HIGHEST = -20.0, 12.0  # of the logarithms that are encoded
_NUM_LEVELS = 160


def describe(errors: np.ndarray) -> dict[str, Any]:
    """How the errors of a run are distributed.

    Args:
      errors: [R, D]; each sample counts with its mean over the seeds.

    Returns:
      `shares`: of the error, that the worst samples carry, by `WORST`; of a share that
        is no whole number of samples it is that of the next whole number.
      `above`: shares of the samples, falling as 1 to 1 / D.
      `levels`: the errors that these shares of the samples reach or exceed.
    """
    samples = _means(errors)
    falling = np.sort(samples)[::-1]
    total = falling.sum()
    counts = [int(np.ceil(share * falling.size - 1e-9)) for share in WORST]
    shares = [float(falling[:count].sum() / total) if total else 0 for count in counts]
    ranks = np.geomspace(1, falling.size, _NUM_LEVELS).round().astype(int)
    ranks = np.unique(ranks)
    return {
        "shares": shares,
        "above": [float(f"{rank / falling.size:.6g}") for rank in ranks],
        "levels": [float(f"{level:.5g}") for level in falling[ranks - 1]],
    }


def encode(errors: np.ndarray | None) -> str:
    """Positive numbers of samples, to 0.06 %, as base64 of 16 bits each.

    Code 0 is for 0 and for what is not finite, 1 to 65535 for the common logarithm from
    `LOWEST` to `HIGHEST`, little-endian.

    Args:
      errors: [R, D] or [D]; the mean over the seeds is encoded.
    """
    samples = _means(np.asarray(errors))
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = (np.log10(samples) - LOWEST) / (HIGHEST - LOWEST) * 65534
    real = np.isfinite(steps)
    codes = np.where(real, np.clip(np.round(np.where(real, steps, 0)), 0, 65534) + 1, 0)
    return base64.b64encode(codes.astype("<u2").tobytes()).decode()


def _means(errors: np.ndarray) -> np.ndarray:
    return np.asarray(np.atleast_2d(errors).astype(np.float64).mean(axis=0))
