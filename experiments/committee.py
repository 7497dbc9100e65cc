"""Several trained potentials as one, and how wrong it is.

    python -m experiments.committee RUN... --out=DIR

Each RUN is the work directory of a finished run of experiments.potential, all of them
on the same data. The mean of what they predict has mostly smaller errors than each of
them; `demetar.committee` computes it. The spread of
the members on a frame tells, without labels, how wrong the mean may be there. --out
gets a record committee.json, with errors and their 95 % intervals, and a picture
committee.png of the error of each frame over the spread.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

import demetar
from demetar import committees
from demetar.committees import Committee
from demetar.data import potentials, systems
from demetar.data.frames import Frames
from demetar.data.potentials import unit_of
from demetar.errors import UserError
from demetar.potential import Potential, heads_of
from demetar.predict import MEAN, Function, Values
from demetar.settings import DATA, MODEL, OUTPUT, replaced, setting
from demetar.train import checkpoint
from demetar.types import TaskSpec
from experiments.run import (
    cli,
    finished,
    potential_data,
    records,
    run_files,
    statistics,
    workdir,
)
from tools.command_line import CommandLine, Given

MODULE = "experiments.committee"
FRAMES = 256  # predicted at once
TOGETHER = "mean of all"
KINDS = {"absolute": np.abs, "squared": np.square}


@dataclasses.dataclass(frozen=True)
class Options:
    """On which frames, and what is written."""

    split: str = setting(
        "test",
        "The frames; on those of validation one chooses the members.",
        DATA,
        choices=("test", "valid"),
    )
    data_dir: str | None = setting(
        None,
        "Where data sets lie, and generated ones are kept.",
        DATA,
        default_words="~/.cache/demetar/data",
    )
    seed: str | None = setting(
        None,
        f"Of runs of several seeds: {MEAN} for the mean of their seeds.",
        MODEL,
        default_words="the first",
    )
    out: str = setting(
        "committee",
        "Folder for committee.json and committee.png; created if missing.",
        OUTPUT,
    )


LINE = CommandLine(Options, positional="RUN...")


def main(given: Given, folders: Sequence[str]) -> None:
    """Predict, print a table, and write the record and the picture."""
    options = given.read(Options)
    if options.seed not in (None, MEAN):
        raise UserError(f"expected --seed={MEAN} or none, found {options.seed!r}")
    runs = finished.read_runs(folders)
    committee = read(runs, options.seed)
    conservative = Potential(committee).is_conservative  # refuses what is no potential
    frames, fingerprint = read_frames(runs, options)
    name = runs[0].record["dataset"]
    print(f"committee {committee.model}")
    print(f"data      {name}, {len(frames):,} {options.split} frames")
    if not conservative:
        print(
            "note      a member predicts its forces directly: those of the mean are "
            "not the gradient of its energy"
        )
    folder = pathlib.Path(options.out)
    with cli.new_folder(folder):
        members = [
            predicted(member, frames, run.label)
            for member, run in zip(committee.members, runs, strict=True)
        ]
        mean, spread = committees.summary(members)
        measures = errors(committee.task, [*members, mean], frames)
        labels = [*(run.label for run in runs), TOGETHER]
        rows = results(committee, measures, frames, labels)
        sizes = spread_and_error(committee.task, mean, spread, frames)
        correlation = rank_correlation(*sizes)
        print(cli.markdown_table([shown(row) for row in rows], "---:"))
        told = "not defined" if correlation is None else f"{correlation:.2f}"
        print(f"spread    rank correlation with the error of a frame: {told}")
        content = {
            "command": records.typed_command(MODULE),
            "settings": {"split": options.split, "seed": options.seed},
            "dataset": name,
            "fingerprint": fingerprint,
            "num_frames": len(frames),
            "runs": [
                {"run": run.label, "run_id": run.record.get(run_files.RUN_ID)}
                for run in runs
            ],
            "conservative": conservative,
            "results": rows,
            "spread_correlation": correlation,
            "versions": cli.versions(),
            "device": cli.device(),
        }
        cli.save_figure(folder / "committee.png", draw(*sizes, committee.task))
        checkpoint.write_json(folder / "committee.json", checkpoint.to_json(content))
    print(f"{folder}: committee.json, committee.png")


def read(runs: Sequence[finished.Run], seed: str | None) -> Committee:
    """The committee of finished runs.

    Raises:
      UserError: there are fewer than two, they were not tested on the same frames, or a
        model is not that of its record.
    """
    if len(runs) < 2:
        raise UserError(
            f"expected at least two finished runs for a committee, found {len(runs)}"
        )
    for run in runs:
        if run.test_set != runs[0].test_set:
            raise UserError(
                f"expected runs on the same data, found {runs[0].label} on "
                f"{runs[0].record['dataset']} and {run.label} on "
                f"{run.record['dataset']} with other test frames (own files are split "
                "by --num_train, --num_valid and --num_test)"
            )
        checkpoint.check_run(
            run.folder / workdir.BEST, run.record.get(run_files.RUN_ID) or ""
        )
    return demetar.committee([run.folder for run in runs], seed)


def read_frames(runs: Sequence[finished.Run], options: Options) -> tuple[Frames, str]:
    """The frames of a split of the runs' data, and the fingerprint of all of them.

    Raises:
      UserError: they are not there, or not those of the runs, or the runs had different
        ones for validation.
    """
    first, known = runs[0], runs[0].record["settings"]
    counts = {run.record["settings"].get("num_valid"): run.label for run in runs}
    if options.split == "valid" and len(counts) > 1:
        told = ", ".join(f"{count} of {label}" for count, label in counts.items())
        raise UserError(
            f"expected the same validation frames of all runs, found {told}"
        )
    settings = replaced(potentials.Settings(), known)
    root = cli.data_root(options.data_dir)
    sets = potential_data.load_known(known["dataset"], root, settings)
    if sets.fingerprint != first.record["fingerprint"]:
        raise UserError(
            f"expected the frames that {first.label} was trained on, with fingerprint "
            f"{first.record['fingerprint'][:12]}, found {sets.fingerprint[:12]} in "
            f"{sets.place}; give their folder with --data_dir"
        )
    return sets.parts[options.split], sets.fingerprint


def predicted(model: Function, frames: Frames, label: str) -> Values:
    """The values of all frames.

    Args:
      model, frames: to predict with, and for.
      label: of the model, to tell how far it is.
    """
    parts: list[Values] = []
    starts = range(0, len(frames), FRAMES)
    for start in cli.progress(starts, label, len(starts), " calls"):
        some = frames.take(slice(start, start + FRAMES))
        cuts = some.starts[1:]
        given = {
            systems.POSITIONS: np.split(some.positions, cuts),
            systems.SPECIES: np.split(some.numbers, cuts),
        }
        parts.append(model.values(systems.parse(model.task, given)))
    return {name: np.concatenate([own[name] for own in parts]) for name in parts[0]}


def departures(task: TaskSpec, values: Values, frames: Frames) -> Values:
    """Predicted values less those of the frames: {energy: [F], forces: [N, 3]}."""
    energy, forces = heads_of(task)
    return {
        energy.name: values[energy.name][:, 0] - frames.energies / unit_of(energy),
        forces.name: values[forces.name][:, 0] - frames.forces / unit_of(forces),
    }


def errors(
    task: TaskSpec, found: Sequence[Values], frames: Frames
) -> dict[str, dict[str, np.ndarray]]:
    """{'absolute' | 'squared': {head: [M, F]}} of M predictions, mean over a frame."""
    measured: dict[str, dict[str, list[np.ndarray]]] = {
        kind: {head.name: [] for head in task.heads} for kind in KINDS
    }
    for values in found:
        for name, own in departures(task, values, frames).items():
            for kind, measure in KINDS.items():
                size = measure(own)
                whole = size if own.ndim == 1 else per_frame(size, frames)
                measured[kind][name].append(whole)
    return {
        kind: {name: np.stack(own) for name, own in of_heads.items()}
        for kind, of_heads in measured.items()
    }


def per_frame(values: np.ndarray, frames: Frames) -> np.ndarray:
    """Means over the atoms and components of each frame: [N, 3] -> [F]."""
    sums = np.add.reduceat(values.mean(axis=1), frames.starts)
    found: np.ndarray = sums / frames.n_node
    return found


def results(
    committee: Committee,
    measures: Mapping[str, Mapping[str, np.ndarray]],
    frames: Frames,
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """A row of the record for every member, and one for their mean."""
    energy, forces = heads_of(committee.task)
    told = records.errors_record(committee.task, measures, frames.n_node)
    names = [*(member.model for member in committee.members), committee.model]
    rows = []
    for index, (label, name) in enumerate(zip(labels, names, strict=True)):
        absolute = measures["absolute"][forces.name][index]
        low, high = statistics.bootstrap_mean(absolute)
        rows.append(
            {
                "run": label,
                "model": name,
                "forces_mae": float(absolute.mean()),
                "forces_low": low,
                "forces_high": high,
                "forces_rmse": told[forces.name]["rmse"][index],
                "forces_unit": forces.unit,
                "energy_mae": told[energy.name]["mae"][index],
                "energy_rmse": told[energy.name]["rmse"][index],
                "energy_unit": energy.unit,
            }
        )
    return rows


def shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table."""
    interval = f"{row['forces_low']:.2f} to {row['forces_high']:.2f}"
    return {
        "run": row["run"],
        f"forces, {row['forces_unit']}": f"{row['forces_mae']:.2f} ({interval})",
        "RMSE": f"{row['forces_rmse']:.2f}",
        f"energy, {row['energy_unit']}": f"{row['energy_mae']:.3f}",
    }


