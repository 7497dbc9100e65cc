"""Measurements over sizes and against other code: one function per --figure.

Each takes its turns within a row of its table, so that both sides of a ratio were timed
in the same minute.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from demetar import models
from demetar.errors import UserError
from demetar.settings import COUNT, DATA, MODEL, TRAINING, Bounds, setting
from demetar.types import Array, Batch, Params
from experiments.benchmark import generic_segnn, numpy_nbody, programs
from experiments.run import cli
from tools import generate_nbody, simulation

LMAX = (1, 2, 3)
GROWTH = ((500, 5), (100, 23), (100, 50), (250, 50), (408, 50))  # 1e4 to 1e6 edges
AUTHORS_MS = 114.0  # per simulation of nbody_small, as the authors' loop takes


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes of the measurements."""

    models: tuple[str, ...] = setting(
        tuple(models.with_head("node_vector")),
        "Of --figure=models: what to measure, separated by commas.",
        MODEL,
        default_words="all that predict vectors",
    )
    batch_size: int = setting(100, "Graphs per batch.", DATA, COUNT)
    num_bodies: int = setting(5, "Nodes per graph.", DATA, Bounds(least=2))
    batch_sizes: tuple[int, ...] = setting(
        (32, 64, 128), "Of --figure=speed: graphs per batch.", DATA
    )
    num_nodes: tuple[int, ...] = setting(
        (5, 10, 30, 50), "Of --figure=speed: nodes per graph.", DATA
    )
    num_seeds: int = setting(
        5, "Of --figure=step: seeds of one program.", TRAINING, COUNT
    )
    rounds: int = setting(20, "Timings of every program.", TRAINING, COUNT)
    potentials: tuple[str, ...] = setting(
        ("nequip", "torchmd_et", "schnet", "equiformer", "egnn"),
        "Of --figure=molecules: what to measure, separated by commas.",
        MODEL,
    )
    compiled: bool = setting(
        False,
        "Of --figure=speed, step and molecules: PyTorch by torch.compile too, which "
        "takes a C++ compiler and minutes per program.",
        MODEL,
    )


Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured: rows, a sentence about them, a table and a picture."""

    rows: Rows
    note: str
    text: str
    drawing: Figure | None = None


def speed(options: Options) -> Measured:
    """EGNN and DEMETAr against PyTorch: one row per batch size and number of nodes."""
    from experiments.benchmark import torch_side

    rows = []
    for batch_size in options.batch_sizes:
        for num_nodes in options.num_nodes:
            row: dict[str, Any] = {"batch": batch_size, "nodes": num_nodes}
            runs, told = forward_runs(batch_size, num_nodes, options.compiled)
            times = programs.take_turns(
                runs, options.rounds, f"batch {batch_size}, {num_nodes} nodes"
            )
            row |= told
            for name, values in times.items():
                row |= statistics(name, values)
            rows.append(row | ratios(times, "egnn"))
    note = f"Times in ms; {torch_side.description()}{reasons(rows)}"
    return Measured(rows, note, markdown(rows), draw_speed(rows))


def forward_runs(
    batch_size: int, num_nodes: int, compiled: bool = False
) -> tuple[programs.Runs, dict[str, Any]]:
    """Forward passes on one batch, and what came of `torch.compile`.

    DEMETAr is left out where its own limit is.
    """
    from experiments.benchmark import torch_egnn, torch_side

    dataset = programs.random_dataset(batch_size, num_nodes)
    batch, task = programs.only_batch(dataset), dataset.task
    model, params = programs.initialised("egnn", batch, task)
    make = functools.partial(torch_egnn.forward_run, params, batch, task, {})
    others, told = torch_side.opponents(make, compiled)
    runs = {"egnn": programs.predictions(model, params, dataset).run, **others}
    with contextlib.suppress(UserError):  # more edge tokens than it takes
        model, params = programs.initialised("demetar", batch, task)
        runs["demetar"] = programs.predictions(model, params, dataset).run
    return runs, told


def growth(options: Options) -> Measured:
    """Forward time of EGNN over the number of edges, and the exponent of its growth."""
    rows: Rows = []
    for batch_size, num_nodes in GROWTH:
        dataset = programs.random_dataset(batch_size, num_nodes)
        batch, task = programs.only_batch(dataset), dataset.task
        model, params = programs.initialised("egnn", batch, task)
        program = programs.predictions(model, params, dataset)
        num_edges = batch.graph.bucket.max_edges
        times = programs.take_turns(
            {"egnn": program.run}, options.rounds, f"{num_edges:,} edges"
        )
        row: dict[str, Any] = {"edges": num_edges, "nodes": num_nodes}
        peak = jax.local_device_count() * program.memory / 1e6
        rows.append(row | {"peak_mb": peak, **statistics("egnn", times["egnn"])})
    edges, medians = (
        np.log([row[name] for row in rows]) for name in ("edges", "egnn_median")
    )
    exponent = float(np.polyfit(edges, medians, 1)[0])
    note = f"Times in ms; they grow with the edges to the power of {exponent:.2f}"
    return Measured(rows, note, markdown(rows), draw_growth(rows, exponent))


def steps(options: Options) -> Measured:
    """A step of EGNN and SEGNN, of several seeds at once, and of PyTorch's EGNN.

    The ratio is against PyTorch for EGNN, and against as many runs of one seed for
    several seeds.
    """
    from experiments.benchmark import torch_egnn, torch_side

    dataset = programs.random_dataset(options.batch_size, options.num_bodies)
    runs: programs.Runs = {}
    told: dict[str, Any] = {}
    for name in ("egnn", "segnn"):
        params, runs[name] = programs.training_steps(name, dataset)
        runs[f"{name}_seeds"] = programs.training_steps(
            name, dataset, options.num_seeds
        )[1]
        if name == "egnn":
            batch = programs.only_batch(dataset)
            make = functools.partial(
                torch_egnn.step_run, params, batch, dataset.task, {}
            )
            others, told = torch_side.opponents(make, options.compiled)
            runs |= others
    times = programs.take_turns(runs, options.rounds, "rounds")
    for name in times:
        if name not in ("torch", "compiled"):
            times[name] = times[name] / programs.STEPS
    seeds = {name: options.num_seeds * times[name] for name in ("egnn", "segnn")}
    more = {
        "egnn": ratios(times, "egnn"),
        "torch": told,
        **{f"{n}_seeds": ratio(times[f"{n}_seeds"], seeds[n]) for n in seeds},
    }
    rows: Rows = []
    for name, values in times.items():
        row = {"program": name, **statistics("step", values)}
        rows.append(row | more.get(name, {}))
    note = f"Times in ms; {options.num_seeds} seeds against as many runs of one; "
    note += torch_side.description() + reasons(rows)
    return Measured(rows, note, markdown(rows))


def steerable(options: Options) -> Measured:
    """SEGNN against e3nn-jax's layers: one row per degree and program."""
    dataset = programs.random_dataset(options.batch_size, options.num_bodies)
    batch, task = programs.only_batch(dataset), dataset.task
    rows: Rows = []
    for lmax in LMAX:
        fields = {"lmax_hidden": lmax, "lmax_attributes": lmax}
        model, params = programs.initialised("segnn", batch, task, fields)

        def segnn(params: Params, batch: Batch, model: Any = model) -> Any:
            return programs.outputs(model, params, batch)["position"]

        def e3nn(params: Params, batch: Batch, lmax: int = lmax) -> Any:
            return generic_segnn.forward(params, batch, task, lmax)

        sides = {"segnn": segnn, "e3nn": e3nn}
        for name, transform in {"forward": _same, "gradient": _gradient}.items():
            compiled = {
                side: programs.Program.compile(transform(apply), params, batch)
                for side, apply in sides.items()
            }
            runs = {side: program.run for side, program in compiled.items()}
            times = programs.take_turns(runs, options.rounds, f"lmax {lmax}, {name}")
            row: dict[str, Any] = {"lmax": lmax, "program": name}
            for side, program in compiled.items():
                row[f"{side}_compile_seconds"] = program.compile_seconds
                row |= statistics(side, times[side])
            rows.append(row | ratio(times["segnn"], times["e3nn"]))
    return Measured(rows, "Times in ms", markdown(rows))


