"""What a person should look at in frames: signs, units, and odd ones among them.

Forces that do not fit the energies along a trajectory, magnitudes that no molecule has
in the unit, with the unit that is likely, energies that are far from all others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from demetar.data import contacts, units
from demetar.data.frames import Frames
from demetar.data.units import Units

_MOST_PAIRS = 2_000  # of frames that are compared
_FEWEST_PAIRS = 10
# The largest step of an atom in Å: energies follow from forces by the trapezoidal rule
# well, or roughly. As measured on ethanol at 500 K, 2 and 10 fs from frame to frame.
_NEAR, _FAR = 0.1, 0.5
_LOOSE, _STEEP = 0.7, 1.4  # slopes of energies over work that are no fault of units
_LIKELY = 1.15  # how well a unit must explain a slope
_FORCES = (0.1, 8.0)  # root mean square in eV/Å, about 1 in a molecule at 500 K
_CONTACTS = (0.5, 1.5)  # nearest distance over the sum of the covalent radii
# Deviation of the energy over the norm of the forces in Å: 0.02 to 0.03 in rMD17.
_SPREAD, _SPREADS = 0.025, (0.002, 0.3)
_SAMPLED = 200  # frames whose distances are measured
_CLEAR, _FAR_CLEAR = 0.5, 0.8  # correlations that say something
_SHARE = 0.25  # of the frames of a trajectory, at least, have a neighbour
_COMMON = ("eV", "kcal/mol", "Ha", "kJ/mol", "meV")
# An energy is odd if it is so many deviations and eV from what its atoms make likely.
_ODD_DEVIATIONS, _ODD = 100, 10.0
_MOST_ODD = 0.2  # of the frames; more are another kind of data
_FITS = 20  # rounds of least squares whose weights make them least moduli


def notes_on(
    frames: Frames, what: str, read_as: Units | None = None
) -> tuple[str, ...]:
    """What a person should look at, one line each.

    Args:
      frames: in the order of their trajectory, if they are of one.
      what: they are, for the notes.
      read_as: the units that the numbers of their file were taken to have, so that the
        likely one is that of the file; None for eV and Å.
    """
    own = read_as or Units()
    odd = _odd_energies(frames)
    others = frames.take(np.setdiff1d(np.arange(len(frames)), odd))
    found = (
        _of_energies(frames, odd),
        _of_zeros(frames),
        _of_lengths(others, own),
        _of_forces(others, own),
        _of_work(others, own),
    )
    return tuple(f"{what}: {note}" for note in found if note)


# --- Single frames ------------------------------------------------------------------


def _odd_energies(frames: Frames) -> np.ndarray:
    """Frames whose energy is far from what the others with such atoms make likely.

    The energies of the species are fitted by the least sum of moduli, which a few odd
    frames do not move.
    """
    known, columns = np.unique(frames.numbers, return_inverse=True)
    counts = np.zeros((len(frames), len(known)))
    np.add.at(counts, (np.repeat(np.arange(len(frames)), frames.n_node), columns), 1)
    weights = np.ones((len(frames), 1))
    left = frames.energies
    for _ in range(_FITS):
        design, values = counts * weights, frames.energies * weights[:, 0]
        left = frames.energies - counts @ np.linalg.lstsq(design, values)[0]
        sizes = np.abs(left)
        least = 1e-9 * max(sizes.max(), 1e-9)
        weights = 1 / np.sqrt(np.maximum(sizes, least))[:, None]
    deviation = float(np.median(np.abs(left - np.median(left))))
    odd = np.abs(left) > max(_ODD_DEVIATIONS * deviation, _ODD)
    return np.flatnonzero(odd) if odd.mean() <= _MOST_ODD else np.zeros(0, np.int64)


def _of_energies(frames: Frames, odd: np.ndarray) -> str:
    if not len(odd):
        return ""
    return (
        f"the energy of frame {odd[0]} (from 0), {frames.energies[odd[0]]:.6g} eV, is "
        f"far from what the other frames make likely, {len(odd):,} such in all; leave "
        "them out if they stand for missing energies"
    )


def _of_zeros(frames: Frames) -> str:
    """Frames of two atoms and more without forces, beside others with them."""
    largest = np.maximum.reduceat(np.abs(frames.forces).max(axis=1), frames.starts)
    zero = np.flatnonzero((largest == 0) & (frames.n_node > 1))
    if not len(zero) or not largest.any():
        return ""
    return (
        f"all forces of frame {zero[0]} (from 0) are 0, of {len(zero):,} frames in "
        "all; leave them out if they stand for missing forces"
    )


# --- All of them --------------------------------------------------------------------


def _of_lengths(frames: Frames, read_as: Units) -> str:
    ratios = contacts.of(frames.take(slice(_SAMPLED))).ratios
    if not len(ratios):
        return ""
    ratio = float(np.median(ratios))
    if _CONTACTS[0] <= ratio <= _CONTACTS[1]:
        return ""
    if not ratio:
        return "most atoms are at the place of another one"
    return (
        f"atoms are {ratio:.3g} times as far from each other as bonded ones are"
        f"{_guess(ratio / read_as.to_angstrom, units.LENGTHS, 'positions')}; see "
        "--length_unit"
    )


def _of_forces(frames: Frames, read_as: Units) -> str:
    size = float(np.sqrt(np.mean(frames.forces**2)))
    if not size or _FORCES[0] <= size <= _FORCES[1]:
        return ""
    in_file = size / (read_as.to_ev / read_as.to_angstrom)
    return (
        f"the root mean square of the forces is {size:.3g} eV/Å, where molecules have "
        f"about 1{_guess(in_file, _force_units(), 'forces')}; see --energy_unit"
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
    """The unit that makes a number of a file about 1; '' if none does."""
    name = min(known, key=lambda unit: abs(math.log(found * known[unit])))
    if not 1 / 3 < found * known[name] < 3:
        return ""
    return f"; the {what} are likely in {name}"


def _of_work(frames: Frames, read_as: Units) -> str:
    """Whether forces are minus the slopes of the energies along a trajectory."""
    rises, works, near = _pairs(frames)
    fewest = max(_FEWEST_PAIRS, _SHARE * min(len(frames), _MOST_PAIRS))
    if len(rises) < fewest or not works.any():
        return _of_spread(frames, read_as)
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
    force = float(np.sqrt(np.mean(frames.forces**2)))
    in_file = force / (read_as.to_ev / read_as.to_angstrom)
    return f"{told}{_mixed(slope * read_as.to_angstrom, in_file)}"


def _of_spread(frames: Frames, read_as: Units) -> str:
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
    in_file = length / _SPREAD / read_as.to_ev
    return (
        f"the energies deviate by {spread:.3g} eV from their mean, which is "
        f"{'much' if length > _SPREAD else 'little'} for forces of "
        f"{force / math.sqrt(3):.3g} eV/Å{_guess(in_file, common, 'energies')}"
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


def _mixed(slope: float, force: float) -> str:
    """The units of energies beside forces that explain a slope; '' if none do.

    Args:
      slope: of the energies over the work, in the units of their file.
      force: the root mean square of its forces, by which units of one ratio are told
        apart.
    """
    known = _force_units()
    fitting = [
        (abs(math.log(force * known[unit])), energy, unit)
        for energy, unit in itertools.product(_COMMON, known)
        if 1 / _LIKELY < slope * units.ENERGIES[energy] / known[unit] < _LIKELY
    ]
    if not fitting:
        return ""
    _, energy, unit = min(fitting)
    return f"; the energies are likely in {energy}, beside forces in {unit}"
