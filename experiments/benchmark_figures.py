"""Measurements that the benchmark draws over sizes: against PyTorch, edges, seeds.

    python -m experiments.benchmark_figures --figure=speed --out=DIR

`speed` times a forward pass of EGNN and DEMETAr against EGNN in plain PyTorch with the
same weights, over the number of nodes and for several batch sizes. `growth` times that
of EGNN over the number of edges, and fits the exponent. `step` times a training step of
EGNN and SEGNN within a compiled call, as the training loop makes it, EGNN's against
PyTorch, and that of several seeds in one program. `molecules` times a training step of
EGNN in its form for QM9 against PyTorch, on random molecules of QM9's sizes in one
packed batch. `steerable` times SEGNN over its degrees against the same function of
e3nn-jax's own layers. Every measurement takes turns.
"""

from __future__ import annotations

import contextlib
import csv
import io
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from demetar import models
from demetar.data import base as data
from demetar.errors import UserError
from demetar.train import checkpoint, flat, loop, optim, trainer
from demetar.types import Batch, Head, Nodes, Params, TaskSpec, TrainState
from experiments import benchmark, common, generic_segnn

STEPS = 8  # updates of one compiled call
FIGURES = ("speed", "growth", "step", "molecules", "steerable")
MOLECULE_NODES = (18.0, 3.0)  # atoms of QM9's molecules: mean and deviation
NUM_FEATURES = 15  # of an atom, as EGNN's paper has them
MOLECULE_SIZES: Mapping[str, Mapping[str, int]] = {
    "paper": {"hidden_size": 128, "num_layers": 7},
    "reduced": {"hidden_size": 64, "num_layers": 4},
}
LMAX = (1, 2, 3)  # of --figure=steerable
GROWTH = ((500, 5), (100, 23), (100, 50), (250, 50), (408, 50))  # 1e4 to 1e6 edges

FLAGS = flags.FLAGS
flags.DEFINE_enum("figure", "speed", FIGURES, "What to measure.")
flags.DEFINE_list("batch_sizes", ["32", "64", "128"], "Of --figure=speed.")
flags.DEFINE_list("num_nodes", ["5", "10", "30", "50"], "Of --figure=speed.")
flags.DEFINE_integer("seeds", 5, "Seeds of one program, of --figure=step.")

Runs = dict[str, Callable[[], Any]]


def main(_: list[str]) -> int:
    """Measure, print the table, and write it where --out says."""
    measurements = (speed, growth, steps, molecules, steerable)
    rows = dict(zip(FIGURES, measurements, strict=True))[FLAGS.figure]()
    text = table(rows)
    head = (
        f"python -m experiments.benchmark_figures --figure={FLAGS.figure} "
        f"--rounds={FLAGS.rounds}, {common.device()}; times in ms"
    )
    print(f"{head}\n\n{text}")
    if FLAGS.out:
        write(pathlib.Path(FLAGS.out), head, text, rows)
    return 0


