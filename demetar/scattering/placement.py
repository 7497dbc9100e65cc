"""Molecules in boxes: their scale, their axes, and the grids that hold them.

Lengths are scaled so that two Gaussians at the smallest distance of the data overlap
little: to `OVERLAP` of their peak in the middle, as the authors' code does. Molecules
are laid along the axes by their principal axes, so that boxes are small. That is a
matter of cost: the coefficients do not depend on it, but for the error of the grids.

A few boxes serve all molecules, each the smallest that holds it. They are chosen by all
molecules of the data, so those of a molecule do not depend on what it is computed with.

Source: Eickenberg et al. 2018, arXiv 1805.00571, and its code in kymatio.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from demetar import elements
from demetar.data import edges
from demetar.data.molecules import Molecules
from demetar.errors import UserError
from demetar.scattering.coefficients import Grid, Grids
from demetar.settings import DATA, Bounds, setting

OVERLAP = 0.1
MOST_ELEMENT = 18  # argon: the last whose shells are known here
MOST_BOXES = 4
MOLECULES_PER_BOX = 500  # that make the compilation of one more worthwhile
MOST_POINTS = 2_000_000  # of a grid: some 500 MB
# Of the density and of the scales 0, 1 and 2, for a spacing of 1.
_SPACINGS = (0.8, 1.0, 1.5, 2.4)
# Widths of the widest fields there: the second order adds the scales that it passed.
_WIDTHS = (1.0, *(math.sqrt(sum(4**j for j in range(k + 1)) + 1) for k in range(3)))
_QUANTILES = (0.5, 0.75, 0.9, 0.98, 1.0)  # of the lengths that boxes may have
_CHUNK = 4_096  # molecules whose distances are computed at once


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the coefficients, beside the molecules."""

    spacing: float = setting(
        1.0,
        "Spacing of the grid of the finest wavelets, in widths of an atom's Gaussian. "
        "The other grids follow in proportion.",
        DATA,
        Bounds(above=0, most=2),
    )
    margin: float = setting(
        5.0,
        "Of the boxes around molecules, in widths of the field that is integrated.",
        DATA,
        Bounds(least=1, most=20),
    )
    smallest_distance: float | None = setting(
        None,
        "Between two atoms, in Å: the scale of all lengths follows from it.",
        DATA,
        Bounds(above=0, most=10),
        default_words="the smallest of the data",
    )


@dataclasses.dataclass(frozen=True)
class Placed:
    """D molecules as `coefficients` takes them.

    Attributes:
      positions: [D, n, 3] float32 in widths of a Gaussian, 0 for padding.
      weights: [D, 3, n] float32 by density, 0 for padding.
      boxes: grids.
      box: [D] the number of each molecule's box.
      scale: widths per Å.
    """

    positions: np.ndarray
    weights: np.ndarray
    boxes: tuple[Grids, ...]
    box: np.ndarray
    scale: float


