"""Heads of dipole moments and spatial extents, against their sums in loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import elements, geometry, heads, testing
from demetar.errors import UserError
from demetar.nn import inputs, readout
from demetar.types import Head

HEAD = Head("property", "graph_scalar", size=2, mean=3.0, scale=2.0)
SIZES = (3, 2)
TASK = testing.MOLECULES


def molecules():
    """Two molecules far from the origin, with padding."""
    batch = testing.make_batch(
        testing.moved(testing.systems(SIZES), np.eye(3), 10 * testing.SHIFT),
        "float64",
        extra=1,
        task=TASK,
    )
    return batch.graph


def from_centre_of_mass(graph):
    """Vectors from the centre of mass, molecule after molecule."""
    masses = [1.008, 12.011, 14.007, 15.999, 18.998]
    start = 0
    for size in SIZES:
        rows = range(start, start + size)
        positions = [np.asarray(graph.nodes.positions[i]) for i in rows]
        own = [masses[int(np.argmax(graph.nodes.scalars[i]))] for i in rows]
        total = sum(m * x for m, x in zip(own, positions, strict=True))
        yield [(i, x - total / sum(own)) for i, x in zip(rows, positions, strict=True)]
        start += size


def values_of(bucket):
    """Charges [N, 2] and moments [3, N, 2]."""
    generator = np.random.default_rng(3)
    charges = generator.normal(size=(bucket.max_nodes, 2))
    return charges, generator.normal(size=(3, bucket.max_nodes, 2))


@pytest.mark.parametrize("with_moments", [True, False])
def test_a_dipole_is_the_length_of_a_sum(with_moments):
    with jax.enable_x64(True):
        graph = molecules()
        charges, moments = values_of(graph.bucket)
        given = moments if with_moments else None
        apply = jax.jit(readout.dipole, static_argnums=(0, 1))
        found = np.asarray(apply(TASK, HEAD, charges, given, graph))
    assert np.isfinite(found).all()
    for row, atoms in enumerate(from_centre_of_mass(graph)):
        for t in range(2):
            total = sum(charges[i, t] * x for i, x in atoms)
            if with_moments:
                total = total + sum(moments[:, i, t] for i, _ in atoms)
            prediction = HEAD.mean + HEAD.scale * found[row, t]
            expected = np.sqrt(sum(total**2))
            assert abs(prediction - expected) < 1e-9


def test_a_spatial_extent_is_a_sum_of_squares():
    with jax.enable_x64(True):
        graph = molecules()
        values, _ = values_of(graph.bucket)
        found = np.asarray(readout.spatial_extent(TASK, HEAD, values, graph))
    assert np.isfinite(found).all()
    for row, atoms in enumerate(from_centre_of_mass(graph)):
        for t in range(2):
            expected = sum(values[i, t] * sum(x**2) for i, x in atoms)
            prediction = HEAD.mean + HEAD.scale * found[row, t]
            assert abs(prediction - expected) < 1e-9


def test_what_is_known_by_species_is_not_added_to_an_extent():
    """The value, what is known and what remains together, is the sum of squares."""
    head = dataclasses.replace(HEAD, extensive=True, offsets=(1.0, -2.0, 3.0, 5.0, 7.0))
    task = dataclasses.replace(TASK, heads=(head,), species=TASK.scalars)
    with jax.enable_x64(True):
        graph = molecules()
        values, _ = values_of(graph.bucket)
        found = readout.spatial_extent(task, head, values, graph)
        plain = readout.spatial_extent(
            TASK, dataclasses.replace(HEAD, mean=0.0), values, graph
        )
        residual, total = (np.asarray(one)[: len(SIZES)] for one in (found, plain))
        scalars, n_node = graph.nodes.scalars, np.asarray(graph.n_node)
    counts = heads.composition(task, scalars, n_node)[: len(SIZES)]
    told = heads.absolute(head, head.scale * residual, counts)
    np.testing.assert_allclose(told, head.scale * total, rtol=1e-9)
    assert np.abs(residual - total).min() > 0.1


def test_a_dipole_of_zero_has_a_gradient():
    with jax.enable_x64(True):
        graph = molecules()

        def total(charges):
            return readout.dipole(TASK, HEAD, charges, None, graph).sum()

        gradient = jax.grad(total)(jnp.zeros((graph.bucket.max_nodes, 2)))
    assert np.isfinite(gradient).all()


def test_the_centroid_is_another_point(monkeypatch):
    """Negative control: equal masses give another extent."""
    right = geometry.centred_positions
    with jax.enable_x64(True):
        graph = molecules()
        values, _ = values_of(graph.bucket)
        expected = readout.spatial_extent(TASK, HEAD, values, graph)
        monkeypatch.setattr(
            geometry,
            "centred_positions",
            lambda graph, masses: right(graph),
        )
        found = np.asarray(readout.spatial_extent(TASK, HEAD, values, graph))
    assert np.abs(found - expected)[: len(SIZES)].min() > 1e-3


def test_the_head_or_the_model_chooses_the_output():
    dipole = dataclasses.replace(HEAD, quantity="dipole")
    assert readout.output_of(HEAD, "target") == "scalar"
    assert readout.output_of(dipole, "target") == "dipole"
    assert readout.output_of(dipole, "scalar") == "scalar"
    assert readout.output_of(HEAD, "spatial_extent") == "spatial_extent"
    vector = Head("position", "node_vector")
    assert readout.output_of(vector, "dipole") == "scalar"
    with pytest.raises(UserError, match="expected an output of target, .*found 'mu'"):
        readout.output_of(HEAD, "mu")
    with pytest.raises(ValueError, match="only a graph scalar has a quantity"):
        Head("position", "node_vector", quantity="dipole")
    with pytest.raises(ValueError, match="has quantity 'mu', expected one of"):
        dataclasses.replace(HEAD, quantity="mu")


def test_masses_are_those_of_the_elements():
    assert len(elements.MASSES) == 92
    assert list(elements.MASSES)[5::18][:2] == ["C", "Cr"]
    batch = testing.make_batch(testing.systems(SIZES))
    with pytest.raises(UserError, match="no node input named after an element"):
        inputs.masses(batch.graph.nodes, testing.TASK)
