"""Frames that no data set may have: those of two splits, and impossible ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from demetar.data import contacts
from demetar.data.frames import Frames
from demetar.errors import UserError

_EQUAL = 1e-4  # Å: nearer frames are one, as it is written in other precisions
# Distances of nearest atoms over the sum of their covalent radii that no molecule has.
_POSSIBLE = (0.1, 1e3)


def refuse_duplicates(
    parts: Mapping[str, Frames],
    place: str,
    rows: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Refuse frames that are in two splits.

    Args:
      parts: the frames of each split.
      place: where they were read, for the error.
      rows: of a file that was split, where the frames of each split stand there.

    Raises:
      UserError: there are such frames; they are counted.
    """
    groups = {split: _of_equal_atoms(frames) for split, frames in parts.items()}
    for first, second in itertools.combinations(parts, 2):
        found = sorted(_matches(groups[first], groups[second]))
        if found:
            row, twin = found[0]
            named = f"the first of them {row} (from 0)"
            if rows is not None:
                row, twin = rows[second][row], rows[first][twin]
                named = f"as frame {row} of the file, which is frame {twin} (from 0)"
            raise UserError(
                f"expected every frame in one split, found {len(found):,} of the "
                f"{len(parts[second]):,} {second} frames of {place} in {first} too, "
                f"{named}; leave them out of one"
            )


# The rows of frames [F] and their positions [F, n, 3], by the atoms that they have.
_Groups = dict[bytes, tuple[np.ndarray, np.ndarray]]


def _matches(known: _Groups, others: _Groups) -> Iterator[tuple[int, int]]:
    """Rows of the others that are frames of the known ones, and of the latter."""
    for atoms in others.keys() & known.keys():
        (rows, places), (twins, of_twins) = others[atoms], known[atoms]
        for row, twin in _near(of_twins, places):
            yield int(rows[row]), int(twins[twin])


def _of_equal_atoms(frames: Frames) -> _Groups:
    """The frames by the atoms that they have, in their order."""
    found: dict[bytes, list[int]] = {}
    starts = frames.starts
    bounds = zip(starts.tolist(), frames.n_node.tolist(), strict=True)
    for row, (start, size) in enumerate(bounds):
        found.setdefault(frames.numbers[start : start + size].tobytes(), []).append(row)
    groups: _Groups = {}
    for atoms, own in found.items():
        rows = np.array(own)
        places = frames.positions[starts[rows][:, None] + np.arange(len(atoms))]
        groups[atoms] = rows, places
    return groups


def _near(known: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows of others [M, n, 3] that are near ones of known [K, n, 3], and of those.

    A weighted mean of the coordinates differs by no more than they do, so that few
    frames need to be looked at.
    """
    known, others = known.reshape(len(known), -1), others.reshape(len(others), -1)
    weights = np.random.default_rng(0).normal(size=known.shape[1])
    weights /= np.abs(weights).sum()
    means = known @ weights
    order = np.argsort(means)
    means = means[order]
    within = _EQUAL + 1e-12 * np.abs(means).max()  # rounding of the means
    of_others = others @ weights
    firsts = np.searchsorted(means, of_others - within)
    stops = np.searchsorted(means, of_others + within, side="right")
    for row in np.flatnonzero(stops > firsts):
        rows = order[firsts[row] : stops[row]]
        equal = np.abs(known[rows] - others[row]).max(axis=1) < _EQUAL
        if equal.any():
            yield int(row), int(rows[np.argmax(equal)])


def refuse_impossible(frames: Frames, place: str) -> None:
    """Refuse frames of which two atoms are at one place, or one is far from all.

    Distances that are odd in most frames are a matter of units, of which there is a
    note.

    Args:
      frames: as they stand in a file.
      place: the file, for the error.

    Raises:
      UserError: there are some, but they are not the most; the first one is named.
    """
    found = contacts.of(frames)
    if not len(found.ratios):
        return
    least, most = _POSSIBLE
    is_bad = (found.ratios < least) | (found.ratios > most)
    if not is_bad.any() or is_bad.mean() > 0.5:
        return
    row = int(np.argmax(is_bad))
    size = f"{found.distances[row]:.3g} Å from the nearest other one"
    raise UserError(
        f"expected atoms at distances that molecules have in {place}, found atom "
        f"{found.atoms[row]} of frame {found.frames[row]} (from 0) {size}, "
        f"{len(np.unique(found.frames[is_bad])):,} such frames in all; leave them out"
    )
