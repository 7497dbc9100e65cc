"""Frames of small molecules with exact forces, and files of them."""

from __future__ import annotations

import numpy as np

from demetar import elements
from demetar.data.frames import Frames, joined, uniform

WATER = (
    np.array([8, 1, 1]),
    np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]),
)
STIFFNESS = 30.0  # in eV/Å^2


def springs(positions: np.ndarray, rest: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces [n, 3] of springs between all pairs, at rest in `rest`."""
    offsets = positions[:, None] - positions[None]
    lengths = np.linalg.norm(offsets, axis=-1)
    wanted = np.linalg.norm(rest[:, None] - rest[None], axis=-1)
    stretch = lengths - wanted
    energy = STIFFNESS * float((stretch**2).sum()) / 4
    safe = np.where(lengths > 0, lengths, 1.0)
    pulls = (stretch / safe)[..., None] * offsets  # [n, n, 3]
    return energy, -STIFFNESS * pulls.sum(axis=1)


def trajectory(
    count: int, step: float = 0.02, seed: int = 0, extra: int = 0, kept: float = 0.97
) -> Frames:
    """A walk of water, `extra` hydrogens beside it.

    Args:
      count: of its frames.
      step: of an atom from frame to frame, in Å.
      seed: of the steps.
      extra: hydrogens.
      kept: of the way from the place of rest, from frame to frame.
    """
    numbers, rest = WATER
    rest = np.concatenate([rest, 3.0 + np.arange(3.0 * extra).reshape(-1, 3)])
    numbers = np.append(numbers, np.ones(extra, int))
    random = np.random.default_rng(seed)
    places = rest + 0.05 * random.normal(size=rest.shape)
    rows = []
    for _ in range(count):
        moves = step * random.normal(size=rest.shape) / 3
        places = rest + kept * (places - rest) + moves
        rows.append((places, *springs(places, rest)))
    positions, energies, forces = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return uniform(numbers, positions, energies - 100.0, forces, "a walk")


def mixed(count: int) -> Frames:
    """Frames of two molecules in turns."""
    parts = [trajectory(count, seed=seed, extra=seed) for seed in (0, 1)]
    rows = np.arange(2 * count).reshape(2, count).T.ravel()
    return joined(parts).take(rows)


def flat(frames: Frames) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` of molecules of any sizes."""
    return {
        "n_atoms": frames.n_node,
        "numbers": frames.numbers,
        "positions": frames.positions,
        "energies": frames.energies,
        "forces": frames.forces,
    }


def extended_xyz(
    frames: Frames,
    energy_key: str = "energy",
    forces_key: str = "forces",
    forces_first: bool = False,
) -> str:
    """The text of an extended xyz file."""
    vectors = ["pos:R:3", f"{forces_key}:R:3"]
    columns = ["species:S:1", *(vectors[::-1] if forces_first else vectors)]
    lines = []
    for row in range(len(frames)):
        one = frames.take([row])
        declared = f"Properties={':'.join(columns)}"
        energy = float(one.energies[0])
        lines += [
            f"{len(one.numbers)}",
            f'{declared} {energy_key}={energy!r} pbc="F F F"',
        ]
        for number, place, force in zip(
            one.numbers, one.positions, one.forces, strict=True
        ):
            both = [place, force][:: -1 if forces_first else 1]
            words = [repr(float(value)) for value in np.concatenate(both)]
            lines.append(" ".join([elements.SYMBOLS[number - 1], *words]))
    return "\n".join(lines) + "\n"


def of_rmd17(frames: Frames, **others: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of rMD17's files, of frames of one molecule, in kcal/mol."""
    size = int(frames.n_node[0])
    kcal = 43.3641e-3
    return {
        "nuclear_charges": frames.numbers[:size],
        "coords": frames.positions.reshape(-1, size, 3),
        "energies": frames.energies / kcal,
        "forces": frames.forces.reshape(-1, size, 3) / kcal,
        "old_indices": np.arange(len(frames)),
        **others,
    }


def of_sgdml(frames: Frames, **others: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of sGDML's files."""
    arrays = of_rmd17(frames)
    names = dict(z="nuclear_charges", R="coords", E="energies", F="forces")
    return {**{key: arrays[name] for key, name in names.items()}, **others}
