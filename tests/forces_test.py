"""Heads that are the negative gradient of another: forces of any model's energy."""

import dataclasses

import jax
import numpy as np
import pytest

import demetar
from demetar import graphs, models
from demetar.errors import UserError
from demetar.models import gradients
from demetar.nn import capture
from demetar.testing import batches
from demetar.testing.subject import quick_params, small_fields
from demetar.train import losses
from demetar.types import Head, TaskSpec

ENERGY = Head("energy", "graph_scalar", unit="meV", extensive=True, scale=3.0)
FORCES = Head(
    "forces", "node_vector", unit="meV/Å", gradient_of="energy", scale=2.0, weight=5.0
)
TASK = dataclasses.replace(
    batches.MOLECULES, name="potential", heads=(ENERGY, FORCES), cutoff=None
)
QUICK = ("schnet", "nequip")  # the contract has all models
STEP = 1e-4  # of central differences


def with_potential(name):
    """A small model with its parameters, of energies and forces."""
    fields = small_fields(name, TASK)
    model = models.build(name, TASK, fields)
    batch = batches.make_batch(batches.systems((3, 2)), "float64", task=TASK)
    return model, quick_params(model, batch), batch


@pytest.mark.parametrize("name", QUICK)
def test_forces_are_the_slope_of_the_energy(name):
    """Against central differences, in float64; padding has none."""
    with jax.enable_x64(True):
        model, params, batch = with_potential(name)

        @jax.jit
        def values(positions):
            nodes = batch.graph.nodes._replace(positions=positions)
            graph = dataclasses.replace(batch.graph, nodes=nodes)
            return model.apply(params, None, graph, False)

        positions = np.asarray(batch.graph.nodes.positions)
        forces = FORCES.scale * np.asarray(values(positions)["forces"])[:, 0]
        real = np.asarray(graphs.node_mask(batch.graph))
        assert forces.dtype == np.float64 and not forces[~real].any()
        expected = np.zeros_like(positions[real])
        for row, axis in np.ndindex(expected.shape):
            ends = []
            for sign in (1, -1):
                moved = positions.copy()
                moved[row, axis] += sign * STEP
                ends.append(values(moved)["energy"][:2].sum())
            expected[row, axis] = -ENERGY.scale * (ends[0] - ends[1]) / (2 * STEP)
        size = np.abs(expected).max()
        assert size > 1e-3
        np.testing.assert_allclose(forces[real], expected, rtol=0, atol=1e-6 * size)


# --- The wrapper ----------------------------------------------------------------------


def test_a_model_learns_of_no_gradient():
    """Its parameters are those of the energy alone, its energies too."""
    fields = small_fields("schnet", TASK)
    alone = models.build("schnet", gradients.without_gradients(TASK), fields)
    both = models.build("schnet", TASK, fields)
    batch = batches.make_batch(batches.systems((3, 2)), task=TASK)
    params = quick_params(both, batch)
    jax.tree.map(np.testing.assert_array_equal, params, quick_params(alone, batch))
    energies, found = (
        jax.jit(model.apply, static_argnums=3)(params, None, batch.graph, False)
        for model in (alone, both)
    )
    assert set(energies) == {"energy"} and set(found) == {"energy", "forces"}
    np.testing.assert_allclose(found["energy"], energies["energy"], rtol=1e-6)


def test_values_can_be_captured_beside_forces():
    model, params, batch = with_potential("schnet")

    @jax.jit
    def captured(params, graph):
        with capture.recording() as values:
            outputs = model.apply(params, None, graph, False)
        return values, outputs

    values, outputs = captured(params, batch.graph)
    assert values and set(outputs) == {"energy", "forces"}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values))


