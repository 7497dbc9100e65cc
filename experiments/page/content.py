"""What the page shows, as JSON: groups of runs on one task, curves and motion."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import demetar
from demetar.data import frame_sources
from demetar.errors import UserError
from experiments.page import curves, molecules, motion, potentials, tails
from experiments.page.scenes import Asked, Shown, Wanted
from experiments.protocols import published
from experiments.run import finished, statistics

# Of a record, as it stands there.
_COPIED = (
    *("model", "protocol", "dataset", "target", "unit", "num_params", "epochs"),
    *("test_loss_mean", "test_loss_std", "test_loss_interval", "delta_eq"),
    *("steps_per_second", "wall_seconds", "device"),
)
_NOT_ALWAYS = ("command", "best_epoch", "valid_loss", "test_loss_by_head")
MAX_MODELS = 8  # whose predictions are shown beside each other


def gather(runs: Sequence[finished.Run], wanted: Wanted) -> dict[str, Any]:
    """All that the page shows.

    Args:
      runs: finished ones, of any data sets.
      wanted: which motion is shown.

    Raises:
      UserError: a checkpoint that is asked for cannot be read, or fits no run, or a
        test system has a number that there is not.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(_task(run), []).append(index)
    notes: list[str] = []
    asked = [Asked.of(name) for name in wanted.checkpoints]
    shown = [_group(runs, rows, wanted, asked, notes) for rows in groups.values()]
    _number(shown)
    for own in asked:
        if not own.used:
            raise UserError(
                f"--checkpoints={own.name} was trained on {own.describe()}, of which "
                "no run is in the folders; name a folder with one"
            )
    shown.sort(key=lambda group: -len(group["runs"]))
    return {
        "version": demetar.__version__,
        "runs": [_run(run) for run in runs],
        "groups": shown,
        "notes": notes,
    }


