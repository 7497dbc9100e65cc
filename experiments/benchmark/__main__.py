"""Measure what models and data cost, each thing beside another of the same function.

    python -m experiments.benchmark --models=egnn,segnn --out=DIR

--figure says what. `models`: parameters, compilation, forward pass, training step and
memory of every model on one batch. `speed`: EGNN and DEMETAr against EGNN in plain
PyTorch with the same weights, over nodes and batch sizes. `step`: a training step
within a compiled call, against PyTorch, and of several seeds in one program.
`molecules`: EGNN in its form for QM9 against PyTorch, on one packed batch. `steerable`:
SEGNN over its degrees against the same function of e3nn-jax's own layers. `growth`: the
forward pass over the number of edges. `generation`: nbody_small against a NumPy loop.
Programs are timed in turns; tables state medians, or means with variances. As in
training, the cores of a processor share a batch, but for `models` and `steerable`.
`speed`, `step` and `molecules` need PyTorch (`python -m pip install torch`).
"""

from __future__ import annotations

import csv
import io
import pathlib

from absl import flags

from demetar import models
from demetar.distributed import launch
from demetar.train import checkpoint
from experiments.benchmark import figures, table
from experiments.run import cli, records

MEASUREMENTS = {"models": table.measure, **figures.MEASUREMENTS}

FLAGS = flags.FLAGS
flags.DEFINE_enum("figure", "models", list(MEASUREMENTS), "What to measure.")
flags.DEFINE_list(
    "models",
    models.with_head("node_vector"),
    "Of --figure=models: what to measure, separated by commas. Default: all that "
    "predict vectors.",
)
flags.DEFINE_integer("batch_size", 100, "Graphs per batch.", lower_bound=1)
flags.DEFINE_integer("num_bodies", 5, "Nodes per graph.", lower_bound=2)
flags.DEFINE_list("batch_sizes", ["32", "64", "128"], "Of --figure=speed.")
flags.DEFINE_list("num_nodes", ["5", "10", "30", "50"], "Of --figure=speed.")
flags.DEFINE_integer(
    "num_seeds", 5, "Of --figure=step: seeds of one program.", lower_bound=1
)
flags.DEFINE_integer("rounds", 20, "Timings of every program.", lower_bound=1)
flags.DEFINE_string(
    "out", None, "Folder for FIGURE.md, .csv, .json and .png; created if missing."
)


def main(_: list[str]) -> int:
    """Measure, print the table, and write it where --out says."""
    options = figures.Options(
        models=tuple(FLAGS.models),
        batch_size=FLAGS.batch_size,
        num_bodies=FLAGS.num_bodies,
        batch_sizes=cli.positive_integers("batch_sizes", FLAGS.batch_sizes),
        num_nodes=cli.positive_integers("num_nodes", FLAGS.num_nodes),
        num_seeds=FLAGS.num_seeds,
        rounds=FLAGS.rounds,
    )
    launch.use_cores(None)
    measured = MEASUREMENTS[FLAGS.figure](options)
    command = records.command("experiments.benchmark")
    head = f"{command}, {cli.device()}. {measured.note}"
    print(f"{head}\n\n{measured.text}")
    if FLAGS.out:
        write(pathlib.Path(FLAGS.out), FLAGS.figure, head, measured)
    return 0


def write(
    folder: pathlib.Path, name: str, head: str, measured: figures.Measured
) -> None:
    """NAME.md, .csv and .json, and .png where there is a drawing."""
    cli.make_folder(folder)
    lines = io.StringIO()
    writer = csv.DictWriter(lines, figures.columns(measured.rows))
    writer.writeheader()
    writer.writerows(measured.rows)
    text = f"{head}\n\n{measured.text}\n"
    checkpoint.write_bytes(folder / f"{name}.csv", lines.getvalue().encode())
    checkpoint.write_bytes(folder / f"{name}.md", text.encode())
    record = {"head": head, "versions": cli.versions(), "rows": measured.rows}
    checkpoint.write_json(folder / f"{name}.json", record)
    if measured.drawing is not None:
        cli.save_figure(folder / f"{name}.png", measured.drawing)
    print(f"{folder}: {name}.md, .csv, .json{' and .png' * bool(measured.drawing)}")


if __name__ == "__main__":
    cli.run(main)
