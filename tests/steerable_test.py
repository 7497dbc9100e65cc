"""Steerable layers against e3nn's generic ones, in float64."""

from typing import Any

import e3nn_jax as e3nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import graphs, testing
from demetar.nn import steerable
from experiments.benchmark import generic_segnn

TOLERANCE = 1e-10
ROWS = 7


def natural(lmax, num_channels=3):
    """Channels of natural irreps up to lmax, another number for each degree."""
    degrees = range(lmax + 1)
    return {steerable.natural_irrep(l): num_channels + l for l in degrees}


def random_features(channels, rows, seed):
    generator = np.random.default_rng(seed)
    return {
        irrep: generator.normal(size=(irrep.dim, rows, num))
        for irrep, num in channels.items()
    }


def random_attribute(lmax, rows, seed):
    features = random_features(natural(lmax, 0), rows, seed)
    generator = np.random.default_rng(seed)
    return {irrep: generator.normal(size=(irrep.dim, rows)) for irrep in features}


def to_e3nn(features: steerable.Features) -> e3nn.IrrepsArray:
    """Component-major features as e3nn's rows of irreps, in sorted order."""
    irreps = e3nn.Irreps([(features[ir].shape[-1], ir) for ir in sorted(features)])
    chunks = [jnp.transpose(features[irrep], (1, 2, 0)) for irrep in sorted(features)]
    return e3nn.from_chunks(irreps, chunks, (chunks[0].shape[0],), chunks[0].dtype)


def generic_tensor_product(params, features, attribute):
    """e3nn's tensor product with our weights."""
    second = to_e3nn({irrep: value[..., None] for irrep, value in attribute.items()})
    result = generic_segnn.tensor_product(params, to_e3nn(features), second)
    return {
        irrep: jnp.transpose(chunk, (2, 0, 1))
        for (_, irrep), chunk in zip(result.irreps, result.chunks, strict=True)
    }


def with_gradients(function, *args):
    """The outputs of a function, and the gradients of the sum of their squares."""

    def loss(*args):
        outputs = function(*args)
        return sum(jnp.sum(jnp.square(leaf)) for leaf in outputs.values()), outputs

    numbers = tuple(range(len(args)))
    gradients, outputs = jax.grad(loss, argnums=numbers, has_aux=True)(*args)
    return {"outputs": outputs} | {
        f"gradient {number}": gradient for number, gradient in enumerate(gradients)
    }


def assert_all_equal(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        assert_equal(found[name], expected[name])


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for irrep in expected:
        assert found[irrep].dtype == np.float64
        size = float(np.sqrt(np.mean(np.square(expected[irrep]))))
        assert size > 1e-2
        np.testing.assert_allclose(
            found[irrep], expected[irrep], rtol=0, atol=TOLERANCE * size
        )


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_tensor_product_is_the_generic_one(lmax):
    with jax.enable_x64(True):
        inputs = random_features(natural(lmax), ROWS, seed=lmax)
        attribute = random_attribute(lmax, ROWS, seed=10 + lmax)
        channels = natural(lmax, 2)

        @jax.jit
        def both(inputs, attribute):
            layer = hk.transform(
                lambda x, a: steerable.TensorProduct(channels, name="layer")(x, a)
            )
            params: Any = layer.init(jax.random.key(0), inputs, attribute)
            args = (params["layer"], inputs, attribute)
            return with_gradients(
                lambda params, *args: layer.apply({"layer": params}, None, *args), *args
            ), with_gradients(generic_tensor_product, *args)

        assert_all_equal(*both(inputs, attribute))


def test_parities_that_do_not_couple_are_left_out():
    """Polar and axial vectors, pseudoscalars: every path that e3nn has."""
    channels = {e3nn.Irrep(name): 2 for name in ("0e", "0o", "1e", "1o")}
    with jax.enable_x64(True):
        inputs = random_features(channels, ROWS, seed=0)
        attribute = random_attribute(1, ROWS, seed=1)

        @jax.jit
        def both(inputs, attribute):
            layer = hk.transform(
                lambda x, a: steerable.TensorProduct(channels, name="layer")(x, a)
            )
            params: Any = layer.init(jax.random.key(0), inputs, attribute)
            args = (params["layer"], inputs, attribute)
            return with_gradients(
                lambda params, *args: layer.apply({"layer": params}, None, *args), *args
            ), with_gradients(generic_tensor_product, *args)

        assert_all_equal(*both(inputs, attribute))


@pytest.mark.parametrize("lmax, regular", [(1, False), (2, True), (3, False)])
def test_edge_tensor_product_is_that_of_the_concatenation(lmax, regular):
    with jax.enable_x64(True):
        batch = testing.float64_batch(regular)
        graph = batch.graph
        bucket = graph.bucket
        nodes = random_features(natural(lmax), bucket.max_nodes, seed=0)
        # Edges have scalars, and vectors of their own where lmax allows.
        own = {steerable.SCALAR: 2, steerable.VECTOR: 1}
        edges = random_features(own, bucket.max_edges, seed=1)
        attribute = random_attribute(lmax, bucket.max_edges, seed=2)
        channels = natural(lmax, 2)

        def at_edges(nodes, edges, attribute):
            layer = steerable.EdgeTensorProduct(channels, name="layer")
            return layer(nodes, edges, attribute, graph)

        def concatenated(nodes, edges, attribute):
            parts = [
                {ir: graphs.gather_receivers(x, graph) for ir, x in nodes.items()},
                {ir: graphs.gather_senders(x, graph) for ir, x in nodes.items()},
                edges,
            ]
            layer = steerable.TensorProduct(channels, name="layer")
            return layer(steerable.concatenate(parts), attribute)

        @jax.jit
        def both(*args):
            fast, slow = hk.transform(at_edges), hk.transform(concatenated)
            params: Any = slow.init(jax.random.key(0), *args)
            shapes = jax.tree.map(jnp.shape, fast.init(jax.random.key(0), *args))
            assert shapes == jax.tree.map(jnp.shape, params)

            def at_params(model):
                return lambda params, *args: model.apply({"layer": params}, None, *args)

            return tuple(
                with_gradients(at_params(model), params["layer"], *args)
                for model in (fast, slow)
            )

        assert_all_equal(*both(nodes, edges, attribute))


def test_gate_is_that_of_e3nn():
    channels = {e3nn.Irrep("0e"): 3, e3nn.Irrep("1o"): 2, e3nn.Irrep("2e"): 4}
    with jax.enable_x64(True):
        features = random_features(steerable.gated_channels(channels), ROWS, seed=0)
        assert features[steerable.SCALAR].shape[-1] == 3 + 2 + 4

        @jax.jit
        def both(features):
            expected = e3nn.gate(
                to_e3nn(features),
                even_act=jax.nn.silu,
                even_gate_act=jax.nn.sigmoid,
            )
            chunks = {
                irrep: jnp.transpose(chunk, (2, 0, 1))
                for (_, irrep), chunk in zip(
                    expected.irreps, expected.chunks, strict=True
                )
            }
            return steerable.gate(features), chunks

        found, expected = both(features)
        assert {irrep: value.shape[-1] for irrep, value in found.items()} == channels
        assert_equal(found, expected)


def test_number_of_paths():
    # l1 x l2 -> l3 with natural parity: 0x0->0, 0x1->1, 1x0->1, 1x1->0, of degree 1.
    assert steerable.natural_paths(0, 0) == 1
    assert steerable.natural_paths(1, 1) == 4
    assert steerable.natural_paths(2, 2) == 11
