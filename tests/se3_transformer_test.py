"""SE(3)-Transformer: attention layers against the equations of the paper in loops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import graphs, testing
from demetar.errors import UserError
from demetar.nn import kernels, radial, steerable
from experiments.protocols import nbody as protocols
from tests.models_test import num_params
from tests.support import plain, plain_kernels, plain_steerable
from tests.tfn_test import (
    HEADS,
    displacements,
    given,
    output_shapes,
    radial_inputs,
    recompiled,
    recorded_features,
)

TOLERANCE = 1e-10
FIELDS = {
    "hidden_size": 3,
    "lmax": 1,
    "num_layers": 2,
    "num_heads": 2,
    "head_size": 2,
    "radial_size": 4,
    "num_basis": 3,
}
BATCH_SIZES = (3, 2)
NAME = "se3_transformer"


def attention(params, layer, batch, features, radial_fn, shared):
    """sum_j alpha_ij W_V f_j with alpha = softmax_j(q_i . k_ij), and alpha."""
    positions = np.asarray(batch.graph.nodes.positions)
    size = FIELDS["num_heads"] * FIELDS["head_size"]
    part = {steerable.SCALAR: size, steerable.VECTOR: size}
    outputs, weights = {}, {}
    for i, senders in plain_steerable.neighbors(batch).items():
        queries = plain_steerable.mix(params, f"{NAME}/queries_{layer}", features(i))
        messages = []
        for j, edge in senders:
            vector = positions[i] - positions[j]
            values = radial_fn(np.linalg.norm(vector), batch.graph.edges[edge])
            messages.append(
                plain_kernels.apply(
                    params,
                    f"{NAME}/kernels_{layer}",
                    vector,
                    values,
                    features(j),
                    [part, part],
                    shared,
                )
            )
        outputs[i] = {irrep: np.zeros((size, irrep.dim)) for irrep in part}
        for head in range(FIELDS["num_heads"]):
            channels = range(
                head * FIELDS["head_size"], (head + 1) * FIELDS["head_size"]
            )
            logits = [
                sum(
                    queries[irrep][c] @ keys[irrep][c]
                    for irrep in part
                    for c in channels
                )
                / np.sqrt(size * (1 + 3))
                for _, keys in messages
            ]
            alphas = plain.softmax(logits)
            for (_, edge), alpha, (values, _) in zip(
                senders, alphas, messages, strict=True
            ):
                weights[edge, head] = alpha
                for irrep in part:
                    for c in channels:
                        outputs[i][irrep][c] += alpha * values[irrep][c]
    return outputs, weights


def attentive(params, layer, features):
    """f_c' = sum_c w_c'c f_c, w = softmax_c(MLP(all inner products)), per degree."""
    outputs = {}
    for irrep, channels in features.items():
        products = np.array([a @ b for a in channels for b in channels])
        name = f"{NAME}/attentive_norm_{layer}_{irrep}"
        hidden = plain.layer_norm(params, name, products)
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        logits = plain.linear(
            params, f"{NAME}/attentive_linear_{layer}_{irrep}", hidden
        ).reshape(FIELDS["hidden_size"], len(channels))
        outputs[irrep] = np.array(
            [
                sum(
                    w * row for w, row in zip(plain.softmax(row), channels, strict=True)
                )
                for row in logits
            ]
        )
    return outputs


def self_interaction(kind, params, layer, attended, features):
    """What follows the attention at one node."""
    if kind == "none":
        return attended
    stacked = {
        irrep: np.concatenate([attended[irrep], features[irrep]]) for irrep in attended
    }
    if kind == "attentive":
        return attentive(params, layer, stacked)
    return plain_steerable.mix(params, f"{NAME}/self_interaction_{layer}", stacked)


@pytest.mark.parametrize(
    "kind, shared", [("linear", True), ("attentive", True), ("none", False)]
)
def test_attention_layers_are_the_papers(kind, shared):
    with jax.enable_x64(True):
        fields = {**FIELDS, "self_interaction": kind, "shared_radial": shared}
        subject = testing.Subject(NAME, "float64", fields)
        batch = testing.make_batch(testing.systems(BATCH_SIZES), "float64", extra=1)
        params = jax.tree.map(np.asarray, subject.params)
        outputs, recorded = plain_steerable.forward(subject, batch)
        radial_fn = radial_inputs(3, read_edges=True)
        features = given(batch)
        for layer in range(2):
            attended, weights = attention(
                params, layer, batch, features, radial_fn, shared
            )
            for (edge, head), weight in weights.items():
                found = recorded[f"attention_{layer}"][edge, head]
                assert abs(found - weight) < TOLERANCE
            previous, features = features, recorded_features(recorded, layer)
            assert len(attended) == sum(BATCH_SIZES)
            for node, values in attended.items():
                mixed = self_interaction(kind, params, layer, values, previous(node))
                wanted = plain_kernels.norm_nonlinearity(
                    params, f"{NAME}/nonlinearity_{layer}", mixed
                )
                error = plain_steerable.largest_difference(features(node), wanted)
                assert error < TOLERANCE
        expected = plain_kernels.convolution(
            params,
            f"{NAME}/output",
            batch,
            features,
            radial_fn,
            {steerable.VECTOR: 1},
            shared,
        )
        scale = params[NAME]["output_scale"]
        for node, values in expected.items():
            found = outputs["position"][node] / scale
            error = testing.relative_error(found, values[steerable.VECTOR])
            assert error < TOLERANCE


@functools.cache
def base_subject():
    return testing.Subject(NAME, fields=FIELDS)


def test_attention_sums_to_one_over_the_real_neighbours():
    batch = testing.make_batch(testing.systems(BATCH_SIZES), extra=2)
    _, recorded = plain_steerable.forward(base_subject(), batch)
    neighbors = plain_steerable.neighbors(batch)
    assert len(neighbors) == sum(BATCH_SIZES)
    for layer in range(2):
        weights = recorded[f"attention_{layer}"]
        assert weights.shape == (batch.graph.bucket.max_edges, FIELDS["num_heads"])
        for senders in neighbors.values():
            rows = weights[np.array([edge for _, edge in senders])]
            assert np.abs(rows.sum(axis=0) - 1).max() < 1e-6
            assert (rows > 0).all()


def uniform(logits, graph):
    return right_softmax(0 * logits, graph)


def no_basis(lengths, num_basis, extent):
    return jnp.zeros((len(lengths), num_basis))


right_softmax = graphs.softmax_to_receivers


@pytest.mark.parametrize(
    "module, name, replacement",
    [
        (graphs, "softmax_to_receivers", uniform),
        (radial, "gaussian", no_basis),
        (kernels.NormNonlinearity, "__call__", lambda self, features: features),
    ],
)
@pytest.mark.slow
def test_no_part_is_idle(monkeypatch, module, name, replacement):
    expected = displacements(base_subject())
    monkeypatch.setattr(module, name, replacement)
    found = displacements(recompiled(base_subject()), base_subject().params)
    assert testing.relative_error(found, expected) > 1e-3


@pytest.mark.slow
def test_attentive_weights_are_finite_without_neighbours():
    fields = {
        **FIELDS,
        "num_layers": 1,
        "self_interaction": "attentive",
        "shared_radial": True,
    }
    testing.assert_finite(testing.Subject(NAME, fields=fields))


@pytest.mark.slow
def test_fields_shape_the_model():
    shared = {**FIELDS, "shared_radial": True}
    base = num_params(NAME, **shared)
    for changed in (
        {"hidden_size": 2},
        {"num_layers": 1},
        {"num_heads": 1},
        {"head_size": 1},
        {"radial_size": 3},
        {"num_basis": 0},
        {"read_edges": False},
        {"self_interaction": "none", "head_size": 1},
    ):
        assert num_params(NAME, **{**shared, **changed}) < base, changed
    for added in (
        {"lmax": 2},
        {"shared_radial": False},
        {"self_interaction": "attentive"},
        {"node_inputs": ("charge", "|velocity|")},
    ):
        assert num_params(NAME, **{**shared, **added}) > base, added
    with pytest.raises(UserError, match=r"se3_transformer needs lmax >= 1 .* found 0"):
        num_params(NAME, lmax=0)
    with pytest.raises(UserError, match="no self_interaction 'full'; expected one of"):
        num_params(NAME, self_interaction="full")


@pytest.mark.slow
def test_sizes_of_the_default_and_of_the_comparison():
    """The authors' have 1.76 million."""
    assert num_params(NAME) == 173_083
    assert num_params(NAME, **protocols.find(NAME, "paper").fields) == 1_763_134


def test_every_kind_of_head():
    task = dataclasses.replace(testing.TASK, heads=HEADS)
    output_shapes(NAME, FIELDS, task)
    params = output_shapes(NAME, FIELDS, dataclasses.replace(task, heads=HEADS[2:]))
    assert NAME not in params  # no output_scale without a vector head
