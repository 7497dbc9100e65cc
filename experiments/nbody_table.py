"""Train every model on one N-body data set, for one table.

    python -m experiments.nbody_table --epochs=100 --schedule=cosine

Each row is one `python -m experiments.nbody` command with a work directory of its own
below --workdir. Rows that have a record are skipped, interrupted ones continued, and a
row that fails does not stop the others. Writes table.md, table.csv and table.png.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from demetar import models
from demetar.errors import UserError
from demetar.settings import MODEL, OUTPUT, setting
from demetar.train import checkpoint
from experiments import nbody, report
from experiments.protocols import published
from experiments.run import cli, finished, workdir
from tools.command_line import CommandLine, Given

# Flags of experiments.nbody that hold for every row.
PASSED_ON = (
    *("dataset", "data_dir", "data_seed", "num_bodies", "full_data", "cues"),
    *("connectivity", "num_neighbors", "target", "num_train", "epochs", "batch_size"),
    *("schedule", "average_decay", "eval_every", "seed", "num_seeds"),
    "compile_cache",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The rows and their place."""

    models: tuple[str, ...] = setting(
        tuple(models.with_head("node_vector")),
        "Rows of the table, separated by commas.",
        MODEL,
        default_words="all that predict vectors",
    )
    workdir: str = setting(
        "runs/nbody_table", "Folder of the rows and the table.", OUTPUT
    )
    list_jobs: bool = setting(
        False,
        "Print one command per missing row, for any scheduler, and end.",
        OUTPUT,
    )


LINE = CommandLine(Options, *(nbody.LINE.flags[name] for name in PASSED_ON))


def main(given: Given, _: list[str]) -> int:
    """Train what is missing, then write the table."""
    options = given.read(Options)
    names = options.models
    for name in names:
        models.model_class(name)
    root = pathlib.Path(options.workdir)
    arguments = [*passed_on(given)]
    folders = {name: root / workdir.model_folder(name) for name in names}
    jobs = {name: command(name, folders[name], arguments) for name in names}
    missing = [name for name in names if not (folders[name] / "record.json").exists()]
    if options.list_jobs:
        for name in missing:
            print(shlex.join(["python", *jobs[name]]))
        return 0
    failed = [name for name in missing if not train(name, jobs[name])]
    done = [folders[name] for name in names if name not in failed]
    if not done:
        raise UserError(f"no row is finished; the reasons stand above ({root})")
    write(finished.read_runs([str(path) for path in done]), root)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(names)} rows are missing: {', '.join(failed)}; "
            "the same command tries them again"
        )
    return 0


def passed_on(given: Given) -> Iterator[str]:
    """The flags of every row, as they are typed."""
    for name in PASSED_ON:
        value = given.get(name)
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no{name}"
        elif value is not None:
            yield f"--{name}={value}"


def command(name: str, folder: pathlib.Path, arguments: Sequence[str]) -> list[str]:
    """Arguments of the interpreter that train one row."""
    own = [f"--model={name}", f"--workdir={folder}"]
    return ["-m", nbody.MODULE, *own, *arguments]


def train(name: str, arguments: Sequence[str]) -> bool:
    """Train one row in a process of its own; whether it ended with a record.

    Args:
      name: of the row.
      arguments: of the interpreter.

    Raises:
      KeyboardInterrupt: the row was interrupted by a person; the others would be too.
    """
    print(f"== {name}", flush=True)
    process = subprocess.run([sys.executable, *arguments], check=False)
    if process.returncode >= 128:
        raise UserError(f"interrupted at {name}; the same command continues")
    if process.returncode:
        print(f"== {name} failed with exit code {process.returncode}", flush=True)
    return process.returncode == 0


def write(runs: Sequence[finished.Run], root: pathlib.Path) -> None:
    """table.md, table.csv and table.png."""
    text = report.markdown(runs)
    checkpoint.write_bytes(root / "table.md", text.encode())
    checkpoint.write_bytes(root / "table.csv", report.csv_text(runs).encode())
    cli.save_figure(root / "table.png", draw(runs))
    print(f"{text}\n{root}: table.md, table.csv, table.png")


def draw(runs: Sequence[finished.Run]) -> Figure:
    """Test error against time per training step, published values marked."""
    figure = Figure(figsize=(8.5, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, run in enumerate(runs):
        record, color = run.record, f"C{index % 10}"
        time = 1000 / (finished.number(record["steps_per_second"]) or math.nan)
        mean = finished.number(record["test_loss_mean"])
        low, high = map(finished.number, record["test_loss_interval"])
        if not math.isfinite(time + mean + low + high):
            continue  # the table says so
        spread = [[max(mean - low, 0)], [max(high - mean, 0)]]
        axes.errorbar(time, mean, spread, fmt="o", color=color, capsize=3)
        label = f" {run.label} ({record['num_params'] / 1000:.3g}k)"
        axes.annotate(label, (time, mean), fontsize=9, va="bottom")
        found = published.find(record)
        if found:
            axes.plot(time, found.loss, "_", color=color, ms=16, mew=2)
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
    cli.run(main, LINE)
