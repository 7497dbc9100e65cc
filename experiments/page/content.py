"""What the page shows, as JSON: groups of runs on one test set, curves and motion."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import demetar
from demetar.errors import UserError
from experiments.page import curves, molecules, motion, tails
from experiments.page.scenes import Asked, Wanted
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
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.test_set, []).append(index)
    notes: list[str] = []
    asked = [Asked.of(name) for name in wanted.checkpoints]
    shown = [_group(runs, rows, wanted, asked, notes) for rows in groups.values()]
    _name_apart(shown, [runs[rows[0]] for rows in groups.values()])
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
        **curves.of(run.folder, record),
        "tail": None if run.errors is None else tails.describe(run.errors),
    }


def _group(
    runs: Sequence[finished.Run],
    rows: Sequence[int],
    wanted: Wanted,
    asked: Sequence[Asked],
    notes: list[str],
) -> dict[str, Any]:
    """The runs on one test set, their differences, and what is known of its samples."""
    members = [runs[row] for row in rows]
    with_errors = [row for row in rows if runs[row].errors is not None]
    _check_sizes([runs[row] for row in with_errors])
    checkpoints = _checkpoints(members, asked, notes)
    first = members[0].record
    of_motion = "start_frame" in first["settings"]
    show = motion.show if of_motion else molecules.show
    shown = show(members, checkpoints, wanted)
    notes += [f"{_name(members[0])}: {note}" for note in shown.notes]
    group = {
        "name": _name(members[0]),
        "target": first["target"],
        "unit": first["unit"],
        "runs": list(rows),
        "paired": _paired(runs, with_errors),
        "scenes": shown.scenes,
        "scenes_reason": shown.reason,
    }
    if shown.closest is None:
        return group
    codes = {str(row): tails.encode(runs[row].errors) for row in with_errors}
    return group | {"closest": tails.encode(shown.closest), "samples": codes}


def _check_sizes(members: Sequence[finished.Run]) -> None:
    """Refuse runs that say to share a test set and have errors of another number."""
    sizes: dict[int, str] = {}
    for run in members:
        if run.errors is not None:
            sizes.setdefault(run.errors.shape[-1], run.label)
    if len(sizes) > 1:
        (first, one), (second, other), *_ = sizes.items()
        raise UserError(
            f"{one} and {other} name the same test set but hold {first} and {second} "
            "errors; run one of them again"
        )


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
    return chosen + [Asked.of(str(run.folder), run.label) for run in kept[:room]]


def _paired(runs: Sequence[finished.Run], rows: Sequence[int]) -> dict[str, Any]:
    """Mean differences of all pairs of runs with errors, and their intervals."""
    if len(rows) < 2:
        return {"runs": list(rows), "values": []}
    errors = [np.asarray(runs[row].errors) for row in rows]
    with np.errstate(invalid="ignore"):  # of a run whose errors are not finite
        values = statistics.all_paired_differences(errors)
    upper = [
        [float(f"{number:.5g}") for number in values[i, j]]
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
    ]
    return {"runs": list(rows), "values": upper}


def _name(run: finished.Run) -> str:
    settings = run.record["settings"]
    frames = [settings.get(name) for name in ("start_frame", "target_frame")]
    ending = "" if None in frames else f", frame {frames[0]} to {frames[1]}"
    return f"{pathlib.PurePath(run.record['dataset']).name}: {run.record['target']}" + (
        ending
    )


def _name_apart(groups: Sequence[dict[str, Any]], runs: Sequence[finished.Run]) -> None:
    """Groups of one name are told apart by the fingerprint of their data."""
    names = [group["name"] for group in groups]
    for group, run in zip(groups, runs, strict=True):
        if names.count(group["name"]) > 1:
            group["name"] += f" (data {run.record['fingerprint'][:6]})"