def spread_and_error(
    task: TaskSpec, mean: Values, spread: Values, frames: Frames
) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame, root mean squares over its components of the forces: [F] each.

    Args:
      task: heads.
      mean, spread: of `committees.summary`.
      frames: that they are of.

    Returns:
      The spread of the members, and the error of their mean.
    """
    _, forces = heads_of(task)
    error = departures(task, mean, frames)[forces.name]
    return (
        np.sqrt(per_frame(np.square(spread[forces.name][:, 0]), frames)),
        np.sqrt(per_frame(np.square(error), frames)),
    )


def rank_correlation(spread: np.ndarray, error: np.ndarray) -> float | None:
    """Spearman's, of values [F]; None of fewer than three frames or equal values."""
    if len(spread) < 3 or not np.ptp(spread) or not np.ptp(error):
        return None
    return float(stats.spearmanr(spread, error).statistic)


def draw(spread: np.ndarray, error: np.ndarray, task: TaskSpec) -> Figure:
    """The error of each frame over its spread."""
    unit = heads_of(task)[1].unit
    figure = Figure(figsize=(5, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(spread, error, ".", ms=4, alpha=0.5)
    if spread.min() > 0 and error.min() > 0:
        axes.set(xscale="log", yscale="log")
    ends = [min(spread.min(), error.min()), max(spread.max(), error.max())]
    axes.plot(ends, ends, "k--", lw=1, label="equal")
    axes.set(
        xlabel=f"spread of the members' forces / ({unit})",
        ylabel=f"error of their mean / ({unit})",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    cli.run(main, LINE)
