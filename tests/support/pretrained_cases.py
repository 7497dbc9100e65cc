"""A few test systems, and the errors that the pretrained models' runs had on them.

    python -m tests.support.pretrained_cases RUN...

writes pretrained_cases.npz beside this file, from the work directories of the runs,
each called like its model, as `egnn-nbody_small`:

- `nbody_small/NAME` [4, 5, ...]: positions, velocities, charges, and the target
  position,
- `qm9_homo/NAME`: n_node [4], species and positions of all atoms, homo [4] in meV,
- `RUN/errors` [4] of the test samples, as the run's evaluation found them.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np

from demetar.data import qm9, splits, targets
from experiments.run import cli

PATH = pathlib.Path(__file__).with_suffix(".npz")
NUM_SYSTEMS = 4


def main(runs: list[str]) -> None:
    """Write the file."""
    arrays = _nbody() | _molecules()
    for run in map(pathlib.Path, runs):
        with np.load(run / "test_errors.npz") as found:
            (name,) = [key for key in found if key.endswith("errors")]
            arrays[f"{run.name}/errors"] = found[name][0, :NUM_SYSTEMS]
    np.savez_compressed(PATH, allow_pickle=False, **arrays)


def _nbody() -> dict[str, np.ndarray]:
    with np.load(cli.cache_dir() / "data" / "nbody_small" / "test.npz") as found:
        frames = (found["steps"] // 100 - 1).tolist()
        start, end = frames.index(30), frames.index(40)
        return {
            "nbody_small/positions": found["positions"][:NUM_SYSTEMS, start],
            "nbody_small/velocities": found["velocities"][:NUM_SYSTEMS, start],
            "nbody_small/charges": found["charges"][:NUM_SYSTEMS],
            "nbody_small/position": found["positions"][:NUM_SYSTEMS, end],
        }


def _molecules() -> dict[str, np.ndarray]:
    known, _ = qm9.cached(None, cli.cache_dir(), with_bonds=False)
    rows = splits.split_rows("egnn", len(known.index))["test"][:NUM_SYSTEMS]
    stops = np.cumsum(known.n_atoms)
    atoms = np.concatenate(
        [np.arange(stops[row] - known.n_atoms[row], stops[row]) for row in rows]
    )
    return {
        "qm9_homo/n_node": known.n_atoms[rows],
        "qm9_homo/species": known.numbers[atoms],
        "qm9_homo/positions": known.positions[atoms],
        "qm9_homo/homo": targets.target_values(known, "homo")[0][rows],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
