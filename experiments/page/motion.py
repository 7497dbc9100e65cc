"""Scenes of N-body systems: the true motion and what trained models predict of it.

A model that predicts the end alone is shown by that end; only a model that integrates
has a path. The true path is the generator's own, from the data of the start frame.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar import settings as fields
from demetar.data import nbody_files
from experiments.page import paths, scenes
from experiments.page.scenes import Asked, Shown, Wanted
from experiments.protocols import nbody as protocols
from experiments.protocols.nbody import Data
from experiments.run import finished, nbody_data

POSITION = "position"
NUM_FRAMES = 100  # of a path after its start
MANY_BODIES, FEW_FRAMES = 20, 40  # from so many bodies on there are fewer
CLOSE_ENOUGH = 1e-2  # of the end of a path to the stored frame
_DECIMALS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """A test set between two frames.

    Attributes:
      made: settings of its generator.
      kind: 'charges' or 'masses'.
      unit: of length.
      states: all systems at the start.
      ends: positions at the target [S, n, 3].
      num_steps: of the generator from the start to the target.
    """

    made: Mapping[str, Any]
    kind: str
    unit: str
    states: paths.States
    ends: np.ndarray
    num_steps: int


def show(
    members: Sequence[finished.Run], checkpoints: Sequence[Asked], wanted: Wanted
) -> Shown:
    """The scenes of the runs on one test set.

    Raises:
      UserError: a file of the data is damaged, or a test system has a number that
        there is not.
    """
    try:
        case = _read(members[0].record, wanted.data_root)
    except Missing as error:
        return Shown(reason=f"no motion and no closest approaches: {error}")
    chosen = scenes.choose(members, wanted.systems, len(case.ends))
    closest = paths.closest(case.made, case.states, case.num_steps)
    few = case.states.rows([*chosen])
    count = FEW_FRAMES if few.real.shape[1] > MANY_BODIES else NUM_FRAMES
    times, true = paths.true_paths(case.made, few, case.num_steps, count)
    gap = np.abs(true[-1] - case.ends[[*chosen]])[few.real].max()
    if not gap < CLOSE_ENOUGH:
        reason = f"no motion: the simulator ends {gap:.2g} from the stored frame"
        return Shown(reason=reason, closest=closest)
    predicted, notes = _predicted(checkpoints, few, case.kind, times)
    found = []
    for row, (number, difficulty) in enumerate(chosen.items()):
        path = true[:, row, few.real[row]]
        found.append(
            {
                "kind": "motion",
                "title": f"test system {number}",
                "difficulty": difficulty,
                "closest": float(f"{closest[number]:.4g}"),
                "source": case.kind,
                "sources": few.sources[row, few.real[row]].tolist(),
                "unit": case.unit,
                "times": np.round(times, 6).tolist(),
                "true": _rounded(path),
                "models": [_scene_of(own, row, path) for own in predicted],
                "errors": scenes.errors_of(members, number),
            }
        )
    return Shown(found, closest=closest, notes=notes)


class Missing(Exception):
    """The data of a run are not there, or tell too little."""


def _read(record: Mapping[str, Any], root: pathlib.Path) -> Case:
    """The test set of a run.

    Raises:
      Missing: it is not there, or does not tell how it was simulated.
      UserError: a file of it is damaged.
    """
    folder = _folder(record, root)
    metadata = nbody_files.read_metadata(folder)
    if metadata["fingerprint"] != record["fingerprint"]:
        raise Missing(f"the data set {folder.name} that is there is another one")
    if "test" not in metadata["arrays"]:
        raise Missing(f"the data set {folder.name} has no test set")
    made, frames = metadata["settings"], metadata["frames"]
    ends = [record["settings"][name] for name in ("start_frame", "target_frame")]
    if not paths.is_known(made) or ends[0] >= ends[1] or not {*ends} <= {*frames}:
        raise Missing("the data do not tell how they were simulated")
    arrays = nbody_files.read_split(folder, "test", metadata)
    start, target = map(frames.index, ends)
    kind = nbody_files.sources(metadata)
    states = paths.States(
        positions=arrays["positions"][:, start],
        velocities=arrays["velocities"][:, start],
        sources=arrays[kind],
        real=np.arange(arrays[kind].shape[1]) < arrays["num_bodies"][:, None],
    )
    num_steps = made["sample_every"] * (ends[1] - ends[0])
    unit = metadata["units"]["positions"]
    return Case(made, kind, unit, states, arrays["positions"][:, target], num_steps)


def _folder(record: Mapping[str, Any], root: pathlib.Path) -> pathlib.Path:
    """Where the data of a run lie.

    Raises:
      Missing: they are not there.
    """
    name, settings = record["dataset"], record["settings"]
    own = protocols.DATASETS.get(name)
    folder = pathlib.Path(name)
    if own is not None:
        names = {field.name for field, _ in fields.fields_of(Data)}
        given = {key: settings[key] for key in settings.keys() & names}
        folder = nbody_data.folder_of(name, fields.replaced(own, given), root)
    if not (folder / nbody_files.METADATA).is_file():
        raise Missing(
            f"the data set {folder.name} is not there; experiments.nbody generates it, "
            "and --data_dir names another place"
        )
    return folder


def _predicted(
    checkpoints: Sequence[Asked], states: paths.States, kind: str, times: np.ndarray
) -> tuple[list[dict[str, Any]], list[str]]:
    """Ends, and paths if there are any, of every model; and which models have none."""
    arrays: dict[str, list[np.ndarray]] = {
        "positions": _parts(states.positions, states.real),
        "velocities": _parts(states.velocities, states.real),
        kind: _parts(states.sources, states.real),
    }
    found, notes = [], []
    for own in checkpoints:
        model = own.model
        inputs = {name: arrays[name] for name in model.inputs if name in arrays}
        if len(inputs) < len(model.inputs) or POSITION not in model.units:
            notes.append(f"{own.label} is not shown: it reads or predicts other things")
            continue
        ends = model(**inputs)[POSITION]
        shifts = paths.path_of_model(model, inputs, times / times[-1])
        found.append(
            {"label": own.label, "ends": ends, "paths": _paths(shifts, inputs)}
        )
    return found, notes


def _parts(values: np.ndarray, real: np.ndarray) -> list[np.ndarray]:
    return [own[mask] for own, mask in zip(values, real, strict=True)]


def _paths(
    shifts: np.ndarray | None, inputs: Mapping[str, Any]
) -> list[np.ndarray] | None:
    """Positions [F, n, 3] of each system on the way."""
    if shifts is None:
        return None
    stops = np.cumsum([len(own) for own in inputs["positions"]])[:-1]
    parts = np.split(shifts, stops, axis=1)
    return [own + part for own, part in zip(inputs["positions"], parts, strict=True)]


def _scene_of(
    predicted: Mapping[str, Any], row: int, true: np.ndarray
) -> dict[str, Any]:
    """What a model predicts of one system."""
    end, own = predicted["ends"][row], predicted["paths"]
    return {
        "label": predicted["label"],
        "end": _rounded(end),
        "path": None if own is None else _rounded(own[row]),
        "error": float(f"{np.mean((end - true[-1]) ** 2):.4g}"),
    }


def _rounded(values: np.ndarray) -> list[Any]:
    rounded: list[Any] = np.round(np.asarray(values, np.float64), _DECIMALS).tolist()
    return rounded