def take_turns(
    runs: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, np.ndarray]:
    """Times in ms of each, [rounds], the first calls left out.

    Each is called once untimed before it is timed, so that none pays for the caches and
    waiting threads of the one before.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def statistics(name: str, times: np.ndarray) -> dict[str, float]:
    """Mean, variance, median and 10th percentile, as columns of a table."""
    return {
        f"{name}_mean": float(times.mean()),
        f"{name}_variance": float(times.var()),
        f"{name}_median": float(np.median(times)),
        f"{name}_p10": float(np.percentile(times, 10)),
    }


def speed() -> list[dict[str, Any]]:
    """EGNN and DEMETAr against PyTorch: one row per batch size and number of nodes."""
    rows = []
    for batch_size in map(int, FLAGS.batch_sizes):
        for num_nodes in map(int, FLAGS.num_nodes):
            row: dict[str, Any] = {"batch": batch_size, "nodes": num_nodes}
            times = take_turns(forward_runs(batch_size, num_nodes), FLAGS.rounds)
            for name, values in times.items():
                row |= statistics(name, values)
            ratios = times["egnn"] / times["torch"]
            row |= {"ratio": float(np.median(ratios))}
            rows.append(row)
    return rows


def forward_runs(batch_size: int, num_nodes: int) -> Runs:
    """Forward passes on one batch. DEMETAr is left out where its own limit is."""
    dataset = benchmark.random_dataset(batch_size, num_nodes)
    batch, task = benchmark.only_batch(dataset), dataset.task
    params, run = forward("egnn", batch, task)
    runs = {"egnn": run, "torch": torch_forward(params, batch, task)}
    with contextlib.suppress(UserError):  # more edge tokens than it takes
        runs["demetar"] = forward("demetar", batch, task)[1]
    return runs


def forward(
    name: str, batch: Batch, task: TaskSpec
) -> tuple[Params, Callable[[], Any]]:
    """Parameters of a model and its compiled forward pass."""
    model = models.build(name, task)
    init = jax.jit(model.init, static_argnums=(2, 3))
    params = init(jax.random.key(0), batch.graph, batch.bucket, True)

    def apply(params: Params, batch: Batch) -> Any:
        return model.apply(params, None, batch.graph, batch.bucket, False)

    return params, benchmark.Program.compile(apply, params, batch).run


def torch_forward(params: Params, batch: Batch, task: TaskSpec) -> Callable[[], Any]:
    """The forward pass in PyTorch, without what a gradient would need."""
    from experiments import torch_egnn

    model = torch_egnn.make(torch_egnn.Config(1, 1, moving=True), params)
    given = torch_egnn.Inputs.of(batch, task, ("|velocity|",))

    def run() -> Any:
        with torch_egnn.torch.inference_mode():
            return model(given)

    return run


def torch_step(
    params: Params, batch: Batch, task: TaskSpec, fields: Mapping[str, Any]
) -> Callable[[], Any]:
    """A training step in PyTorch: error as the head has it, gradient, its own Adam."""
    from experiments import torch_egnn

    (head,) = task.heads
    fields = dict(fields)
    names = fields.pop("node_inputs", ("|velocity|",))
    moving = head.kind == "node_vector"
    config = torch_egnn.Config(
        len(names), len(task.edge_features), moving=moving, **fields
    )
    model = torch_egnn.make(config, params)
    given = torch_egnn.Inputs.of(batch, task, names)
    count = len(given.positions) if moving else given.num_graphs
    # Vectors [N, 1, 3] and numbers [G, 1] alike lose the axis of the outputs.
    targets = torch_egnn.torch.tensor(np.array(batch.targets[head.name])[:count, 0])
    optimizer = torch_egnn.torch.optim.Adam(model.parameters(), 5e-4)

    def run() -> Any:
        optimizer.zero_grad()
        errors = model(given) - targets
        loss = (errors.abs() if head.loss == "absolute" else errors.square()).mean()
        loss.backward()
        optimizer.step()
        return loss

    return run


def compiled_steps(
    name: str,
    batch: Batch,
    task: TaskSpec,
    seeds: int,
    fields: Mapping[str, Any] | None = None,
) -> Any:
    """STEPS updates of one compiled call, for several seeds: parameters and a program.

    The batches differ, or XLA would compute once what they share.
    """
    graph = batch.graph
    model, optimizer = models.build(name, task, fields), optim.make(optim.Settings(), 1)

    def init(key: Any) -> TrainState:
        params = model.init(key, graph, batch.bucket, True)
        return TrainState(params, optimizer.init(params), jnp.int32(0), key, {})

    states = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), seeds))
    update = loop.make_update(
        flat.of_vectors(model, states.params), task, optimizer, loop.Settings(epochs=1)
    )
    factors = 1 + 0.01 * jnp.arange(STEPS * seeds).reshape(STEPS, seeds)
    positions = graph.nodes.positions * factors[..., None, None]

    def step(state: TrainState, positions: Any) -> Any:
        nodes = graph.nodes._replace(positions=positions)
        own = Batch(
            graph._replace(nodes=nodes), batch.bucket, batch.targets, batch.weights
        )
        return update(state, own)

    many = trainer.over_replicas(step, seeds, (0, 0))

    def call(states: TrainState, positions: Any) -> Any:
        flat_states, restore = flat.flatten(states)
        flat_states, metrics = jax.lax.scan(many, flat_states, positions)
        return restore(flat_states), metrics

    params = jax.tree.map(lambda leaf: leaf[0], states.params)
    return params, benchmark.Program.compile(call, states, positions)


def steps() -> list[dict[str, Any]]:
    """A step of EGNN and SEGNN, of several seeds at once, and of PyTorch's EGNN."""
    dataset = benchmark.random_dataset(FLAGS.batch_size, FLAGS.num_bodies)
    batch, task = benchmark.only_batch(dataset), dataset.task
    runs: Runs = {}
    for name in ("egnn", "segnn"):
        params, one = compiled_steps(name, batch, task, 1)
        runs[name] = one.run
        runs[f"{name}_seeds"] = compiled_steps(name, batch, task, FLAGS.seeds)[1].run
        if name == "egnn":
            runs["torch"] = torch_step(params, batch, task, {})
    times = take_turns(runs, FLAGS.rounds)
    rows: list[dict[str, Any]] = []
    for name, values in times.items():
        per_step = values if name == "torch" else values / STEPS
        rows.append({"program": name, **statistics("step", per_step)})
    medians = {row["program"]: row["step_median"] for row in rows}
    against = {"egnn": "torch", "egnn_seeds": "egnn", "segnn_seeds": "segnn"}
    for row in rows:
        name = row["program"]
        other = medians[against[name]] if name in against else float("nan")
        count = FLAGS.seeds if name.endswith("_seeds") else 1
        row["ratio"] = row["step_median"] / (count * other)
    return rows


