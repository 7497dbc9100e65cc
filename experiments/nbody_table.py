"""Train every model on one N-body data set and put the records in one table.

    python -m experiments.nbody_table --epochs=100 --schedule=cosine

Each row is one `python -m experiments.nbody` command with a work directory of its own
below --workdir. Rows that have a record are skipped, interrupted ones continued, and a
row that fails does not stop the others. Writes table.md, table.csv and table.png.
"""

from __future__ import annotations

import math
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

from absl import flags
from matplotlib.figure import Figure

from demetar import models
from demetar.errors import UserError
from demetar.train import checkpoint
from experiments import report
from experiments.run import cli

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "models",
    models.with_head("node_vector"),
    "Rows of the table, separated by commas. Default: all that predict vectors.",
)
flags.DEFINE_string("workdir", "runs/nbody_table", "Folder of the rows and the table.")
flags.DEFINE_bool(
    "list_jobs", False, "Print one command per missing row, for any scheduler, and end."
)
# Settings of every row, passed on where they are given.
PASSED_ON = {
    "dataset": "Data set of every row.",
    "data_dir": "Where generated data is kept.",
    "data_seed": "Seed of a fresh data set.",
    "num_bodies": "Bodies per system of a generated set.",
    "full_data": "Whether all of gravity is generated.",
    "cues": "Vector inputs.",
    "connectivity": "Of the graphs.",
    "num_neighbors": "Senders per body of knn.",
    "target": "What is predicted.",
    "num_train": "Training samples.",
    "epochs": "Passes over the data, for every row.",
    "batch_size": "Graphs per batch.",
    "schedule": "Of the learning rate.",
    "average_decay": "Of the moving average of the parameters.",
    "eval_every": "Epochs between evaluations.",
    "seed": "First seed.",
    "num_seeds": "Seeds of every row, in one program.",
}
for _name, _text in PASSED_ON.items():
    flags.DEFINE_string(
        _name, None, f"{_text} Default: that of experiments.nbody for each model."
    )
flags.DEFINE_bool(
    "compile_cache", False, "Keep compiled programs in ~/.cache/demetar/programs."
)


def main(_: list[str]) -> int:
    """Train what is missing, then write the table."""
    names = list(FLAGS.models)
    for name in names:
        models.model_class(name)
    root = pathlib.Path(FLAGS.workdir)
    missing = [name for name in names if not (root / name / "record.json").exists()]
    if FLAGS.list_jobs:
        for name in missing:
            print(shlex.join(["python", *command(name, root)]))
        return 0
    failed = [name for name in missing if not train(name, root)]
    finished = [root / name for name in names if name not in failed]
    if not finished:
        raise UserError(f"no row is finished; the reasons stand above ({root})")
    write(report.read_runs([str(path) for path in finished]), root)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(names)} rows are missing: {', '.join(failed)}; "
            "the same command tries them again"
        )
    return 0


def command(name: str, root: pathlib.Path) -> list[str]:
    """Arguments of the interpreter that train one row."""
    arguments = ["-m", "experiments.nbody", f"--model={name}"]
    arguments.append(f"--workdir={root / name}")
    for flag in PASSED_ON:
        value = getattr(FLAGS, flag)
        if value is not None:
            arguments.append(f"--{flag}={value}")
    if FLAGS.compile_cache:
        arguments.append("--compile_cache")
    return arguments


def train(name: str, root: pathlib.Path) -> bool:
    """Train one row in a process of its own; whether it ended with a record.

    Raises:
      KeyboardInterrupt: the row was interrupted by a person; the others would be too.
    """
    print(f"== {name}", flush=True)
    process = subprocess.run([sys.executable, *command(name, root)], check=False)
    if process.returncode >= 128:
        raise UserError(f"interrupted at {name}; the same command continues")
    if process.returncode:
        print(f"== {name} failed with exit code {process.returncode}", flush=True)
    return process.returncode == 0


def write(runs: Sequence[report.Run], root: pathlib.Path) -> None:
    """table.md, table.csv and table.png."""
    text = report.markdown(runs)
    checkpoint.write_bytes(root / "table.md", text.encode())
    checkpoint.write_bytes(root / "table.csv", report.csv_text(runs).encode())
    cli.save_figure(root / "table.png", draw(runs))
    print(f"{text}\n{root}: table.md, table.csv, table.png")


def draw(runs: Sequence[report.Run]) -> Figure:
    """Test error against time per training step, published values marked."""
    figure = Figure(figsize=(8.5, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, run in enumerate(runs):
        record, color = run.record, f"C{index % 10}"
        time = 1000 / (report.number(record["steps_per_second"]) or math.nan)
        mean = report.number(record["test_loss_mean"])
        low, high = map(report.number, record["test_loss_interval"])
        if not math.isfinite(time + mean + low + high):
            continue  # the table says so
        spread = [[max(mean - low, 0)], [max(high - mean, 0)]]
        axes.errorbar(time, mean, spread, fmt="o", color=color, capsize=3)
        label = f" {run.label} ({record['num_params'] / 1000:.3g}k)"
        axes.annotate(label, (time, mean), fontsize=9, va="bottom")
        published = report.published(record)
        if published:
            axes.plot(time, published.loss, "_", color=color, ms=16, mew=2)
    axes.plot([], [], "o", color="0.4", label="ours, 95 % interval")
    axes.plot([], [], "_", color="0.4", ms=16, mew=2, label="published")
    axes.set(xscale="log", yscale="log", xlabel="time per training step / ms")
    first = runs[0].record
    label = f"test error ({first['target']})"
    axes.set_ylabel(report.with_unit(label, first["unit"]))
    axes.set_title(f"{first['dataset']}, {first['device']}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


if __name__ == "__main__":
    cli.run(main)
