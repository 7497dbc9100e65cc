"""What every model costs on one batch of complete charged systems.

A forward pass and a training step (loss, gradient, Adam) on one device, whose kernels
jax spreads over the cores of a processor. Beside them, in the same turns, a product of
two square float32 matrices and copies of a large array: the shares of their rates that
a step reaches are XLA's counts of operations and of bytes, by time. XLA counts the
bytes of every kernel, of which caches serve part, so that share can pass 100 %. Memory
is XLA's account of a compiled program: arguments, outputs and temporary buffers.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from matplotlib.figure import Figure

from demetar import models
from demetar.data.dataset import Dataset
from demetar.train import loop, optim
from demetar.types import TrainState
from experiments.benchmark import figures, programs
from experiments.run import cli

MATRIX_SIZE = 2048
COPY_VALUES, COPIES = 2**25, 8  # of 4 bytes, beyond the caches; how many copies
PROGRAMS = ("forward", "step")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its programs by name."""

    name: str
    num_params: int
    programs: dict[str, programs.Program]


@dataclasses.dataclass(frozen=True)
class Machine:
    """Rates of the machine: operations and bytes per second."""

    matrix: float
    copy: float


def measure(options: figures.Options) -> figures.Measured:
    """Compile everything, time it in turns, and make the table."""
    for name in options.models:
        models.model_class(name)
    dataset = programs.random_dataset(options.batch_size, options.num_bodies)
    cases = [prepare(name, dataset) for name in tqdm.tqdm(options.models, "compile")]
    rows, machine = time_all(cases, options.rounds)
    rows = sorted(rows, key=lambda row: row["step_ms"])
    note = (
        f"{options.batch_size} graphs of {options.num_bodies} nodes; medians of "
        f"{options.rounds} rounds (10 to 90 %). A matrix product reaches "
        f"{machine.matrix / 1e9:.0f} GFLOP/s, a copy {machine.copy / 1e9:.1f} GB/s"
    )
    return figures.Measured(rows, note, markdown(rows), draw(rows, options))


def prepare(name: str, dataset: Dataset) -> Case:
    """Initialise and compile one model."""
    batch, task = programs.only_batch(dataset), dataset.task
    model, params = programs.initialised(name, batch, task)
    optimizer = optim.make(optim.Settings(), 1)
    key = jax.random.key(0)
    state = TrainState(params, optimizer.init(params), jnp.int32(0), key, {})
    update = loop.make_update(model, task, optimizer, loop.Settings(epochs=1))
    forward = functools.partial(programs.outputs, model)
    compiled = {
        "forward": programs.Program.compile(forward, params, batch),
        "step": programs.Program.compile(update, state, batch),
    }
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Case(name, num_params, compiled)


def time_all(cases: list[Case], rounds: int) -> tuple[list[dict[str, Any]], Machine]:
    """A row per model, with times in ms and memory in MB, and the machine's rates."""
    matrix = jnp.ones((MATRIX_SIZE, MATRIX_SIZE), jnp.float32)
    values = jnp.ones(COPY_VALUES, jnp.float32)
    runs = {
        "product": programs.Program.compile(jnp.matmul, matrix, matrix).run,
        "copies": programs.Program.compile(_copies, values).run,
    } | {
        f"{case.name} {name}": program.run
        for case in cases
        for name, program in case.programs.items()
    }
    times = programs.take_turns(runs, rounds, "rounds")
    machine = Machine(
        2 * MATRIX_SIZE**3 / (1e-3 * float(np.median(times["product"]))),
        2 * COPIES * values.nbytes / (1e-3 * float(np.median(times["copies"]))),
    )
    return [row(case, times, machine) for case in cases], machine


def _copies(values: jax.Array) -> jax.Array:
    """Copies onto itself, each with the sign changed, or they would be left out.

    The memory of the result is new to the process, and touched once for all of them.
    """
    return jax.lax.fori_loop(0, COPIES, lambda _, copy: -copy, values)


def row(case: Case, times: dict[str, np.ndarray], machine: Machine) -> dict[str, Any]:
    """What is stated of one model."""
    result: dict[str, Any] = {"model": case.name, "num_params": case.num_params}
    for name, program in case.programs.items():
        low, middle, high = np.percentile(times[f"{case.name} {name}"], [10, 50, 90])
        seconds = 1e-3 * middle
        result |= {
            f"{name}_ms": float(middle),
            f"{name}_ms_low": float(low),
            f"{name}_ms_high": float(high),
            f"{name}_compile_seconds": program.compile_seconds,
            f"{name}_memory_mb": program.memory / 1e6,
            f"{name}_matrix_share": program.operations / seconds / machine.matrix,
            f"{name}_copy_share": program.traffic / seconds / machine.copy,
        }
    return result


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| model | parameters | compile s | forward ms | step ms | step MB | "
        "of the matrix rate | of the copy rate |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in rows:
        timings = [
            f"{entry[f'{program}_ms']:.2f} ({entry[f'{program}_ms_low']:.2f} to "
            f"{entry[f'{program}_ms_high']:.2f})"
            for program in PROGRAMS
        ]
        lines.append(
            f"| {entry['model']} | {entry['num_params']:,} | "
            f"{entry['step_compile_seconds']:.1f} | {' | '.join(timings)} | "
            f"{entry['step_memory_mb']:.1f} | {100 * entry['step_matrix_share']:.1f} % "
            f"| {100 * entry['step_copy_share']:.0f} % |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], options: figures.Options) -> Figure:
    """Bars of forward and step, with the range of their times."""
    figure = Figure(figsize=(7, 1 + 0.35 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, program in enumerate(PROGRAMS):
        low, middle, high = (
            np.array([entry[f"{program}_ms{end}"] for entry in rows])
            for end in ("_low", "", "_high")
        )
        axes.barh(
            np.arange(len(rows)) + 0.4 * index,
            middle,
            0.4,
            xerr=[middle - low, high - middle],
            label=program,
        )
    names = [entry["model"] for entry in rows]
    axes.set_yticks(np.arange(len(rows)) + 0.2, names)
    axes.set(xscale="log", xlabel="ms")
    axes.set_title(
        f"{options.batch_size} graphs of {options.num_bodies}, {cli.device()}"
    )
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    return figure
