"""Draw the test error over the number of training samples.

    python -m experiments.learning_curve DIR... --out=FILE.png

Every record.json in the folders is one point, and every model one line; a model whose
runs differ in its fields has a line for each set of them. Bars are the 95 % intervals
of the records. The runs must share one test set.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from demetar.errors import UserError
from demetar.settings import OUTPUT, setting
from experiments import report
from experiments.run import cli, finished
from tools.command_line import CommandLine, Given


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written."""

    out: str = setting("learning_curve.png", "File of the picture, .png.", OUTPUT)


LINE = CommandLine(Options, positional="DIR...")


def main(given: Given, folders: Sequence[str]) -> None:
    """Draw the runs in the folders that are named on the command line."""
    if not folders:
        raise UserError(
            "expected the work directory of at least one run, found none; "
            "give it as in: python -m experiments.learning_curve runs"
        )
    path = pathlib.Path(given.read(Options).out)
    if path.suffix != ".png":
        raise UserError(f"expected --out=FILE.png, found {str(path)!r}")
    cli.save_figure(path, draw(finished.read_runs(folders)))
    print(path)


def points(runs: Sequence[finished.Run]) -> dict[str, np.ndarray]:
    """{line: rows of training samples, test error, ends of its interval}, sorted.

    Raises:
      UserError: the runs were tested on different samples.
    """
    if len({run.test_set for run in runs}) > 1:
        raise UserError(
            "expected runs on one test set, found several; name the folders of one"
        )
    found: dict[str, list[tuple[float, ...]]] = {}
    for run, line in zip(runs, lines(runs), strict=True):
        record = run.record
        row = (
            _num_train(run),
            finished.number(record["test_loss_mean"]),
            *map(finished.number, record["test_loss_interval"]),
        )
        found.setdefault(line, []).append(row)
    return {line: np.array(sorted(rows)) for line, rows in found.items()}


def lines(runs: Sequence[finished.Run]) -> list[str]:
    """The line of each run: its model, with the fields in which its runs differ."""
    variants: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        variants.setdefault(run.record["model"], []).append(_fields(run))
    labels = []
    for run in runs:
        model, own = run.record["model"], _fields(run)
        differing = [
            f"{name}={own[name]}"
            for name in sorted(own)
            if any(other.get(name) != own[name] for other in variants[model])
        ]
        labels.append(", ".join([model, *differing]))
    return labels


def _fields(run: finished.Run) -> dict[str, Any]:
    found: dict[str, Any] = run.record.get("fields") or {}
    return found


def _num_train(run: finished.Run) -> float:
    found = run.record["settings"].get("num_train")
    if not isinstance(found, int):
        raise UserError(
            f"expected the number of training samples in the settings of {run.label}, "
            f"found {found!r}; leave that run out"
        )
    return found


def draw(runs: Sequence[finished.Run]) -> Figure:
    """Lines with bars on logarithmic axes."""
    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for line, rows in points(runs).items():
        samples, loss, low, high = rows.T
        axes.errorbar(
            samples, loss, [loss - low, high - loss], marker="o", capsize=3, label=line
        )
    record = runs[0].record
    axes.set(xscale="log", yscale="log", xlabel="training samples")
    axes.set_ylabel(report.with_unit("test error", record["unit"]))
    axes.set_title(f"{record['dataset']}, {record['target']}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


if __name__ == "__main__":
    cli.run(main, LINE)
