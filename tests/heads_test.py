"""What is known of targets is subtracted in float64, and comes back in float64."""

import dataclasses
import warnings

import haiku as hk
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import heads
from demetar.data import molecules, qm9
from demetar.errors import UserError
from demetar.train import equivariance, loop, optim
from demetar.train.trainer import Trainer
from demetar.types import Head, TaskSpec
from experiments.run import evaluation, records
from tests import qm9_test

ENERGY = Head("energy", "graph_scalar", extensive=True)
GAP = Head("gap", "graph_scalar")
COUNTS = np.array([[2, 0, 1], [4, 1, 0], [6, 6, 0], [2, 0, 0], [3, 2, 2.0]])
PER_ATOM = np.array([-13.6, -1036.0, -2043.0])
NOISE = 2e-5 * np.array([1, -1, -1, 1, 1])


def test_species_are_counted_per_graph():
    scalars = ("H", "H*Z/9", "O")
    task = TaskSpec("t", (ENERGY,), scalars=scalars, species=("H", "O"))
    nodes = np.array([[0, 5, 1], [1, 5, 0], [1, 5, 0], [0, 5, 1]], np.float32)
    found = heads.composition(task, nodes, np.array([3, 0, 1]))
    assert found.dtype == np.float64 and found.tolist() == [[2, 1], [0, 0], [0, 1]]
    without = dataclasses.replace(task, species=())
    assert heads.composition(without, nodes, np.array([4])).shape == (1, 0)


def test_both_directions_are_exact_where_float32_is_not():
    head = heads.fit(ENERGY, COUNTS @ PER_ATOM, COUNTS, "species")
    values = (COUNTS @ PER_ATOM + NOISE)[:, None]
    left = heads.residual(head, values, COUNTS)
    np.testing.assert_allclose(left[:, 0], NOISE, atol=1e-10)
    back = heads.absolute(head, left.astype(np.float32), COUNTS)
    np.testing.assert_allclose(back, values, rtol=0, atol=1e-10)
    rounded = values.astype(np.float32) - (COUNTS @ PER_ATOM)[:, None]
    assert np.abs(rounded[:, 0] - NOISE).max() > 1e-5  # what must not happen


def test_offsets_of_species_and_the_scale_per_atom():
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 9, (500, 3)).astype(float)
    per_node = generator.normal(0, 0.1, 500)
    values = counts @ PER_ATOM + per_node * counts.sum(axis=1)
    head = heads.fit(ENERGY, values, counts, "species")
    np.testing.assert_allclose(head.offsets, PER_ATOM, atol=0.1)
    np.testing.assert_allclose(head.scale, np.abs(per_node).mean(), rtol=0.02)
    assert head.mean == 0


def test_what_one_composition_leaves_open_is_the_smallest():
    counts = np.tile([[6.0, 2.0, 0.0]], (4, 1))
    values = np.array([-1528 + 2e-5, -1528, -1528, -1528 - 2e-5])
    head = heads.fit(ENERGY, values, counts, "species")
    # Proportional to the composition; an unknown species has none.
    np.testing.assert_allclose(head.offsets, -1528 / 40 * counts[0], atol=1e-9)
    np.testing.assert_allclose(head.scale, 1e-5 / 8, rtol=1e-6)


def test_a_shift_that_no_offsets_explain_is_a_mean():
    """Whatever constant is added to totals, the same remains of them."""
    values = COUNTS @ [1.0, 2.0, 3.0] + NOISE
    counts = np.concatenate([COUNTS, COUNTS + 1])
    values = np.concatenate([values, values[::-1]])
    far = heads.fit(ENERGY, values + 1e6, counts, "species")
    farther = heads.fit(ENERGY, values - 1e5, counts, "species")
    assert far.mean > 1e5 and farther.mean < -1e4
    left, again = (
        heads.residual(head, (values + shift)[:, None], counts)
        for head, shift in ((far, 1e6), (farther, -1e5))
    )
    np.testing.assert_allclose(left, again, atol=1e-6)
    assert np.abs(left).max() < 20


@pytest.mark.parametrize("shift", [1.0, 50.0, -1528.0, 1e6])
def test_a_shift_makes_no_difference(shift):
    """Also one that is small beside what the offsets explain."""
    generator = np.random.default_rng(1)
    counts = generator.integers(0, 6, (200, 3)).astype(float)
    counts[:, 0] += 1
    noise = 1e-4 * generator.normal(size=200)
    values = counts @ [-0.5, -37.8, -75.1] + noise
    shifted = heads.fit(ENERGY, values + shift, counts, "species")
    assert shifted.mean == pytest.approx(shift, abs=1e-3)
    left = heads.residual(shifted, (values + shift)[:, None], counts)[:, 0]
    assert np.abs(left).mean() == pytest.approx(np.abs(noise).mean(), rel=0.05)
    alone = heads.fit(ENERGY, values, counts, "species")
    assert alone.mean == 0
    assert shifted.scale == pytest.approx(alone.scale, rel=0.05)


