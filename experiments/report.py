r"""A table of run records, with published values beside ours.

    python -m experiments.report DIR... [--format=markdown|csv] [--out=FILE]

Every record.json in the folders is one line. Runs on the same test set are compared
sample by sample with the best of them, where their test_errors.npz are at hand.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from demetar.errors import UserError
from demetar.settings import OUTPUT, setting
from demetar.train import checkpoint
from experiments.protocols import nbody as protocols
from experiments.run import cli, records, run_files, statistics
from tools.command_line import CommandLine, Given


@dataclasses.dataclass(frozen=True)
class Options:
    """How the report is written."""

    format: str = setting(
        "markdown", "How the table is written.", OUTPUT, choices=("markdown", "csv")
    )
    out: str | None = setting(
        None, "File to write.", OUTPUT, default_words="the screen"
    )


LINE = CommandLine(Options, positional="DIR...")

RECORD_FILE, ERRORS_FILE = run_files.RECORD_FILE, run_files.ERRORS_FILE


@dataclasses.dataclass(frozen=True)
class Published:
    """A test loss that was published, in the unit of the data set."""

    loss: float
    source: str


_EGNN_PAPER = "Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844"
_SEGNN_PAPER = "Brandstetter et al. 2022, arXiv 2110.02905; its code"

# By data set, target and model.
PUBLISHED = {
    ("nbody_small", "position", "linear"): Published(0.0819, _EGNN_PAPER),
    ("nbody_small", "position", "linear_map"): Published(0.0683, _EGNN_PAPER),
    ("nbody_small", "position", "se3_transformer"): Published(0.0244, _EGNN_PAPER),
    ("nbody_small", "position", "tfn"): Published(0.0155, _EGNN_PAPER),
    ("nbody_small", "position", "gnn"): Published(0.0107, _EGNN_PAPER),
    ("nbody_small", "position", "radial_field"): Published(0.0104, _EGNN_PAPER),
    ("nbody_small", "position", "egnn"): Published(0.0071, _EGNN_PAPER),
    ("nbody_small", "position", "segnn"): Published(
        0.0043,
        f"{_SEGNN_PAPER} centres positions over x, y, z instead of the particles and "
        "so is not equivariant",
    ),
    ("nbody_blog", "position", "egnn"): Published(
        0.0025, "the JAX EGNN blog post, 200 steps ahead and not 1,000"
    ),
    ("gravity", "position", "segnn"): Published(
        0.265, f"{_SEGNN_PAPER} predicts absolute positions"
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      label: its folder, as short as tells it from the others.
      record: the content of its record.json.
      errors: per seed and test sample [R, D], in the record's unit and averaged over
        the heads; None without the file.
    """

    label: str
    record: dict[str, Any]
    errors: np.ndarray | None

    @property
    def test_set(self) -> str:
        """Runs for which this is equal were tested on the same samples, in one unit."""
        settings = self.record["settings"]
        frames = [settings.get(name) for name in ("start_frame", "target_frame")]
        named = [self.record[name] for name in ("fingerprint", "target", "unit")]
        return json.dumps([*named, *frames])


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
    root = os.path.commonpath([parent.parent for parent in parents])
    return [_read_run(parent, os.path.relpath(parent, root)) for parent in parents]


def _read_run(folder: pathlib.Path, label: str) -> Run:
    record = run_files.read_record(folder / RECORD_FILE)
    record["unit"] = records.same_unit(record["unit"])
    return Run(label, record, run_files.read_errors(folder, record))


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
        for label, errors in group:
            if label == best:
                continue
            if errors.shape[-1] != best_errors.shape[-1]:
                raise UserError(
                    f"{label} and {best} name the same test set but hold "
                    f"{errors.shape[-1]} and {best_errors.shape[-1]} errors; "
                    "run one of them again"
                )
            values = statistics.paired_difference(errors, best_errors)
            comparisons[label] = Comparison(best, *values)
    return comparisons


def _rank(errors: np.ndarray) -> float:
    """The mean; what is not finite comes last."""
    mean = float(errors.mean())
    return mean if math.isfinite(mean) else math.inf


def markdown(runs: Sequence[Run]) -> str:
    """The records, their sources and the paired differences, as Markdown."""
    sources: list[str] = []
    rows = [_markdown_row(run.label, run.record, sources) for run in runs]
    parts = [cli.markdown_table(rows)]
    parts.append(
        "Test loss: mean ± standard deviation over seeds. Interval: bootstrap over "
        "test samples. Δ_EQ: mean relative equivariance error under rotations."
    )
    if sources:
        notes = (f"[{number}] {text}" for number, text in enumerate(sources, 1))
        parts.append("  \n".join(notes))
    units = {run.label: _unit(run.record) for run in runs}
    comparisons = [
        {
            "Run": label,
            "Best": comparison.best,
            "Difference": _fixed(comparison.difference, comparison.difference),
            "95 % interval": _interval(
                (comparison.low, comparison.high), comparison.difference
            ),
            "Unit": units[label],
            "Beyond chance": _beyond_chance(comparison),
        }
        for label, comparison in compare(runs).items()
    ]
    if comparisons:
        parts.append("Paired differences to the best run on the same test samples:")
        parts.append(cli.markdown_table(comparisons))
    return "\n\n".join(parts) + "\n"