def to_json(content: Mapping[str, Any]) -> str:
    """JSON in which no character can end a script; what is not finite is null."""
    text = json.dumps(
        _finite(content), allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _run(run: finished.Run) -> dict[str, Any]:
    """One run, with its curve and the distribution of its errors."""
    record = run.record
    found = published.find(record)
    own = {name: record[name] for name in _COPIED}
    own |= {name: record[name] for name in _NOT_ALWAYS if name in record}
    return own | {
        "label": run.label,
        "seeds": len(record["seeds"]),
        "num_train": record["settings"].get("num_train"),
        "published": dataclasses.asdict(found) if found else None,
        "elsewhere": published.elsewhere(record),
        "heads": _heads(record),
        **curves.of(run.folder, record),
        "tail": None if run.errors is None else tails.describe(run.errors),
    }


def _heads(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Errors of the heads that are not averaged, each in its own unit, over the seeds.

    Of each head: 'unit', 'mae', 'rmse', and of sums over atoms both per node.
    """
    return {
        name: {
            key: value if key == "unit" else _mean(value) for key, value in own.items()
        }
        for name, own in record.get("test_errors", {}).items()
    }


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([finished.number(value) for value in values]))


def _group(
    runs: Sequence[finished.Run],
    rows: Sequence[int],
    wanted: Wanted,
    asked: Sequence[Asked],
    notes: list[str],
) -> dict[str, Any]:
    """The runs on one task, their differences, and what is known of the test samples.

    The data may have been generated more than once, by machines whose last digits
    differ: only runs on the very same numbers are compared sample by sample.
    """
    members = [runs[row] for row in rows]
    test_sets: dict[str, list[int]] = {}
    for row in rows:
        test_sets.setdefault(runs[row].test_set, []).append(row)
    checkpoints = _checkpoints(members, asked, notes)
    own, shown = _first_shown(runs, [*test_sets.values()], checkpoints, wanted)
    name = _name(members[0])
    notes += [f"{name}: {note}" for note in shown.notes]
    first = members[0].record
    group = {
        "name": name,
        "target": first["target"],
        "unit": first["unit"],
        "heads": {name: own["unit"] for name, own in _heads(first).items()},
        "published": [dataclasses.asdict(own) for own in published.of_data(first)],
        "runs": list(rows),
        "paired": [_paired(runs, found) for found in test_sets.values()],
        "scenes": shown.scenes,
        "first_scene": 0 if wanted.systems else len(shown.scenes) // 2,
        "scenes_reason": shown.reason,
    }
    if shown.closest is None:
        return group
    with_errors = [row for row in own if runs[row].errors is not None]
    codes = {str(row): tails.encode(runs[row].errors) for row in with_errors}
    return group | {"closest": tails.encode(shown.closest), "samples": codes}


def _first_shown(
    runs: Sequence[finished.Run],
    test_sets: Sequence[list[int]],
    checkpoints: Sequence[Asked],
    wanted: Wanted,
) -> tuple[list[int], Shown]:
    """The first test set whose samples are there, and those; else why there are none.

    Large test sets come first.
    """
    found: tuple[list[int], Shown] = ([], Shown())
    for rows in sorted(test_sets, key=len, reverse=True):
        members = [runs[row] for row in rows]
        finished.check_sizes(
            [(run.label, run.errors) for run in members if run.errors is not None]
        )
        shown = _shower(members[0].record)(members, checkpoints, wanted)
        if shown.scenes or shown.closest is not None:
            return rows, shown
        found = found if found[1].reason else (rows, shown)
    return found


def _shower(record: Mapping[str, Any]) -> Callable[..., Shown]:
    """What makes the scenes of runs, by the record of one of them."""
    if "start_frame" in record["settings"]:
        return motion.show
    return potentials.show if potentials.is_potential(record) else molecules.show


def _checkpoints(
    members: Sequence[finished.Run], asked: Sequence[Asked], notes: list[str]
) -> list[Asked]:
    """The trained models of a group: those asked for, then the best of the runs."""
    chosen = [own for own in asked if own.fits(members[0].record)]
    for own in chosen:
        own.used = True
    kept = [run for run in members if (run.folder / "best.npz").is_file()]
    kept.sort(key=lambda run: finished.number(run.record["test_loss_mean"]))
    room = max(MAX_MODELS - len(chosen), 0)
    if len(kept) > room:
        left = ", ".join(run.label for run in kept[room:])
        notes.append(f"the player shows {MAX_MODELS} models and leaves out {left}")
    for run in kept[:room]:
        try:
            chosen.append(Asked.of(str(run.folder), run.label))
        except UserError as error:  # its numbers are shown all the same
            notes.append(f"{run.label} is not in the player: {error}")
    return chosen


def _paired(runs: Sequence[finished.Run], members: Sequence[int]) -> dict[str, Any]:
    """Mean differences of all pairs of runs with errors, and their intervals.

    The pairs stand in the order (0, 1), (0, 2), ..., (1, 2), ...
    """
    rows = [row for row in members if runs[row].errors is not None]
    if len(rows) < 2:
        return {"runs": rows, "values": []}
    errors = [np.asarray(runs[row].errors) for row in rows]
    with np.errstate(invalid="ignore"):  # of a run whose errors are not finite
        values = statistics.all_paired_differences(errors)
    upper = [
        [float(f"{number:.5g}") for number in values[i, j]]
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
    ]
    return {"runs": rows, "values": upper}


def _frames(run: finished.Run) -> list[Any]:
    settings = run.record["settings"]
    return [settings.get(name) for name in ("start_frame", "target_frame")]


def _labels(run: finished.Run) -> list[Any]:
    """Of rMD17: which energies and forces, and which split."""
    settings = run.record["settings"]
    return [settings.get(name) for name in ("labels", "fold")]


def _task(run: finished.Run) -> tuple[str, ...]:
    """Runs of which this is equal stand in one table."""
    named = [run.record[name] for name in ("dataset", "target", "unit")]
    return (*named, *map(str, _frames(run)), *map(str, _labels(run)))


def _name(run: finished.Run) -> str:
    start, target = _frames(run)
    ending = "" if None in (start, target) else f", frame {start} to {target}"
    dataset = pathlib.PurePath(run.record["dataset"]).name
    labels, fold = _labels(run)
    if frame_sources.is_rmd17(dataset):
        ending = f", split {fold}" + (labels == "md17") * ", labels of MD17"
    return f"{dataset}: {run.record['target']}{ending}"


def _number(groups: Sequence[dict[str, Any]]) -> None:
    """Groups of one name, of folders that end alike, are told apart."""
    seen: dict[str, int] = {}
    for group in groups:
        name = group["name"]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            group["name"] = f"{name} ({seen[name]})"