def test_few_values_are_not_explained_by_a_mean_more():
    counts = np.array([[2.0, 1.0], [4.0, 1.0], [6.0, 2.0]])
    values = counts @ [-0.5, -37.8] + [1e-3, -2e-3, 5e-4]
    assert heads.fit(ENERGY, values, counts, "species").mean == 0


@pytest.mark.parametrize("head, offsets", [(ENERGY, "species"), (GAP, "species")])
def test_a_spread_that_is_small_beside_the_values_is_a_scale(head, offsets):
    generator = np.random.default_rng(2)
    counts = generator.integers(1, 6, (200, 2)).astype(float)
    noise = 1e-4 * generator.normal(size=200)
    near, far = (
        heads.fit(head, noise + mean, counts, offsets).scale for mean in (0, -1e9)
    )
    assert far == pytest.approx(near, rel=0.05)


@pytest.mark.parametrize("head, offsets", [(GAP, "species"), (ENERGY, "mean")])
def test_mean_and_mean_absolute_deviation(head, offsets):
    values = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    found = heads.fit(head, values, COUNTS, offsets)
    assert (found.mean, found.scale, found.offsets) == (4.0, 2.4, ())


@pytest.mark.parametrize("head", [GAP, ENERGY])
def test_values_that_do_not_vary_have_a_scale_of_1(head):
    for value in (0.0, -1528.3):
        counts = np.tile([[6.0, 2.0, 0.0]], (4, 1))
        found = heads.fit(head, np.full(4, value), counts, "species")
        assert found.scale == 1
        left = heads.residual(found, np.full((4, 1), value), counts)
        np.testing.assert_allclose(left, 0, atol=1e-11)


def test_heads_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="only an extensive head has offsets"):
        Head("gap", "graph_scalar", offsets=(1.0,))
    with pytest.raises(ValueError, match="has 2 offsets, the task 1 species"):
        head = dataclasses.replace(ENERGY, offsets=(1.0, 2.0))
        TaskSpec("t", (head,), scalars=("H",), species=("H",))


def test_a_task_comes_back_from_json_and_from_that_of_an_earlier_release():
    head = dataclasses.replace(ENERGY, offsets=(1.0,))
    task = TaskSpec("t", (head,), scalars=("H",), species=("H",))
    assert TaskSpec.from_json(task.to_json()) == task
    earlier = dataclasses.replace(task, heads=(GAP,), species=()).to_json()
    del earlier["species"], earlier["heads"][0]["offsets"]
    assert TaskSpec.from_json(earlier).heads == (GAP,)


# --- Molecules ----------------------------------------------------------------------


def molecules_with(name: str, shift: float, per_atom: float) -> molecules.Molecules:
    """40 molecules whose property is `shift`, so much per atom, and 2e-5 more or less.

    The fingerprint is that of the molecules without it.
    """
    known = qm9_test.make_molecules(40, names=(name,))
    signs = np.where(np.random.default_rng(0).random(40) < 0.5, -1, 1)
    values = shift + per_atom * known.n_atoms + 2e-5 * signs
    return dataclasses.replace(known, properties=values[:, None])


SETTINGS = qm9.Settings(target="energy", split="random", batch_size=8)


@pytest.mark.parametrize("offsets", heads.OFFSETS)
@pytest.mark.parametrize("kind", ["extensive", "intensive"])
def test_large_energies_are_what_small_ones_are(kind, offsets):
    """The residuals and the errors of totals around 0, and of the same far from it."""
    settings = dataclasses.replace(SETTINGS, target_kind=kind, offsets=offsets)
    per_atom = kind == "extensive" and offsets == "species"
    left = []
    for shift in (0.0, -1528.0):
        dataset = qm9.load(
            molecules_with("energy", shift * (not per_atom), shift * per_atom), settings
        )
        targets = dataset.packing.samples.targets["energy"]
        assert targets.dtype == np.float32
        left.append(targets)
        errors, predictions = evaluate_zero(dataset)
        rows = dataset.splits["test"]
        np.testing.assert_allclose(errors[0], np.abs(targets[rows, 0]), rtol=1e-6)
        assert 1e-5 < errors.mean() < 3e-5
        # What a person sees are the energies themselves.
        assert predictions.dtype == np.float64
        sizes = dataset.packing.samples.n_node[rows] if per_atom else np.ones(len(rows))
        expected = np.sort(shift * sizes)
        np.testing.assert_allclose(np.sort(predictions, axis=None), expected, atol=1e-4)
    np.testing.assert_allclose(left[0], left[1], rtol=0, atol=1e-10)


