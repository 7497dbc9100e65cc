"""TorchMD-NET ET: its layers against the equations of the paper in loops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar.models import torchmd_et
from demetar.nn import radial
from tests import contract, plain, plain_steerable
from tests.models_test import num_params
from tests.tfn_test import HEADS, displacements, output_shapes, recompiled, without

TOLERANCE = 1e-10
FIELDS = {"num_heads": 2, "head_size": 3, "num_layers": 2, "num_basis": 4}
SIZE = 6
BATCH_SIZES = (3, 2)
NAME = "torchmd_et"


def exp_normal(length, num_basis, extent):
    """exp(-beta (exp(-5 r / c) - mu)^2)."""
    start = np.exp(-5)
    beta = (2 / num_basis * (1 - start)) ** -2
    centres = [start + (1 - start) * k / (num_basis - 1) for k in range(num_basis)]
    return [np.exp(-beta * (np.exp(-5 * length / extent) - mu) ** 2) for mu in centres]


def envelope(length, cutoff):
    if cutoff is None:
        return 1.0
    return (np.cos(np.pi * length / cutoff) + 1) / 2 if length < cutoff else 0.0


class Loops:
    """The equations for one batch: x[i] is [C], v[i] is [3, C]."""

    def __init__(self, params, batch, cutoff):
        self.params = {
            key.removeprefix(f"{NAME}/"): value for key, value in params.items()
        }
        self.batch = batch
        self.cutoff = cutoff
        self.neighbors = plain_steerable.neighbors(batch)
        self.positions = np.asarray(batch.graph.nodes.positions)
        self.nodes = sorted(self.neighbors)
        self.weights = {}

    def linear(self, name, x):
        return plain.linear(self.params, name, x)

    def edge(self, i, j, edge):
        """Radial inputs, unit vector and envelope."""
        vector = self.positions[i] - self.positions[j]
        length = np.linalg.norm(vector)
        extent = contract.TASK.radial_extent if self.cutoff is None else self.cutoff
        phi = envelope(length, self.cutoff)
        basis = [phi * value for value in exp_normal(length, 4, extent)]
        features = np.asarray(self.batch.graph.edges)[edge]
        return np.array([*basis, *features]), vector / length, phi

    def embedding(self):
        """x_i = W [embed(z_i), sum_j embed(z_j) W_F e(d_ij) phi(d_ij)]; v_i."""
        velocities = np.asarray(self.batch.graph.nodes.vectors)[:, 0]
        charges = np.asarray(self.batch.graph.nodes.scalars)[:, 0]
        z = {
            i: np.array([charges[i], np.linalg.norm(velocities[i])]) for i in self.nodes
        }
        x, v = {}, {}
        for i in self.nodes:
            total = np.zeros(SIZE)
            for j, edge in self.neighbors[i]:
                values, _, phi = self.edge(i, j, edge)
                filters = self.linear("neighbor_filter", values) * phi
                total += self.linear("neighbor_embedding", z[j]) * filters
            own = self.linear("embedding", z[i])
            x[i] = self.linear("combine", np.concatenate([own, total]))
            w = self.params["vector_embedding"]["w"]
            v[i] = np.array([velocities[i][m] * w[0] for m in range(3)])
        return x, v

    def attention(self, layer, x, v):
        """One update layer."""
        normed = {
            i: plain.layer_norm(self.params, f"norm_{layer}", x[i]) for i in self.nodes
        }
        new_x, new_v = {}, {}
        for i in self.nodes:
            query = self.linear(f"queries_{layer}", normed[i])
            y, w = np.zeros(SIZE), np.zeros((3, SIZE))
            for j, edge in self.neighbors[i]:
                values, direction, phi = self.edge(i, j, edge)
                d_k = plain.silu(self.linear(f"key_filters_{layer}", values))
                d_v = plain.silu(self.linear(f"value_filters_{layer}", values))
                key = self.linear(f"keys_{layer}", normed[j])
                value = self.linear(f"values_{layer}", normed[j]) * d_v
                s1, s2, s3 = np.split(value, 3)
                for head in range(2):
                    part = slice(3 * head, 3 * head + 3)
                    a = plain.silu(sum((query * key * d_k)[part]))
                    self.weights[layer, edge, head] = a
                    y[part] += a * phi * s3[part]
                for m in range(3):
                    w[m] += phi * (s1 * v[j][m] + s2 * direction[m])
            q1, q2, q3 = np.split(self.linear(f"output_{layer}", y), 3)
            rows = [self.linear(f"vectors_{layer}", v[i][m]) for m in range(3)]
            u1, u2, u3 = np.split(np.array(rows), 3, axis=1)
            new_x[i] = x[i] + q1 + q2 * sum(u1[m] * u2[m] for m in range(3))
            new_v[i] = v[i] + w + q3 * u3
        return new_x, new_v

    def output(self, x, v):
        """The gated block, and the linear head."""
        normed = plain.layer_norm(self.params, "output_norm", x)
        rows = np.array([self.linear("gated_norms", v[m]) for m in range(3)])
        norms = np.sqrt(sum(rows**2))
        hidden = self.linear("gated_linear_0", np.concatenate([normed, norms]))
        gates = self.linear("gated_linear_1", plain.silu(hidden))[SIZE // 2 :]
        mixed = [gates * self.linear("gated_vectors", v[m]) for m in range(3)]
        return np.array([self.linear("readout_position", row) for row in mixed]).T


@pytest.mark.parametrize("cutoff", [None, 3.0])
def test_the_network_is_the_papers(cutoff):
    with jax.enable_x64(True):
        subject = contract.Subject(NAME, "float64", {**FIELDS, "cutoff": cutoff})
        batch = contract.make_batch(contract.systems(BATCH_SIZES), "float64", extra=1)
        params = jax.tree.map(np.asarray, subject.params)
        outputs, recorded = plain_steerable.forward(subject, batch)
        loops = Loops(params, batch, cutoff)
        assert len(loops.nodes) == sum(BATCH_SIZES)
        x, v = loops.embedding()
        for layer in range(2):
            x, v = loops.attention(layer, x, v)
            for i in loops.nodes:
                scalars = recorded[f"features_{layer}_0e"][0, i]
                vectors = recorded[f"features_{layer}_1o"][:, i]
                assert contract.relative_error(scalars, x[i]) < TOLERANCE
                assert contract.relative_error(vectors, v[i]) < TOLERANCE
        for (layer, edge, head), weight in loops.weights.items():
            found = recorded[f"attention_{layer}"][edge, head]
            assert abs(found - weight) < TOLERANCE
        for i in loops.nodes:
            found, expected = outputs["position"][i], loops.output(x[i], v[i])
            assert contract.relative_error(found, expected) < TOLERANCE


@functools.cache
def base_subject(cutoff=None):
    return contract.Subject(NAME, fields={**FIELDS, "cutoff": cutoff})


def no_basis(lengths, num_basis, extent):
    return jnp.zeros((len(lengths), num_basis))


def no_envelope(lengths, cutoff):
    return jnp.ones_like(lengths)


def no_attention(self, queries, keys, graph, bucket):
    return jnp.zeros((len(keys), self.num_heads))


def no_gates(self, scalars, vectors):
    half = scalars.shape[-1] // 2
    return scalars[:, :half], vectors[..., :half]


@pytest.mark.parametrize(
    "module, name, replacement",
    [
        (radial, "exp_normal", no_basis),
        (radial, "cosine_cutoff", no_envelope),
        (torchmd_et.TorchmdEt, "_attention_weights", no_attention),
        (torchmd_et.TorchmdEt, "_gated_block", no_gates),
    ],
)
def test_no_part_is_idle(monkeypatch, module, name, replacement):
    subject = base_subject(cutoff=4.0)
    expected = displacements(subject)
    monkeypatch.setattr(module, name, replacement)
    found = displacements(recompiled(subject), subject.params)
    assert contract.relative_error(found, expected) > 1e-3


@pytest.mark.parametrize("layer", ["neighbor_filter", "key_filters_1"])
def test_filters_are_read(layer):
    """Of the neighbour embedding and of the keys."""
    subject = base_subject()
    found = displacements(subject, without(subject, f"{NAME}/{layer}"))
    assert contract.relative_error(found, displacements(subject)) > 1e-3


def apart(subject, distance):
    """Displacements where the first two particles are that far from each other."""
    pair = contract.random_system(2, 0)
    positions = pair.positions[0] + np.array([[0, 0, 0], [distance, 0, 0]])
    members = [dataclasses.replace(pair, positions=positions), *contract.systems()]
    return subject.displacements(contract.make_batch(members))


def test_pairs_beyond_the_cutoff_are_silent():
    for cutoff, silent in ((4.0, True), (None, False)):
        subject = base_subject(cutoff)
        near, far = (apart(subject, distance) for distance in (4.1, 5.3))
        assert (contract.relative_error(near, far) < 1e-6) == silent


def test_the_output_is_continuous_at_the_cutoff():
    subject = base_subject(cutoff=4.0)
    inside, outside, near = (apart(subject, x) for x in (3.9999, 4.0001, 3.0))
    assert contract.relative_error(inside, outside) < 1e-4
    assert contract.relative_error(near, outside) > 1e-3


def test_the_cutoff_keeps_the_promises():
    contract.assert_symmetry(base_subject(cutoff=4.0))
    contract.assert_finite(base_subject(cutoff=4.0))


def test_the_basis_is_dense_where_pairs_are_close():
    lengths = np.linspace(0.0, 12.0, 7)
    with jax.enable_x64(True):
        found = radial.exp_normal(jnp.asarray(lengths), 5, 4.0)
    expected = [exp_normal(length, 5, 4.0) for length in lengths]
    assert np.abs(found - np.array(expected)).max() < 1e-12
    peaks = -4.0 / 5 * np.log(np.exp(-5) + (1 - np.exp(-5)) * np.arange(5) / 4)
    assert (np.diff(peaks[::-1]) > 0).all()
    assert (np.diff(peaks[::-1], 2) > 0).all()


def test_fields_shape_the_model():
    base = num_params(NAME, **FIELDS)
    for changed in (
        {"num_heads": 1},
        {"head_size": 2},
        {"num_layers": 1},
        {"num_basis": 3},
        {"node_inputs": ("charge",)},
    ):
        assert num_params(NAME, **{**FIELDS, **changed}) < base, changed
    assert num_params(NAME) == 146_616


def test_every_kind_of_head():
    output_shapes(NAME, FIELDS, dataclasses.replace(contract.TASK, heads=HEADS))


def test_a_task_without_vectors():
    """Vector features start from zero, as in the paper."""
    task = dataclasses.replace(contract.TASK, vectors=())
    params = output_shapes(NAME, {**FIELDS, "node_inputs": ("charge",)}, task)
    assert f"{NAME}/vector_embedding" not in params
