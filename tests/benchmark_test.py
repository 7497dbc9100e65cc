"""What the benchmark counts, compares and writes; the times are the machine's."""

import csv
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models
from demetar.errors import UserError
from experiments.benchmark import (
    aspirin,
    figures,
    numpy_nbody,
    potentials,
    programs,
    table,
)
from tools import simulation

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


# Programs


def test_operations_and_bytes_of_a_matrix_product():
    ones = jnp.ones((30, 50), jnp.float32)
    program = programs.Program.compile(jnp.matmul, ones, ones.T)
    assert program.operations == pytest.approx(2 * 30 * 50 * 30)
    assert program.traffic == pytest.approx(4 * (2 * 30 * 50 + 30 * 30))
    assert program.memory >= 4 * (2 * 30 * 50 + 30 * 30)
    assert program.run().shape == (30, 30)


def test_turns_are_interleaved_and_each_is_warmed():
    calls: list[str] = []
    runs = {name: functools.partial(calls.append, name) for name in ("a", "b")}
    times = programs.take_turns(runs, 3, "rounds", settle_seconds=0)
    assert calls == ["a", "a", "b", "b"] * 3
    assert all(values.shape == (3,) for values in times.values())
    calls.clear()
    programs.take_turns(runs, 1, "rounds", settle_seconds=0.001)
    assert calls.count("a") > 2 and "".join(calls).count("ab") == 1


def test_the_batch_is_one_of_the_fast_path():
    batch = programs.only_batch(programs.random_dataset(3, 7))
    assert batch.graph.bucket.nodes_per_graph == 7
    assert batch.graph.nodes.positions.shape == (21, 3)
    products = batch.graph.nodes.scalars[batch.graph.senders, 0]
    products = products * batch.graph.nodes.scalars[batch.graph.receivers, 0]
    assert (products == batch.graph.edges[:, 0]).all()
    assert (batch.weights == 1).all()


def test_molecules_fill_one_packed_batch():
    dataset = programs.random_molecules(6)
    assert len(dataset.plan("train")["weight"]) == 1
    batch = programs.only_batch(dataset)
    assert batch.graph.bucket.nodes_per_graph is None
    assert batch.weights.sum() == len(dataset.splits["train"]) > 3


def test_steps_are_those_of_the_loop_and_go_on():
    dataset = programs.random_dataset(2, 3)
    fields = {"hidden_size": 4, "num_layers": 1}
    _, run = programs.training_steps("egnn", dataset, 2, fields, num_steps=3)
    first, second = run(), run()
    assert first["updates"].tolist() == [3, 3] and first["graphs"].tolist() == [6, 6]
    assert (second["loss"] < first["loss"]).all()


def small(name):
    fields = {**potentials.POTENTIALS[name], "num_layers": 1}
    sizes: dict[str, dict[str, Any]] = {
        "nequip": {"hidden_size": 4, "lmax": 1, "radial_sizes": (8,)},
        "torchmd_et": {"num_heads": 2, "head_size": 4, "num_basis": 5},
        "schnet": {"hidden_size": 8},
        "equiformer": {"hidden_irreps": "8x0e+4x1o", "feature_size": 8},
    }
    return {**fields, **sizes[name]}


@pytest.mark.parametrize(
    "name", ["schnet", "nequip", pytest.param("torchmd_et", marks=pytest.mark.slow)]
)
def test_forces_are_slopes_and_those_of_all_edges(name):
    dataset = aspirin.frames(2)
    batch = programs.only_batch(dataset)
    assert batch.graph.bucket.mutual
    model = models.build(name, dataset.task, small(name))
    init, apply = (
        jax.jit(function, static_argnums=last)
        for function, last in ((model.init, 2), (model.apply, 3))
    )
    params = init(jax.random.key(0), batch.graph, True)
    params = jax.tree.map(lambda w: w + 0.1, params)  # the last layer starts from 0

    def outputs(graph):
        return apply(params, None, graph, False)

    def moved(step):
        nodes = batch.graph.nodes
        positions = jnp.asarray(nodes.positions).at[3, 1].add(step)
        nodes = nodes._replace(positions=positions)
        graph = dataclasses.replace(batch.graph, nodes=nodes)
        return float(outputs(graph)["energy"][0, 0])

    found = outputs(batch.graph)
    slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
    force = float(found["forces"][3, 0, 1])
    assert abs(force) > 1e-3
    assert force == pytest.approx(-slope, rel=2e-2)
    bucket = dataclasses.replace(batch.graph.bucket, mutual=False)
    expected = outputs(dataclasses.replace(batch.graph, bucket=bucket))
    for head, values in expected.items():
        size = float(np.abs(values).max())
        np.testing.assert_allclose(found[head], values, atol=1e-5 * size)


