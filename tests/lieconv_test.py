"""LieConv over T(3): its blocks against the equations of the paper in loops."""

import functools

import jax
import numpy as np
import pytest

from demetar import geometry, testing
from demetar.errors import UserError
from demetar.models import lieconv
from tests.models_test import num_params
from tests.support import plain, plain_molecules

SIZE, NARROW, RANK = 6, 3, 2
FIELDS = {
    "hidden_size": SIZE,
    "num_layers": 2,
    "bottleneck": 2,
    "kernel_sizes": (4,),
    "kernel_rank": RANK,
}


def affine(params, name, x):
    return params[name]["scale"] * x + params[name]["offset"]


NORMS = {"layer": plain.layer_norm, "affine": affine}


def activate(case, name, x):
    return plain.silu(NORMS[case.subject.small["norm"]](case.params, name, x))


def convolution(case, layer, f, i):
    """Mean over j, i itself included, of W (k(x_i - x_j) outer f_j), and b / count."""
    name = f"kernel_{layer}"
    total = np.zeros(RANK * NARROW)
    neighborhood = [(i, np.zeros(4))]
    for j, edge in case.neighbors[i]:
        neighborhood.append((j, np.concatenate(case.edge(i, j, edge))))
    for j, displacement in neighborhood:
        kernel = plain.silu(plain.mlp(case.params, name, displacement))
        total += np.array([k * c for k in kernel for c in f[j]])
    values = plain.linear(case.params, f"convolution_{layer}", total)
    return values / len(neighborhood)


def block(case, layer, x):
    """A residual bottleneck: norm, swish, linear; ..., convolution; ..., linear."""
    f = {}
    for i in case.nodes:
        values = activate(case, f"norm_{layer}_0", x[i])
        values = plain.linear(case.params, f"narrow_{layer}", values)
        f[i] = activate(case, f"norm_{layer}_1", values)
    outputs = {}
    for i in case.nodes:
        values = convolution(case, layer, f, i)
        values = activate(case, f"norm_{layer}_2", values)
        outputs[i] = x[i] + plain.linear(case.params, f"widen_{layer}", values)
    return outputs


@pytest.mark.parametrize("norm, pooling", [("layer", "target"), ("affine", "sum")])
def test_the_network_is_the_papers(norm, pooling):
    fields = {**FIELDS, "norm": norm, "pooling": pooling}
    with jax.enable_x64(True):
        case = plain_molecules.Case("lieconv", fields)
    x = {i: plain.linear(case.params, "embedding", case.scalars[i]) for i in case.nodes}
    for layer in range(2):
        x = block(case, layer, x)
        for i in case.nodes:
            plain_molecules.assert_close(case.recorded[f"features_{layer}"][i], x[i])
    last = {i: activate(case, "norm", x[i]) for i in case.nodes}
    for i in case.nodes:
        charge = plain.linear(case.params, "readout_charge", last[i])
        plain_molecules.assert_close(case.outputs["charge"][i], charge)
    for graph, nodes in enumerate(case.members()):
        energies = [plain.linear(case.params, "readout_energy", last[i]) for i in nodes]
        expected = sum(energies) / (1 if pooling == "sum" else len(energies))
        plain_molecules.assert_close(case.outputs["energy"][graph], expected)


@functools.cache
def subject():
    return testing.Subject("lieconv", task=testing.MOLECULES)


def only_lengths(graph):
    """Displacements that a rotation does not change."""
    lengths = geometry.safe_norm(right_vectors(graph), keepdims=True)
    return lengths * np.ones(3, lengths.dtype)


right_vectors = geometry.edge_vectors


def test_directions_are_what_breaks_rotations(monkeypatch):
    """Translations are kept, and with lengths alone rotations would be too."""
    error = testing.transformation_error(
        subject(), testing.rotation(), testing.NO_SHIFT
    )
    assert error > testing.BROKEN
    monkeypatch.setattr(geometry, "edge_vectors", only_lengths)
    plain_subject = testing.Subject("lieconv", task=testing.MOLECULES)
    error = testing.transformation_error(
        plain_subject, testing.rotation(), testing.NO_SHIFT
    )
    assert error < 1e-4


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (geometry, "edge_vectors", only_lengths),
        (lieconv.Lieconv, "_convolution", lambda self, layer, nodes, *_: nodes),
    ],
)
def test_no_part_is_idle(monkeypatch, module, part, replacement):
    plain_molecules.assert_not_idle(monkeypatch, subject(), module, part, replacement)


def test_every_layer_is_read():
    plain_molecules.assert_layers_read(
        subject(), "embedding", "narrow_0", "kernel_0", "convolution_1", "widen_1"
    )


def test_unknown_norms_are_refused():
    with pytest.raises(
        UserError, match="lieconv has the norms layer, affine, found 'b"
    ):
        num_params("lieconv", testing.MOLECULES, norm="batch")


def test_sizes():
    """The paper states no count; its model of QM9 has 6 blocks of 1,536 channels."""

    def expected(size, layers):
        narrow = size // 4
        kernel = (3 * 32 + 32) + (32 * 32 + 32) + (32 * 16 + 16)
        convolution = kernel + 16 * narrow * narrow + narrow
        norms = 2 * (size + 2 * narrow)
        mixing = size * narrow + narrow + narrow * size + size
        return 5 * size + size + layers * (convolution + norms + mixing) + 3 * size + 1

    assert num_params("lieconv", testing.MOLECULES) == expected(256, 6)
    large = num_params("lieconv", testing.MOLECULES, hidden_size=1536)
    assert large == expected(1536, 6)
    assert num_params("lieconv", testing.MOLECULES, num_layers=2) == expected(256, 2)
    for changed in ({"bottleneck": 8}, {"kernel_sizes": (8,)}, {"kernel_rank": 4}):
        found = num_params("lieconv", testing.MOLECULES, **changed)
        assert found < expected(256, 6), changed
