"""Linear layers as they are written for speed, against how they are defined."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import graphs, testing
from demetar.nn import mlp

TOLERANCE = 1e-10


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def assert_same(functions, *args):
    """Equal values and gradients, in float64."""
    numbers = tuple(range(len(args)))
    found, expected = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), numbers))(
            *args
        )
        for f in functions
    )
    for leaf, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert other.dtype == np.float64 and float(np.abs(other).max()) > 1e-3
        np.testing.assert_allclose(leaf, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(7, 3), (5, 7, 3), (3,)])
def test_the_product_and_its_gradient_are_those_of_numpy(shape):
    with jax.enable_x64(True):
        inputs, w = random(*shape), random(3, 4, seed=1)
        assert_same((mlp.matmul, jnp.matmul), inputs, w)


def test_the_gradient_of_the_gradient_is_that_of_numpy():
    with jax.enable_x64(True):
        inputs, w = random(7, 3), random(3, 4, seed=1)

        def steepness(product):
            def loss(inputs, w):
                return jnp.sum(jnp.sin(product(inputs, w)))

            return lambda inputs, w: jax.grad(loss)(inputs, w)

        assert_same((steepness(mlp.matmul), steepness(jnp.matmul)), inputs, w)


@pytest.mark.parametrize("varied", [(0,), (1,), (0, 1)])
def test_forward_mode_is_that_of_numpy_in_any_order(varied):
    """Also of a gradient, and where one of the two does not vary."""
    with jax.enable_x64(True):
        args = random(5, 3), random(3, 4, seed=1)
        chosen = tuple(args[index] for index in varied)

        def derivatives(product):
            def loss(*values):
                own = dict(zip(varied, values, strict=True))
                both = (own.get(index, args[index]) for index in (0, 1))
                return jnp.sum(jnp.sin(product(*both)))

            gradient = jax.grad(loss, range(len(varied)))
            return [
                jax.jvp(loss, chosen, chosen),
                jax.jvp(gradient, chosen, chosen),
                jax.linearize(gradient, *chosen)[1](*chosen),
                jax.hessian(loss)(*chosen),
            ]

        found, expected = (
            jax.tree.leaves(jax.jit(lambda f=f: derivatives(f))())
            for f in (mlp.matmul, jnp.matmul)
        )
        for leaf, other in zip(found, expected, strict=True):
            assert float(np.abs(other).max()) > 1e-3
            np.testing.assert_allclose(leaf, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["silu", "sigmoid"])
def test_activations_are_those_of_jax(name):
    with jax.enable_x64(True):
        values = np.concatenate([random(50), [0.0, -30.0, 30.0, -800.0, 800.0]])
        assert_same((getattr(mlp, name), getattr(jax.nn, name)), values)


@pytest.mark.parametrize("regular", [True, False])
def test_an_edge_layer_is_the_layer_on_both_ends_and_the_edge(regular):
    with jax.enable_x64(True):
        batch = testing.float64_batch(regular)
        graph = batch.graph
        nodes = random(graph.bucket.max_nodes, 3)
        edges = random(graph.bucket.max_edges, 2, seed=1)

        def at_edges(nodes, edges):
            return mlp.EdgeLinear(4, name="layer")(nodes, edges, graph)

        def concatenated(nodes, edges):
            ends = [
                graphs.gather_receivers(nodes, graph),
                graphs.gather_senders(nodes, graph),
            ]
            return mlp.Linear(4, name="layer")(jnp.concatenate([*ends, edges], -1))

        layers = [hk.transform(function) for function in (at_edges, concatenated)]
        params: Any = layers[0].init(jax.random.key(0), nodes, edges)
        params = {name: random(*leaf.shape) for name, leaf in params["layer"].items()}

        def apply(layer):
            return lambda nodes, edges, w, b: layer.apply(
                {"layer": {"w": w, "b": b}}, None, nodes, edges
            )

        functions = [apply(layer) for layer in layers]
        assert_same(functions, nodes, edges, params["w"], params["b"])


def test_glorot_draws_within_its_limit():
    """sqrt(6 / (inputs + outputs)), and the initialisers of a perceptron are used."""

    def drawn():
        network = mlp.MLP(
            [60, 3], w_init=mlp.GLOROT_UNIFORM, b_init=mlp.ZEROS, last_w_init=mlp.ZEROS
        )
        network(jnp.ones((1, 40)))
        return None

    params: Any = hk.transform(drawn).init(jax.random.key(0))
    first, last = params["mlp/linear_0"], params["mlp/linear_1"]
    limit = (6 / 100) ** 0.5
    assert 0.99 * limit < np.abs(first["w"]).max() <= limit
    assert not any(np.any(leaf) for leaf in (first["b"], last["w"], last["b"]))
