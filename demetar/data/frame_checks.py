"""What is wrong with frames as a whole: duplicates, signs and units.

Frames in two splits are refused. What may be meant is told in a note: forces that do
not fit the energies along a trajectory, and magnitudes that no molecule has in the
unit, with the unit that is likely.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from demetar import elements
from demetar.data import units
from demetar.data.edges import of_equal_size
from demetar.data.frames import Frames
from demetar.errors import UserError

_DIGITS = 6  # of positions in Å: frames that are equal so far are one
_MOST_PAIRS = 2_000  # of frames that are compared
_FEWEST_PAIRS = 10
# The largest step of an atom in Å: energies follow from forces by the trapezoidal rule
# well, or roughly. As measured on ethanol at 500 K, 2 and 10 fs from frame to frame.
_NEAR, _FAR = 0.1, 0.5
_LOOSE, _STEEP = 0.7, 1.4  # slopes of energies over work that are no fault of units
_LIKELY = 1.15  # how well a unit must explain a slope
_FORCES = (0.02, 12.0)  # root mean square in eV/Å, about 1 in a molecule at 500 K
_CONTACTS = (0.5, 1.5)  # nearest distance over the sum of the covalent radii
# Deviation of the energy over the norm of the forces in Å: 0.02 to 0.03 in rMD17.
_SPREAD, _SPREADS = 0.025, (0.002, 0.3)
_SAMPLED = 200  # frames whose distances are measured
_CLEAR, _FAR_CLEAR = 0.5, 0.8  # correlations that say something
_SHARE = 0.25  # of the frames of a trajectory, at least, have a neighbour
_COMMON = ("eV", "kcal/mol", "Ha", "kJ/mol", "meV")


# --- Duplicates ---------------------------------------------------------------------


def refuse_duplicates(parts: Mapping[str, Frames], place: str) -> None:
    """Refuse frames that are in two splits.

    Args:
      parts: the frames of each split.
      place: where they were read, for the error.

    Raises:
      UserError: there are such frames; they are counted.
    """
    keys = {split: list(_keys(frames)) for split, frames in parts.items()}
    for first, second in itertools.combinations(parts, 2):
        known = {*keys[first]}
        rows = [row for row, key in enumerate(keys[second]) if key in known]
        if rows:
            raise UserError(
                f"expected every frame in one split, found {len(rows):,} of the "
                f"{len(keys[second]):,} {second} frames of {place} in {first} too, the "
                f"first of them {rows[0]} (from 0); leave them out of one"
            )


def _keys(frames: Frames) -> Iterator[tuple[bytes, bytes]]:
    """What two equal frames have in common: elements and rounded positions."""
    rounded = np.round(frames.positions, _DIGITS) + 0.0  # without negative zeros
    stops = np.cumsum(frames.n_node, dtype=np.int64)
    for start, stop in zip(stops - frames.n_node, stops, strict=True):
        yield frames.numbers[start:stop].tobytes(), rounded[start:stop].tobytes()


# --- Notes --------------------------------------------------------------------------


def notes_on(frames: Frames, what: str) -> tuple[str, ...]:
    """What a person should look at, one line each.

    Args:
      frames: in the order of their trajectory, if they are of one.
      what: they are, for the notes.
    """
    found = (_of_lengths(frames), _of_forces(frames), _of_work(frames))
    return tuple(f"{what}: {note}" for note in found if note)


def _of_lengths(frames: Frames) -> str:
    few = frames.take(slice(_SAMPLED))
    ratios = np.concatenate([np.zeros(0), *_contacts(few)])
    if not len(ratios):
        return ""
    ratio = float(np.median(ratios))
    if _CONTACTS[0] <= ratio <= _CONTACTS[1]:
        return ""
    if not ratio:
        return "most atoms are at the place of another one"
    return (
        f"atoms are {ratio:.3g} times as far from each other as bonded ones are"
        f"{_guess(ratio, units.LENGTHS, 'positions')}; see --length_unit"
    )


def _contacts(frames: Frames) -> Iterator[np.ndarray]:
    """Distance of each atom's nearest one over the sum of their radii, [D', n]."""
    radii = np.full(elements.MOST + 1, math.nan)
    radii[list(elements.RADII)] = list(elements.RADII.values())
    for members in of_equal_size(frames.n_node):
        size = int(frames.n_node[members[0]])
        if size < 2:
            continue
        rows = frames.starts[members][:, None] + np.arange(size)
        own, places = radii[frames.numbers[rows]], frames.positions[rows]
        offsets = places[:, :, None] - places[:, None]
        ratios = np.linalg.norm(offsets, axis=-1) / (own[:, :, None] + own[:, None])
        ratios[:, np.arange(size), np.arange(size)] = np.inf
        nearest = np.nanmin(ratios, axis=-1)
        yield nearest[np.isfinite(nearest)]


def _of_forces(frames: Frames) -> str:
    size = float(np.sqrt(np.mean(frames.forces**2)))
    if not size or _FORCES[0] <= size <= _FORCES[1]:
        return ""
    return (
        f"the root mean square of the forces is {size:.3g} eV/Å, where molecules have "
        f"about 1{_guess(size, _force_units(), 'forces')}; see --energy_unit"
    )


def _force_units() -> dict[str, float]:
    """Units of forces that are in use, in eV/Å."""
    per_bohr = ("Ha", "eV")
    return {
        **{f"{energy}/Å": units.ENERGIES[energy] for energy in _COMMON},
        **{
            f"{energy}/bohr": units.ENERGIES[energy] / units.BOHR for energy in per_bohr
        },
    }


def _guess(found: float, known: Mapping[str, float], what: str) -> str:
    """The unit that makes a number about 1; '' if none does."""
    name = min(known, key=lambda unit: abs(math.log(found * known[unit])))
    if not 1 / 3 < found * known[name] < 3:
        return ""
    return f"; the {what} are likely in {name}"


def _of_work(frames: Frames) -> str:
    """Whether forces are minus the slopes of the energies along a trajectory."""
    rises, works, near = _pairs(frames)
    fewest = max(_FEWEST_PAIRS, _SHARE * min(len(frames), _MOST_PAIRS))
    if len(rises) < fewest or not works.any():
        return _of_spread(frames)
    size = math.sqrt(float(works @ works) * float(rises @ rises)) or 1.0
    correlation = float(works @ rises) / size
    slope = float(works @ rises) / float(works @ works)
    told = (
        f"from frame to frame the energy changes by {slope:.3g} times what the forces "
        f"say (correlation {correlation:.2f} over {len(rises)} pairs of frames)"
    )
    clear = _CLEAR if near else _FAR_CLEAR
    if correlation < -clear:
        return f"{told}; the sign is likely wrong: forces are minus the gradient"
    if correlation < clear:
        return f"{told}; they do not belong together" if near else ""
    if _LOOSE < slope < _STEEP:
        return ""
    return f"{told}{_mixed(slope)}"


def _of_spread(frames: Frames) -> str:
    """Whether the energies of one molecule vary by what its forces make likely."""
    uniform = len(np.unique(frames.n_node)) == 1
    numbers = frames.numbers.reshape(len(frames), -1) if uniform else None
    force = float(np.sqrt(np.mean(frames.forces**2) * frames.forces[0].size))
    spread = float(frames.energies.std())
    if numbers is None or (numbers != numbers[0]).any() or not force * spread:
        return ""
    length = spread / (force * math.sqrt(numbers.shape[1]))
    if _SPREADS[0] <= length <= _SPREADS[1]:
        return ""
    common = {name: units.ENERGIES[name] for name in _COMMON}
    return (
        f"the energies deviate by {spread:.3g} eV from their mean, which is "
        f"{'much' if length > _SPREAD else 'little'} for forces of "
        f"{force / math.sqrt(3):.3g} eV/Å{_guess(length / _SPREAD, common, 'energies')}"
    )


def _pairs(frames: Frames) -> tuple[np.ndarray, np.ndarray, bool]:
    """Changes of the energy and what the forces say of them, of neighbours in time.

    Returns:
      Both [P] in eV, and whether the pairs are near: near ones are taken if there are
      enough, else those that are not far.
    """
    starts, sizes = frames.starts, frames.n_node
    columns: list[list[float]] = []
    for row in range(min(len(frames) - 1, _MOST_PAIRS)):
        here = slice(starts[row], starts[row] + sizes[row])
        there = slice(starts[row + 1], starts[row + 1] + sizes[row + 1])
        if not np.array_equal(frames.numbers[here], frames.numbers[there]):
            continue
        steps = frames.positions[there] - frames.positions[here]
        largest = float(np.linalg.norm(steps, axis=1).max())
        if 0 < largest < _FAR:
            forces = (frames.forces[here] + frames.forces[there]) / 2
            rise = frames.energies[row + 1] - frames.energies[row]
            columns.append([rise, -float((forces * steps).sum()), largest])
    rises, works, lengths = np.array(columns).reshape(-1, 3).T
    near = lengths < _NEAR
    if near.sum() >= _FEWEST_PAIRS:
        return rises[near], works[near], True
    return rises, works, False


def _mixed(slope: float) -> str:
    """The units of energies beside forces that explain a slope; '' if none do."""
    found = {
        f"{energy}, beside forces in {force}": size / units.ENERGIES[energy]
        for energy, (force, size) in itertools.product(_COMMON, _force_units().items())
    }
    name = min(found, key=lambda pair: abs(math.log(slope / found[pair])))
    if not 1 / _LIKELY < slope / found[name] < _LIKELY:
        return ""
    return f"; the energies are likely in {name}"
