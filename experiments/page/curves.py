"""Training curves of a run: from its metrics.jsonl, or the curve.csv of a record."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from demetar import files
from demetar.errors import UserError
from demetar.train import writers

CURVE_FILE = "curve.csv"  # among its columns are these; an empty cell is unknown
_NAMES = (("epoch",), ("train_loss", "train"), ("valid_loss", "valid"))
MOST_POINTS = 400
_COLUMNS = ("epoch", "train_loss", "valid_loss")
_NONE = f"no {writers.METRICS_FILE} or {CURVE_FILE} beside the record"


def of(folder: pathlib.Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """{`curve`: epoch, train and valid, or None; `curve_reason`: why there is none}.

    Losses are means over the seeds. The training loss is left out if it is of another
    kind than the validation loss. `heads` of a curve has the validation errors of heads
    that are not averaged, by name, in their own units, but for the one that is `valid`.

    Raises:
      UserError: a file is damaged, or of another run.
    """
    metrics, table = folder / writers.METRICS_FILE, folder / CURVE_FILE
    if metrics.is_file():
        rows = _of_metrics(metrics, record)
    elif table.is_file():
        rows = _of_table(table)
    else:
        return {"curve": None, "curve_reason": _NONE}
    if not rows:
        return {"curve": None, "curve_reason": "it was not evaluated"}
    epochs, train, valid, *others = np.array(_thinned(rows), np.float64).T
    comparable = record["settings"].get("loss_transform", "none") == "none"
    return {
        "curve": {
            "epoch": epochs.tolist(),
            "train": _short(train) if comparable else None,
            "valid": _short(valid),
            "heads": dict(zip(_other_heads(record), map(_short, others), strict=False)),
        },
        "curve_reason": "",
    }


def _other_heads(record: Mapping[str, Any]) -> list[str]:
    """Heads with errors of their own, but for the one that the run is judged by."""
    errors = record.get("test_errors", {})
    return [name for name, own in errors.items() if own["unit"] != record["unit"]]


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _thinned(rows: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """At most `MOST_POINTS` and one: the first, the last and the lowest among them."""
    if len(rows) <= MOST_POINTS:
        return list(rows)
    valid = np.array([row[2] for row in rows])
    kept = {*np.linspace(0, len(rows) - 1, MOST_POINTS).round().astype(int).tolist()}
    if np.isfinite(valid).any():
        kept.add(int(np.nanargmin(valid)))
    return [rows[index] for index in sorted(kept)]


def _of_metrics(
    path: pathlib.Path, record: Mapping[str, Any]
) -> list[tuple[float, ...]]:
    """Rows of epoch, training and validation loss, and errors of the other heads.

    A later line replaces an earlier one.
    """
    rows: dict[int, tuple[float, ...]] = {}
    heads = _other_heads(record)
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            found = json.loads(line)
            if found.get("run") != record.get("run_id"):
                raise UserError(
                    f"{path}, line {number}, is of another run than its record; put "
                    "back the file of that run, or remove it"
                )
            train, valid = (_mean(found[name]) for name in _COLUMNS[1:])
            others = (_mean(found["valid_by_head"][name]) for name in heads)
            rows[int(found["epoch"])] = (float(found["epoch"]), train, valid, *others)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _damaged(path, number, "an evaluation") from None
    return [rows[epoch] for epoch in sorted(rows)]


def _of_table(path: pathlib.Path) -> list[tuple[float, ...]]:
    """Rows of epoch, training and validation loss, by the names of the columns."""
    lines = list(csv.reader(io.StringIO(_text(path))))
    header = lines[0] if lines else []
    found = [[name for name in names if name in header] for names in _NAMES]
    if not all(found):
        raise _damaged(path, 1, "columns epoch, train_loss and valid_loss")
    columns = [header.index(names[0]) for names in found]
    rows: list[tuple[float, ...]] = []
    for number, cells in enumerate(lines[1:], 2):
        try:
            texts = [cells[column] for column in columns]
            epoch, train, valid = (float(text) if text else np.nan for text in texts)
        except (ValueError, IndexError):
            raise _damaged(path, number, f"{len(header)} numbers") from None
        rows.append((epoch, train, valid))
    return rows


def _mean(values: Any) -> float:
    """Over the seeds; null is not finite."""
    return float(np.mean([np.nan if value is None else value for value in values]))


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = files.one_line(error)[:100]
        raise UserError(f"cannot read {path}: {reason}; remove it") from None


def _damaged(path: pathlib.Path, number: int, expected: str) -> UserError:
    return UserError(
        f"expected {expected} in line {number} of {path}; put back the file of that "
        "run, or remove it"
    )