def place(known: Molecules, settings: Settings) -> Placed:
    """The molecules along their principal axes, each in a box.

    Raises:
      UserError: an element whose shells are unknown, two atoms at one place, or a
        molecule that is too large for a grid.
    """
    _check_elements(known)
    positions, present = padded(known)
    smallest = settings.smallest_distance or smallest_distance(known)
    scale = math.sqrt(-8 * math.log(OVERLAP)) / smallest
    positions = scale * aligned(positions, present)
    extents = np.ptp(positions, axis=1)  # [D, 3]: padding is at the middle
    _check_sizes(known, extents, scale, settings)
    most = min(MOST_BOXES, 1 + len(extents) // MOLECULES_PER_BOX)
    boxes, box = choose_boxes(extents, most, settings)
    numbers = np.zeros(present.shape, np.int64)
    numbers[present] = known.numbers
    grids = tuple(make_grids(each, settings) for each in boxes)
    weights = densities(numbers).astype(np.float32)
    return Placed(positions.astype(np.float32), weights, grids, box, scale)


def turned(
    known: Molecules, placed: Placed, rows: np.ndarray, rotations: np.ndarray
) -> Placed:
    """Some molecules alone, each rotated before it is laid along its axes.

    Args:
      known, placed: all molecules.
      rows: of those that are wanted.
      rotations: [len(rows), 3, 3].
    """
    positions, present = (values[rows] for values in padded(known))
    rotated = positions @ np.swapaxes(rotations, 1, 2).astype(np.float64)
    return dataclasses.replace(
        placed,
        positions=(placed.scale * aligned(rotated, present)).astype(np.float32),
        weights=placed.weights[rows],
        box=placed.box[rows],
    )


def densities(numbers: np.ndarray) -> np.ndarray:
    """Nuclear charge, valence and core electrons of atoms [D, n]: [D, 3, n]."""
    starts = np.where(numbers <= 2, 0, np.where(numbers <= 10, 2, 10))
    core = np.minimum(starts, numbers)
    return np.stack([numbers, numbers - core, core], axis=1)


def padded(known: Molecules) -> tuple[np.ndarray, np.ndarray]:
    """Positions [D, n, 3] in Å with zeros after the atoms, and where atoms are."""
    present = np.arange(known.n_atoms.max()) < known.n_atoms[:, None]
    positions = np.zeros((*present.shape, 3))
    positions[present] = known.positions
    return positions, present


def aligned(positions: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Positions [D, n, 3] along principal axes, the longest first, around 0.

    Padding stays at 0, which is the middle of the box of the atoms.
    """
    mask = present[..., None]
    counts = present.sum(axis=1)[:, None, None]
    centred = np.where(
        mask, positions - positions.sum(axis=1, keepdims=True) / counts, 0
    )
    _, axes = np.linalg.eigh(np.swapaxes(centred, 1, 2) @ centred)
    turned = centred @ axes[:, :, ::-1]
    low = np.where(mask, turned, np.inf).min(axis=1, keepdims=True)
    high = np.where(mask, turned, -np.inf).max(axis=1, keepdims=True)
    return np.where(mask, turned - (low + high) / 2, 0)


def smallest_distance(known: Molecules) -> float:
    """Between two atoms of one molecule, in Å.

    Raises:
      UserError: two atoms are at one place, or no molecule has two atoms.
    """
    positions, present = padded(known)
    least = np.full(len(present), np.inf)
    for start in range(0, len(present), _CHUNK):
        rows = slice(start, start + _CHUNK)
        vectors = positions[rows, :, None] - positions[rows, None]
        pairs = present[rows, :, None] & present[rows, None]
        pairs &= ~np.eye(present.shape[1], dtype=bool)
        distances = np.where(pairs, np.linalg.norm(vectors, axis=-1), np.inf)
        least[rows] = distances.min(axis=(1, 2))
    row = int(least.argmin())
    if not 0 < least[row] < np.inf:
        found = f"two at one place in number {known.index[row]}; leave it out"
        raise UserError(
            "expected atoms at a distance from each other, found "
            f"{found if least[row] == 0 else 'no molecule of two atoms'}; "
            "--smallest_distance sets the scale of lengths too"
        )
    return float(least[row])


def make_grids(lengths: np.ndarray, settings: Settings) -> Grids:
    """Grids of a box whose molecules have these lengths [3] along the axes."""
    density, *scales = (
        _grid(lengths, spacing, wide, settings)
        for spacing, wide in zip(_SPACINGS, _WIDTHS, strict=True)
    )
    return Grids(density, tuple(scales))


def _grid(lengths: np.ndarray, spacing: float, wide: float, settings: Settings) -> Grid:
    spacing *= settings.spacing
    counts = np.ceil((lengths + 2 * settings.margin * wide) / spacing).astype(int) + 1
    x, y, z = map(int, counts)
    return Grid(spacing, (x, y, z))


def num_points(lengths: np.ndarray, settings: Settings) -> np.ndarray:
    """Of the grids of boxes of some lengths [..., 3], which is about their cost."""
    total = np.zeros(lengths.shape[:-1])
    for spacing, wide in zip(_SPACINGS, _WIDTHS, strict=True):
        sides = (lengths + 2 * settings.margin * wide) / (spacing * settings.spacing)
        total = total + sides.prod(axis=-1)
    return total


def choose_boxes(
    extents: np.ndarray, most: int, settings: Settings
) -> tuple[list[np.ndarray], np.ndarray]:
    """Lengths of a few boxes, and the number of the cheapest that holds a molecule.

    The first holds all. Of those whose lengths are quantiles of the molecules', the one
    follows that saves most points, and so on.

    Args:
      extents: [D, 3] lengths of the molecules along the axes.
      most: boxes.
      settings: of the grids.
    """
    lengths = np.quantile(extents, _QUANTILES, axis=0)
    offered = np.array(list(itertools.product(*lengths.T)))[::-1]
    costs = num_points(offered, settings)
    holds = (extents[:, None] <= offered).all(axis=-1)  # [D, boxes]
    per_box = np.where(holds, costs, np.inf)
    chosen = [0]
    while len(chosen) < most:
        least = per_box[:, chosen].min(axis=1)
        best = int(np.minimum(least[:, None], per_box).sum(axis=0).argmin())
        chosen.append(best)
    return [offered[k] for k in chosen], per_box[:, chosen].argmin(axis=1)


def _check_elements(known: Molecules) -> None:
    largest = int(known.numbers.max())
    if largest > MOST_ELEMENT:
        atom = int(known.numbers.argmax())
        row, _ = edges.located(atom, known.n_atoms)
        raise UserError(
            "expected the elements H to Ar, whose valence electrons are known, found "
            f"{elements.name(largest)} in number {known.index[row]}; leave it out"
        )


def _check_sizes(
    known: Molecules, extents: np.ndarray, scale: float, settings: Settings
) -> None:
    lengths = extents.max(axis=0)
    grids = make_grids(lengths, settings)
    points = max(math.prod(g.counts) for g in (grids.density, *grids.scales))
    if points <= MOST_POINTS:
        return
    row = int(num_points(extents, settings).argmax())
    sides = " x ".join(f"{length:.3g}" for length in extents[row] / scale)
    raise UserError(
        f"expected molecules whose box takes up to {MOST_POINTS:,} points, found "
        f"{points:,}; the largest, number {known.index[row]}, is {sides} Å; leave it "
        "out, or pass a larger --spacing or --smallest_distance"
    )
