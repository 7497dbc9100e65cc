"""How well sampled conformers cover those that there are: COV and MAT.

Of R reference conformers of a molecule and K samples, by the matrix of their root mean
square deviations (`bond_graphs.rmsds`), with a threshold of 0.5 Å:

    COV recall     share of the references that a sample is near to
    MAT recall     mean over the references of the distance to the nearest sample, in Å
    COV precision  share of the samples that are near to a reference
    MAT precision  mean over the samples of the distance to the nearest reference, in Å

Two samples are drawn for each reference. Source: Xu et al. 2022 (GeoDiff), arXiv
2203.02923, section 5.2; Ganea et al. 2021, arXiv 2106.07802.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from demetar.generation import bond_graphs

THRESHOLD = 0.5  # in Å
PER_REFERENCE = 2  # samples


class Coverage(NamedTuple):
    """The four measures, of one molecule or as arrays [D] of several.

    A molecule without samples has a coverage of 0 and distances of NaN.
    """

    cov_recall: np.ndarray
    mat_recall: np.ndarray
    cov_precision: np.ndarray
    mat_precision: np.ndarray


def matrix(smiles: str, references: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Distances of references and samples of one molecule, [R, K] in Å.

    All pairs of both are computed, a few microseconds each, because the permutations of
    the atoms are then searched once.

    Args:
      smiles: of `BondGraph`.
      references: [R, n, 3] in Å.
      samples: [K, n, 3] in Å; rows that are not finite are infinitely far.
    """
    finite = np.isfinite(samples).all(axis=(1, 2))
    both = np.concatenate([references, samples[finite]])
    count = len(references)
    found = np.full((count, len(samples)), np.inf)
    found[:, finite] = bond_graphs.rmsds(smiles, both)[:count, count:]
    return found


def of_matrix(distances: np.ndarray, threshold: float = THRESHOLD) -> Coverage:
    """The measures of one molecule.

    Args:
      distances: [R, K] in Å, R of at least 1.
      threshold: in Å; a distance of just this is near.
    """
    if not distances.shape[1]:
        zero, unknown = np.array(0.0), np.array(np.nan)
        return Coverage(zero, unknown, zero, unknown)
    to_sample, to_reference = distances.min(axis=1), distances.min(axis=0)
    return Coverage(
        np.mean(to_sample <= threshold),
        to_sample.mean(),
        np.mean(to_reference <= threshold),
        to_reference.mean(),
    )


def joined(found: Sequence[Coverage]) -> Coverage:
    """The measures of several molecules as arrays [D]."""
    columns = zip(*found, strict=True)
    return Coverage(*(np.array(column, np.float64) for column in columns))
