"""The public face of the package: its names, their examples, batches and symmetries."""

import dataclasses
import doctest
import importlib
import types

import jax
import numpy as np
import pytest

import demetar
from demetar import models
from demetar.errors import UserError
from demetar.predict import Predictor
from demetar.symmetry import GROUPS
from tests.support import trained

EXAMPLES = ("demetar.data.batch", "demetar.net", "demetar.predict", "demetar.symmetry")
ATOMS = dataclasses.replace(
    trained.MOLECULES, heads=(demetar.Head("gap", "graph_scalar"),)
)


# --- Names --------------------------------------------------------------------------


def test_every_name_of_the_face_is_there():
    assert len(demetar.__all__) <= 15
    assert sorted(demetar.__all__, key=str.casefold) == sorted(
        {name for names in demetar._HOMES.values() for name in names}, key=str.casefold
    )
    for name in demetar.__all__:
        value = getattr(demetar, name)
        assert name in dir(demetar)
        if name != "REGISTRY":
            assert value.__doc__, name
    assert demetar.REGISTRY is models.REGISTRY
    with pytest.raises(AttributeError, match="'demetar' has no attribute 'lode'"):
        demetar.lode  # noqa: B018


def test_the_package_says_that_it_is_typed(project_root):
    assert (project_root / "demetar" / "py.typed").exists()
    assert "demetar = py.typed" in (project_root / "setup.cfg").read_text()


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    trained.save(tmp_path / "runs/bodies", "linear", trained.BODIES)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 2 and not found.failed


# --- Models -------------------------------------------------------------------------


def test_a_net_is_what_haiku_gives():
    net = demetar.build("egnn", trained.BODIES, **trained.SMALL)
    assert (net.model, net.task) == ("egnn", trained.BODIES)
    expected = models.build("egnn", trained.BODIES, trained.SMALL)
    graph = demetar.make_batch(trained.BODIES, **trained.bodies((3,))).graph
    shapes = [
        jax.eval_shape(
            lambda key, own=own: own.init(key, graph, True), jax.random.key(0)
        )
        for own in (net, expected)
    ]
    assert shapes[0] == shapes[1]
    init, apply = net  # as a pair
    assert init is net.init and apply is net.apply


@pytest.mark.parametrize(
    "name, task, field, expected",
    [
        ("egnn", trained.BODIES, "node_inputs", ("|velocity|",)),
        ("egnn", ATOMS, "node_inputs", ("all",)),
        ("torchmd_et", ATOMS, "node_inputs", ("all",)),
        ("nequip", ATOMS, "species_inputs", ("all",)),
    ],
)
def test_defaults_fit_the_task(name, task, field, expected):
    assert models._input_fields(name, task, {})[field] == expected
    demetar.build(name, task)


def test_masses_are_read_where_charges_are_the_default():
    task = dataclasses.replace(trained.BODIES, scalars=("mass",))
    found = models._input_fields("torchmd_et", task, {})
    assert found == {"node_inputs": ("all", "|velocity|")}
    alone = dataclasses.replace(trained.BODIES, vectors=(), heads=ATOMS.heads)
    found = models._input_fields("torchmd_et", alone, {})
    assert found == {"node_inputs": ("charge",)}


def test_a_missing_input_names_the_field_to_set():
    with pytest.raises(
        UserError,
        match=r"no node input 'mass', which segnn.node_inputs names; set node_inputs "
        r"to some of charge, \|velocity\|, or to all",
    ):
        demetar.build("segnn", trained.BODIES, node_inputs=("mass",))
    task = dataclasses.replace(
        trained.BODIES, vectors=(), heads=trained.BODIES.heads[:1]
    )
    net = demetar.build("radial_field", task)
    graph = demetar.make_batch(task, np.eye(3), charges=[1, 2, 3]).graph
    with pytest.raises(UserError, match="no vector input 'velocity'.*VectorInput"):
        net.init(jax.random.key(0), graph, True)


# --- Batches ------------------------------------------------------------------------


def test_a_batch_has_the_systems_and_what_remains_of_their_targets():
    inputs = trained.bodies((3, 2))
    batch = demetar.make_batch(
        trained.BODIES,
        **inputs,
        targets={"position": [own + 1 for own in inputs["positions"]]},
    )
    nodes = batch.graph.nodes
    centers = [own.mean(axis=0) for own in inputs["positions"]]
    for start, size, row in ((0, 3, 0), (3, 2, 1)):
        own = slice(start, start + size)
        np.testing.assert_allclose(
            nodes.positions[own], inputs["positions"][row] - centers[row], atol=1e-6
        )
        np.testing.assert_allclose(
            batch.targets["position"][own, 0], nodes.positions[own] + 1, atol=1e-6
        )
        np.testing.assert_allclose(
            nodes.vectors[own, 0], inputs["velocities"][row], atol=1e-6
        )
    assert batch.graph.globals is not None
    np.testing.assert_allclose(batch.graph.globals.centers[:2], centers, atol=1e-6)
    assert batch.weights.tolist()[:2] == [1, 1]
    with pytest.raises(UserError, match="has no head 'force'; it has position"):
        demetar.make_batch(trained.BODIES, **inputs, targets={"force": 0})
    with pytest.raises(UserError, match="15 numbers for 5 nodes, found 3"):
        demetar.make_batch(trained.BODIES, **inputs, targets={"position": np.ones(3)})


