"""How near each atom of a structure has its nearest one."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from demetar import elements
from demetar.data.edges import CHUNK_PAIRS, of_equal_size
from demetar.data.frames import Frames

_USUAL = 0.75  # Å, of elements whose radius is not known


class Contacts(NamedTuple):
    """The nearest neighbours of all atoms that have any.

    Attributes:
      frames, atoms: [A] the frame, and the place in it.
      distances: [A] in Å.
      ratios: [A] distances over the sum of the covalent radii.
    """

    frames: np.ndarray
    atoms: np.ndarray
    distances: np.ndarray
    ratios: np.ndarray


def of(frames: Frames) -> Contacts:
    """The nearest neighbours, frame after frame."""
    radii = np.full(elements.MOST + 1, _USUAL)
    radii[list(elements.RADII)] = list(elements.RADII.values())
    own = radii[frames.numbers]
    distances = np.full(len(own), math.inf)
    sums = np.ones(len(own))
    starts = frames.starts
    for members in of_equal_size(frames.n_node):
        size = int(frames.n_node[members[0]])
        if size < 2:
            continue
        rows = starts[members][:, None] + np.arange(size)  # [D, n]
        near, twins = _nearest(frames.positions[rows])
        distances[rows] = near
        sums[rows] = own[rows] + own[np.take_along_axis(rows, twins, axis=1)]
    numbers = np.repeat(np.arange(len(frames)), frames.n_node)
    atoms = np.arange(len(own)) - np.repeat(starts, frames.n_node)
    kept = np.isfinite(distances)
    columns = numbers, atoms, distances, distances / sums
    return Contacts(*(column[kept] for column in columns))


def _nearest(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the nearest others, and which they are, [D, n] of [D, n, 3]."""
    size = places.shape[1]
    if size**2 > CHUNK_PAIRS:
        found = [KDTree(own).query(own, k=2) for own in places]
        near = np.stack([distances[:, 1] for distances, _ in found])
        # Of atoms at one place either may come first.
        itself = np.arange(size)
        twins = [np.where(t[:, 1] == itself, t[:, 0], t[:, 1]) for _, t in found]
        return near, np.stack(twins)
    offsets = places[:, :, None] - places[:, None]
    squares = np.einsum("dijk,dijk->dij", offsets, offsets)
    squares[:, np.arange(size), np.arange(size)] = math.inf
    twins_of_all = squares.argmin(axis=-1)
    least = np.take_along_axis(squares, twins_of_all[..., None], axis=-1)[..., 0]
    return np.sqrt(least), twins_of_all
