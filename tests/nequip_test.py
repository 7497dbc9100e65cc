"""NequIP: one interaction block against the equations of the paper in loops."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models, testing
from demetar.errors import UserError
from demetar.models import nequip
from demetar.nn import depthwise, radial, steerable
from tests.models_test import num_params
from tests.support import plain_steerable

TOLERANCE = 1e-10
FIELDS = {"hidden_size": 3, "num_layers": 3, "num_basis": 3, "radial_sizes": (4,)}
BATCH_SIZES = (3, 2)


def bessel(length, shifts, extent):
    """(2 / c) sin(w r / c) / r with the roots w = n pi + a shift that is trained."""
    roots = np.pi * np.arange(1, len(shifts) + 1) + shifts
    return [2 / extent * np.sin(w * length / extent) / length for w in roots]


def envelope(length, cutoff):
    """The polynomial of power 6."""
    x = length / cutoff
    return 1 - 28 * x**6 + 48 * x**7 - 21 * x**8 if x < 1 else 0.0


def radial_weights(params, layer, length, features, cutoff):
    """A perceptron without biases on the basis times the envelope."""
    extent = testing.TASK.radial_extent if cutoff is None else cutoff
    values = np.array(
        [*bessel(length, params["nequip"]["root_shifts"], extent), *features]
    )
    if cutoff is not None:
        values = values * envelope(length, cutoff)
    hidden = values @ params[f"nequip/radial_{layer}_0"]["w_0e"]
    hidden = plain_steerable.scaled(jax.nn.silu)(hidden)
    return hidden @ params[f"nequip/radial_{layer}_1"]["w_0e"]


def self_connection(params, layer, features, charge):
    """A fully connected tensor product with the scalars (1, charge)."""
    species = (1.0, charge)
    products = {
        irrep: np.array([a * channel for channel in channels for a in species])
        for irrep, channels in features.items()
    }
    return plain_steerable.mix(params, f"nequip/self_connection_{layer}", products)


def block(params, layer, batch, recorded, cutoff):
    """gate(self-connection + linear(sum_j (linear h_j) x R(r_ij) Y(r_ij)))."""
    positions = np.asarray(batch.graph.nodes.positions)
    charges = np.asarray(batch.graph.nodes.scalars)[:, 0]
    outputs = {}
    for i, senders in plain_steerable.neighbors(batch).items():
        own = plain_steerable.node_features(recorded, f"features_{layer - 1}", i)
        received: dict = {}
        for j, edge in senders:
            other = plain_steerable.node_features(recorded, f"features_{layer - 1}", j)
            other = plain_steerable.mix(params, f"nequip/linear_{layer}_0", other)
            vector = positions[j] - positions[i]
            weights = radial_weights(
                params, layer, np.linalg.norm(vector), batch.graph.edges[edge], cutoff
            )
            message = plain_steerable.tensor_product(
                other,
                plain_steerable.harmonics(vector, 1),
                {steerable.Irrep(l, p) for l in (0, 1) for p in (-1, 1)},
                weights / np.sqrt(testing.TASK.average_neighbors),
            )
            received = plain_steerable.add(received, message)
        outputs[i] = plain_steerable.gate(
            plain_steerable.add(
                self_connection(params, layer, own, charges[i]),
                plain_steerable.mix(params, f"nequip/linear_{layer}_1", received),
            ),
            jax.nn.silu,
        )
    return outputs


@pytest.mark.parametrize("cutoff", [None, 3.0])
def test_an_interaction_block_is_the_papers(cutoff):
    with jax.enable_x64(True):
        subject = testing.Subject("nequip", "float64", {**FIELDS, "cutoff": cutoff})
        batch = testing.make_batch(testing.systems(BATCH_SIZES), "float64", extra=1)
        params = jax.tree.map(np.asarray, subject.params)
        _, recorded = plain_steerable.forward(subject, batch)
        expected = block(params, 1, batch, recorded, cutoff)
        assert len(expected) == sum(BATCH_SIZES)
        for node, values in expected.items():
            assert set(map(str, values)) == {"0e", "0o", "1e", "1o"}
            found = plain_steerable.node_features(recorded, "features_1", node)
            error = plain_steerable.largest_difference(found, values)
            assert error < TOLERANCE


def no_basis(lengths, roots, extent):
    del extent
    return jnp.zeros((len(lengths), len(roots)))


def no_envelope(lengths, cutoff):
    return jnp.ones_like(lengths)


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (steerable, "gate", plain_steerable.without_gate),
        (radial, "rooted_bessel", no_basis),
        (radial, "polynomial_cutoff", no_envelope),
        (depthwise, "harmonics", plain_steerable.without_directions),
    ],
)
def test_no_part_is_idle(monkeypatch, module, part, replacement):
    fields = {**FIELDS, "num_layers": 2, "cutoff": 9.0}
    plain_steerable.assert_not_idle(
        monkeypatch, "nequip", fields, module, part, replacement
    )


def no_species(self, graph):
    return jnp.zeros((len(graph.nodes.positions), 2))


@pytest.mark.slow
def test_the_self_connection_is_not_idle(monkeypatch):
    plain_steerable.assert_not_idle(
        monkeypatch, "nequip", FIELDS, nequip.Nequip, "_species", no_species
    )


@pytest.mark.parametrize("cutoff, silent", [(50.0, True), (None, False)])
def test_pairs_beyond_the_cutoff_are_silent(cutoff, silent):
    fields = {**FIELDS, "num_layers": 2, "cutoff": cutoff}
    subject = testing.Subject("nequip", fields=fields)
    outputs = []
    for distance in (100.0, 107.0):
        member = testing.random_system(3, 0)
        member.positions[0] += distance
        outputs.append(subject.displacements(testing.make_batch([member])))
    assert (testing.relative_error(*outputs) < 1e-6) == silent


@pytest.mark.slow
def test_fields_shape_the_model():
    small = {**FIELDS, "num_layers": 2}
    base = num_params("nequip", **small)
    for changed in (
        {"parity": False},
        {"num_layers": 1},
        {"hidden_size": 2},
        {"num_basis": 2},
        {"radial_sizes": ()},
        {"node_inputs": ("charge",)},
        {"species_inputs": ()},
        {"lmax": 0},
    ):
        assert num_params("nequip", **{**small, **changed}) < base, changed
    counts = [num_params("nequip", **{**small, "lmax": lmax}) for lmax in range(4)]
    assert counts == sorted(set(counts))
    with pytest.raises(UserError, match="lmax from 0 to 3, found 4"):
        num_params("nequip", lmax=4)


def test_default_size():
    assert num_params("nequip") == 154_507


def test_degree_0_keeps_the_symmetry():
    fields = {**FIELDS, "num_layers": 2, "lmax": 0}
    subject = testing.Subject("nequip", fields=fields)
    testing.assert_symmetry(subject)
    testing.assert_inputs_matter(subject, ("charge", "velocity", "position"))


def test_without_parity_only_reflections_are_noticed():
    fields = {**FIELDS, "num_layers": 2, "lmax": 2, "parity": False}
    subject = testing.Subject("nequip", fields=fields)
    plain_steerable.assert_rotations_alone(subject)
    testing.assert_inputs_matter(subject, ("charge", "velocity", "position"))
    even = [steerable.Irrep(l, 1) for l in range(3)]
    assert len(depthwise.find_paths(even, even, even)) == 15


@pytest.mark.slow
def test_the_scale_and_shift_are_those_of_the_species():
    task = dataclasses.replace(testing.TASK, heads=plain_steerable.HEADS[2:])
    model = models.build("nequip", task, FIELDS)
    batch = testing.make_batch(testing.systems(BATCH_SIZES))
    params: hk.Params = model.init(jax.random.key(0), batch.graph, False)
    assert not np.any(params["nequip"]["root_shifts"])

    def charge(params):
        outputs = model.apply(params, None, batch.graph, False)
        return np.asarray(outputs["charge"])[: sum(BATCH_SIZES)]

    start = charge(params)
    own = np.asarray(batch.graph.nodes.scalars)[: sum(BATCH_SIZES), :1]
    for name, expected in (
        ("scale", start * (1 + 2 * own)),
        ("shift", start + 2 * own),
    ):
        twos = jnp.full_like(params["nequip"][f"{name}_charge"], 2.0)
        changed = {**params["nequip"], f"{name}_charge": twos}
        found = charge({**params, "nequip": changed})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_every_kind_of_head():
    params = plain_steerable.assert_heads("nequip", FIELDS)
    assert "w_1o" not in params["nequip/linear_2_1"]  # nobody reads vectors