@needs_torch
@pytest.mark.parametrize(
    "name, package", [("schnet", "torch_geometric"), ("equiformer", "e3nn")]
)
def test_a_step_of_a_published_code_lowers_the_loss(name, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    from experiments.benchmark import torch_potentials

    batch = programs.only_batch(aspirin.frames(2))
    frames = torch_potentials.Frames.of(batch)
    built = torch_potentials.build(name, small(name), frames)
    energies, slopes = torch_potentials.program(built, frames, "latency")()
    assert energies.shape == (2,) and slopes.shape == (42, 3)
    run = torch_potentials.program(built, frames, "step")
    losses = [float(run().detach()) for _ in range(5)]
    assert losses[-1] < losses[0]


@needs_torch
def test_what_is_not_installed_is_named(monkeypatch):
    from experiments.benchmark import torch_potentials

    with pytest.raises(UserError, match=r"needs absent.*nequip==0\.6\.1.*e3nn"):
        torch_potentials._needed("absent.module")


@needs_torch
def test_a_traced_step_is_the_plain_one():
    """Both gradients, of one that reads a number from a tensor."""
    import torch

    from experiments.benchmark import torch_potentials, torch_side

    weight = torch.nn.Parameter(torch.tensor([0.3, 0.5, 0.7]))
    graph_of_node = torch.tensor([0, 0, 1])

    def energies(positions):
        products = positions @ weight
        values = torch.tanh(products).square() + products.detach() * products
        zeros = torch.zeros(int(graph_of_node.max()) + 1)
        return zeros.index_add(0, graph_of_node, values)

    positions = torch.arange(9.0).view(3, 3) / 7
    plain = torch_potentials.energies_and_slopes(energies, "step")
    gradients = []
    for both in (plain, torch_side.traced(plain, positions)):
        found, slopes = both(positions)
        loss = found.sum() + slopes.square().sum()
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().min() > 1e-3


@needs_torch
@pytest.mark.parametrize(
    "error, limit, word, reason",
    [
        (None, 9, "yes", ""),
        (
            RuntimeError("backend raised:\n\nx does not currently support y\nz"),
            9,
            "not supported",
            "x do",
        ),
        (ValueError("odd"), 9, "failed", "odd"),
        (None, 0.05, "too slow", "above"),
    ],
)
def test_what_came_of_compilation_is_a_word(error, limit, word, reason):
    from experiments.benchmark import torch_side

    def make():
        if error is not None:
            raise error
        return functools.partial(time.sleep, 0.1)

    found = torch_side.compiled(make, limit)
    assert found.word == word and found.reason.startswith(reason)
    assert (found.run is not None) == (word == "yes")
    assert len(found.reason.splitlines()) <= 1


def test_reasons_leave_the_table_for_the_note():
    rows: list[dict[str, Any]] = [
        {"a": 1, "reason": ""},
        {"reason": "odd"},
        {"reason": "odd"},
        {"a": 2},
    ]
    assert figures.reasons(rows) == "; torch.compile: odd"
    assert figures.columns(rows) == ["a"]


@needs_torch
@pytest.mark.parametrize("kind", ["systems", "molecules"])
def test_both_begin_with_the_same_loss(kind):
    from experiments.benchmark import torch_egnn

    fields: dict[str, Any] = {"hidden_size": 6, "num_layers": 2}
    if kind == "systems":
        dataset = programs.random_dataset(4, 5)
    else:
        dataset = programs.random_molecules(6)
        fields |= {"attention": True, "node_inputs": dataset.task.scalars}
    params, run = programs.training_steps("egnn", dataset, fields=fields, num_steps=1)
    batch = programs.only_batch(dataset)
    theirs = torch_egnn.step_run(params, batch, dataset.task, fields)()
    told = run()
    ours = float(told["loss"][0] / told["graphs"][0])
    assert float(theirs.detach()) == pytest.approx(ours, rel=1e-5)
    if kind == "molecules":
        forward = torch_egnn.forward_run(params, batch, dataset.task, fields)()
        model = models.build("egnn", dataset.task, fields)
        (expected,) = programs.outputs(model, params, batch).values()
        expected = np.asarray(expected)[: len(forward), 0]
        np.testing.assert_allclose(forward, expected, rtol=2e-4, atol=2e-5)
        assert np.abs(expected).max() > 1e-3


def test_the_numpy_loop_makes_the_motion_of_the_generator():
    settings = simulation.Settings(num_steps=20, sample_every=10, num_train=1)
    (_, initial), *_ = simulation.chunks(settings, 1)
    rows, _ = simulation.Simulator(settings)(initial)
    start, velocities = initial.positions[0], initial.velocities[0]
    moved = numpy_nbody.simulate(start, velocities, initial.sources[0], 10)
    np.testing.assert_allclose(rows["positions"][0, 0], moved, rtol=0, atol=1e-12)
    assert np.abs(moved - start).max() > 1e-4


# Tables


def test_statistics_of_known_times():
    found = figures.statistics("x", np.array([1.0, 2.0, 6.0]))
    assert found["x_mean"] == 3 and found["x_median"] == 2
    assert found["x_variance"] == pytest.approx(14 / 3)
    halves = figures.ratio(np.array([1.0, 2.0, 9.0]), np.array([2.0, 4.0, 3.0]))
    assert halves == {"ratio": 0.5}


def test_shares_are_counts_by_time_and_rate():
    program = programs.Program(lambda: None, 1.0, 8_000_000, 3e6, 5e6)
    case = table.Case("m", 7, {"forward": program, "step": program})
    times = {name: np.full(3, 2.0) for name in ("m forward", "m step")}  # ms
    row = table.row(case, times, table.Machine(matrix=6e9, copy=1e10))
    assert row["step_matrix_share"] == pytest.approx(0.25)
    assert row["step_copy_share"] == pytest.approx(0.25)
    assert row["step_memory_mb"] == 8 and row["forward_ms"] == 2


def test_a_table_leaves_what_is_absent_empty():
    text = figures.markdown([{"nodes": 5, "demetar": 1.23456}, {"nodes": 50}])
    assert text.splitlines()[2:] == ["| 5 | 1.235 |", "| 50 |  |"]


# The command


@pytest.mark.slow
def test_the_command_measures_models_and_writes(run_module, tmp_path):
    arguments = ["--models=linear,radial_field", "--rounds=3", "--out=bench"]
    arguments += ["--batch_size=2", "--num_bodies=3"]
    done = run_module("experiments.benchmark", *arguments)
    assert done.returncode == 0, done.stderr
    assert "| radial_field | 2,052 |" in done.stdout
    rows = {row["model"]: row for row in read(tmp_path / "bench" / "models.csv")}
    assert set(rows) == {"linear", "radial_field"}
    for row in rows.values():
        assert 0 < float(row["step_ms_low"]) <= float(row["step_ms"])
        assert float(row["step_ms"]) <= float(row["step_ms_high"])
        assert float(row["step_copy_share"]) > 0
    record = json.loads((tmp_path / "bench" / "models.json").read_text())
    assert record["head"].startswith("python -m experiments.benchmark --models=linear,")
    assert "GB/s" in record["head"] and "bench" not in record["head"].split(",")[1]
    assert (tmp_path / "bench" / "models.png").stat().st_size > 1000
    assert "radial_field" in (tmp_path / "bench" / "models.md").read_text()


@needs_torch
def test_the_command_redraws_the_figure_of_speed(run_module, tmp_path):
    arguments = ["--figure=speed", "--batch_sizes=2", "--num_nodes=3,30", "--rounds=3"]
    done = run_module("experiments.benchmark", *arguments, "--out=bench")
    assert done.returncode == 0, done.stderr
    few, many = read(tmp_path / "bench" / "speed.csv")
    assert float(few["ratio"]) > 0 and float(few["demetar_mean"]) > 0
    assert many["demetar_mean"] == ""  # 870 edge tokens are more than it takes
    assert (tmp_path / "bench" / "speed.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--models=alexnet"], "no model is called 'alexnet'"),
        (
            ["--figure=molecules", "--potentials=linear"],
            "--figure=molecules has nequip, torchmd_et, schnet, equiformer, egnn, "
            "found 'linear'",
        ),
        (
            ["--figure=speed", "--num_nodes=5,0"],
            "expected positive integers in --num_nodes, found '0'",
        ),
    ],
)
def test_bad_input_is_one_clear_line(run_module, arguments, expected):
    done = run_module("experiments.benchmark", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {expected}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("backend, code", [("gpu", 1), ("cpu", 2)])
def test_the_script_for_gpus_goes_on_after_a_failure(tmp_path, backend, code):
    stand_in = tmp_path / "python"
    stand_in.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *default_backend*) echo {backend};; *nequip*) exit 3;; esac\n'
        'echo "$XLA_PYTHON_CLIENT_PREALLOCATE $*" >> "$(dirname "$0")/told"\n'
    )
    stand_in.chmod(0o755)
    script = pathlib.Path(figures.__file__).with_name("gpu.sh")
    environment = {**os.environ, "PYTHON": str(stand_in), "JAX_PLATFORMS": ""}
    done = subprocess.run(
        ["bash", script, "found", "--rounds=2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    _, *lines = (tmp_path / "told").read_text().splitlines()
    if backend == "cpu":
        assert not lines and done.stderr.startswith("error: expected a GPU, found cpu")
        return
    assert done.stderr.splitlines()[-1] == "failed: molecules_nequip"
    names = ["models", "molecules_torchmd_et", "molecules_schnet"]
    names += ["molecules_equiformer", "molecules_egnn", "step"]
    for name, line in zip(names, lines, strict=True):
        assert line.startswith("false -m experiments.benchmark ")
        assert f"--out={tmp_path}/found/{name} " in line and line.endswith("--rounds=2")
        figure, _, model = name.partition("_")
        assert (
            f"--figure={figure} " in line
            and f"--potentials={model}" * bool(model) in line
        )


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["growth", "steerable", "generation"])
def test_every_figure_can_be_drawn(run_module, tmp_path, figure):
    arguments = [f"--figure={figure}", "--rounds=1", "--out=bench"]
    done = run_module("experiments.benchmark", *arguments)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "bench" / f"{figure}.csv")


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("figure", ["step", "molecules"])
def test_every_figure_against_pytorch_can_be_drawn(run_module, tmp_path, figure):
    test_every_figure_can_be_drawn(run_module, tmp_path, figure)
