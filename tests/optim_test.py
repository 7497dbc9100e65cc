"""Optimisers: bounds of gradients, and the one without a schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from demetar.errors import UserError
from demetar.train import optim
from tests import loop_test


def test_the_norm_of_a_gradient_is_bounded_by_those_before_it():
    transform = optim.clip_by_recent_norms()
    state = transform.init({"w": jnp.zeros(2)})
    norms, generator = [optim.FIRST_NORM], np.random.default_rng(0)
    for step in range(120):
        gradient = generator.normal(size=2) * (40 if step % 30 == 29 else 1)
        recent = np.array(norms[-optim.RECENT :])
        bound = 1.5 * recent.mean() + 2 * recent.std()
        size = np.linalg.norm(gradient)
        expected = gradient * min(1, bound / size)
        found, state = transform.update({"w": jnp.asarray(gradient)}, state)
        np.testing.assert_allclose(found["w"], expected, rtol=2e-3)
        norms.append(min(size, bound))
    assert max(norms[60:]) < 20  # the outliers, of some 50, were bounded


def test_adaptive_clipping_is_part_of_the_optimiser():
    made = optim.make(optim.Settings(adaptive_clip=True), 10)
    state = made.init({"w": jnp.zeros(3)})
    assert any(isinstance(part, optim.RecentNorms) for part in state)
    plain = optim.make(optim.Settings(), 10).init({"w": jnp.zeros(3)})
    assert not any(isinstance(part, optim.RecentNorms) for part in plain)
    assert isinstance(made, optax.GradientTransformation)


FREE = optim.Settings(optimizer="schedule_free", learning_rate=0.3, weight_decay=0.01)


def test_the_average_of_schedule_free_is_optaxs():
    target = jnp.array([1.0, -2.0, 0.5])
    plain = contrib.schedule_free_adamw(0.3, b1=0.9, weight_decay=0.01)
    found = []
    for optimizer in (optim.make(FREE, 100), plain):
        params = {"w": jnp.zeros(3)}
        state = optimizer.init(params)
        for step in range(60):
            noise = np.random.default_rng(step).normal(size=3)
            gradients = {"w": 2 * (params["w"] - target) + noise}
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        if optimizer is plain:
            average = contrib.schedule_free_eval_params(state, params)
        else:
            stacked = jax.tree.map(
                lambda leaf: jnp.asarray(leaf)[None], (params, state)
            )
            several = optim.evaluated(FREE, *stacked)
            average = jax.tree.map(lambda leaf: leaf[0], several)
        found.append((params["w"], average["w"]))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)
    misses = [np.abs(own - target).max() for own in found[0]]
    assert misses[1] < misses[0] and misses[1] < 0.3  # the average is quieter


def test_other_optimisers_are_judged_by_their_last_update():
    params = {"layer": {"w": jnp.ones((1, 3))}}
    assert optim.evaluated(optim.Settings(), params, ()) is params


def test_schedule_free_has_no_schedule_and_no_other_average():
    optim.check(FREE, 0.0)
    optim.check(optim.Settings(schedule="cosine"), 0.9)
    with pytest.raises(UserError, match="give --schedule=constant --average_decay=0"):
        optim.check(FREE, 0.9)
    with pytest.raises(UserError, match="found --schedule=cosine"):
        optim.check(optim.Settings("schedule_free", 0.3, "cosine"), 0.0)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_the_loop_evaluates_and_keeps_the_average(num_seeds, tmp_path):
    seeds = tuple(range(num_seeds))
    trainer = loop_test.make_trainer(optimizer=FREE, seeds=seeds)
    run, _, _ = loop_test.fit(trainer, tmp_path / "last.npz")
    params, state = run.state.params, run.state.opt_state
    expected = optim.evaluated(FREE, params, state)
    found = trainer.evaluated_params(run.state)
    for one, two, plain in zip(
        *map(jax.tree.leaves, (found, expected, params)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
        assert one.shape[0] == num_seeds and np.abs(one - plain).max() > 0
    loss = trainer.evaluator.validate(found)["position"]
    np.testing.assert_allclose(loss, run.valid_loss, rtol=1e-6)