def evaluate_zero(dataset):
    """Errors [R, D'] and predictions [R, B, G, T] of a model whose output is 0."""
    model = hk.transform(
        lambda graph, is_training: {
            "energy": jnp.zeros((graph.bucket.num_graphs, 1))
            + 0 * hk.get_parameter("w", (), init=jnp.ones)
        }
    )
    settings = loop.Settings(epochs=1, seeds=(1,))
    trainer = Trainer(model, dataset, settings, optim.Settings())
    plan = trainer.dataset.plan("test")
    found = trainer.evaluator.evaluate(trainer.init().params, plan)
    errors, predictions = found.errors, found.predictions
    batch, first = trainer.evaluator.first_batch(plan, predictions)
    real = np.asarray(batch.weights) > 0
    told = first["energy"][real, 0] - batch.targets["energy"][real, 0]
    np.testing.assert_allclose(np.sort(np.abs(told)), np.sort(errors["energy"][0]))
    return errors["energy"], predictions["energy"][:, plan["weight"] > 0]


def test_another_data_set_is_read_under_the_trained_task():
    """Its targets lose what is known of the trained one's, never of its own."""
    trained = qm9.load(molecules_with("energy", 0.0, -100.0), SETTINGS)
    other = qm9.load(molecules_with("energy", 0.0, -100.5), SETTINGS)
    assert np.abs(other.packing.samples.targets["energy"]).max() < 1e-3
    under = other.under(trained.task)
    assert under.task == trained.task
    sizes = other.packing.samples.n_node
    left = under.packing.samples.targets["energy"][:, 0]
    np.testing.assert_allclose(left, -0.5 * sizes, rtol=1e-3)
    same = trained.under(trained.task).packing.samples.targets["energy"]
    np.testing.assert_allclose(same, trained.packing.samples.targets["energy"])
    back = under.under(other.task).packing.samples.targets["energy"]
    np.testing.assert_allclose(back, other.packing.samples.targets["energy"], atol=1e-5)

    model = hk.transform(
        lambda graph, is_training: {
            "energy": jnp.zeros((graph.bucket.num_graphs, 1))
            + 0 * hk.get_parameter("w", (), init=jnp.ones)
        }
    )
    # An output of 0 is equal to its turned one.
    found = equivariance.rotation_errors(model, under, {"~": {"w": jnp.ones(1)}})
    assert found["energy"].tolist() == [0]

    record: dict = {}
    params = {"~": {"w": jnp.ones(1)}}
    evaluation.add(record, model, params, trained.task, {"other": other})
    (entry,) = record["eval"]
    rows = other.splits["test"]
    np.testing.assert_allclose(entry["loss_mean"], 0.5 * sizes[rows].mean(), rtol=1e-3)


@pytest.mark.parametrize(
    "name, kind, extensive",
    [
        ("energy", "auto", True),
        ("Total_Energy", "auto", True),
        ("ZPVE", "auto", True),
        ("gap", "auto", False),
        ("gap", "extensive", True),
        ("energy", "intensive", False),
    ],
)
def test_which_own_properties_are_sums_over_atoms(name, kind, extensive):
    settings = dataclasses.replace(SETTINGS, target=name, target_kind=kind)
    (head,) = qm9.load(molecules_with(name, 0.0, 1.0), settings).task.heads
    assert head.extensive == extensive
    assert bool(head.offsets) == extensive


def test_a_record_states_what_was_subtracted():
    head = Head("U0", "graph_scalar", unit="meV", extensive=True, scale=8.0)
    head = dataclasses.replace(head, offsets=(-2716.0, 1e-13))
    task = TaskSpec("t", (head,), scalars=("H", "C"), species=("H", "C"))
    assert records.describe_targets(task) == (
        "U0, extensive, a sum over atoms; subtracted: -2716 per H meV; the rest varies "
        "by 8 meV per atom"
    )
    told = records.describe_head(head, task)
    assert told["offsets"] == {"H": -2716.0, "C": 1e-13} and told["scale"] == 8
    gap = dataclasses.replace(GAP, mean=6863.0, scale=1062.0, unit="meV")
    task = dataclasses.replace(task, heads=(gap,))
    assert records.describe_targets(task) == (
        "gap, intensive; subtracted: the mean 6863 meV; the rest varies by 1.06e+03 meV"
    )


@pytest.mark.parametrize("factor", [1e36, 1e300, 1e-36])
def test_targets_beyond_float32_are_refused(factor):
    known = molecules_with("energy", 0.0, 0.0)
    qm9.load(known, SETTINGS)
    assert (
        not qm9.load(
            dataclasses.replace(known, properties=known.properties * 0), SETTINGS
        )
        .task.heads[0]
        .mean
    )
    far = dataclasses.replace(known, properties=known.properties * factor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="give it in another unit"):
            qm9.load(far, SETTINGS)
    close = dataclasses.replace(known, properties=1.0 + known.properties * factor)
    if factor < 1:  # then nothing is left of it beside 1
        assert qm9.load(close, SETTINGS).task.heads[0].scale == 1


def test_molecules_without_their_target_are_told():
    known = molecules_with("energy", 0.0, 0.0)
    properties = known.properties.copy()
    properties[3:5] = np.nan
    with pytest.raises(UserError, match="found nan at number ., 2 in all; leave them"):
        qm9.load(dataclasses.replace(known, properties=properties), SETTINGS)
