"""TorchMD-NET ET: its layers against the equations of the paper in loops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models, testing
from demetar.models import torchmd_et
from demetar.nn import mlp, radial
from demetar.types import Head
from tests.models_test import num_params
from tests.support import plain, plain_steerable
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
    """The equations for one batch: x[i] is [C], v[i] is [3, C].

    A node's attention to itself is at distance 0, without direction or edge feature.
    """

    def __init__(self, params, batch, fields):
        self.params = {
            key.removeprefix(f"{NAME}/"): value for key, value in params.items()
        }
        self.batch = batch
        self.cutoff = fields["cutoff"]
        self.vector_cutoff = fields["vector_cutoff"]
        self.self_loops = fields["self_loops"]
        self.neighbors = plain_steerable.neighbors(batch)
        self.positions = np.asarray(batch.graph.nodes.positions)
        self.nodes = sorted(self.neighbors)
        self.weights = {}

    def linear(self, name, x):
        return plain.linear(self.params, name, x)

    def edge(self, i, j, edge):
        """Radial inputs, unit vector and envelope."""
        if edge is None:  # i with itself
            own = exp_normal(0.0, 4, testing.TASK.radial_extent)
            return np.array([*own, 0.0]), np.zeros(3), 1.0
        vector = self.positions[i] - self.positions[j]
        length = np.linalg.norm(vector)
        extent = testing.TASK.radial_extent if self.cutoff is None else self.cutoff
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
            own = [(i, None)] if self.self_loops else []
            for j, edge in [*self.neighbors[i], *own]:
                values, direction, phi = self.edge(i, j, edge)
                d_k = plain.silu(self.linear(f"attend_{layer}/key_filters", values))
                d_v = plain.silu(self.linear(f"attend_{layer}/value_filters", values))
                key = self.linear(f"keys_{layer}", normed[j])
                value = self.linear(f"values_{layer}", normed[j]) * d_v
                s1, s2, s3 = np.split(value, 3)
                for head in range(2):
                    part = slice(3 * head, 3 * head + 3)
                    a = plain.silu(sum((query * key * d_k)[part]))
                    y[part] += a * phi * s3[part]
                    if edge is not None:
                        shown = a if self.vector_cutoff else a * phi
                        self.weights[layer, edge, head] = shown
                for m in range(3):
                    added = s1 * v[j][m] + s2 * direction[m]
                    w[m] += (phi if self.vector_cutoff else phi > 0) * added
            q1, q2, q3 = np.split(self.linear(f"output_{layer}", y), 3)
            rows = [self.linear(f"vectors_{layer}", v[i][m]) for m in range(3)]
            u1, u2, u3 = np.split(np.array(rows), 3, axis=1)
            new_x[i] = x[i] + q1 + q2 * sum(u1[m] * u2[m] for m in range(3))
            new_v[i] = v[i] + w + q3 * u3
        return new_x, new_v

    def gated(self, name, size, x, v):
        """A gated block without its activation."""
        rows = np.array([self.linear(f"{name}/norms", v[m]) for m in range(3)])
        norms = np.sqrt(sum(rows**2))
        hidden = self.linear(f"{name}/linear_0", np.concatenate([x, norms]))
        outputs = self.linear(f"{name}/linear_1", plain.silu(hidden))
        mixed = [self.linear(f"{name}/vectors", v[m]) for m in range(3)]
        return outputs[:size], np.array([outputs[size:] * row for row in mixed])

    def output(self, x, v, head):
        """Two gated blocks."""
        normed = plain.layer_norm(self.params, "output_norm", x)
        x, v = self.gated("gated", SIZE // 2, normed, v)
        return self.gated(f"readout_{head.name}", head.size, plain.silu(x), v)


@pytest.mark.parametrize(
    "options",
    [
        {"cutoff": None, "vector_cutoff": True, "self_loops": True},
        {"cutoff": 4.0, "vector_cutoff": True, "self_loops": False},
        {"cutoff": 4.0, "vector_cutoff": False, "self_loops": False},
    ],
)
def test_the_network_is_the_papers(options):
    with jax.enable_x64(True):
        subject = testing.Subject(NAME, "float64", {**FIELDS, **options})
        batch = testing.make_batch(testing.systems(BATCH_SIZES), "float64", extra=1)
        params = jax.tree.map(np.asarray, subject.params)
        outputs, recorded = plain_steerable.forward(subject, batch)
        loops = Loops(params, batch, options)
        assert len(loops.nodes) == sum(BATCH_SIZES)
        x, v = loops.embedding()
        for layer in range(2):
            x, v = loops.attention(layer, x, v)
            for i in loops.nodes:
                scalars = recorded[f"features_{layer}_0e"][0, i]
                vectors = recorded[f"features_{layer}_1o"][:, i]
                assert testing.relative_error(scalars, x[i]) < TOLERANCE
                assert testing.relative_error(vectors, v[i]) < TOLERANCE
        assert len(loops.weights) == 2 * (6 + 2) * 2
        for (layer, edge, head), weight in loops.weights.items():
            found = recorded[f"attention_{layer}"][edge, head]
            assert abs(found - weight) < TOLERANCE
        (head,) = testing.TASK.heads
        for i in loops.nodes:
            _, moved = loops.output(x[i], v[i], head)
            error = testing.relative_error(outputs["position"][i], moved.T)
            assert error < TOLERANCE


@functools.cache
def base_subject(cutoff=None):
    return testing.Subject(NAME, fields={**FIELDS, "cutoff": cutoff})


def no_basis(lengths, num_basis, extent):
    return jnp.zeros((len(lengths), num_basis))


def no_envelope(lengths, cutoff):
    return jnp.ones_like(lengths)


def no_attention(self, queries, sent, filters):
    return jnp.zeros((len(queries), self.num_heads)), list(sent[1:])


def no_gates(self, scalars, vectors):
    return scalars[:, : self.size], vectors[..., : self.size]


@pytest.mark.parametrize(
    "module, name, replacement",
    [
        (radial, "exp_normal", no_basis),
        (radial, "cosine_cutoff", no_envelope),
        (torchmd_et.Attend, "weigh", no_attention),
        (torchmd_et.GatedBlock, "__call__", no_gates),
    ],
)
def test_no_part_is_idle(monkeypatch, module, name, replacement):
    subject = base_subject(cutoff=4.0)
    expected = displacements(subject)
    monkeypatch.setattr(module, name, replacement)
    found = displacements(recompiled(subject), subject.params)
    assert testing.relative_error(found, expected) > 1e-3


@pytest.mark.parametrize("layer", ["neighbor_filter", "attend_1/key_filters"])
def test_filters_are_read(layer):
    """Of the neighbour embedding and of the keys."""
    subject = base_subject()
    found = displacements(subject, without(subject, f"{NAME}/{layer}"))
    assert testing.relative_error(found, displacements(subject)) > 1e-3


def apart(subject, distance):
    """Displacements where the first two particles are that far from each other."""
    pair = testing.random_system(2, 0)
    positions = pair.positions[0] + np.array([[0, 0, 0], [distance, 0, 0]])
    members = [dataclasses.replace(pair, positions=positions), *testing.systems()]
    return subject.displacements(testing.make_batch(members))


def test_pairs_beyond_the_cutoff_are_silent():
    for cutoff, silent in ((4.0, True), (None, False)):
        subject = base_subject(cutoff)
        near, far = (apart(subject, distance) for distance in (4.1, 5.3))
        assert (testing.relative_error(near, far) < 1e-6) == silent


def test_the_output_is_continuous_at_the_cutoff():
    subject = base_subject(cutoff=4.0)
    inside, outside, near = (apart(subject, x) for x in (3.9999, 4.0001, 3.0))
    assert testing.relative_error(inside, outside) < 1e-4
    assert testing.relative_error(near, outside) > 1e-3


@pytest.mark.slow
def test_the_cutoff_keeps_the_promises():
    testing.assert_symmetry(base_subject(cutoff=4.0))
    testing.assert_finite(base_subject(cutoff=4.0))


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
    assert num_params(NAME) == 148_322


def test_the_start_is_the_authors():
    """Embeddings of N(0, 1), Xavier's weights everywhere else, no biases."""
    starts = testing.initializers(NAME, {"num_layers": 1})
    assert any(path.startswith("readout_position/") for path in starts)
    for path, start in starts.items():
        if path in ("embedding/w", "neighbor_embedding/w"):
            assert (start.mean, start.stddev) == (0.0, 1.0)
        elif path.endswith("/w"):
            assert start is mlp.GLOROT_UNIFORM, path
        elif path.endswith("/b"):
            assert start is mlp.ZEROS, path
    assert not {"embedding/b", "neighbor_embedding/b"} & set(starts)


