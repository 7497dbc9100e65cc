"""Geometry: differentiable everywhere, per graph, and in e3nn's conventions."""

import dataclasses

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import geometry, graphs, testing
from demetar.types import Nodes


def vectors(count=7, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def test_safe_norm_is_the_norm():
    values = vectors()
    np.testing.assert_allclose(
        geometry.safe_norm(values), np.linalg.norm(values, axis=-1), rtol=1e-6
    )
    assert geometry.safe_norm(values, axis=0, keepdims=True).shape == (1, 3)
    np.testing.assert_allclose(
        geometry.safe_norm(values, axis=0), np.linalg.norm(values, axis=0), rtol=1e-6
    )


def test_safe_norm_has_a_zero_gradient_at_zero():
    assert geometry.safe_norm(np.zeros(3)) == 0
    gradient = jax.grad(geometry.safe_norm)(jnp.zeros(3))
    np.testing.assert_array_equal(gradient, np.zeros(3))
    masked = jax.grad(lambda x: jnp.where(False, jnp.linalg.norm(x), 0.0))
    assert bool(jnp.isnan(masked(jnp.zeros(3))).all()), "the fault it is there for"
    value = vectors()[0]
    np.testing.assert_allclose(
        jax.grad(geometry.safe_norm)(value), value / np.linalg.norm(value), rtol=1e-6
    )


def test_edge_vectors_point_from_sender_to_receiver():
    batch = testing.make_batch(testing.systems())
    positions = np.asarray(batch.graph.nodes.positions)
    expected = positions[batch.graph.receivers] - positions[batch.graph.senders]
    found = geometry.edge_vectors(batch.graph)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("regular", [False, True])
def test_positions_are_centred_per_graph_over_its_particles(regular):
    members = testing.systems((5, 5, 5) if regular else testing.SIZES)
    make = testing.regular_batch if regular else testing.make_batch
    batch = make(members)
    found = np.asarray(geometry.centred_positions(batch.graph))
    start = 0
    for system in members:
        stop = start + len(system.charges)
        expected = system.positions - system.positions.mean(axis=0)
        np.testing.assert_allclose(found[start:stop], expected, atol=1e-6)
        start = stop


@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
def test_harmonics_are_those_of_e3nn(lmax):
    values = vectors()
    found = geometry.spherical_harmonics(values, lmax)
    irreps = e3nn.Irreps.spherical_harmonics(lmax)
    expected = e3nn.spherical_harmonics(
        irreps, values, normalize=True, normalization="integral"
    )
    assert set(found) == set(range(lmax + 1))
    stacked = np.concatenate([found[degree] for degree in range(lmax + 1)])
    np.testing.assert_allclose(stacked.T, expected.array, rtol=1e-5, atol=1e-6)


def test_harmonics_of_degree_one_are_components_in_the_order_of_e3nn():
    values = vectors()
    units = values / np.linalg.norm(values, axis=-1, keepdims=True)
    # Integral normalisation: the mean square over the sphere is 1 / 4 pi.
    expected = np.sqrt(3 / (4 * np.pi)) * units.T
    found = geometry.spherical_harmonics(values, 1)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_harmonics_of_a_zero_vector_are_zero_with_zero_gradients():
    def total(values):
        harmonics = geometry.spherical_harmonics(values, 3)
        return sum(jnp.sum(harmonics[degree]) for degree in (1, 2, 3))

    zeros = jnp.zeros((2, 3))
    for degree, values in geometry.spherical_harmonics(zeros, 3).items():
        expected = np.sqrt(1 / (4 * np.pi)) if degree == 0 else 0.0
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    gradient = jax.grad(total)(zeros)
    assert bool(jnp.isfinite(gradient).all())
    above = jax.grad(
        lambda x: (
            jnp.sum(geometry.spherical_harmonics(x, 3)[2])
            + jnp.sum(geometry.spherical_harmonics(x, 3)[3])
        )
    )
    np.testing.assert_array_equal(above(zeros), np.zeros((2, 3)))


def test_transform_nodes_by_one_matrix_and_by_one_per_node():
    generator = np.random.default_rng(0)
    nodes = Nodes(
        generator.normal(size=(5, 3)).astype(np.float32),
        generator.normal(size=(5, 2)).astype(np.float32),
        generator.normal(size=(5, 2, 3)).astype(np.float32),
    )
    matrices = np.asarray(geometry.random_rotations(jax.random.key(0), (5,)))
    one = geometry.transform_nodes(nodes, matrices[0])
    each = geometry.transform_nodes(nodes, matrices)
    for node in range(5):
        for found, matrix in ((one, matrices[0]), (each, matrices[node])):
            np.testing.assert_allclose(
                found.positions[node],
                matrix @ nodes.positions[node],
                rtol=1e-5,
                atol=1e-6,
            )
            for k in range(2):
                np.testing.assert_allclose(
                    found.vectors[node, k],
                    matrix @ nodes.vectors[node, k],
                    rtol=1e-5,
                    atol=1e-6,
                )
    np.testing.assert_array_equal(each.scalars, nodes.scalars)


def test_random_rotations_are_rotations_and_differ():
    matrices = np.asarray(geometry.random_rotations(jax.random.key(1), (101,)))
    assert matrices.shape == (101, 3, 3) and matrices.dtype == np.float32
    identity = np.broadcast_to(np.eye(3), matrices.shape)
    products = matrices @ matrices.transpose(0, 2, 1)
    np.testing.assert_allclose(products, identity, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-5)
    # Uniform in SO(3): a column is uniform on the sphere, its mean is near 0.
    assert np.abs(matrices.mean(axis=0)).max() < 0.25
    assert geometry.random_rotations(jax.random.key(1)).shape == (3, 3)


def test_edge_vectors_turn_with_the_nodes():
    batch = testing.make_batch(testing.systems())
    matrix = testing.rotation().astype(np.float32)
    turned = dataclasses.replace(
        batch.graph, nodes=geometry.transform_nodes(batch.graph.nodes, matrix)
    )
    found = geometry.edge_vectors(turned)
    expected = geometry.edge_vectors(batch.graph) @ matrix.T
    real = np.asarray(graphs.edge_mask(batch.graph))
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-5)
