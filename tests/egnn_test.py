"""EGNN and GNN where heads ask for scalars; `authors_test` has the authors' outputs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from demetar import testing
from demetar.models import base
from demetar.nn import capture, inputs
from demetar.types import Head
from tests.models_test import num_params
from tests.support import plain_molecules, plain_steerable

HEADS = (
    *testing.TASK.heads,
    Head("charge", "node_scalar", size=2),
    Head("energy", "graph_scalar"),
)


def test_a_model_may_have_heads_of_every_kind():
    """The displacement is that of the model without the other heads."""
    alone = testing.Subject("egnn")
    task = dataclasses.replace(testing.TASK, heads=HEADS)
    together = testing.Subject("egnn", task=task)
    together.params = {**together.params, **alone.params}
    batch = alone.batch(testing.systems())
    outputs = together.outputs(batch)
    shapes = {name: values.shape for name, values in outputs.items()}
    rows, num_graphs = batch.graph.bucket.max_nodes, batch.graph.bucket.num_graphs
    expected = {
        "position": (rows, 1, 3),
        "charge": (rows, 2),
        "energy": (num_graphs, 1),
    }
    assert shapes == expected
    error = testing.relative_error(
        together.displacements(batch), alone.displacements(batch)
    )
    assert error < 1e-6


def test_coordinates_stay_where_no_head_asks_for_vectors():
    subject = testing.Subject("egnn", task=testing.MOLECULES)
    names = {key.split("/")[1] for key in subject.params}
    assert not [name for name in names if name.startswith(("coord", "velocity"))]
    moving = {key.split("/")[1] for key in testing.Subject("egnn").params}
    assert [name for name in moving if name.startswith("coordinate_linear")]
    assert base.vector_heads(testing.TASK) and not base.vector_heads(subject.task)


@functools.cache
def molecular():
    return testing.Subject("egnn", task=testing.MOLECULES)


def test_every_layer_is_read():
    plain_molecules.assert_layers_read(
        molecular(), "attention_0", "edge_linear_1", "node_mlp_1", "node_decoder"
    )


def test_the_gate_is_between_0_and_1_and_in_use():
    own = molecular()
    batch = own.batch(testing.systems())

    def gates(params):
        with capture.recording() as values:
            own.model.apply(params, None, batch.graph, False)
        return values["attention_1"]

    found = np.asarray(jax.jit(gates)(own.params))
    assert found.shape == (batch.graph.bucket.max_edges, 1)
    assert (found > 0).all() and (found < 1).all() and found.std() > 1e-3


def test_sizes_on_molecules():
    """The paper states no count for QM9; its layers give 7 of 128 channels this."""
    task = dataclasses.replace(
        testing.MOLECULES, scalars=tuple(f"feature_{i}" for i in range(15))
    )

    def square(inputs, outputs):
        return inputs * outputs + outputs

    def expected(size, layers, attributes):
        edges = square(2 * size + 1, size) + square(size, size) + square(size, 1)
        nodes = square(2 * size + attributes, size) + square(size, size)
        decoders = 3 * square(size, size) + square(size, 1)
        return square(15, size) + layers * (edges + nodes) + decoders

    fields = {"node_inputs": ("all",), "attention": True}
    large = num_params("egnn", task, hidden_size=128, num_layers=7, **fields)
    assert large == expected(128, 7, 0) == 745_224
    # That of the golden file, every weight of which is placed.
    golden = num_params("egnn", task, node_attributes=True, **fields)
    assert golden == expected(64, 4, 15)
    without = num_params("egnn", task, node_inputs=("all",))
    assert without == expected(64, 4, 0) - 4 * 65


@pytest.mark.parametrize("names", [("all",), ("all", "|velocity|"), ("|velocity|",)])
def test_all_stands_for_every_scalar_of_the_task(names):
    batch = testing.make_batch(testing.systems())
    nodes = batch.graph.nodes._replace(
        scalars=np.arange(3.0 * batch.graph.bucket.max_nodes).reshape(-1, 3)
    )
    task = dataclasses.replace(testing.TASK, scalars=("a", "b", "c"))
    found = np.asarray(inputs.invariants(nodes, task, names))
    speeds = np.linalg.norm(nodes.vectors[:, 0], axis=-1)
    columns = {"all": list(nodes.scalars.T), "|velocity|": [speeds]}
    expected = np.stack([column for name in names for column in columns[name]], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gnn_reads_scalars_beside_coordinates_where_asked():
    plain_steerable.assert_heads("gnn", {})
    for names in ((), ("charge",), ("charge", "|velocity|")):
        assert num_params("gnn", node_inputs=names) == 104_387 + 64 * len(names)
