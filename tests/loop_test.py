"""The training loop against plain NumPy and hand-written steps."""

import dataclasses
import functools
import math
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from demetar import models, testing
from demetar.data.dataset import Dataset
from demetar.data.packing import make_packing
from demetar.errors import UserError
from demetar.train import loop, optim
from demetar.train.run import Run
from demetar.train.trainer import Trainer
from demetar.types import Head, TaskSpec, TrainState

NUM_TRAIN, NUM_VALID, NUM_TEST, BATCH_SIZE = 11, 5, 13, 4
SIZES = {"regular": (5,), "mixed": (3, 7, 2, 5, 1)}
ADAM = optim.Settings(learning_rate=0.02)
SETTINGS = loop.Settings(epochs=3, eval_every=1, checkpoint_seconds=1e9)


@functools.cache
def make_dataset(kind="regular"):
    """Systems in three splits, whose batch size divides none of them."""
    total = NUM_TRAIN + NUM_VALID + NUM_TEST
    sizes = [SIZES[kind][k % len(SIZES[kind])] for k in range(total)]
    samples = testing.make_samples(testing.systems(sizes), "float32")
    noise = np.random.default_rng(0).normal(size=samples.targets["position"].shape)
    samples.targets["position"] += noise.astype(np.float32)
    stops = np.cumsum([0, NUM_TRAIN, NUM_VALID, NUM_TEST])
    splits = {
        split: np.arange(start, stop)
        for split, start, stop in zip(
            ("train", "valid", "test"), stops[:-1], stops[1:], strict=True
        )
    }
    packing = make_packing(samples, testing.TASK, BATCH_SIZE)
    return Dataset(testing.TASK, packing, splits, "")


def make_trainer(model="linear_map", kind="regular", optimizer=ADAM, **settings):
    dataset = make_dataset(kind)
    built = models.build(model, dataset.task)
    run = dataclasses.replace(SETTINGS, **settings)
    return Trainer(built, dataset, run, optimizer)


# Compiled once for all tests that can share it.
shared_trainer = functools.cache(make_trainer)


def fit(trainer, path, should_stop=lambda: False, snapshots=None):
    """Trains; returns the run, its evaluations and whether it finished."""
    run = Run.start(trainer, path)
    evaluations = []

    def on_evaluation(metrics):
        evaluations.append(metrics)
        if snapshots is not None:
            params = trainer.evaluated_params(run.state)
            snapshots.append(jax.tree.map(np.array, params))

    finished = run.fit(on_evaluation, lambda: None, should_stop)
    return run, evaluations, finished


def linear_errors(split, time, kind="regular"):
    """Squared error of x + a v for each sample of a split, without any batch."""
    dataset = make_dataset(kind)
    samples = dataset.packing.samples
    starts = np.cumsum([0, *samples.n_node])
    errors = []
    for number in dataset.splits[split]:
        own = slice(starts[number], starts[number + 1])
        found = samples.nodes.positions[own] + time * samples.nodes.vectors[own, 0]
        errors.append(np.mean((found - samples.targets["position"][own, 0]) ** 2))
    return np.array(errors)


