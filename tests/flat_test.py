"""Parameters and moments as vectors within a call: the same training, other kernels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models
from demetar.train import flat, loop, optim
from demetar.train.trainer import Trainer
from demetar.types import TrainState
from tests import loop_test

FIELDS = {"hidden_size": 6, "num_layers": 2}
STEPS = 6


def test_states_come_back_as_they_were():
    params = {
        "a": {"w": jnp.arange(6.0).reshape(2, 3)},
        "b": {"w": jnp.ones((2, 1, 2))},
    }
    moments = optim.make(optim.Settings(clip_norm=1.0), 1).init(params)
    averages: tuple[Any, ...] = ({}, jax.tree.map(lambda leaf: leaf + 7, params))
    for average in averages:
        state = TrainState(
            params, moments, jnp.arange(2), jax.random.split(jax.random.key(0)), average
        )
        vectors: Any
        vectors, restore = flat.flatten(state)
        assert vectors.params.shape == (2, 5)
        shapes = {leaf.shape for leaf in jax.tree.leaves(vectors.opt_state)}
        assert (2, 5) in shapes and (2, 1, 2) not in shapes
        loop_test.assert_equal_trees(restore(vectors), state)


@pytest.mark.parametrize("clip_each", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
@pytest.mark.slow
def test_training_is_that_of_the_trees(clip_each):
    """Every part of an update, against updates one by one with their names."""
    with jax.enable_x64(True):
        dataset = loop_test.make_dataset()
        settings = loop.Settings(
            epochs=2, eval_every=2, average_decay=0.9, clip_each=clip_each
        )
        asked = optim.Settings("adamw", 0.01, "cosine", weight_decay=0.1, clip_norm=0.3)
        model = models.build("egnn", dataset.task, FIELDS)
        trainer = Trainer(model, dataset, settings, asked)
        state = trainer.init()
        single = jax.tree.map(lambda leaf: leaf[0].copy(), state)
        plan = trainer.schedule.plan(0, 2)
        assert len(plan["weight"]) == STEPS
        update = jax.jit(
            loop.make_update(
                model,
                dataset.task,
                optim.make(asked, trainer.schedule.num_steps),
                settings,
            )
        )
        assemble = functools.partial(dataset.packing.assemble, dataset.packing.arrays())
        sums = dict.fromkeys(loop.METRICS, 0.0)
        for step in range(STEPS):
            batch = assemble({name: rows[step, 0] for name, rows in plan.items()})
            single, told = update(single, batch)
            told["loss"] *= batch.weights.sum()
            sums = {name: sums[name] + float(told[name]) for name in sums}
        found, told = trainer.train(state, trainer.placement.rows(plan))
        for name, value in sums.items():
            np.testing.assert_allclose(told[name][0], value, rtol=1e-5)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x[0], y, rtol=1e-4, atol=1e-6),
            (found.params, found.opt_state, found.average),
            (single.params, single.opt_state, single.average),
        )
