"""SEGNN is the function of e3nn's generic layers, in float64, at every degree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models
from experiments.benchmark import generic_segnn, programs

TOLERANCE = 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_segnn_and_its_gradient_are_those_of_the_generic_layers(lmax):
    with jax.enable_x64(True):
        dataset = programs.random_dataset(2, 4)
        task = dataset.task
        batch = jax.tree.map(
            lambda leaf: (
                jnp.asarray(leaf, np.float64) if leaf.dtype == np.float32 else leaf
            ),
            programs.only_batch(dataset),
        )
        fields = {"lmax_hidden": lmax, "lmax_attributes": lmax}
        fields |= {"num_layers": 1, "hidden_units": 12}
        model = models.build("segnn", task, fields)
        graph = batch.graph

        def ours(params):
            return model.apply(params, None, graph, False)["position"]

        def generic(params):
            return generic_segnn.forward(params, batch, task, lmax, num_layers=1)

        @jax.jit
        def both(key):
            params = model.init(key, graph, True)
            return [outputs_and_gradients(f, params) for f in (ours, generic)]

        found, expected = both(jax.random.key(0))
        for path, leaf in jax.tree.leaves_with_path(expected):
            assert leaf.dtype == np.float64 and float(np.abs(leaf).max()) > 0, path
        jax.tree.map(assert_close, found, expected)


def outputs_and_gradients(function, params):
    def loss(params):
        outputs = function(params)
        return jnp.sum(jnp.square(outputs)), outputs

    gradients, outputs = jax.grad(loss, has_aux=True)(params)
    return outputs, gradients


def assert_close(found, expected):
    size = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * size)
