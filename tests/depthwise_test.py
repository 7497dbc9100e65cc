"""The depth-wise tensor product against e3nn's generic one, in float64."""

from typing import Any

import e3nn_jax as e3nn
import haiku as hk
import jax
import numpy as np
import pytest

from demetar import pairs
from demetar.nn import capture, depthwise, steerable
from tests.graphs_test import mutual_graph
from tests.steerable_test import random_attribute, random_features, to_e3nn
from tests.support import plain_steerable

TOLERANCE = 1e-10
ROWS = 5


def all_irreps(lmax):
    return [steerable.Irrep(l, p) for l in range(lmax + 1) for p in (-1, 1)]


NATURAL = [steerable.natural_irrep(l) for l in range(4)]


@pytest.mark.parametrize("lmax, irreps", [(1, all_irreps(1)), (3, NATURAL)])
def test_tensor_product_is_e3nns(lmax, irreps):
    with jax.enable_x64(True):
        channels = {irrep: 2 + n for n, irrep in enumerate(irreps)}
        features = random_features(channels, ROWS, seed=1)
        attribute = random_attribute(lmax, ROWS, seed=2)
        paths = depthwise.find_paths(channels, attribute, channels)
        count = depthwise.num_weights(paths, channels)
        weights = np.random.default_rng(3).normal(size=(ROWS, count))
        found = depthwise.tensor_product(features, attribute, paths, weights)
        expected: dict = {}
        start = 0
        for path in paths:
            product = e3nn.tensor_product(
                to_e3nn({path.first: features[path.first]}),
                to_e3nn({path.second: attribute[path.second][..., None]}),
                filter_ir_out=[path.out],
                irrep_normalization="component",
            )
            rows = product.chunks[0]  # [X, C, 2l + 1]
            stop = start + rows.shape[1]
            part = np.asarray(rows) * weights[:, start:stop, None]
            start = stop
            expected.setdefault(path.out, []).append(part)
        assert start == count
        assert set(found) == set(expected) == set(channels)
        for irrep, values in found.items():
            rows = np.concatenate(expected[irrep], axis=1)
            assert np.abs(values - rows.transpose(2, 0, 1)).max() < TOLERANCE


@pytest.mark.parametrize("weighted", [False, True])
def test_a_product_and_its_linear_map_are_one_after_the_other(weighted):
    with jax.enable_x64(True):
        channels = {irrep: 2 + n for n, irrep in enumerate(all_irreps(2))}
        outputs = {irrep: 1 + 2 * n for n, irrep in enumerate(all_irreps(2))}
        features = random_features(channels, ROWS, seed=1)
        attribute = random_attribute(2, ROWS, seed=2)
        paths = depthwise.find_paths(channels, attribute, outputs)
        weights = None
        if weighted:
            count = depthwise.num_weights(paths, channels)
            weights = np.random.default_rng(3).normal(size=(ROWS, count))

        def together():
            mix = depthwise.LinearProduct(outputs, name="mix")
            return mix(features, attribute, paths, weights)

        def apart():
            product = depthwise.tensor_product(features, attribute, paths, weights)
            return steerable.Linear(outputs, name="mix")(product)

        one, other = hk.transform(together), hk.transform(apart)
        params: Any
        others: Any
        params, others = (model.init(jax.random.key(0)) for model in (one, other))
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, others)
        params["mix"]["b_0e"] = np.arange(1.0, 4.0)
        assert params["mix"]["b_0e"].shape == others["mix"]["b_0e"].shape
        found, expected = one.apply(params, None), other.apply(params, None)
        assert set(found) == set(expected) == set(outputs)
        for irrep, values in expected.items():
            assert np.abs(values).max() > 0.1
            assert np.abs(found[irrep] - values).max() < TOLERANCE


def test_what_is_drawn_of_a_product_is_there_before_its_linear_map():
    channels = {steerable.SCALAR: 3, steerable.VECTOR: 2}
    features = random_features(channels, ROWS, seed=1)
    attribute = random_attribute(1, ROWS, seed=2)
    paths = depthwise.find_paths(channels, attribute, channels)

    def both():
        depthwise.tensor_product(features, attribute, paths)
        depthwise.LinearProduct({steerable.SCALAR: 7})(features, attribute, paths)

    with capture.recording_products() as products:
        hk.transform(both).init(jax.random.key(0))
    plain, mixed = products
    assert plain == mixed
    assert plain.outputs == {steerable.SCALAR: 5, steerable.VECTOR: 5}


@pytest.mark.parametrize("spare", [0, 3])
def test_one_edge_of_each_pair_convolves_as_both(spare):
    """Directions turn with the edge, so harmonics of odd degree change their sign."""
    with jax.enable_x64(True):
        graph = mutual_graph(spare)
        bucket = graph.bucket
        half, ways = pairs.ways(graph)
        assert (half.bucket.max_edges, len(ways)) == (bucket.max_edges // 2, 2)
        channels = {irrep: 2 for irrep in all_irreps(2)}
        nodes = random_features(channels, bucket.max_nodes, seed=4)
        positions = np.random.default_rng(5).normal(size=(bucket.max_nodes, 3))
        paths = depthwise.find_paths(channels, NATURAL[:3], channels)
        mix = np.random.default_rng(6).normal(
            size=(1, depthwise.num_weights(paths, channels))
        )

        def received(edges, ways):
            vectors = positions[edges.senders] - positions[edges.receivers]
            weights = np.linalg.norm(vectors, axis=-1, keepdims=True) * mix
            attribute = depthwise.harmonics(vectors, 2)
            return depthwise.convolve(nodes, attribute, paths, weights, edges, ways)

        found, expected = received(half, ways), received(graph, (pairs.FORWARD,))
        for irrep, values in expected.items():
            assert np.abs(values[:, :7]).min(axis=(0, 2)).max() > 1e-6
            assert np.abs((found[irrep] - values)[:, :-1]).max() < TOLERANCE


def test_paths_are_those_that_symmetry_allows():
    odd, even = steerable.Irrep("1o"), steerable.Irrep("1e")
    scalar, vector = steerable.SCALAR, steerable.VECTOR
    paths = depthwise.find_paths([vector], [scalar, vector], [scalar, even])
    assert paths == [(odd, vector, scalar), (odd, vector, even)]
    assert depthwise.num_weights(paths, {vector: 5}) == 10
    assert depthwise.find_paths([scalar], [scalar], [vector]) == []


def test_harmonics_have_unit_components():
    with jax.enable_x64(True):
        vectors = np.random.default_rng(0).normal(size=(4, 3))
        vectors[2] = 0
        found = depthwise.harmonics(vectors, 2)
        for row, vector in enumerate(vectors):
            for irrep, values in plain_steerable.harmonics(vector, 2).items():
                assert np.abs(found[irrep][:, row] - values).max() < TOLERANCE
        assert not found[steerable.VECTOR][:, 2].any()


def test_gate_is_e3nns():
    with jax.enable_x64(True):
        channels = dict.fromkeys(all_irreps(1), 3)
        gated = steerable.gated_channels(channels)
        assert gated[steerable.SCALAR] == 3 + 2 * 3
        features = random_features(gated, ROWS, seed=4)
        found = steerable.gate(features, jax.nn.silu)
        assert {irrep: values.shape[-1] for irrep, values in found.items()} == channels
        for row in range(ROWS):
            plain = {irrep: values[:, row].T for irrep, values in features.items()}
            expected = plain_steerable.gate(plain, jax.nn.silu)
            for irrep, values in expected.items():
                assert np.abs(found[irrep][:, row].T - values).max() < TOLERANCE
