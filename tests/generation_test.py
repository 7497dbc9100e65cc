"""Noise that is added to molecules and taken away again."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import geometry, models, testing
from demetar.data.splits import PARTS, split_rows
from demetar.distributed.shares import SharedPacking
from demetar.errors import UserError
from demetar.generation import dataset, likelihood, noising, sampler, schedule, states
from demetar.train import loop, optim
from demetar.train.trainer import Trainer
from tests import qm9_test

SETTINGS = dataset.Settings(
    split="random", batch_size=8, dtype="float64", noise_steps=40
)


@pytest.fixture(scope="module")
def molecules():
    with jax.enable_x64(True):
        yield dataset.load(qm9_test.make_molecules(40), SETTINGS)


def batches(data, plan):
    """Noise, noisy values and time of each sample of a plan, by its number."""
    arrays = jax.tree.map(jnp.asarray, data.packing.arrays())
    found = {}
    for line in zip(*plan.values(), strict=True):
        row = dict(zip(plan, line, strict=True))
        for part in np.split(np.arange(len(row["sample"])), shares_of(data)):
            own = {name: value[part] for name, value in row.items()}
            batch = data.batch(arrays, own)
            ends = np.cumsum(batch.graph.n_node)
            for slot in np.flatnonzero(own["weight"]):
                atoms = slice(ends[slot] - batch.graph.n_node[slot], ends[slot])
                noise = noising.as_noise(batch.targets)[atoms]
                values = noising.values_of(batch.graph)[atoms]
                time = batch.graph.nodes.scalars[atoms, -1]
                found[int(own["sample"][slot])] = (noise, values, time)
    return found


def shares_of(data):
    packing = data.packing
    if not isinstance(packing, SharedPacking):
        return 1
    return len(packing.plan(np.arange(2))["weight"][0]) // packing.bucket.num_graphs


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_molecule_is_in_two_parts_and_each_has_its_own(molecules):
    known, samples = qm9_test.make_molecules(40), molecules.packing.samples
    rows = split_rows("random", 40)
    numbers = np.concatenate([molecules.splits[part] for part in PARTS])
    assert sorted(numbers.tolist()) == list(range(40))
    starts = np.cumsum(samples.n_node) - samples.n_node
    for part in PARTS:
        for number, row in zip(molecules.splits[part], rows[part], strict=True):
            found = np.arange(starts[number], starts[number] + samples.n_node[number])
            own = known.positions[known.atoms(np.array([row]))]
            expected = own - own.mean(axis=0)
            np.testing.assert_allclose(
                samples.nodes.positions[found], expected, atol=1e-9
            )


# --- The schedule -------------------------------------------------------------------


def test_the_schedule_is_the_published_polynomial():
    known = schedule.polynomial(1_000)
    np.testing.assert_allclose(known.alphas**2 + known.sigmas**2, 1, rtol=1e-12)
    middle = (1 - 2e-5) * (1 - 0.5**2) ** 2 + 1e-5
    assert known.alphas[500] ** 2 == pytest.approx(middle, rel=1e-9)
    assert known.alphas[0] ** 2 == pytest.approx(1 - 1e-5)
    # The last step is bounded: alone, the formula ends at 0.
    before = (known.alphas[999] ** 2 - 1e-5) / (1 - 2e-5)
    last = (known.alphas[1_000] ** 2 - 1e-5) / (1 - 2e-5)
    assert last / before == pytest.approx(1e-3, rel=1e-6)
    assert (np.diff(known.ratios) < 0).all()


# --- The noise ----------------------------------------------------------------------


def test_noise_is_a_function_of_the_sample_and_the_draw(molecules):
    with jax.enable_x64(True):
        first = batches(molecules, molecules.plan("valid"))
        again = batches(molecules, molecules.plan("valid"))
        assert all(same(first[sample], again[sample]) for sample in first)
        train = [molecules.train_plan(seed, epoch) for seed, epoch in ((1, 0), (1, 1))]
        here, later = (batches(molecules, plan) for plan in train)
        assert here.keys() == later.keys() == {*molecules.splits["train"].tolist()}
        assert not any(same(here[sample], later[sample]) for sample in here)
        other = batches(molecules, molecules.train_plan(2, 0))
        assert not any(same(here[sample], other[sample]) for sample in here)


def test_devices_that_share_a_batch_add_the_same_noise(molecules):
    packing = SharedPacking(molecules.packing, 2)
    shared = dataclasses.replace(molecules, packing=packing)
    with jax.enable_x64(True):
        whole = batches(molecules, molecules.train_plan(1, 3))
        parts = batches(shared, shared.train_plan(1, 3))
        assert whole.keys() == parts.keys()
        for sample in whole:
            for found, expected in zip(parts[sample], whole[sample], strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-12)


def test_noisy_molecules_are_those_of_the_formula(molecules):
    known = schedule.polynomial(SETTINGS.noise_steps)
    samples = molecules.packing.samples
    starts = np.cumsum(samples.n_node) - samples.n_node
    everything, times = [], set()
    with jax.enable_x64(True):
        found = batches(molecules, molecules.train_plan(1, 0))
        for sample, (noise, values, time) in found.items():
            atoms = slice(starts[sample], starts[sample] + samples.n_node[sample])
            nodes = samples.nodes
            clean = np.concatenate(
                [nodes.positions[atoms], nodes.scalars[atoms, :-1]], axis=1
            )
            step = round(float(time[0]) * known.num_steps)
            expected = known.alphas[step] * clean + known.sigmas[step] * noise
            np.testing.assert_allclose(values, expected, atol=1e-9)
            np.testing.assert_allclose(noise[:, :3].mean(axis=0), 0, atol=1e-9)
            assert np.ptp(time) == 0
            everything.append(np.ravel(noise[:, 3:]))
            times.add(step)
    values = np.concatenate(everything)
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1
    assert len(times) > 10 and min(times) >= 0 and max(times) <= known.num_steps


def test_the_time_is_uniform_and_reaches_both_ends():
    known = schedule.polynomial(4)
    keys = jax.random.split(jax.random.key(0), 2_000)
    counts = np.bincount(noising.draw_times(keys, 0, known), minlength=5)
    assert len(counts) == 5 and (abs(counts - 400) < 80).all()
    assert np.asarray(noising.draw_times(keys, 1, known)).min() == 1


# --- A training ---------------------------------------------------------------------


def test_a_denoiser_learns_under_the_ordinary_loop(molecules):
    settings = loop.Settings(epochs=6, eval_every=6, seeds=(1,), average_decay=0.5)
    rate = optim.Settings(optimizer="amsgrad", learning_rate=1e-2, adaptive_clip=True)
    with jax.enable_x64(True):
        model = models.build("egnn", molecules.task, models.model_class("egnn").small)
        trainer = Trainer(model, molecules, settings, rate, devices=jax.devices()[:1])
        state, evaluator = trainer.init(), trainer.evaluator
        before = evaluator.validate(trainer.evaluated_params(state))
        again = evaluator.validate(trainer.evaluated_params(state))
        state, _ = trainer.train(state, trainer.schedule.plan(0, 6))
        after = evaluator.validate(trainer.evaluated_params(state))
    assert {*before} == {states.POSITIONS, states.FEATURES}
    assert same(before.values(), again.values())  # the noise of a sample stays
    for name, error in after.items():
        assert error[0] < 0.9 * before[name][0]


# --- Drawing ------------------------------------------------------------------------


def perfect(clean, known, wrong=1.0):
    """A denoiser that knows the molecule that the noise was added to."""

    def apply(params, key, graph, is_training):
        steps = jnp.round(graph.nodes.scalars[:, -1] * known.num_steps).astype(int)
        alphas, sigmas = (
            jnp.asarray(own)[steps][:, None] for own in (known.alphas, known.sigmas)
        )
        values = noising.values_of(graph)
        return noising.as_targets(wrong * (values - alphas * clean) / sigmas)

    return hk.Transformed(lambda *_: {}, apply)


def normal(spread, known):
    """The best denoiser of features that are normal numbers of some spread."""

    def apply(params, key, graph, is_training):
        steps = jnp.round(graph.nodes.scalars[:, -1] * known.num_steps).astype(int)
        alphas, sigmas = (
            jnp.asarray(own)[steps][:, None] for own in (known.alphas, known.sigmas)
        )
        variance = jnp.square(alphas * spread) + jnp.square(sigmas)
        return noising.as_targets(sigmas * noising.values_of(graph) / variance)

    return hk.Transformed(lambda *_: {}, apply)


TASK = states.make_task("test", (1, 6, 8), 5.0, 4.0)
LENGTH = 60


def make_sampler(model, **changes):
    known = schedule.polynomial(LENGTH)
    return sampler.Sampler(model, TASK, known, **{"dtype": "float64", **changes})


def test_drawing_ends_at_what_the_denoiser_knows():
    known = schedule.polynomial(LENGTH)
    numbers = np.array([6, 1, 1, 8])
    positions = np.random.default_rng(0).normal(size=(4, 3))
    positions -= positions.mean(axis=0)
    clean = np.concatenate([positions, states.encode(numbers, (1, 6, 8))], axis=1)
    with jax.enable_x64(True):
        size = make_sampler(None)._batches(np.array([4]))[0].graph.bucket.max_nodes
        padded = np.zeros((size, clean.shape[1]))
        padded[:4] = clean
        drawn = make_sampler(perfect(padded, known)).draw({}, np.array([4]), 1)
        assert drawn.numbers.tolist() == numbers.tolist()
        assert abs(drawn.positions - positions).max() < 0.02  # sigma_0 is 0.003
        off = make_sampler(perfect(padded, known, 0.5)).draw({}, np.array([4]), 1)
        assert abs(off.positions - positions).max() > 0.1


def test_drawing_gives_the_spread_of_the_data():
    known, spread = schedule.polynomial(300), 0.3
    with jax.enable_x64(True):
        made = (make_sampler(normal(own, known)) for own in (spread, 2 * spread))
        drawn, wrong = (
            dataclasses.replace(drawer, schedule=known).draw({}, np.full(30, 20), 3)
            for drawer in made
        )
        # One of 20 dimensions is the centroid's.
        expected = spread * np.sqrt(19 / 20)
        assert drawn.positions.std() == pytest.approx(expected, rel=0.06)
        assert wrong.positions.std() > 1.5 * expected


def egnn(task=TASK):
    fields = {"hidden_size": 8, "num_layers": 1, "move_range": 15.0}
    model = models.build("egnn", task, fields)
    graph = make_sampler(model)._batches(np.array([5]))[0].graph
    return model, model.init(jax.random.key(0), graph, True)


def test_a_molecule_does_not_depend_on_its_batch():
    model, sizes = normal(0.5, schedule.polynomial(LENGTH)), np.array([5, 3, 7, 4, 6])
    with jax.enable_x64(True):
        drawer = make_sampler(model)
        whole = drawer.draw({}, sizes, 2)
        parts = make_sampler(model, batch_size=2).draw({}, sizes, 2)
        np.testing.assert_allclose(parts.positions, whole.positions, atol=1e-8)
        other = drawer.draw({}, sizes, 3)
        assert abs(other.positions - whole.positions).max() > 0.1
        film = drawer.film({}, 7, 2, 2, 3)
        assert [time for time, _ in film][::2] == [LENGTH, 0]
        np.testing.assert_allclose(
            film[-1][1].positions, whole.take([2]).positions, atol=1e-8
        )


def test_turned_noise_gives_the_turned_molecule():
    with jax.enable_x64(True):
        model, params = egnn()
        drawer = make_sampler(model)
        turn = np.asarray(geometry.random_rotations(jax.random.key(5), ()))
        straight = drawer.draw(params, np.array([5, 6]), 2)
        turned = drawer.draw(params, np.array([5, 6]), 2, turn=turn)
        np.testing.assert_allclose(
            turned.positions, straight.positions @ turn.T, atol=1e-8
        )
        assert abs(turned.positions - straight.positions).max() > 0.1


def test_more_molecules_than_fit_are_refused_before_anything_runs():
    sampler.check_memory(1_000, 29, TASK, 1e9)
    with pytest.raises(UserError, match="--num_samples that fits the memory of 1.0 GB"):
        sampler.check_memory(10**9, 29, TASK, 1e9)


# --- The likelihood -----------------------------------------------------------------


def clean_graph(sizes):
    drawer = make_sampler(None)
    graph = drawer._batches(sizes)[0].graph
    generator = np.random.default_rng(0)
    numbers = generator.choice([1, 6, 8], graph.bucket.max_nodes)
    features = states.encode(numbers, (1, 6, 8))
    values = np.concatenate(
        [generator.normal(size=(len(numbers), 3)), features], axis=1
    )
    values[sizes.sum() :] = 0
    clean = noising.centred(values, graph)
    times = np.zeros(graph.bucket.num_graphs)
    return noising.with_values(graph, clean, times, drawer.schedule), clean


def test_the_bound_of_a_perfect_denoiser_is_that_of_its_last_step():
    known, sizes = schedule.polynomial(LENGTH), np.array([5, 3])
    with jax.enable_x64(True):
        graph, clean = clean_graph(sizes)
        keys = jax.random.split(jax.random.key(0), graph.bucket.num_graphs)

        def bound(model):
            return likelihood.bound(model, {}, known, graph, keys, 3)[: len(sizes)]

        found = bound(perfect(clean, known))
        alpha, sigma = known.alphas[-1], known.sigmas[-1]
        ends = np.cumsum(sizes)
        for index, size in enumerate(sizes):
            own = clean[ends[index] - size : ends[index]]
            dimensions = 3 * (size - 1) + 4 * size
            divergence = 0.5 * (alpha**2 * np.square(own).sum())
            divergence += dimensions * (0.5 * (sigma**2 - 1) - np.log(sigma))
            spread = known.sigmas[0] / known.alphas[0]
            density = 3 * (size - 1) * (np.log(spread) + 0.5 * np.log(2 * np.pi))
            # The features are so sharp at t = 0 that their likelihood is 1.
            assert found[index] == pytest.approx(divergence + density, abs=1e-6)
        assert (bound(perfect(clean, known, 0.9)) > found + 0.1).all()


def test_features_far_from_the_truth_are_unlikely():
    known, sizes = schedule.polynomial(LENGTH), np.array([5, 3])
    with jax.enable_x64(True):
        graph, clean = clean_graph(sizes)
        near = likelihood.rounding(known, graph, clean[:, 3:], 3)
        far = likelihood.rounding(known, graph, jnp.roll(clean[:, 3:], 1, axis=1), 3)
        assert abs(near[:2]).max() < 1e-6 and (far[:2] > 10).all()


def test_rare_sizes_cost_more_nats():
    known = np.array([3, 3, 3, 5])
    found = likelihood.rarity(known, np.array([3, 5, 4]))
    np.testing.assert_allclose(found, -np.log([3 / 4, 1 / 4, 1 / 8]))


# --- Models -------------------------------------------------------------------------

ABLE = [
    name
    for name in models.REGISTRY
    if {"node_vector", "node_scalar"} <= models.model_class(name).supports
]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "gnn" else pytest.mark.slow)
        for name in ABLE
    ],
)
def test_every_able_model_predicts_a_noise_without_mean(name, molecules):
    with jax.enable_x64(True):
        task = molecules.task
        names = models.input_defaults(name)
        fields = {field: task.scalars for field in names}
        model = models.build(name, task, {**testing.small_fields(name, task), **fields})
        plan = molecules.plan("test")
        row = {key: jnp.asarray(value[0]) for key, value in plan.items()}
        arrays = jax.tree.map(jnp.asarray, molecules.packing.arrays())
        graph = molecules.batch(arrays, row).graph
        params = model.init(jax.random.key(0), graph, True)
        noise = noising.as_noise(model.apply(params, None, graph, False))
        centred = noising.centred(noise, graph)
        real = np.arange(len(noise)) < int(graph.n_node[:-1].sum())
        assert np.isfinite(noise[real]).all() and abs(noise[real, :3]).max() > 0
        np.testing.assert_allclose(noise[real], centred[real], atol=1e-9)


def test_a_head_of_another_kind_has_no_mean_of_zero():
    with pytest.raises(ValueError, match="only a vector head has a mean of zero"):
        dataclasses.replace(TASK.heads[1], zero_mean=True)
