"""Measure what the models cost: parameters, compilation, time and memory.

    python -m experiments.benchmark --models=egnn,segnn --out=DIR

For each model one batch of complete charged systems: a forward pass and a training step
(loss, gradient, Adam). The models are timed in turns, round by round, so that what else
the machine does falls on all of them; the table states medians and the range from the
10th to the 90th percentile. A product of two 2048 x 2048 float32 matrices is timed in
the same rounds: the share of its rate that a step reaches is counted operations (of
XLA's cost analysis) by time. Peak memory is XLA's own account of a compiled program:
arguments, outputs and temporary buffers.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags
from matplotlib.figure import Figure

from demetar import graphs, models
from demetar.data import base as data
from demetar.train import checkpoint, loop, optim
from demetar.types import Batch, Head, Nodes, TaskSpec, TrainState, VectorInput
from experiments import common

MATRIX_SIZE = 2048
PROGRAMS = ("forward", "step")

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "models",
    models.with_head("node_vector"),
    "Models to measure, separated by commas. Default: all that predict vectors.",
    allow_override=True,  # other commands have flags of these names
)
flags.DEFINE_integer(
    "batch_size", 100, "Graphs per batch.", lower_bound=1, allow_override=True
)
flags.DEFINE_integer(
    "num_bodies", 5, "Nodes per graph.", lower_bound=2, allow_override=True
)
flags.DEFINE_integer("rounds", 20, "Timings of every program.", lower_bound=3)
flags.DEFINE_string(
    "out", None, "Folder for benchmark.md, .csv, .json and .png; created if missing."
)


def main(_: list[str]) -> int:
    """Compile everything, time it in turns, and write the table."""
    for name in FLAGS.models:
        models.model_class(name)
    dataset = random_dataset(FLAGS.batch_size, FLAGS.num_bodies)
    cases = [prepare(name, dataset) for name in tqdm.tqdm(FLAGS.models, desc="compile")]
    rows, rate = measure(cases, FLAGS.rounds)
    result = {
        "command": "python -m experiments.benchmark",
        "batch_size": FLAGS.batch_size,
        "num_bodies": FLAGS.num_bodies,
        "rounds": FLAGS.rounds,
        "device": common.device(),
        "versions": common.versions(),
        "matrix_gflops": rate,
        "models": rows,
    }
    print(markdown(result))
    if FLAGS.out:
        write(result, pathlib.Path(FLAGS.out))
    return 0


def random_dataset(batch_size: int, num_bodies: int) -> data.Dataset:
    """As many random charged systems as a batch holds; what they are costs nothing."""
    generator = np.random.default_rng(0)
    shape = (batch_size * num_bodies, 3)
    charges = generator.choice([-1.0, 1.0], shape[0])
    senders, receivers = graphs.complete_edges(num_bodies)
    starts = num_bodies * np.arange(batch_size)[:, None]
    products = charges[starts + senders] * charges[starts + receivers]
    positions = generator.normal(size=shape)
    samples = data.Samples(
        nodes=Nodes(
            positions, charges[:, None], generator.normal(size=(len(positions), 1, 3))
        ),
        edges=products.reshape(-1, 1),
        senders=np.tile(senders, batch_size),
        receivers=np.tile(receivers, batch_size),
        n_node=np.full(batch_size, num_bodies, np.int32),
        n_edge=np.full(batch_size, len(senders), np.int32),
        targets={"position": positions[:, None] + generator.normal(size=(1, 1, 3))},
    )
    task = TaskSpec(
        name="benchmark",
        heads=(Head("position", "node_vector", base="positions"),),
        scalars=("charge",),
        vectors=(VectorInput("velocity"),),
        edge_features=("charge_product",),
        radial_extent=6.0,
        average_neighbors=num_bodies - 1.0,
    )
    packing = data.make_packing(data.to_dtype(samples, "float32"), task, batch_size)
    order = np.arange(batch_size)
    return data.Dataset(task, packing, {"train": order}, fingerprint="")


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program with its arguments.

    Attributes:
      run: calls it and waits for its end.
      compile_seconds: tracing included.
      memory: bytes of arguments, outputs and temporary buffers.
      operations: floating-point operations, as XLA counts them.
    """

    run: Callable[[], Any]
    compile_seconds: float
    memory: int
    operations: float

    @classmethod
    def compile(cls, function: Callable, *args: Any) -> Program:
        """Compile a function for these arguments."""
        start = time.perf_counter()
        compiled: Any = jax.jit(function).lower(*args).compile()
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        return cls(
            lambda: jax.block_until_ready(compiled(*args)),
            seconds,
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes,
            compiled.cost_analysis()["flops"],
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its programs by name."""

    name: str
    num_params: int
    programs: dict[str, Program]


def prepare(name: str, dataset: data.Dataset) -> Case:
    """Initialise and compile one model."""
    batch, task = only_batch(dataset), dataset.task
    model = models.build(name, task)
    optimizer = optim.make(optim.Settings(), 1)
    key = jax.random.key(0)
    init = jax.jit(model.init, static_argnums=(2, 3))
    params = init(key, batch.graph, batch.bucket, True)

    def forward(params: Any, batch: Batch) -> Any:
        return model.apply(params, None, batch.graph, batch.bucket, False)

    state = TrainState(params, optimizer.init(params), jnp.int32(0), key, {})
    update = loop.make_update(model, task, optimizer, loop.Settings(epochs=1))
    programs = {
        "forward": Program.compile(forward, params, batch),
        "step": Program.compile(update, state, batch),
    }
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Case(name, num_params, programs)


def only_batch(dataset: data.Dataset) -> Batch:
    """The one batch of the data set, on the device."""
    plan = dataset.plan("train")
    row = {name: values[0] for name, values in plan.items()}
    packing = dataset.packing
    return jax.tree.map(jnp.asarray, packing.assemble(packing.arrays(), row))


def measure(cases: Sequence[Case], rounds: int) -> tuple[list[dict[str, Any]], float]:
    """Time every program in turns.

    Returns:
      A row per model, with times in ms and memory in MB, and the rate of a matrix
      product in GFLOP/s.
    """
    matrix = jnp.ones((MATRIX_SIZE, MATRIX_SIZE), jnp.float32)
    runs = {"": Program.compile(jnp.matmul, matrix, matrix).run} | {
        f"{case.name} {name}": program.run
        for case in cases
        for name, program in case.programs.items()
    }
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm.trange(rounds, desc="rounds"):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    rate = 2 * MATRIX_SIZE**3 / np.median(times[""]) / 1e6
    return [row(case, times, float(rate)) for case in cases], float(rate)


def row(case: Case, times: dict[str, list[float]], rate: float) -> dict[str, Any]:
    """What is stated of one model."""
    result: dict[str, Any] = {"model": case.name, "num_params": case.num_params}
    for name, program in case.programs.items():
        low, middle, high = np.percentile(times[f"{case.name} {name}"], [10, 50, 90])
        result |= {
            f"{name}_ms": float(middle),
            f"{name}_ms_low": float(low),
            f"{name}_ms_high": float(high),
            f"{name}_compile_seconds": program.compile_seconds,
            f"{name}_memory_mb": program.memory / 1e6,
            f"{name}_share": program.operations / middle / 1e6 / rate,
        }
    return result


def markdown(result: dict[str, Any]) -> str:
    """The table, slowest step last."""
    lines = [
        f"{result['batch_size']} graphs of {result['num_bodies']} nodes, "
        f"{result['device']}, median of {result['rounds']} (10 to 90 %); a matrix "
        f"product reaches {result['matrix_gflops']:.0f} GFLOP/s",
        "",
        "| model | parameters | compile s | forward ms | step ms | step MB | share |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in sorted(result["models"], key=lambda entry: entry["step_ms"]):
        timings = [
            f"{entry[f'{program}_ms']:.2f} ({entry[f'{program}_ms_low']:.2f} to "
            f"{entry[f'{program}_ms_high']:.2f})"
            for program in PROGRAMS
        ]
        lines.append(
            f"| {entry['model']} | {entry['num_params']:,} | "
            f"{entry['step_compile_seconds']:.1f} | {' | '.join(timings)} | "
            f"{entry['step_memory_mb']:.1f} | {100 * entry['step_share']:.1f} % |"
        )
    return "\n".join(lines)


def write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """benchmark.md, .csv, .json and .png."""
    common.make_folder(folder)
    text = io.StringIO()
    table = csv.DictWriter(text, list(result["models"][0]))
    table.writeheader()
    table.writerows(result["models"])
    checkpoint.write_bytes(folder / "benchmark.csv", text.getvalue().encode())
    checkpoint.write_bytes(folder / "benchmark.md", f"{markdown(result)}\n".encode())
    checkpoint.write_json(folder / "benchmark.json", result)
    common.save_figure(folder / "benchmark.png", draw(result))
    print(f"{folder}: benchmark.md, .csv, .json, .png")


def draw(result: dict[str, Any]) -> Figure:
    """Bars of forward and step, with the range of their times."""
    entries = sorted(result["models"], key=lambda entry: entry["step_ms"])
    figure = Figure(figsize=(7, 1 + 0.35 * len(entries)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, program in enumerate(PROGRAMS):
        low, middle, high = (
            np.array([entry[f"{program}_ms{end}"] for entry in entries])
            for end in ("_low", "", "_high")
        )
        axes.barh(
            np.arange(len(entries)) + 0.4 * index,
            middle,
            0.4,
            xerr=[middle - low, high - middle],
            label=program,
        )
    names = [entry["model"] for entry in entries]
    axes.set_yticks(np.arange(len(entries)) + 0.2, names)
    axes.set(xscale="log", xlabel="ms")
    axes.set_title(
        f"{result['batch_size']} graphs of {result['num_bodies']}, {result['device']}"
    )
    axes.legend()
    axes.grid(axis="x", alpha=0.3)
    return figure


if __name__ == "__main__":
    common.run(main)
