"""Equiformer: one block against the equations of the paper in loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import graphs, testing
from demetar.errors import UserError
from demetar.models import equiformer
from demetar.nn import depthwise, radial, steerable
from experiments.protocols import molecules as molecule_protocols
from tests.models_test import num_params
from tests.support import plain, plain_steerable

TOLERANCE = 1e-10
HEADS = 2
FIELDS = {
    "hidden_irreps": "4x0e+2x1o+2x2e",
    "num_layers": 2,
    "num_heads": HEADS,
    "expansion": 2,
    "num_basis": 4,
    "radial_sizes": (5,),
}
WANTED = {steerable.natural_irrep(l) for l in range(3)}
BATCH_SIZES = (3, 2)
SCALAR = steerable.SCALAR


def layer_norm(params, name, features):
    """Values / RMS * scale; for scalars minus their mean first, plus an offset last."""
    outputs = {}
    for irrep, channels in features.items():
        values = np.array(channels)
        if irrep == SCALAR:
            values = values - sum(values) / len(values)
        squares = [sum(channel**2) / irrep.dim for channel in values]
        spread = np.sqrt(sum(squares) / len(squares) + 1e-5)
        values = values / spread * params[name][f"scale_{irrep}"][:, None]
        if irrep == SCALAR:
            values = values + params[name]["offset"][:, None]
        outputs[irrep] = values
    return outputs


def gaussians(params, length, extent):
    """Normal densities of a shifted and scaled length."""
    basis = params["equiformer/basis"]
    x = basis["factor"][0, 0] * length / extent + basis["shift"][0, 0]
    values = []
    for mean, width in zip(basis["mean"][0], np.abs(basis["width"][0]), strict=True):
        width = width + 1e-5
        exponent = -((x - mean) ** 2) / (2 * width**2)
        values.append(np.exp(exponent) / np.sqrt(2 * np.pi) / width)
    return values


def radial_weights(params, name, length, features):
    """Linear, layer norm, SiLU, linear."""
    inputs = [*gaussians(params, length, testing.TASK.radial_extent), *features]
    hidden = plain.linear(params, f"{name}/linear_0", inputs)
    hidden = plain.silu(plain.layer_norm(params, f"{name}/norm_0", hidden))
    return plain.linear(params, f"{name}/linear_1", hidden)


def smooth_leaky(x):
    """((1 + s) x + (1 - s) x (2 sigmoid(x) - 1)) / 2 for the slope s = 0.2."""
    return 0.6 * x + 0.4 * x * (2 / (1 + jnp.exp(-x)) - 1)


def scores_and_value(params, layer, own, other, vector, features):
    """z_ij of each head, and v_ij."""
    attribute = plain_steerable.harmonics(vector, 2)
    pair = plain_steerable.add(
        plain_steerable.mix(params, f"equiformer/receivers_{layer}", own),
        plain_steerable.mix(params, f"equiformer/senders_{layer}", other),
    )
    weights = radial_weights(
        params, f"equiformer/radial_{layer}", np.linalg.norm(vector), features
    )
    pair = plain_steerable.tensor_product(pair, attribute, WANTED, weights)
    message = plain_steerable.mix(params, f"equiformer/message_{layer}", pair)
    for_scores, message[SCALAR] = message[SCALAR][:4, 0], message[SCALAR][4:]
    leaky = plain_steerable.scaled(smooth_leaky)(for_scores)
    vectors = params["equiformer"][f"attention_{layer}"]
    size = len(leaky) // HEADS
    scores = [leaky[h * size : (h + 1) * size] @ vectors[h] for h in range(HEADS)]
    value = plain_steerable.tensor_product(
        plain_steerable.gate(message), attribute, WANTED
    )
    return scores, plain_steerable.mix(params, f"equiformer/value_{layer}", value)


def attention(params, layer, normed, i, senders, positions, edges):
    """linear(sum_j a_ij v_ij), head by head, and a_ij: [edges][heads]."""
    pairs = [
        scores_and_value(
            params,
            layer,
            normed[i],
            normed[j],
            positions[j] - positions[i],
            edges[edge],
        )
        for j, edge in senders
    ]
    weights = np.array(
        [plain.softmax([scores[head] for scores, _ in pairs]) for head in range(HEADS)]
    ).T
    total: dict = {}
    for alphas, (_, value) in zip(weights, pairs, strict=True):
        for irrep, channels in value.items():
            size = len(channels) // HEADS
            rows = [alphas[c // size] * channel for c, channel in enumerate(channels)]
            total = plain_steerable.add(total, {irrep: np.array(rows)})
    return plain_steerable.mix(params, f"equiformer/projection_{layer}", total), weights


def feed_forward(params, layer, features):
    name = f"equiformer/feed_forward_{layer}"
    wide = plain_steerable.gate(plain_steerable.mix(params, f"{name}_0", features))
    return plain_steerable.mix(params, f"{name}_1", wide)


def block(params, layer, batch, recorded):
    """{node: features} after a block, and {edge: attention weights}."""
    positions, edges = (
        np.asarray(values)
        for values in (batch.graph.nodes.positions, batch.graph.edges)
    )
    neighbors = plain_steerable.neighbors(batch)
    nodes = {
        i: plain_steerable.node_features(recorded, f"features_{layer - 1}", i)
        for i in neighbors
    }
    normed = {
        i: layer_norm(params, f"equiformer/norm_{layer}_0", nodes[i]) for i in nodes
    }
    outputs: dict = {}
    weights: dict = {}
    for i, senders in neighbors.items():
        attended, alphas = attention(
            params, layer, normed, i, senders, positions, edges
        )
        weights |= {edge: alphas[k] for k, (_, edge) in enumerate(senders)}
        node = plain_steerable.add(nodes[i], attended)
        second = layer_norm(params, f"equiformer/norm_{layer}_1", node)
        outputs[i] = plain_steerable.add(node, feed_forward(params, layer, second))
    return outputs, weights


def test_a_block_and_its_attention_are_the_papers():
    with jax.enable_x64(True):
        subject = testing.Subject("equiformer", "float64", FIELDS)
        batch = testing.make_batch(testing.systems(BATCH_SIZES), "float64", extra=1)
        params = jax.tree.map(np.asarray, subject.params)
        _, recorded = plain_steerable.forward(subject, batch)
        expected, weights = block(params, 1, batch, recorded)
        assert len(expected) == sum(BATCH_SIZES)
        for node, values in expected.items():
            found = plain_steerable.node_features(recorded, "features_1", node)
            assert plain_steerable.largest_difference(found, values) < TOLERANCE
        for edge, alphas in weights.items():
            assert np.abs(recorded["attention_1"][edge] - alphas).max() < TOLERANCE


def test_attention_sums_to_one_over_real_neighbors():
    subject = testing.Subject("equiformer", fields=FIELDS)
    batch = testing.make_batch(testing.systems(BATCH_SIZES), extra=1)
    _, recorded = plain_steerable.forward(subject, batch)
    for layer in range(2):
        weights = recorded[f"attention_{layer}"]
        assert weights.shape == (batch.graph.bucket.max_edges, HEADS)
        for senders in plain_steerable.neighbors(batch).values():
            rows = weights[[edge for _, edge in senders]]
            assert np.allclose(rows.sum(axis=0), 1, atol=1e-6)
            if len(senders) > 1:
                assert np.ptp(rows, axis=0).min() > 1e-4  # not uniform


def uniform(logits, graph):
    counts = graphs.num_neighbors(graph)
    return jnp.zeros_like(logits) + 1 / graphs.gather_receivers(counts, graph)


def no_norm(self, features):
    return features


def no_basis(self, lengths):
    return jnp.zeros((len(lengths), self.num_basis))


def no_degree(self, hidden, attribute, radial_inputs, graph):
    return {
        irrep: jnp.zeros((irrep.dim, graph.bucket.max_nodes, num))
        for irrep, num in hidden.items()
    }


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (graphs, "softmax_to_receivers", uniform),
        (steerable, "gate", plain_steerable.without_gate),
        (radial.TrainedGaussians, "__call__", no_basis),
        (depthwise, "harmonics", plain_steerable.without_directions),
        (equiformer.LayerNorm, "__call__", no_norm),
        (equiformer.Equiformer, "_degree_embedding", no_degree),
    ],
)
def test_no_part_is_idle(monkeypatch, module, part, replacement):
    fields = {**FIELDS, "num_layers": 1}
    plain_steerable.assert_not_idle(
        monkeypatch, "equiformer", fields, module, part, replacement
    )


def test_the_slope_of_the_scores_is_read():
    fields = {**FIELDS, "num_layers": 1}
    subject, expected = plain_steerable.unbroken("equiformer", tuple(fields.items()))
    steeper = testing.Subject("equiformer", fields={**fields, "negative_slope": 0.9})
    steeper.params = subject.params
    batch = testing.make_batch(testing.systems(BATCH_SIZES))
    error = testing.relative_error(steeper.displacements(batch), expected)
    assert error > 1e-4


def test_fields_shape_the_model():
    base = num_params("equiformer", **FIELDS)
    for changed in (
        {"hidden_irreps": "4x0e+2x1o"},
        {"num_layers": 1},
        {"expansion": 1},
        {"num_basis": 3},
        {"feature_size": 1},
        {"radial_sizes": ()},
        {"node_inputs": ("charge",)},
    ):
        assert num_params("equiformer", **{**FIELDS, **changed}) < base, changed


def test_even_irreps_notice_reflections_alone():
    irreps = "4x0e+2x1e+2x2e"
    fields = {**FIELDS, "num_layers": 1, "hidden_irreps": irreps}
    subject = testing.Subject("equiformer", fields=fields)
    plain_steerable.assert_rotations_alone(subject)
    testing.assert_inputs_matter(subject, ("charge", "velocity", "edge feature"))


def test_attention_drops_out_in_training_alone():
    fields = {**FIELDS, "num_layers": 1, "attention_dropout": 0.5}
    subject = testing.Subject("equiformer", fields=fields)
    batch = testing.make_batch(testing.systems(BATCH_SIZES))

    @functools.partial(jax.jit, static_argnums=1)
    def run(key, is_training):
        graph = batch.graph
        outputs = subject.model.apply(subject.params, key, graph, is_training)
        return outputs["position"][: sum(BATCH_SIZES)]

    kept = run(None, False)  # no key is asked for
    first, again, second = (run(jax.random.key(seed), True) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert testing.relative_error(first, kept) > 1e-3
    assert testing.relative_error(first, second) > 1e-3


def test_default_size():
    assert num_params("equiformer") == 147_710


@pytest.mark.parametrize(
    "fields",
    [
        {"num_heads": 3},
        {"hidden_irreps": "4x0e+2x2e"},
        {"hidden_irreps": "4x0e+2x1o+2x1e"},
        {"hidden_irreps": "4x1o"},
    ],
)
def test_refuses_irreps_that_it_cannot_serve(fields):
    with pytest.raises(UserError, match="equiformer needs hidden irreps of 0e, 1o, 2e"):
        num_params("equiformer", **{**FIELDS, **fields})


def test_the_protocol_has_the_published_size():
    """3.53 million, with the parameters that following linear maps absorb."""
    fields = {"node_inputs": ("all",)}
    fields |= molecule_protocols.PROTOCOLS["equiformer"]["default"].fields
    found = num_params("equiformer", testing.MOLECULES, **fields)
    products = {0: 128 + 64 + 32, 1: 128 + 3 * 64 + 2 * 32, 2: 128 + 2 * 64 + 3 * 32}
    hidden = {0: 128, 1: 64, 2: 32}
    weights = 3 * 128 + 6 * 64 + 6 * 32  # of one product
    constant = 2 * 128
    # The constant is a scalar; the authors couple its vectors of zeros too.
    of_zeros = 65 * (weights - 3 * 128)
    of_zeros += sum((products[l] - 128) * hidden[l] for l in hidden)
    absorbed = constant + of_zeros + 6 * weights
    assert (found, absorbed) == (3_452_419, 79_296)
    assert round((found + absorbed) / 1e6, 2) == 3.53


@pytest.mark.parametrize("feature_size", [None, 5])
def test_every_kind_of_head(feature_size):
    fields = {**FIELDS, "feature_size": feature_size}
    params = plain_steerable.assert_heads("equiformer", fields)
    assert ("equiformer/shortcut" in params) == (feature_size is not None)