def _markdown_row(
    label: str, record: dict[str, Any], sources: list[str]
) -> dict[str, str]:
    """One line; a source that it cites is appended to `sources` if it is new."""
    mean, std = record["test_loss_mean"], record["test_loss_std"]
    several = len(record["seeds"]) > 1 and std is not None
    found = published(record)
    if found and found.source not in sources:
        sources.append(found.source)
    speed = record["steps_per_second"]
    return {
        "Run": label,
        "Model": record["model"],
        "Protocol": record["protocol"],
        "Data set": f"{record['dataset']}, {record['target']}",
        "Parameters": f"{record['num_params']:,}",
        "Epochs": f"{record['epochs']:,}",
        "Seeds": str(len(record["seeds"])),
        "Test loss": _fixed(mean, mean) + (f" ± {_fixed(std, mean)}" * several),
        "95 % interval": _interval(record["test_loss_interval"], mean),
        "Published": f"{found.loss:g} [{sources.index(found.source) + 1}]"
        if found
        else "–",
        "Unit": _unit(record),
        "Δ_EQ": _delta_eq(record["delta_eq"]),
        "ms per step": f"{1000 / speed:.3g}" if speed else "–",
        "Wall time (h:m:s)": _clock(record["wall_seconds"]),
        "Device": record["device"],
    }


def _beyond_chance(comparison: Comparison) -> str:
    if not math.isfinite(comparison.low):
        return "not finite"
    return "yes" if comparison.low > 0 else "no"


def published(record: dict[str, Any]) -> Published | None:
    """The value of the same task; none for other frames or another training set."""
    named = protocols.DATASETS.get(record["dataset"])
    if named is None or record["settings"].get("data_seed") is not None:
        return None
    task = {name: getattr(named, name) for name in (*protocols.SETTLED, "cues")}
    # Records of the time before these could be chosen have the data set's own.
    chosen = ("num_bodies", "connectivity", "num_neighbors", "cues")
    settings = {name: task[name] for name in chosen} | record["settings"]
    if any(settings.get(name) != value for name, value in task.items()):
        return None
    return PUBLISHED.get((record["dataset"], record["target"], record["model"]))


def _fixed(value: float | None, reference: float | None) -> str:
    """`value` to as many decimals as show three digits of `reference`."""
    if value is None or not math.isfinite(value):
        return "not finite"  # JSON has no NaN
    finite = reference is not None and math.isfinite(reference)
    size = abs(reference if reference and finite else value)
    decimals = 2 - math.floor(math.log10(size)) if size else 2
    return f"{value:.{max(decimals, 0)}f}"


def number(value: float | None) -> float:
    """A number of a record; NaN for one that is not finite."""
    return math.nan if value is None else value


def with_unit(label: str, unit: str) -> str:
    """The label of an axis; a quantity without unit has none."""
    return f"{label} / {unit}" if unit else label


def _interval(ends: Sequence[float | None], reference: float | None) -> str:
    low, high = (_fixed(end, reference) for end in ends)
    return f"{low} to {high}"


def _unit(record: dict[str, Any]) -> str:
    """The unit of the errors; those of several heads are averaged as numbers."""
    unit = record["unit"]
    return f"mean of {unit}" if " and " in unit else unit


def _delta_eq(by_head: dict[str, float | None]) -> str:
    """A number for one head, else a number by name."""
    values = {
        head: "not finite" if value is None else f"{value:.1e}"
        for head, value in by_head.items()
    }
    if len(values) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{head} {value}" for head, value in values.items()) or "–"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def csv_text(runs: Sequence[Run]) -> str:
    """The records with all digits, one line each, paired differences at the end."""
    comparisons = compare(runs)
    rows = []
    for run in runs:
        record = {key: run.record[key] for key in run_files.ENTRIES}
        low, high = record.pop("test_loss_interval")
        record |= {"test_loss_low": low, "test_loss_high": high}
        found = published(record)
        del record["settings"]
        record["seeds"] = len(record["seeds"])
        record["delta_eq"] = _delta_eq(record["delta_eq"])
        record["published"] = found.loss if found else None
        record["source"] = found.source if found else None
        paired = comparisons.get(run.label)
        names = [field.name for field in dataclasses.fields(Comparison)]
        record |= {f"paired_{name}": getattr(paired, name, None) for name in names}
        rows.append({"run": run.label, **record})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def main(given: Given, folders: Sequence[str]) -> None:
    """Print or write the report on the folders that are named on the command line."""
    if not folders:
        raise UserError(
            "expected the work directory of at least one run, found none; "
            "give it as in: python -m experiments.report runs"
        )
    options = given.read(Options)
    runs = read_runs(folders)
    text = markdown(runs) if options.format == "markdown" else csv_text(runs)
    if options.out:
        checkpoint.write_bytes(options.out, text.encode())
    else:
        print(text, end="")


if __name__ == "__main__":
    cli.run(main, LINE)