def test_energies_lose_what_is_known_in_double_precision():
    inputs = trained.molecules((3, 3))
    offsets = dict(zip((1, 6, 8), trained.MOLECULES.heads[0].offsets, strict=True))
    known = np.array([-3 + sum(offsets[z] for z in own) for own in inputs["species"]])
    batch = demetar.make_batch(
        trained.MOLECULES, **inputs, targets={"energy": known + [1e-4, 2e-4]}
    )
    assert batch.graph.bucket.nodes_per_graph == 3
    np.testing.assert_allclose(batch.targets["energy"][:, 0], [1e-4, 2e-4], rtol=1e-5)


def test_graphs_of_the_pytorch_world_keep_their_edges():
    inputs = trained.bodies((3, 4))
    graphs = []
    for positions, velocities, charges in zip(*inputs.values(), strict=True):
        ends = np.array([[1, 0, 2], [0, 1, 1]])
        graphs.append(
            types.SimpleNamespace(
                pos=positions,
                x=charges[:, None],
                velocity=velocities,
                edge_index=ends,
                edge_attr=charges[ends[0], None] * charges[ends[1], None],
            )
        )
    batch = demetar.make_batch(trained.BODIES, graphs=graphs)
    assert batch.graph.n_edge[:2].tolist() == [3, 3]
    assert batch.graph.receivers[:6].tolist() == [0, 1, 1, 3, 4, 4]
    assert batch.graph.senders[:6].tolist() == [1, 0, 2, 4, 3, 5]
    np.testing.assert_allclose(
        batch.graph.nodes.vectors[:7, 0],
        np.concatenate(inputs["velocities"]),
        atol=1e-6,
    )
    del graphs[1].velocity
    for changed, message in (
        ({"graphs": graphs}, "object 1: expected velocity of shape"),
        ({"graphs": graphs, "positions": np.eye(3)}, "graphs or positions"),
        ({}, "missing: positions"),
    ):
        with pytest.raises(UserError, match=message):
            demetar.make_batch(trained.BODIES, **changed)
    graphs[1].velocity, graphs[0].x = graphs[0].velocity, None
    with pytest.raises(UserError):
        demetar.make_batch(trained.BODIES, graphs=graphs[:1])


# --- Symmetries ---------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_symmetries_hold_in_both_precisions(sizes):
    batch = demetar.make_batch(trained.BODIES, **trained.bodies(sizes))
    trained_model = Predictor(trained.make("egnn", trained.BODIES))
    errors = demetar.check_symmetry(trained_model, batch)
    for dtype, most in (("float32", 1e-4), ("float64", 1e-11)):
        for group in GROUPS:
            assert set(errors[dtype][group]) == {"position", "velocity"}
            assert all(0 <= own < most for own in errors[dtype][group].values())
    assert max(errors["float32"]["rotation"].values()) > 0
    assert "permutation" in str(errors) and "float64 velocity" in str(errors)


def test_broken_symmetries_are_found():
    """The paper's graph network on raw coordinates knows permutations alone."""
    batch = demetar.make_batch(trained.BODIES, **trained.bodies((4, 3)))
    errors = demetar.check_symmetry(
        Predictor(trained.make("gnn", trained.BODIES)), batch
    )
    for dtype, most in (("float32", 1e-5), ("float64", 1e-12)):
        assert errors[dtype]["permutation"]["position"] < most
        for group in ("rotation", "reflection", "translation"):
            assert errors[dtype][group]["position"] > 1e-2


def test_a_model_without_task_is_refused():
    net = models.build("linear", trained.BODIES)
    batch = demetar.make_batch(trained.BODIES, **trained.bodies((2,)))
    with pytest.raises(UserError, match="expected task="):
        demetar.check_symmetry(net, batch)
    errors = demetar.check_symmetry(net, batch, trained.BODIES)
    assert errors["float64"]["rotation"]["position"] < 1e-12
    axial = dataclasses.replace(
        trained.BODIES,
        vectors=(demetar.VectorInput("velocity", parity=1),),
        heads=trained.BODIES.heads[:1],
    )
    wrong = demetar.check_symmetry("linear", batch, axial)
    assert wrong["float64"]["reflection"]["position"] > 0.1
    assert wrong["float64"]["rotation"]["position"] < 1e-12
