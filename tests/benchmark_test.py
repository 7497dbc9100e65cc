"""What the benchmark counts and writes; the times themselves are the machine's."""

import csv
import json

import jax.numpy as jnp
import pytest

from experiments import benchmark


def test_operations_of_a_matrix_product():
    ones = jnp.ones((30, 50), jnp.float32)
    program = benchmark.Program.compile(jnp.matmul, ones, ones.T)
    assert program.operations == pytest.approx(2 * 30 * 50 * 30)
    assert program.memory >= 4 * (2 * 30 * 50 + 30 * 30)
    assert program.run().shape == (30, 30)


def test_the_batch_is_one_of_the_fast_path():
    batch = benchmark.only_batch(benchmark.random_dataset(3, 7))
    assert batch.bucket.nodes_per_graph == 7
    assert batch.graph.nodes.positions.shape == (21, 3)
    products = batch.graph.nodes.scalars[batch.graph.senders, 0]
    products = products * batch.graph.nodes.scalars[batch.graph.receivers, 0]
    assert (products == batch.graph.edges[:, 0]).all()
    assert (batch.weights == 1).all()


def test_the_command_measures_and_writes(run_python, tmp_path):
    arguments = ["--models=linear,radial_field", "--rounds=3", "--out=bench"]
    arguments += ["--batch_size=2", "--num_bodies=3"]
    done = run_python(["-m", "experiments.benchmark", *arguments])
    assert done.returncode == 0, done.stderr
    assert "| radial_field | 2,052 |" in done.stdout
    with open(tmp_path / "bench" / "benchmark.csv") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"linear", "radial_field"}
    for row in rows.values():
        assert 0 < float(row["step_ms_low"]) <= float(row["step_ms"])
        assert float(row["step_ms"]) <= float(row["step_ms_high"])
    result = json.loads((tmp_path / "bench" / "benchmark.json").read_text())
    assert result["batch_size"] == 2 and result["matrix_gflops"] > 0
    assert (tmp_path / "bench" / "benchmark.png").stat().st_size > 1000
    assert "radial_field" in (tmp_path / "bench" / "benchmark.md").read_text()


def test_an_unknown_model_is_refused(run_python):
    done = run_python(["-m", "experiments.benchmark", "--models=alexnet"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: no model is called 'alexnet'")
