"""SchNet: its network against the equations of the paper in loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import testing
from demetar.errors import UserError
from demetar.models import schnet
from demetar.nn import mlp, radial
from tests.models_test import num_params
from tests.support import plain, plain_molecules

FIELDS = {
    "hidden_size": 4,
    "num_layers": 2,
    "basis_step": 0.7,
    "basis_extent": 4.2,
    "basis_gamma": 1.3,
}


def softplus(x):
    return np.log(0.5 * np.exp(x) + 0.5)


def basis(length):
    """Seven centres: 0, 0.7, ..., 4.2."""
    return [np.exp(-1.3 * (length - 0.7 * k) ** 2) for k in range(7)]


def envelope(length, cutoff):
    if cutoff is None:
        return 1.0
    return (np.cos(np.pi * length / cutoff) + 1) / 2 if length < cutoff else 0.0


def interaction(case, layer, x, i, cutoff, activate):
    """x_i + V of sum_j (W x_j) o filter(|r_ij|)."""
    total = np.zeros(4)
    for j, edge in case.neighbors[i]:
        vector, features = case.edge(i, j, edge)
        length = np.linalg.norm(vector)
        values = np.array([*basis(length), *features])
        filters = plain.mlp(case.params, f"filters_{layer}", values, softplus)
        filters = softplus(filters) if activate else filters
        filters = filters * envelope(length, cutoff)
        total += plain.linear(case.params, f"atoms_{layer}", x[j]) * filters
    return x[i] + plain.mlp(case.params, f"output_{layer}", total, softplus)


@pytest.mark.parametrize(
    "cutoff, activate, pooling", [(None, True, "sum"), (3.5, False, "mean")]
)
def test_the_network_is_the_papers(cutoff, activate, pooling):
    fields = {
        **FIELDS,
        "cutoff": cutoff,
        "activate_filters": activate,
        "pooling": pooling,
    }
    with jax.enable_x64(True):
        case = plain_molecules.Case("schnet", fields)
    x = {i: plain.linear(case.params, "embedding", case.scalars[i]) for i in case.nodes}
    for layer in range(2):
        x = {i: interaction(case, layer, x, i, cutoff, activate) for i in case.nodes}
        found = case.recorded[f"features_{layer}"]
        for i in case.nodes:
            plain_molecules.assert_close(found[i], x[i])
    atoms = {
        name: [plain.mlp(case.params, f"readout_{name}", x[i], softplus) for i in x]
        for name in ("energy", "charge")
    }
    for i in case.nodes:
        plain_molecules.assert_close(case.outputs["charge"][i], atoms["charge"][i])
    for graph, members in enumerate(case.members()):
        total = sum(atoms["energy"][i] for i in members)
        expected = total / len(members) if pooling == "mean" else total
        plain_molecules.assert_close(case.outputs["energy"][graph], expected)


def small(**fields):
    return testing.Subject("schnet", fields=fields, task=testing.MOLECULES)


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (radial, "gaussian_steps", lambda lengths, *_: jnp.zeros((len(lengths), 7))),
        (radial, "cosine_cutoff", lambda lengths, cutoff: jnp.ones_like(lengths)),
        (schnet, "shifted_softplus", lambda values: values),
    ],
)
def test_no_part_is_idle(monkeypatch, module, part, replacement):
    subject = small(cutoff=4.0, basis_extent=6.0)
    plain_molecules.assert_not_idle(monkeypatch, subject, module, part, replacement)


def test_every_layer_is_read():
    plain_molecules.assert_layers_read(
        small(), "embedding", "filters_0", "filters_1", "atoms_0", "output_1"
    )


def test_a_cutoff_is_continuous_and_silences_what_is_beyond():
    subject = small(cutoff=4.0)

    def energy(distance):
        pair = testing.random_system(2, 0)
        positions = pair.positions[0] + np.array([[0, 0, 0], [distance, 0, 0]])
        members = [dataclasses.replace(pair, positions=positions)]
        return subject.displacements(subject.batch(members))

    inside, outside, far, near = (energy(x) for x in (3.9999, 4.0001, 5.3, 2.0))
    assert testing.relative_error(outside, far) < 1e-6
    assert testing.relative_error(inside, outside) < 1e-4
    assert testing.relative_error(near, outside) > 1e-3


def test_gaussians_beyond_every_distance_change_nothing():
    """So that a preset may shorten the basis to the longest distance of its data."""
    lengths = jnp.linspace(0.0, 12.0, 41)
    with jax.enable_x64(True):
        long = np.asarray(radial.gaussian_steps(lengths, 0.1, 30.0, 10.0))
        short = np.asarray(radial.gaussian_steps(lengths, 0.1, 14.0, 10.0))
    assert (long.shape[1], short.shape[1]) == (301, 141)
    np.testing.assert_array_equal(long[:, :141], short)
    assert np.abs(long[:, 141:]).max() < 1e-17 < np.abs(long[:, 120]).max()


def test_the_size_follows_from_the_paper():
    """It states no count; 64 channels, 3 blocks and 300 centres give one."""
    square = 64 * 64 + 64
    block = 300 * 64 + 64 + 3 * square + 64 * 64
    head = 64 * 32 + 32 + 32 + 1
    expected = 5 * 64 + 3 * block + head
    assert num_params("schnet", testing.MOLECULES) == expected == 109_953
    deeper = num_params("schnet", testing.MOLECULES, num_layers=6)
    assert deeper == expected + 3 * block


def test_the_start_is_the_authors():
    """Glorot's weights, no biases, a normal embedding, and nothing is predicted."""
    starts = testing.initializers("schnet", {"num_layers": 1}, testing.MOLECULES)
    assert {path for path in starts if path.endswith("/b")} == {
        f"{name}/linear_{i}/b"
        for name in ("filters_0", "output_0", "readout_energy")
        for i in range(2)
    }
    for path, start in starts.items():
        if path == "embedding/w":
            assert start.stddev == 64**-0.25
        elif path.endswith("/b") or path == "readout_energy/linear_1/w":
            assert start is mlp.ZEROS, path
        else:
            assert start is mlp.GLOROT_UNIFORM, path


@pytest.mark.parametrize(
    "name", ["schnet", "nequip", "torchmd_et", "equiformer", "segnn", "lieconv"]
)
def test_unknown_poolings_are_refused(name):
    """And so the field reaches the readout."""
    fields = {"node_inputs": ("all",), "pooling": "max"}
    if name == "nequip":
        fields["species_inputs"] = ("all",)
    with pytest.raises(UserError, match="a pooling of target, sum, mean, found 'max'"):
        num_params(name, testing.MOLECULES, **fields)