def _same(function: Callable) -> Callable:
    return function


def _gradient(function: Callable) -> Callable:
    """That of the sum of the squares of the outputs, by the parameters."""
    return jax.grad(lambda *args: jnp.sum(jnp.square(function(*args))))


def generation(options: Options) -> Measured:
    """nbody_small as the generator makes it, files and all, against a NumPy loop.

    Beside it the inverse cubes of all pairs' distances alone, on all cores: no program
    that computes every pair can take less.
    """
    settings = simulation.PRESETS["nbody_small"]
    (_, initial), *_ = simulation.chunks(settings, 1)
    system = initial.positions[0], initial.velocities[0], initial.sources[0]
    count, cores = sum(settings.sizes), len(os.sched_getaffinity(0))

    def generate() -> None:
        with tempfile.TemporaryDirectory() as folder:
            generate_nbody.generate(settings, f"{folder}/data", progress=False)

    runs = {
        "numpy": lambda: numpy_nbody.simulate(*system, settings.num_steps),
        "generator": generate,
        "inverse_cubes": inverse_cubes(settings, cores),
    }
    times = programs.take_turns(runs, options.rounds, "rounds")
    times["generator"] = times["generator"] / count
    simulations = cores * simulation.num_lanes(settings)
    times["inverse_cubes"] = times["inverse_cubes"] / simulations
    rows: Rows = []
    for name, values in times.items():
        row: dict[str, Any] = {"program": name, **statistics("simulation", values)}
        row["all_seconds"] = 1e-3 * count * float(np.median(values))
        row["of_numpy"] = float(np.median(values / times["numpy"]))
        row["of_authors"] = float(np.median(values)) / AUTHORS_MS
        rows.append(row)
    note = (
        f"Times in ms per simulation of {settings.num_steps:,} steps; the authors' "
        f"loop is stated to take {AUTHORS_MS:.0f}"
    )
    return Measured(rows, note, markdown(rows))