def test_heads_that_cannot_be_gradients():
    for change, message in (
        ({"kind": "graph_scalar"}, "a gradient is a node_vector"),
        ({"base": "positions"}, "a gradient is a node_vector"),
        ({"size": 2}, "a gradient is a node_vector"),
        ({"weight": -1.0}, "weight -1.0"),
        ({"training_error": "cubed"}, "training_error 'cubed'"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(FORCES, **change)
    with pytest.raises(ValueError, match="is a gradient of 'energy', expected"):
        TaskSpec("t", (FORCES,))
    with pytest.raises(ValueError, match="judged by 'work', expected"):
        dataclasses.replace(TASK, judged_by="work")


def test_a_model_of_vectors_alone_has_no_energy():
    with pytest.raises(UserError, match="no head of kind graph_scalar"):
        models.build("newton", TASK)
    direct = dataclasses.replace(FORCES, gradient_of="")
    with pytest.raises(UserError, match="no head of kind node_vector"):
        models.build("schnet", dataclasses.replace(TASK, heads=(ENERGY, direct)))


def test_a_task_with_forces_comes_back_from_json():
    task = dataclasses.replace(TASK, judged_by="forces")
    assert TaskSpec.from_json(task.to_json()) == task
    earlier = task.to_json()
    del earlier["judged_by"]
    for head in earlier["heads"]:
        for name in ("gradient_of", "weight", "training_error"):
            del head[name]
    found = TaskSpec.from_json(earlier)
    assert not found.judged_by and found.heads[1].weight == 1


# --- Losses ---------------------------------------------------------------------------

ERRORS = {"energy": np.array([1.0, 3.0]), "forces": np.array([2.0, 8.0])}
ALL = np.ones(2)


def test_heads_count_by_their_weights():
    squared = [dataclasses.replace(head, scale=1.0) for head in (ENERGY, FORCES)]
    task = dataclasses.replace(TASK, heads=tuple(squared))
    assert losses.mean_loss(task, ERRORS, ALL) == (1 * 2 + 5 * 5) / 6
    assert losses.mean_loss(task, ERRORS, np.array([0.0, 1])) == (3 + 5 * 8) / 6
    judged = dataclasses.replace(task, judged_by="energy")
    assert losses.mean_loss(judged, ERRORS, ALL) == 2
    assert losses.training_loss(judged, ERRORS, ALL) == (1 * 2 + 5 * 5) / 6


def test_what_is_trained_on_is_in_multiples_of_the_scale():
    def loss(error, training_error):
        changes = {"error": error, "training_error": training_error}
        heads = [dataclasses.replace(head, **changes) for head in TASK.heads]
        task = dataclasses.replace(TASK, heads=tuple(heads))
        return float(losses.training_loss(task, ERRORS, ALL))

    plain, once, twice = (
        (1 * 2 / ENERGY.scale**power + 5 * 5 / FORCES.scale**power) / 6
        for power in (0, 1, 2)
    )
    assert loss("squared", "") == pytest.approx(plain)
    assert loss("absolute", "") == pytest.approx(once)
    assert loss("absolute", "squared") == pytest.approx(twice)
    assert loss("squared", "absolute") == pytest.approx(once)


def test_a_unit_of_the_energy_cancels():
    """The residual of the forces is the slope of that of the energy, in any scale."""
    model, params, batch = with_potential("schnet")
    other = dataclasses.replace(FORCES, scale=7.0)
    task = dataclasses.replace(TASK, heads=(ENERGY, other))
    rescaled = models.build("schnet", task, small_fields("schnet", task))

    def forces(own, net):
        outputs = net.apply(params, None, batch.graph, False)
        return losses.predict(own, outputs, batch.graph.nodes)["forces"]

    run = jax.jit(lambda: (forces(TASK, model), forces(task, rescaled)))
    first, second = run()
    np.testing.assert_allclose(first, second, rtol=1e-5)


@pytest.mark.slow
def test_symmetry_of_energies_and_forces():
    task = dataclasses.replace(TASK, connectivity="complete")
    net = demetar.build("schnet", task, hidden_size=8, num_layers=1)
    batch = demetar.make_batch(
        task, positions=[[0, 0, 0], [1.1, 0, 0], [0, 2, 1]], species=["H", "C", "O"]
    )
    errors = demetar.check_symmetry(net, batch)["float64"]
    for group in errors:
        assert max(errors[group].values()) < 1e-9
