"""Heads that are the negative gradient of another: forces of any model's energy."""

import dataclasses

import jax
import numpy as np
import pytest

from demetar import graphs, models
from demetar.testing import batches
from demetar.testing.subject import quick_params, small_fields
from demetar.types import Head

ENERGY = Head("energy", "graph_scalar", unit="meV", extensive=True, scale=3.0)
FORCES = Head(
    "forces", "node_vector", unit="meV/Å", gradient_of="energy", scale=2.0, weight=5.0
)
TASK = dataclasses.replace(
    batches.MOLECULES, name="potential", heads=(ENERGY, FORCES), cutoff=None
)
POTENTIALS = models.with_head("graph_scalar")
QUICK = ("schnet", "nequip")  # the others are slow
STEP = 1e-4  # of central differences


def with_potential(name):
    """A small model with its parameters, of energies and forces."""
    fields = small_fields(name, TASK)
    model = models.build(name, TASK, fields)
    batch = batches.make_batch(batches.systems((3, 2)), "float64", task=TASK)
    return model, quick_params(model, batch), batch


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in POTENTIALS
    ],
)
def test_forces_are_the_slope_of_the_energy(name):
    """Against central differences, in float64; padding has none."""
    with jax.enable_x64(True):
        model, params, batch = with_potential(name)

        @jax.jit
        def values(positions):
            nodes = batch.graph.nodes._replace(positions=positions)
            graph = dataclasses.replace(batch.graph, nodes=nodes)
            return model.apply(params, None, graph, False)

        positions = np.asarray(batch.graph.nodes.positions)
        forces = FORCES.scale * np.asarray(values(positions)["forces"])[:, 0]
        real = np.asarray(graphs.node_mask(batch.graph))
        assert forces.dtype == np.float64 and not forces[~real].any()
        expected = np.zeros_like(positions[real])
        for row, axis in np.ndindex(expected.shape):
            ends = []
            for sign in (1, -1):
                moved = positions.copy()
                moved[row, axis] += sign * STEP
                ends.append(values(moved)["energy"][:2].sum())
            expected[row, axis] = -ENERGY.scale * (ends[0] - ends[1]) / (2 * STEP)
        size = np.abs(expected).max()
        assert size > 1e-3
        np.testing.assert_allclose(forces[real], expected, rtol=0, atol=1e-6 * size)
