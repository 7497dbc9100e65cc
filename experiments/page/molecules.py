"""Scenes of molecules: the atoms, the true value, and what trained models predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar import elements
from demetar.data import bonds, qm9, splits, targets
from demetar.errors import UserError
from experiments.page import scenes
from experiments.page.scenes import Asked, Shown, Wanted
from experiments.run import cli, finished

QM9 = "qm9"


def show(
    members: Sequence[finished.Run], checkpoints: Sequence[Asked], wanted: Wanted
) -> Shown:
    """The scenes of the runs on one test set of molecules.

    Raises:
      UserError: a test molecule has a number that there is not.
    """
    record = members[0].record
    if record["dataset"] != QM9:
        return Shown(reason="no molecules: the record does not tell where they lie")
    if record["target"] not in targets.TARGETS:
        return Shown(reason="no molecules: the target is none of their properties")
    try:
        known, _ = qm9.cached(None, wanted.cache, cli.progress, with_bonds=False)
    except UserError as error:
        return Shown(reason=f"no molecules: {error}")
    if known.fingerprint != record["fingerprint"]:
        return Shown(reason="no molecules: those that are installed are others")
    split = record["settings"].get("split")
    if split is None:
        return Shown(reason="no molecules: the record does not tell their split")
    rows = splits.split_rows(split, len(known.index))["test"]
    values, unit = targets.target_values(known, record["target"])
    chosen = scenes.choose(members, wanted.systems, len(rows))
    starts = np.cumsum(known.n_atoms) - known.n_atoms
    found, notes = [], []
    for number, difficulty in chosen.items():
        row = int(rows[number])
        atoms = slice(starts[row], starts[row] + known.n_atoms[row])
        found.append(
            {
                "kind": "molecule",
                "title": f"test molecule {number}, number {known.index[row]} of QM9",
                "difficulty": difficulty,
                "value": float(f"{values[row]:.7g}"),
                "quantity": record["target"],
                "unit": unit,
                "errors": scenes.errors_of(members, number),
                "models": [],
                **drawn(known.numbers[atoms], known.positions[atoms]),
            }
        )
    for own in checkpoints:
        if {*own.model.inputs} != {"positions", "species"}:
            notes.append(f"{own.label} is not shown: it reads other things")
            continue
        for scene, value in zip(found, _predicted(own, found), strict=True):
            scene["models"].append(
                {
                    "label": own.label,
                    "value": float(f"{value:.7g}"),
                    "error": float(f"{abs(value - scene['value']):.4g}"),
                }
            )
    return Shown(found, notes=notes)


def drawn(numbers: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
    """Symbols, positions and bonds of a molecule, as ball and stick.

    Args:
      numbers: [n] atomic numbers.
      positions: [n, 3] in Å.
    """
    numbers, positions = np.asarray(numbers), np.asarray(positions, np.float64)
    (pairs,) = bonds.connections(numbers[None], positions[None])
    return {
        "symbols": [elements.SYMBOLS[number - 1] for number in numbers],
        "positions": np.round(positions - positions.mean(axis=0), 3).tolist(),
        "bonds": pairs.tolist(),
    }


def _predicted(own: Asked, found: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The values of all molecules."""
    (head,) = own.model.units
    return np.asarray(
        own.model(
            positions=[np.array(scene["positions"]) for scene in found],
            species=[scene["symbols"] for scene in found],
        )[head]
    )