def molecules() -> list[dict[str, Any]]:
    """Steps of EGNN's form for QM9 against PyTorch's: one row per size of the model."""
    batch, task = random_molecules(FLAGS.batch_size)
    num_graphs = int(np.sum(batch.weights))
    rows: list[dict[str, Any]] = []
    for size, widths in MOLECULE_SIZES.items():
        fields = {**widths, "attention": True, "node_inputs": task.scalars}
        params, program = compiled_steps("egnn", batch, task, 1, fields)
        runs = {"egnn": program.run, "torch": torch_step(params, batch, task, fields)}
        times = take_turns(runs, FLAGS.rounds)
        times["egnn"] /= STEPS
        row: dict[str, Any] = {"size": size, **widths, "molecules": num_graphs}
        for name, values in times.items():
            row[f"{name}_per_second"] = float(1e3 * num_graphs / np.median(values))
            row |= statistics(name, values)
        row["faster"] = row["egnn_per_second"] / row["torch_per_second"]
        rows.append(row)
    return rows


def random_molecules(batch_size: int) -> tuple[Batch, TaskSpec]:
    """One packed batch of complete graphs of QM9's sizes, at random."""
    generator = np.random.default_rng(0)
    drawn = generator.normal(*MOLECULE_NODES, size=2 * batch_size)
    n_node = np.clip(np.rint(drawn), 3, 29).astype(np.int32)
    n_edge, total = n_node * (n_node - 1), int(n_node.sum())
    samples = data.Samples(
        nodes=Nodes(
            generator.normal(size=(total, 3)),
            generator.normal(size=(total, NUM_FEATURES)),
            np.zeros((total, 0, 3)),
        ),
        edges=np.zeros((int(n_edge.sum()), 0)),
        senders=None,
        receivers=None,
        n_node=n_node,
        n_edge=n_edge,
        targets={"energy": generator.normal(size=(len(n_node), 1))},
    )
    task = TaskSpec(
        name="molecules",
        heads=(Head("energy", "graph_scalar", loss="absolute"),),
        scalars=tuple(f"feature_{index}" for index in range(NUM_FEATURES)),
        vectors=(),
        edge_features=(),
        radial_extent=6.0,
        average_neighbors=float(n_node.mean()) - 1,
    )
    packing = data.make_packing(data.to_dtype(samples, "float32"), task, batch_size)
    order = np.arange(len(n_node))
    return benchmark.only_batch(
        data.Dataset(task, packing, {"train": order}, fingerprint="")
    ), task


def steerable() -> list[dict[str, Any]]:
    """SEGNN against e3nn-jax's layers: one row per degree and program."""
    dataset = benchmark.random_dataset(FLAGS.batch_size, FLAGS.num_bodies)
    batch, task = benchmark.only_batch(dataset), dataset.task
    rows: list[dict[str, Any]] = []
    for lmax in LMAX:
        model = models.build(
            "segnn", task, {"lmax_hidden": lmax, "lmax_attributes": lmax}
        )
        init = jax.jit(model.init, static_argnums=(2, 3))
        params = init(jax.random.key(0), batch.graph, batch.bucket, True)
        programs = {}
        for name, apply in segnn_sides(model, task, lmax).items():
            programs[f"{name} forward"] = benchmark.Program.compile(
                apply, params, batch
            )
            programs[f"{name} gradient"] = benchmark.Program.compile(
                jax.grad(lambda *args, apply=apply: jnp.sum(jnp.square(apply(*args)))),
                params,
                batch,
            )
        runs = {name: program.run for name, program in programs.items()}
        times = take_turns(runs, FLAGS.rounds)
        for name in ("forward", "gradient"):
            row: dict[str, Any] = {"lmax": lmax, "program": name}
            for side in ("segnn", "e3nn"):
                own = f"{side} {name}"
                row |= statistics(side, times[own])
                row[f"{side}_compile_seconds"] = programs[own].compile_seconds
            row["ratio"] = float(
                np.median(times[f"segnn {name}"] / times[f"e3nn {name}"])
            )
            rows.append(row)
    return rows


