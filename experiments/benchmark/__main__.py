"""Measure what models and data cost.

    python -m experiments.benchmark --models=egnn,segnn --out=DIR

Each thing is timed beside another of the same function; --figure says what. `models`:
parameters, compilation, forward pass, training step and memory of every model on one
batch. `speed`: EGNN and DEMETAr against EGNN in plain PyTorch with the same weights,
over nodes and batch sizes. `step`: a training step within a compiled call, against
PyTorch, and of several seeds in one program. `molecules`: energies and forces of
NequIP, TorchMD-NET and SchNet against the published PyTorch codes and of Equiformer
against e3nn's layers, and EGNN in its form for QM9. `steerable`: SEGNN over its degrees
against the same function of e3nn-jax's own layers. `growth`: the forward pass over the
number of edges. `generation`: nbody_small against a NumPy loop.
Programs are timed in turns; tables state medians, or means with variances. As in
training, the cores of a processor share a batch, but for `models` and `steerable`.
`speed`, `step` and `molecules` need PyTorch (`python -m pip install torch`), the last
the codes that `molecules` compares with too: torch_geometric, nequip==0.6.1,
torchmd-net and e3nn. Nothing is fetched. With --compiled PyTorch's programs are also
compiled by `torch.compile`; if that does not work, a column says so in a word.
PyTorch computes on the device of jax, a GPU or the processor. On a machine with a GPU
experiments/benchmark/gpu.sh runs `models`, `molecules` and `step` into one folder.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib

import jax

from demetar.distributed import launch
from demetar.settings import MODEL, OUTPUT, setting
from demetar.train import checkpoint
from experiments.benchmark import figures, potentials, table
from experiments.run import cli, records
from tools.command_line import CommandLine, Given

MEASUREMENTS = {
    "models": table.measure,
    "molecules": potentials.measure,
    **figures.MEASUREMENTS,
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is measured, and where it is written."""

    figure: str = setting(
        "models", "What to measure.", MODEL, choices=tuple(MEASUREMENTS)
    )
    out: str | None = setting(
        None,
        "Folder for FIGURE.md, .csv, .json and .png; created if missing.",
        OUTPUT,
        default_words="no files",
    )


LINE = CommandLine(Choice, figures.Options)


def main(given: Given, _: list[str]) -> int:
    """Measure, print the table, and write it if --out is given."""
    choice, options = given.read(Choice), given.read(figures.Options)
    # As runs do: GPUs would by default round the factors of float32 products.
    jax.config.update("jax_default_matmul_precision", "highest")
    launch.keep_memory()
    launch.use_cores(None)
    measured = MEASUREMENTS[choice.figure](options)
    command = records.typed_command("experiments.benchmark")
    head = f"{command}, {cli.device()}. {measured.note}"
    print(f"{head}\n\n{measured.text}")
    if choice.out:
        write(pathlib.Path(choice.out), choice.figure, head, measured)
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
    cli.run(main, LINE)
