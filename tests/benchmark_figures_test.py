"""What the figures of the benchmark count; the times themselves are the machine's."""

import csv
import functools
import importlib.util
from typing import Any

import numpy as np
import pytest

from experiments import benchmark_figures as figures

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


def test_turns_are_interleaved_and_each_is_warmed():
    calls: list[str] = []
    runs = {name: functools.partial(calls.append, name) for name in ("a", "b")}
    times = figures.take_turns(runs, 3)
    assert calls == ["a", "a", "b", "b"] * 3
    assert all(values.shape == (3,) for values in times.values())


def test_statistics_of_known_times():
    found = figures.statistics("x", np.array([1.0, 2.0, 6.0]))
    assert found["x_mean"] == 3 and found["x_median"] == 2
    assert found["x_variance"] == pytest.approx(14 / 3)


def test_a_table_leaves_what_is_absent_empty():
    text = figures.table([{"nodes": 5, "demetar": 1.23456}, {"nodes": 50}])
    assert text.splitlines()[2:] == ["| 5 | 1.235 |", "| 50 |  |"]


@needs_torch
def test_the_command_measures_and_writes(run_python, tmp_path):
    arguments = ["--figure=speed", "--batch_sizes=2", "--num_nodes=3,30", "--rounds=3"]
    command = ["-m", "experiments.benchmark_figures", *arguments, "--out=bench"]
    done = run_python(command)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "bench" / "speed.csv") as file:
        few, many = csv.DictReader(file)
    assert float(few["ratio"]) > 0 and float(few["demetar_mean"]) > 0
    assert many["demetar_mean"] == ""  # 870 edge tokens are more than it takes
    assert (tmp_path / "bench" / "speed.png").stat().st_size > 1000


@needs_torch
def test_a_step_on_molecules_begins_with_the_same_loss_in_both():
    batch, task = figures.random_molecules(6)
    fields: dict[str, Any] = {"hidden_size": 6, "num_layers": 2, "attention": True}
    fields["node_inputs"] = task.scalars
    params, program = figures.compiled_steps("egnn", batch, task, 1, fields)
    num_graphs = int(np.sum(batch.weights))
    assert num_graphs > 3 and batch.bucket.nodes_per_graph is None
    theirs = figures.torch_step(params, batch, task, fields)()
    _, metrics = program.run()
    ours = float(metrics["loss"][0, 0])
    assert float(theirs.detach()) == pytest.approx(ours, rel=1e-5)
