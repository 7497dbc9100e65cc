"""Finished runs side by side: their records, and paired differences of their errors."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from demetar.errors import UserError
from experiments.run import records, run_files, statistics

RECORD_FILE, ERRORS_FILE = run_files.RECORD_FILE, run_files.ERRORS_FILE


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      label: its folder, as short as tells it from the others.
      record: the content of its record.json.
      errors: per seed and test sample [R, D], in the record's unit and averaged over
        the heads; None without the file.
      folder: where they lie.
    """

    label: str
    record: dict[str, Any]
    errors: np.ndarray | None
    folder: pathlib.Path

    @property
    def test_set(self) -> str:
        """Runs for which this is equal were tested on the same samples, in one unit."""
        settings = self.record["settings"]
        names = ("start_frame", "target_frame", "num_test")
        named = [self.record[name] for name in ("fingerprint", "target", "unit")]
        return json.dumps([*named, *map(settings.get, names)])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Mean difference between a run and the best on its test set, with its interval."""

    best: str
    difference: float
    low: float
    high: float


def read_runs(folders: Sequence[str]) -> list[Run]:
    """The runs in the folders and below, in the order of their paths.

    Raises:
      UserError: a folder without record, or a record or file of errors that cannot be
        read.
    """
    paths: set[pathlib.Path] = set()
    for folder in folders:
        found = [path.resolve() for path in pathlib.Path(folder).rglob(RECORD_FILE)]
        if not found:
            raise UserError(
                f"expected a {RECORD_FILE} in {folder} or below, found none; "
                "give the work directory of a finished run"
            )
        paths.update(found)
    parents = [path.parent for path in sorted(paths)]
    return [_read_run(parent, label) for parent, label in labels(parents).items()]


def labels(paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, str]:
    """What to call each of several runs: its path from what all have in common.

    Args:
      paths: of files or folders; one that comes again counts once.

    Returns:
      {path: label}, resolved and in their order. No two labels are alike.
    """
    found = list(dict.fromkeys(path.resolve() for path in paths))
    root = os.path.commonpath([path.parent for path in found]) if found else ""
    return {path: os.path.relpath(path, root) for path in found}


def _read_run(folder: pathlib.Path, label: str) -> Run:
    record = run_files.read_record(folder / RECORD_FILE)
    record["unit"] = records.same_unit(record["unit"])
    return Run(label, record, run_files.read_errors(folder, record), folder)


def compare(runs: Sequence[Run]) -> dict[str, Comparison]:
    """Each run against the best on the same test set, by label.

    Raises:
      UserError: runs on the same test set have different numbers of samples.
    """
    groups: dict[str, list[tuple[str, np.ndarray]]] = {}
    for run in runs:
        if run.errors is not None:
            groups.setdefault(run.test_set, []).append((run.label, run.errors))
    comparisons = {}
    for group in groups.values():
        best, best_errors = min(group, key=lambda item: _rank(item[1]))
        if math.isinf(_rank(best_errors)):
            continue  # none of them has finite errors
        check_sizes(group)
        for label, errors in group:
            if label == best:
                continue
            values = statistics.paired_difference(errors, best_errors)
            comparisons[label] = Comparison(best, *values)
    return comparisons


def check_sizes(group: Sequence[tuple[str, np.ndarray]]) -> None:
    """Refuse runs, by label, that say to share a test set but have other numbers of
    errors.
    """
    sizes: dict[int, str] = {}
    for label, errors in group:
        sizes.setdefault(errors.shape[-1], label)
    if len(sizes) > 1:
        (first, one), (second, other), *_ = sizes.items()
        raise UserError(
            f"{one} and {other} name the same test set but hold {first} and {second} "
            "errors; run one of them again"
        )


def _rank(errors: np.ndarray) -> float:
    """The mean; what is not finite comes last."""
    mean = float(errors.mean())
    return mean if math.isfinite(mean) else math.inf


def number(value: float | None) -> float:
    """A number of a record; NaN for one that is not finite."""
    return math.nan if value is None else value