def assert_equal_trees(found, expected):
    (leaves, structure), (others, wanted) = map(jax.tree.flatten, (found, expected))
    assert str(structure) == str(wanted)
    for a, b in zip(leaves, others, strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def one_batch(kind="mixed"):
    dataset = make_dataset(kind)
    plan = dataset.train_plan(1, 0)
    row = {name: values[0] for name, values in plan.items()}
    return dataset.packing.assemble(dataset.packing.arrays(), row)


# --- One update ---------------------------------------------------------------------


def test_update_is_the_hand_written_step():
    """Adam with decay on the mean over graphs, not over nodes, of the squared error."""
    batch = one_batch()
    settings = optim.Settings(learning_rate=0.01, weight_decay=0.1, clip_norm=0.5)
    optimizer = optim.make(settings, 10)
    model = models.build("linear_map", testing.TASK)
    update = jax.jit(loop.make_update(model, testing.TASK, optimizer, SETTINGS))
    key = jax.random.key(0)
    params: Any = model.init(key, batch.graph, True)
    state = TrainState(params, optimizer.init(params), jnp.int32(0), key, {})

    graph, nodes = batch.graph, batch.graph.nodes
    stops = np.cumsum(graph.n_node)
    inputs = np.concatenate([nodes.positions, nodes.vectors[:, 0]], axis=1)
    targets = batch.targets["position"][:, 0]
    (path,) = params
    w, b = (np.array(params[path][name], np.float64) for name in ("w", "b"))
    moments = [np.zeros((2, *leaf.shape)) for leaf in (w, b)]
    for step in range(1, 4):
        gradients = [np.zeros_like(w), np.zeros_like(b)]
        losses = []
        real = np.flatnonzero(batch.weights)
        for slot in real:
            own = slice(stops[slot] - graph.n_node[slot], stops[slot])
            errors = inputs[own] @ w + b - targets[own]
            losses.append(np.mean(errors**2))
            slope = 2 * errors / errors.size / len(real)
            gradients[0] += inputs[own].T @ slope
            gradients[1] += slope.sum(axis=0)
        norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
        assert norm > settings.clip_norm
        new, squares = [], 0.0
        for leaf, gradient, moment in zip((w, b), gradients, moments, strict=True):
            gradient = gradient * settings.clip_norm / norm + 0.1 * leaf
            moment[0] = 0.9 * moment[0] + 0.1 * gradient
            moment[1] = 0.999 * moment[1] + 0.001 * gradient**2
            mean, square = moment[0] / (1 - 0.9**step), moment[1] / (1 - 0.999**step)
            change = -0.01 * mean / (np.sqrt(square) + 1e-8)
            squares += (change**2).sum()
            new.append(leaf + change)
        w, b = new
        state, metrics = update(state, batch)
        np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
        np.testing.assert_allclose(metrics["update_norm"], squares**0.5, rtol=1e-4)
        np.testing.assert_allclose(state.params[path]["w"], w, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.params[path]["b"], b, rtol=1e-4, atol=1e-6)
    assert int(state.step) == 3


def one_update(name, fields, augment):
    """Loss and gradient norm of the first update from drawn parameters."""
    batch = testing.make_batch(testing.systems(), "float64")
    model = models.build(name, testing.TASK, fields)
    params = testing.quick_params(model, batch)
    optimizer = optim.make(optim.Settings(), 10)
    settings = dataclasses.replace(SETTINGS, augment=augment)
    update = loop.make_update(model, testing.TASK, optimizer, settings)
    key = jax.random.key(4)
    state = TrainState(params, optimizer.init(params), jnp.int32(0), key, {})
    metrics = jax.jit(update)(state, batch)[1]
    return float(metrics["loss"]), float(metrics["gradient_norm"])


def test_augmentation_turns_inputs_and_targets_alike():
    """An equivariant model learns nothing from it, any other model does."""
    with jax.enable_x64(True):
        small = {"hidden_size": 5, "num_layers": 1}
        plain, turned = (
            one_update("egnn", small, kind) for kind in ("none", "rotation")
        )
        np.testing.assert_allclose(turned, plain, rtol=1e-10)
        plain, turned = (
            one_update("linear_map", {}, kind) for kind in ("none", "rotation")
        )
        assert abs(turned[0] / plain[0] - 1) > 1e-3


def test_absolute_errors_are_told_in_the_unit_and_trained_on_in_scales():
    """An update on 7 |error| / 7 is that on |error|; what is told is 7 times it."""
    batch = one_batch()
    optimizer = optax.sgd(0.1)
    key = jax.random.key(0)
    results = []
    for unit in (1.0, 7.0):
        head = dataclasses.replace(
            testing.TASK.heads[0], base="", scale=unit, error="absolute"
        )
        task = dataclasses.replace(testing.TASK, heads=(head,))
        targets = {"position": unit * batch.targets["position"]}
        scaled = dataclasses.replace(batch, targets=targets)
        # Its output is what the prediction is in scales.
        model = hk.transform(
            lambda graph, is_training: {
                "position": hk.get_parameter(
                    "a", (), init=hk.initializers.Constant(2.0)
                )
                * graph.nodes.vectors
            }
        )
        params = model.init(key, batch.graph, True)
        update = jax.jit(loop.make_update(model, task, optimizer, SETTINGS))
        state = TrainState(params, optimizer.init(params), jnp.int32(0), key, {})
        state, metrics = update(state, scaled)
        results.append(
            (float(jax.tree.leaves(state.params)[0]), float(metrics["loss"]))
        )
    (once, loss), (scaled_once, scaled_loss) = results
    assert once != 2.0
    np.testing.assert_allclose(scaled_once, once, rtol=1e-5)
    np.testing.assert_allclose(scaled_loss, 7 * loss, rtol=1e-5)
    graph = batch.graph
    stops = np.cumsum(graph.n_node)
    by_hand = [
        np.abs(
            2 * graph.nodes.vectors[stop - size : stop]
            - batch.targets["position"][stop - size : stop]
        ).mean()
        for stop, size, weight in zip(stops, graph.n_node, batch.weights, strict=True)
        if weight
    ]
    np.testing.assert_allclose(loss, np.mean(by_hand), rtol=1e-5)


def test_heads_of_earlier_checkpoints_have_their_errors():
    """The field was called `loss`, and before that there was none."""
    stored = testing.TASK.to_json()
    for head in stored["heads"]:
        del head["error"]
    assert TaskSpec.from_json(stored) == testing.TASK
    for head in stored["heads"]:
        head["loss"] = "absolute"
    (read,) = TaskSpec.from_json(stored).heads
    assert read == dataclasses.replace(testing.TASK.heads[0], error="absolute")
    with pytest.raises(ValueError, match="has error 'cubic', expected one of squared"):
        Head("energy", "graph_scalar", error="cubic")


def hand_gradients(params, batch):
    """Errors [G] of `linear_map` and the gradient of each, in loops."""
    (path,) = params
    w, b = (np.array(params[path][name], np.float64) for name in ("w", "b"))
    nodes = batch.graph.nodes
    inputs = np.concatenate([nodes.positions, nodes.vectors[:, 0]], axis=1)
    targets = np.asarray(batch.targets["position"][:, 0])
    errors, gradients = [], []
    stops = np.cumsum(batch.graph.n_node)
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        residual = inputs[start:stop] @ w + b - targets[start:stop]
        slope = 2 * residual / residual.size
        errors.append(np.mean(residual**2))
        gradients.append((inputs[start:stop].T @ slope, slope.sum(axis=0)))
    return np.array(errors), gradients


def test_the_logarithmic_loss_and_clipping_of_each_graph():
    """Against each graph's own gradient; a slot without weight counts for nothing."""
    dataset = make_dataset()
    rows = dataset.train_plan(1, 0)  # the last batch is partial
    row = {name: values[-1] for name, values in rows.items()}
    batch = dataset.packing.assemble(dataset.packing.arrays(), row)
    count = int(batch.weights.sum())
    assert 1 < count < BATCH_SIZE
    model = models.build("linear_map", testing.TASK)
    params: Any = testing.quick_params(model, batch)
    optimizer = optim.make(optim.Settings(), 10)
    key = jax.random.key(0)
    state = TrainState(params, optimizer.init(params), jnp.int32(0), key, {})
    errors, gradients = hand_gradients(params, batch)
    errors, gradients = errors[:count], gradients[:count]
    floor, bound = 0.3, 0.1
    factors = {"none": np.ones(count), "log": 1 / (2 * (errors + floor))}
    for transform in loop.LOSS_TRANSFORMS:
        own = [
            [f * leaf for leaf in g]
            for f, g in zip(factors[transform], gradients, strict=True)
        ]
        norms = [math.sqrt(sum((leaf**2).sum() for leaf in g)) for g in own]
        bound = float(np.mean([min(norms), max(norms)]))  # clips some of them
        for clip in (0.0, bound):
            settings = dataclasses.replace(
                SETTINGS, loss_transform=transform, loss_floor=floor, clip_each=clip
            )
            update = loop.make_update(model, testing.TASK, optimizer, settings)
            metrics = jax.jit(update)(state, batch)[1]
            scales = [min(1, clip / norm) if clip else 1 for norm in norms]
            total = [
                sum(scale * g[k] for scale, g in zip(scales, own, strict=True)) / count
                for k in range(2)
            ]
            expected = math.sqrt(sum((leaf**2).sum() for leaf in total))
            np.testing.assert_allclose(metrics["gradient_norm"], expected, rtol=1e-5)
            # What is told is the error, whatever is trained on.
            np.testing.assert_allclose(metrics["loss"], errors.mean(), rtol=1e-5)
    assert min(norms) < bound < max(norms)


def test_a_gradient_that_overflows_is_left_out_of_the_clipped_mean():
    batch = testing.regular_batch(testing.systems((5, 5)))

    def gradient_fn(params, key, single):
        first = single.graph.nodes.positions[0, 0]
        bad = first == batch.graph.nodes.positions[0, 0]
        return jnp.where(bad, 1.0, 3.0), {"w": jnp.where(bad, jnp.inf, 8.0)}

    clipped = loop.clipped_each(gradient_fn, 2.0)
    params: Any = {"w": jnp.zeros(())}
    loss, gradients = clipped(params, jax.random.key(0), batch)
    assert float(loss) == 2.0
    np.testing.assert_array_equal(jax.tree.leaves(gradients), [1.0])


def test_clipping_of_each_graph_needs_graphs_of_equal_size():
    settings = dataclasses.replace(SETTINGS, clip_each=1.0)
    optimizer = optim.make(ADAM, 10)
    model = models.build("linear", testing.TASK)
    batch = one_batch("mixed")
    params = model.init(jax.random.key(0), batch.graph, True)
    state = TrainState(
        params, optimizer.init(params), jnp.int32(0), jax.random.key(0), {}
    )
    with pytest.raises(UserError, match="leave --clip_each at 0 and use --clip_norm"):
        loop.make_update(model, testing.TASK, optimizer, settings)(state, batch)


def test_moving_average_of_the_parameters():
    batch = one_batch()
    optimizer = optim.make(ADAM, 10)
    model = models.build("linear", testing.TASK)
    settings = dataclasses.replace(SETTINGS, average_decay=0.25)
    update = jax.jit(loop.make_update(model, testing.TASK, optimizer, settings))
    key = jax.random.key(0)
    params = model.init(key, batch.graph, True)
    state = TrainState(params, optimizer.init(params), jnp.int32(0), key, params)
    (expected,) = jax.tree.leaves(params)
    for step in range(6):
        state, _ = update(state, batch)
        decay = min(0.25, (1 + step) / (10 + step))
        (new,) = jax.tree.leaves(state.params)
        expected = decay * expected + (1 - decay) * new
        (found,) = jax.tree.leaves(state.average)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not np.array_equal(found, new)


def test_the_average_is_what_is_evaluated_and_kept(tmp_path):
    trainer = make_trainer("linear", average_decay=0.9)
    run, evaluations, _ = fit(trainer, tmp_path / "last.npz")
    (time,) = jax.tree.leaves(run.state.average)
    assert not np.array_equal(time, jax.tree.leaves(run.state.params)[0])
    expected = linear_errors("valid", float(time[0, 0, 0])).mean()
    np.testing.assert_allclose(evaluations[-1]["valid_loss"][0], expected, rtol=1e-5)


# --- Optimisers ---------------------------------------------------------------------


def test_schedules():
    settings = optim.Settings(learning_rate=0.5, schedule="constant")
    assert [float(optim.learning_rate(settings, 10)(k)) for k in (0, 9)] == [0.5, 0.5]
    settings = optim.Settings(learning_rate=0.5, schedule="cosine", warmup_epochs=4)
    rate = optim.learning_rate(settings, 20)
    for step in (0, 1, 3, 4, 11, 19, 20):
        cosine = 0.25 * (1 + math.cos(math.pi * (step - 4) / 16))
        expected = 0.5 * step / 4 if step < 4 else cosine
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5, atol=1e-7)


