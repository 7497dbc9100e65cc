"""Scenes of potentials: test frames with their true forces and those of models.

A frame is a structure by itself. Frames are in no order of time, or far apart in it, so
nothing moves from one to the next.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar.data import potentials
from demetar.data.frames import Frames
from demetar.data.potential_heads import MEV, Settings
from demetar.data.potentials import ENERGY, FORCES, Sets
from demetar.errors import UserError
from demetar.settings import replaced
from experiments.page import molecules, scenes
from experiments.page.scenes import Asked, Shown, Wanted
from experiments.run import finished

UNITS = {ENERGY: "meV", FORCES: "meV/Å"}
# Of a single file, which frames are for the test follows from these.
_SIZES = ("num_train", "num_valid")
_DECIMALS = 2  # of forces, in meV/Å


def is_potential(record: Mapping[str, Any]) -> bool:
    """Whether a record is of energies and forces."""
    return {*UNITS} <= {*record.get("test_errors", {})}


def show(
    members: Sequence[finished.Run], checkpoints: Sequence[Asked], wanted: Wanted
) -> Shown:
    """The scenes of the runs on one set of test frames.

    Raises:
      UserError: a test frame has a number that there is not.
    """
    record = members[0].record
    sets = _read(record, wanted.data_root)
    if sets is None:
        name = pathlib.PurePath(record["dataset"]).name
        return Shown(
            reason=f"no frames: those of {name} are not there or cannot be read; "
            "--data_dir names where they lie"
        )
    if sets.fingerprint != record["fingerprint"]:
        return Shown(reason="no frames: those that are there are others")
    test = sets.parts["test"]
    chosen = scenes.choose(members, wanted.systems, len(test))
    mean = float(test.energies.mean())
    found = [
        {
            "kind": "forces",
            "title": f"test frame {number}",
            "difficulty": difficulty,
            "energy": float(f"{(test.energies[number] - mean) / MEV:.5g}"),
            "units": UNITS,
            "errors": scenes.errors_of(members, number),
            "models": [],
            **_drawn(test.take([number])),
        }
        for number, difficulty in chosen.items()
    ]
    notes = []
    for own in checkpoints:
        reason = _unfit(own, sets, record)
        if reason:
            notes.append(f"{own.label} is not shown: {reason}")
            continue
        few = test.take([*chosen])
        for scene, told in zip(found, _predicted(own, few), strict=True):
            scene["models"].append(told)
    return Shown(found, notes=notes)


def _read(record: Mapping[str, Any], root: pathlib.Path) -> Sets | None:
    """The frames of a run; None if they are not there. None are generated."""
    settings = replaced(Settings(), record["settings"])
    try:
        return potentials.load(record["dataset"], root, settings)
    except UserError:
        return None


def _unfit(own: Asked, sets: Sets, record: Mapping[str, Any]) -> str:
    """Why a model is not shown; '' if it is."""
    reads = {*own.model.inputs} == {"positions", "species"}
    if not reads or UNITS.items() - own.model.units.items():
        return "it reads or predicts other things"
    mine, theirs = own.settings, record["settings"]
    if sets.place.is_file() and any(
        mine.get(size) != theirs.get(size) for size in _SIZES
    ):
        return "it may have been trained on these frames"
    return ""


def _drawn(frame: Frames) -> dict[str, Any]:
    """The atoms and bonds of a frame, as ball and stick, and the true forces."""
    return {
        **molecules.drawn(frame.numbers, frame.positions),
        "forces": _rounded(frame.forces / MEV),
    }


def _predicted(own: Asked, frames: Frames) -> list[dict[str, Any]]:
    """What a model says of each frame: forces, and the errors of both heads.

    The error of forces is the mean absolute one of their components.
    """
    stops = frames.starts[1:]
    values = own.model(
        positions=np.split(frames.positions, stops),
        species=np.split(frames.numbers, stops),
    )
    told = []
    for row, true in enumerate(np.split(frames.forces / MEV, stops)):
        forces = np.asarray(values[FORCES][row])
        gap = values[ENERGY][row] - frames.energies[row] / MEV
        told.append(
            {
                "label": own.label,
                "forces": _rounded(forces),
                "error": float(f"{np.abs(forces - true).mean():.4g}"),
                "energy_error": float(f"{gap:.4g}"),
            }
        )
    return told


def _rounded(values: np.ndarray) -> list[Any]:
    rounded: list[Any] = np.round(values, _DECIMALS).tolist()
    return rounded
