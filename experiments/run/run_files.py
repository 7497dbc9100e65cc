"""The files of a finished run, each checked by itself and against the others.

A record.json says what a run came to, a test_errors.npz the error of every test sample.
Both carry the id of their run; those of releases before 0.2 carry none.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar import archives, files
from demetar.errors import UserError
from demetar.train import checkpoint

RECORD_FILE = "record.json"
ERRORS_FILE = "test_errors.npz"
# Its array, by the kind of the heads' losses; the last one if they have both.
ERRORS_NAMES = frozenset({"squared_errors", "absolute_errors", "errors"})
RUN_ID = "run_id"
MEAN_OF_SEEDS = "mean_of_seeds"  # errors of the mean of the seeds' predictions
CHECKSUM = "checksum"  # of all else that a record says; earlier releases had none
FORMAT = 1  # of a work directory; part of every id

_COMMAND = "run the command of that work directory again"
_AGAIN = f"remove it and {_COMMAND}, which writes it anew"
_LEFT_OUT = "remove it to leave this run out of the comparison"
_TOLERANCE = 1e-6  # relative, of means that were computed in another order


def run_id(config: Mapping[str, Any]) -> str:
    """The SHA-256 that names a run: of all that decides its numbers.

    Args:
      config: settings and the fingerprint of the data, as config.json has them. The
        epochs count only if the learning rate depends on them: otherwise a longer run
        begins as the shorter one.
    """
    decides = {name: value for name, value in config.items() if name != RUN_ID}
    if may_grow(config):
        decides.pop("epochs", None)
    text = json.dumps(
        {"format": FORMAT, "config": checkpoint.to_json(decides)}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def may_grow(config: Mapping[str, Any]) -> bool:
    """Whether more epochs leave those before them as they are."""
    return config.get("schedule") == "constant"


def not_finite(record: Mapping[str, Any]) -> list[str]:
    """The entries of a record, by name, that hold a number that is not finite."""

    def holds(value: Any) -> bool:
        if isinstance(value, Mapping):
            return any(map(holds, value.values()))
        if isinstance(value, (list, tuple)):
            return any(map(holds, value))
        return isinstance(value, float) and not math.isfinite(value)

    return sorted(name for name, value in record.items() if holds(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """None stands for one that is not finite."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return value is None or is_real


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _are_seeds(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_named_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


# What is read of a record, and what it must be.
ENTRIES = {
    "model": _is_text,
    "protocol": _is_text,
    "dataset": _is_text,
    "target": _is_text,
    "unit": _is_text,
    "fingerprint": _is_text,
    "num_params": _is_count,
    "epochs": _is_count,
    "seeds": _are_seeds,
    "test_loss_mean": _is_number,
    "test_loss_std": _is_number,
    "test_loss_interval": _is_interval,
    "delta_eq": _are_named_numbers,
    "steps_per_second": _is_number,
    "wall_seconds": _is_number,
    "device": _is_text,
    "settings": _is_object,
}
_OPTIONAL = {
    "test_loss": _are_numbers,
    MEAN_OF_SEEDS: lambda value: (
        isinstance(value, dict)
        and _is_number(value.get("test_loss"))
        and _is_interval(value.get("test_loss_interval"))
        and _is_object(value.get("test_errors", {}))
    ),
    "eval": lambda value: (
        isinstance(value, list)
        and all(
            isinstance(entry, dict)
            and _is_text(entry.get("dataset"))
            and _is_text(entry.get("fingerprint"))
            and _is_number(entry.get("loss_mean"))
            and _is_interval(entry.get("interval"))
            for entry in value
        )
    ),
}


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """A record.json; a number that is not finite is None.

    Raises:
      UserError: the file cannot be read, or holds something else, or carries an id that
        its settings do not make or a checksum that it has not.
    """
    record = files.read_json(path, _AGAIN, non_finite="null")
    rest = {name: value for name, value in record.items() if name != CHECKSUM}
    if CHECKSUM in record and record[CHECKSUM] != files.json_hash(rest):
        raise UserError(
            f"{path} was altered: its checksum is not that of its entries; restore it, "
            f"or {_AGAIN}"
        )
    missing = [name for name in ENTRIES if name not in record]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {_AGAIN}")
    for name, is_right in {**ENTRIES, **_OPTIONAL}.items():
        if name in record and not is_right(record[name]):
            shown = repr(record[name])[:60]
            raise UserError(f"{path} is no record: {name!r} is {shown}; {_AGAIN}")
    check_id(path, record, record["settings"])
    return record


def check_id(
    path: pathlib.Path, content: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Make sure that the id in a file, if there is one, is that of its settings.

    Raises:
      UserError: it is another: the file was altered.
    """
    found = content.get(RUN_ID)
    if found is None:
        return
    expected = run_id(config)
    if found != expected:
        digits = checkpoint.ID_DIGITS
        raise UserError(
            f"{path} was altered: it names run {str(found)[:digits]}, its settings "
            f"make run {expected[:digits]}; restore it, or choose another --workdir"
        )


def read_errors(
    folder: pathlib.Path, record: Mapping[str, Any], hint: str = _LEFT_OUT
) -> np.ndarray | None:
    """The errors [R, D] of the test samples; None if the folder has none.

    Args:
      folder: that holds them.
      record: of the same run.
      hint: ends the error of a damaged file: what to do.

    Raises:
      UserError: the file cannot be read, carries the id of another run, or its means
        are not the losses of the record.
    """
    path = folder / ERRORS_FILE
    if not path.exists():
        return None
    arrays = archives.read_npz(path, hint)
    found = str(arrays[RUN_ID]) if RUN_ID in arrays else None
    if found != record.get(RUN_ID):
        raise checkpoint.foreign(path, found, str(record.get(RUN_ID) or "without id"))
    names = ERRORS_NAMES & {*arrays}
    errors = arrays[min(names)] if len(names) == 1 else np.zeros(())
    if errors.ndim != 2 or errors.dtype.kind != "f" or not errors.size:
        raise UserError(
            f"expected errors per sample in {path}, found "
            f"{', '.join(f'{n} {files.describe(a)}' for n, a in arrays.items())}; "
            f"{hint}"
        )
    _check_means(path, errors, record, hint)
    return errors


def _check_means(
    path: pathlib.Path, errors: np.ndarray, record: Mapping[str, Any], hint: str
) -> None:
    losses = record.get("test_loss", [record["test_loss_mean"]])
    expected = np.array(losses, np.float64)  # None becomes NaN
    means = errors.astype(np.float64).mean(axis=1)
    if "test_loss" not in record:
        means = means.mean(keepdims=True)
    fits = means.shape == expected.shape and np.allclose(
        means, expected, _TOLERANCE, 0, equal_nan=True
    )
    # What is not finite is None in a record, whether NaN or infinite.
    if not fits and means.shape == expected.shape:
        both = np.where(np.isfinite(means), means, np.nan)
        fits = np.allclose(both, expected, _TOLERANCE, 0, equal_nan=True)
    if not fits:
        raise UserError(
            f"{path} is not of {path.with_name(RECORD_FILE)}: its errors average to "
            f"{means.tolist()}, expected {expected.tolist()}; put back the file of "
            f"that run, or {hint}"
        )