def segnn_sides(
    model: hk.Transformed, task: TaskSpec, lmax: int
) -> dict[str, Callable[[Params, Batch], Any]]:
    """Predictions of a batch by SEGNN and by the same of e3nn-jax's layers."""
    return {
        "segnn": lambda params, batch: model.apply(
            params, None, batch.graph, batch.bucket, False
        )["position"],
        "e3nn": lambda params, batch: generic_segnn.forward(params, batch, task, lmax),
    }


def growth() -> list[dict[str, Any]]:
    """Forward time of EGNN over the number of edges; `exponent` between the ends."""
    rows: list[dict[str, Any]] = []
    for batch_size, num_nodes in GROWTH:
        dataset = benchmark.random_dataset(batch_size, num_nodes)
        batch, task = benchmark.only_batch(dataset), dataset.task
        model = models.build("egnn", task)
        init = jax.jit(model.init, static_argnums=(2, 3))
        params = init(jax.random.key(0), batch.graph, batch.bucket, True)

        def apply(params: Params, batch: Batch, model: Any = model) -> Any:
            return model.apply(params, None, batch.graph, batch.bucket, False)

        program = benchmark.Program.compile(apply, params, batch)
        times = take_turns({"egnn": program.run}, FLAGS.rounds)["egnn"]
        row: dict[str, Any] = {"edges": batch.bucket.max_edges, "nodes": num_nodes}
        row |= {"peak_mb": program.memory / 1e6, **statistics("egnn", times)}
        rows.append(row)
    edges, medians = (
        np.log([row[name] for row in rows]) for name in ("edges", "egnn_median")
    )
    exponent = float(np.polyfit(edges, medians, 1)[0])
    for row in rows:
        row["exponent"] = exponent
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(names)} |", "|" + "--:|" * len(names)]
    for row in rows:
        cells = [_cell(row.get(name, "")) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(
    folder: pathlib.Path, head: str, text: str, rows: list[dict[str, Any]]
) -> None:
    """FIGURE.md and .csv, and a plot of those over sizes."""
    common.make_folder(folder)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = io.StringIO()
    writer = csv.DictWriter(lines, names)
    writer.writeheader()
    writer.writerows(rows)
    name = FLAGS.figure
    checkpoint.write_bytes(folder / f"{name}.csv", lines.getvalue().encode())
    checkpoint.write_bytes(folder / f"{name}.md", f"{head}\n\n{text}\n".encode())
    drawings: Mapping[str, Callable[..., Figure]] = {
        "speed": draw,
        "growth": draw_growth,
    }
    if name in drawings:
        common.save_figure(folder / f"{name}.png", drawings[name](rows))


def draw(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> Figure:
    """Mean forward times over nodes, one panel per batch size, with deviations."""
    sizes = sorted({row["batch"] for row in rows})
    figure = Figure(figsize=(4 * len(sizes), 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axes, size in zip(panels, sizes, strict=True):
        for name in ("torch", "egnn", "demetar"):
            own = [r for r in rows if r["batch"] == size and f"{name}_mean" in r]
            label = {"torch": "EGNN, PyTorch", "egnn": "EGNN", "demetar": "DEMETAr"}
            axes.errorbar(
                [row["nodes"] for row in own],
                [row[f"{name}_mean"] for row in own],
                [row[f"{name}_variance"] ** 0.5 for row in own],
                marker=".",
                capsize=2,
                label=label[name],
            )
        axes.set(xlabel="nodes per graph", yscale="log", title=f"batch {size}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("forward ms, mean and deviation")
    panels[0].legend()
    figure.suptitle(
        f"{common.device()}; DEMETAr up to its own limit of edge tokens", fontsize=9
    )
    return figure


def draw_growth(rows: list[dict[str, Any]]) -> Figure:
    """Median forward time over edges."""
    figure = Figure(figsize=(4.5, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    edges = [row["edges"] for row in rows]
    axes.plot(edges, [row["egnn_median"] for row in rows], marker="o")
    axes.set(xscale="log", yscale="log", xlabel="edges", ylabel="EGNN forward ms")
    axes.set_title(f"exponent {rows[0]['exponent']:.2f}, {common.device()}", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    common.run(main)
