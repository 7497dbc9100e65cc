"""Muon on stacks of matrices is Muon on each of them."""

import jax
import jax.flatten_util
import numpy as np
import optax
from optax import contrib

from demetar.train import flat, optim

SHAPES = {"a": (3, 5), "b": (3, 5), "c": (5, 3), "d": (4,), "e": (2, 2, 2), "f": (1, 3)}
STEPS = 3
SETTINGS = optim.Settings("muon", 0.1, "cosine", weight_decay=0.2)


def random_tree(seed):
    generator = np.random.default_rng(seed)
    values = {name: generator.normal(size=shape) for name, shape in SHAPES.items()}
    return {"layer": jax.tree.map(lambda leaf: leaf.astype(np.float32), values)}


def trained(optimizer, params):
    """Parameters after some steps along random gradients."""

    def run(params):
        state = optimizer.init(params)
        for step in range(STEPS):
            updates, state = optimizer.update(random_tree(step), state, params)
            params = optax.apply_updates(params, updates)
        return params

    return jax.jit(run)(params)


def test_steps_are_those_of_matrices_one_by_one():
    rate = optim.learning_rate(SETTINGS, 10)
    plain = contrib.muon(rate, weight_decay=0.2, adam_weight_decay=0.2)
    start = random_tree(7)
    expected, found = (trained(one, start) for one in (plain, optim.make(SETTINGS, 10)))
    assert optim.needs_shapes(SETTINGS)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        *(found, expected),
    )
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), found, start)
    assert min(jax.tree.leaves(moved)) > 0.01


def test_vectors_of_parameters_keep_their_matrices():
    params = random_tree(7)
    optimizer = optim.make(SETTINGS, 10)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    of_vectors = flat.optimizer_of_vectors(optimizer, stacked)
    state = optimizer.init(params)
    vector = jax.flatten_util.ravel_pytree(params)[0]
    gradient = jax.flatten_util.ravel_pytree(random_tree(0))[0]
    found, _ = jax.jit(of_vectors.update)(gradient, state, vector)
    updates, _ = jax.jit(optimizer.update)(random_tree(0), state, params)
    expected = jax.flatten_util.ravel_pytree(updates)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