def test_the_schedule_of_steps():
    settings = optim.Settings(learning_rate=0.5, schedule="steps", warmup_epochs=10)
    rate = optim.learning_rate(settings, 100)
    found = [float(rate(step)) for step in (5, 10, 79, 81, 89, 91)]
    np.testing.assert_allclose(found, [0.25, 0.5, 0.5, 0.05, 0.05, 0.005], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw"])
def test_weight_decay_enters_where_it_should(name):
    """Into the gradient for adam, past the moments for adamw: by their first step."""
    settings = optim.Settings(name, learning_rate=0.1, weight_decay=0.5)
    optimizer = optim.make(settings, 10)
    params, gradients = {"w": jnp.array([2.0, -3.0])}, {"w": jnp.array([4.0, 1.0])}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # The first step of Adam is the sign of what it sees.
    joined = -0.1 * np.sign([4 + 0.5 * 2, 1 - 0.5 * 3])
    apart = -0.1 * (np.sign([4, 1]) + 0.5 * np.array([2, -3]))
    expected = {"adam": joined, "amsgrad": joined, "adamw": apart}[name]
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-4)


def test_clipping_bounds_the_gradient_alone():
    settings = optim.Settings(learning_rate=1.0, clip_norm=0.5)
    optimizer = optim.make(settings, 10)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    (moments,) = [part.mu for part in state if hasattr(part, "mu")]
    np.testing.assert_allclose(optax.global_norm(moments), 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(moments["a"], [0.03, 0.0], rtol=1e-5)


# --- Metrics ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIZES)
def test_the_partial_last_batch_counts_by_its_graphs(kind, tmp_path):
    """Every loss is a mean over graphs, as computed without batches."""
    still = optim.Settings(learning_rate=1e-12)
    trainer = make_trainer("linear", kind, still, epochs=2, eval_every=2)
    run, (metrics,), _ = fit(trainer, tmp_path / "last.npz")
    for name, split in (("train_loss", "train"), ("valid_loss", "valid")):
        expected = linear_errors(split, 0.7, kind).mean()
        np.testing.assert_allclose(metrics[name][0], expected, rtol=1e-5)
    # More test batches than validation batches pass through the same program.
    errors = trainer.evaluator.evaluate(run.best, trainer.dataset.plan("test")).errors
    expected = linear_errors("test", 0.7, kind)
    np.testing.assert_allclose(errors["position"], expected[None], rtol=1e-5)
    assert trainer.programs.num_compiled == 2
    plans = [trainer.dataset.train_plan(1, epoch) for epoch in range(2)]
    assert metrics["step"] == sum(len(plan["weight"]) for plan in plans)
    assert metrics["gradient_norm"][0] > 0 and metrics["update_norm"][0] > 0


def test_rates_count_updates_and_leave_out_compilation(tmp_path):
    trainer = make_trainer("linear", "mixed", epochs=1)
    run, (metrics,), _ = fit(trainer, tmp_path / "last.npz")
    ratio = metrics["graphs_per_second"] / metrics["steps_per_second"]
    np.testing.assert_allclose(ratio, NUM_TRAIN / metrics["step"], rtol=1e-6)
    training = metrics["step"] / metrics["steps_per_second"]
    assert 0 < training < run.progress.seconds - run.progress.compile_seconds
    np.testing.assert_allclose(
        run.progress.compile_seconds,
        trainer.programs.stopwatch.seconds["compile_seconds"],
    )


def test_mixed_sizes_take_two_programs_whatever_the_order(tmp_path):
    trainer = make_trainer("linear", "mixed", epochs=7, eval_every=3)
    counts = {len(trainer.dataset.train_plan(1, k)["weight"]) for k in range(99)}
    assert len(counts) > 1, "the number of batches does not vary: no test"
    fit(trainer, tmp_path / "last.npz")
    assert trainer.programs.num_compiled == 2


def test_empty_batches_are_skipped():
    trainer = shared_trainer()
    empty = trainer.dataset.packing.empty()
    rows = {
        name: np.repeat(values[:, None], trainer.schedule.steps_per_call, axis=0)
        for name, values in empty.items()
    }
    before = jax.tree.map(jnp.copy, trainer.init())
    kept = jax.tree.map(jnp.copy, before)
    state, metrics = trainer.train(before, rows)
    assert_equal_trees(state, kept)
    assert set(metrics) == set(loop.SUMS)
    assert all(value.tolist() == [0] for value in metrics.values())


def test_training_stays_in_float32():
    trainer = shared_trainer()
    plan = trainer.schedule.plan(0, 1)
    rows = {
        name: values[: trainer.schedule.steps_per_call] for name, values in plan.items()
    }
    state, metrics = trainer.train(trainer.init(), rows)
    leaves = [*jax.tree.leaves((state.params, state.opt_state)), *metrics.values()]
    assert {leaf.dtype.name for leaf in leaves} == {"float32", "int32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}


def test_the_schedule_is_as_long_as_the_run(tmp_path):
    cosine = optim.Settings(learning_rate=0.1, schedule="cosine")
    trainer = make_trainer("linear", optimizer=cosine, epochs=5, eval_every=2)
    assert trainer.schedule.num_steps == 5 * math.ceil(NUM_TRAIN / BATCH_SIZE)
    run, evaluations, _ = fit(trainer, tmp_path / "last.npz")
    assert [metrics["epoch"] for metrics in evaluations] == [2, 4, 5]
    assert int(run.state.step[0]) == trainer.schedule.num_steps
    # What is told is the rate of the last update made.
    last = trainer.schedule.num_steps - 1
    expected = 0.05 * (1 + math.cos(math.pi * last / trainer.schedule.num_steps))
    np.testing.assert_allclose(
        evaluations[-1]["learning_rate"], expected, rtol=1e-4, atol=1e-8
    )


# --- Seeds and the best parameters --------------------------------------------------


@pytest.mark.parametrize("on_cpu", [True, False])
def test_seeds_in_one_program_are_single_runs_and_each_keeps_its_best(tmp_path, on_cpu):
    """One after the other, as on a processor, and side by side, as elsewhere."""
    rough = optim.Settings(learning_rate=0.3)  # so that validation losses go up, too
    seeds = (1, 2, 5)
    snapshots: list[Any] = []
    settings = {"optimizer": rough, "epochs": 6}
    together = make_trainer(seeds=seeds, **settings)
    together.placement.on_cpu = on_cpu
    run, evaluations, _ = fit(together, tmp_path / "all.npz", snapshots=snapshots)
    losses = np.array([metrics["valid_loss"] for metrics in evaluations])  # [B, R]
    best = losses.argmin(axis=0)
    assert (best < len(losses) - 1).any() and len(set(best)) > 1, "no test of the best"
    assert run.progress.best_epoch == (best + 1).tolist()
    assert run.progress.best_loss == losses.min(axis=0).tolist()
    for replica, index in enumerate(best):
        expected = jax.tree.map(lambda x, r=replica: x[r], snapshots[index])
        assert_equal_trees(jax.tree.map(lambda x, r=replica: x[r], run.best), expected)
    for replica, seed in enumerate(seeds[1:], 1):
        alone, own, _ = fit(
            make_trainer(seeds=(seed,), **settings), tmp_path / f"{seed}.npz"
        )
        for name in ("train_loss", "valid_loss", "gradient_norm", "update_norm"):
            found = [metrics[name][replica] for metrics in evaluations]
            expected = [metrics[name][0] for metrics in own]
            np.testing.assert_allclose(found, expected, rtol=1e-3)
        for a, b in zip(*map(jax.tree.leaves, (run.best, alone.best)), strict=True):
            np.testing.assert_allclose(a[replica], b[0], rtol=1e-3, atol=1e-4)


# --- Interruptions ------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_resuming_gives_the_same_bits(tmp_path, calls):
    """Stopped within an interval (1 and 5 calls) and between two of them (3)."""
    trainer = shared_trainer(
        kind="mixed", epochs=4, eval_every=2, max_steps_per_call=2, seeds=(3, 7)
    )
    num_calls = (
        len(trainer.schedule.plan(0, 2)["weight"]) // trainer.schedule.steps_per_call
    )
    assert num_calls == 3
    whole, expected, finished = fit(trainer, tmp_path / "whole.npz")
    assert finished

    asked = iter(range(100))
    path = tmp_path / "part.npz"
    _, first, finished = fit(trainer, path, lambda: next(asked) + 1 >= calls)
    assert not finished and path.exists()
    resumed, second, finished = fit(trainer, path)
    assert finished
    assert_equal_trees(
        (resumed.state, resumed.best),
        jax.tree.map(jnp.asarray, (whole.state, whole.best)),
    )
    times = ("steps_per_second", "graphs_per_second", "wall_seconds")
    for found, one in zip([*first, *second], expected, strict=True):
        for name in set(one) - set(times):
            assert found[name] == one[name], name
    assert resumed.progress.best_epoch == whole.progress.best_epoch


def phased_trainer(calls=None):
    """Two epochs, one and ten of a model that moves by other multiples of v.

    Args:
      calls: gets the multiple of every model that is traced for training.
    """

    def build(multiple):
        def forward(graph, is_training):
            if calls is not None and is_training:
                calls.append(multiple)
            time = hk.get_parameter("time", (), init=jnp.ones)
            scale = multiple if is_training else 1.0
            return {"position": scale * time * graph.nodes.vectors}

        return hk.transform(forward)

    phases = [loop.Phase(2, build(3.0), 0.5), loop.Phase(3, build(2.0))]
    settings = dataclasses.replace(
        SETTINGS, epochs=13, eval_every=5, loss_transform="log"
    )
    dataset = make_dataset()
    return Trainer(build(1.0), dataset, settings, ADAM, phases)


def test_phases_train_other_models_and_end_where_they_should(tmp_path):
    calls: list[float] = []
    trainer = phased_trainer(calls)
    snapshots: list[Any] = []
    _, evaluations, _ = fit(trainer, tmp_path / "last.npz", snapshots=snapshots)
    assert [metrics["epoch"] for metrics in evaluations] == [2, 3, 8, 13]
    assert list(dict.fromkeys(calls[1:])) == [3.0, 2.0, 1.0]  # the first one is init
    assert trainer.programs.num_compiled == 4  # three to train, one to evaluate
    # Each phase pulls its multiple of the parameter to the 1.5 that the data ask for.
    times = [float(jax.tree.leaves(snapshot)[0][0]) for snapshot in snapshots]
    assert times[1] < times[0] < 1 and times[-1] > times[1] + 0.02


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_phases_resume_to_the_same_bits(tmp_path, calls):
    """Stopped in the first phase, in the second and in the run proper."""
    whole, expected, finished = fit(phased_trainer(), tmp_path / "whole.npz")
    assert finished
    asked = iter(range(100))
    path = tmp_path / "part.npz"
    _, first, finished = fit(phased_trainer(), path, lambda: next(asked) + 1 >= calls)
    assert not finished
    resumed, second, finished = fit(phased_trainer(), path)
    assert finished
    assert_equal_trees(
        (resumed.state, resumed.best),
        jax.tree.map(jnp.asarray, (whole.state, whole.best)),
    )
    found = [(one["epoch"], one["train_loss"]) for one in (*first, *second)]
    assert found == [(one["epoch"], one["train_loss"]) for one in expected]


def test_on_save_comes_before_the_checkpoint(tmp_path):
    """So that a kill between the two leaves nothing behind that is too old."""
    trainer = shared_trainer()
    run = Run.start(trainer, tmp_path / "last.npz")
    seen = []
    run.fit(lambda _: None, lambda: seen.append(run.path.exists()), lambda: False)
    # With the first evaluation, and at the end.
    assert seen == [False, True] and run.path.exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    path = tmp_path / "last.npz"
    bad = optim.Settings(learning_rate=1e30)
    diverging = make_trainer(optimizer=bad, epochs=5)
    with pytest.raises(UserError, match="before epoch 1; no checkpoint was written"):
        fit(diverging, path)
    assert not path.exists()
    fit(shared_trainer(), path)  # 3 epochs that go well
    before = path.read_bytes()
    with pytest.raises(UserError, match="not finite before epoch 4") as caught:
        fit(diverging, path)
    assert path.read_bytes() == before
    message = str(caught.value)
    assert f"{path} keeps the last good state" in message
    assert "try a lower --learning_rate or a --clip_norm" in message
    assert "\n" not in message


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path):
    """It ruins the parameters before any loss shows it."""
    trainer = shared_trainer()
    run = Run.start(trainer, tmp_path / "last.npz")
    ruined = {name: np.zeros(1) for name in loop.SUMS} | {
        "gradient_norm": np.full(1, np.inf)
    }
    with pytest.raises(UserError, match="the training gradient is not finite"):
        run._check_finite(ruined, 2)