def inverse_cubes(settings: simulation.Settings, count: int) -> Callable[[], Any]:
    """1 / r^3 of every pair of bodies in every step, and nothing else.

    Of `count` groups of as many simulations as the generator integrates together, in as
    many threads.
    """
    bodies = settings.num_bodies[1]
    shape = (bodies * (bodies - 1) // 2, simulation.num_lanes(settings))

    def all_steps(squares: Array) -> Array:
        def step(_: Any, squares: Array) -> Array:
            inverse = 1 / (squares * jnp.sqrt(squares))
            return squares + settings.dt * inverse  # or the loop would be left out

        return jax.lax.fori_loop(0, settings.num_steps, step, squares)

    with simulation.float64_on_cpu():
        squares = jnp.ones(shape, settings.dtype)
        compiled: Any = (
            jax.jit(all_steps)
            .lower(squares)
            .compile(compiler_options=simulation.COMPILER_OPTIONS)
        )
    pool = concurrent.futures.ThreadPoolExecutor(count)

    def run() -> None:
        groups = [
            pool.submit(lambda: jax.block_until_ready(compiled(squares)))
            for _ in range(count)
        ]
        for group in groups:
            group.result()

    return run


def statistics(name: str, times: np.ndarray) -> dict[str, float]:
    """Mean, variance, median and 10th percentile, as columns of a table."""
    return {
        f"{name}_mean": float(times.mean()),
        f"{name}_variance": float(times.var()),
        f"{name}_median": float(np.median(times)),
        f"{name}_p10": float(np.percentile(times, 10)),
    }


def ratio(times: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """The median over the rounds of one time over another, as a column of a table."""
    return {"ratio": float(np.median(times / others))}


def ratios(times: Mapping[str, np.ndarray], ours: str) -> dict[str, float]:
    """Our time over PyTorch's, and over that of `torch.compile` if it is there."""
    found = ratio(times[ours], times["torch"])
    if "compiled" in times:
        found["compiled_ratio"] = ratio(times[ours], times["compiled"])["ratio"]
    return found


def reasons(rows: Rows) -> str:
    """Takes PyTorch's reasons out of the rows, for the sentence about them."""
    found = dict.fromkeys(row.pop("reason", "") for row in rows)
    return "".join(f"; torch.compile: {reason}" for reason in found if reason)


def columns(rows: Rows) -> list[str]:
    """Names of the columns of a table, those that only some rows have too."""
    return list(dict.fromkeys(name for row in rows for name in row))


def markdown(rows: Rows) -> str:
    """The rows in Markdown."""
    names = columns(rows)
    cells = [{name: _cell(row.get(name, "")) for name in names} for row in rows]
    return cli.markdown_table(cells, rule="--:")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw_speed(rows: Rows) -> Figure:
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
        f"{cli.device()}; DEMETAr up to its own limit of edge tokens", fontsize=9
    )
    return figure


def draw_growth(rows: Rows, exponent: float) -> Figure:
    """Median forward time over edges."""
    figure = Figure(figsize=(4.5, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    edges = [row["edges"] for row in rows]
    axes.plot(edges, [row["egnn_median"] for row in rows], marker="o")
    axes.set(xscale="log", yscale="log", xlabel="edges", ylabel="EGNN forward ms")
    axes.set_title(f"exponent {exponent:.2f}, {cli.device()}", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


MEASUREMENTS: Mapping[str, Callable[[Options], Measured]] = {
    "speed": speed,
    "growth": growth,
    "step": steps,
    "steerable": steerable,
    "generation": generation,
}