HEADS_OF_QM9 = (
    Head("mu", "graph_scalar", size=2, mean=2.7, scale=1.5, quantity="dipole"),
    Head("r2", "graph_scalar", extensive=True, quantity="spatial_extent"),
    Head("gap", "graph_scalar"),
)


def test_mu_and_r2_have_heads_of_their_own():
    task = dataclasses.replace(testing.MOLECULES, heads=HEADS_OF_QM9)
    fields = {**FIELDS, "num_layers": 1, "node_inputs": ("all",)}
    members = testing.systems(BATCH_SIZES)
    turn, shift = testing.rotation(), testing.SHIFT
    with jax.enable_x64(True):
        model = models.build(NAME, task, fields)
        batch = testing.make_batch(members, "float64", task=testing.MOLECULES)
        params = testing.quick_params(model, batch)

        @jax.jit
        def outputs(positions):
            nodes = batch.graph.nodes._replace(positions=positions)
            graph = dataclasses.replace(batch.graph, nodes=nodes)
            return model.apply(params, None, graph, False)

        positions = batch.graph.nodes.positions
        expected, moved, larger = (
            {name: np.asarray(value)[:2] for name, value in outputs(x).items()}
            for x in (positions, positions @ turn.T + shift, 1.2 * positions)
        )
    for name, values in expected.items():
        assert testing.relative_error(moved[name], values) < TOLERANCE
        assert testing.relative_error(larger[name], values) > 1e-3
    # The prediction is the length of a moment itself.
    lengths = 2.7 + 1.5 * expected["mu"]
    assert lengths.shape == (2, 2) and (lengths > 0).all()
    # An extent is made of scalars alone, unless the field has it otherwise.
    assert f"{NAME}/readout_r2/norms" not in params
    starts = testing.initializers(NAME, {**fields, "output": "scalar"}, task)
    assert "readout_r2/norms/w" in starts


def test_every_kind_of_head():
    output_shapes(NAME, FIELDS, dataclasses.replace(testing.TASK, heads=HEADS))


def test_a_task_without_vectors():
    """Vector features start from zero, as in the paper."""
    task = dataclasses.replace(testing.TASK, vectors=())
    params = output_shapes(NAME, {**FIELDS, "node_inputs": ("charge",)}, task)
    assert f"{NAME}/vector_embedding" not in params
