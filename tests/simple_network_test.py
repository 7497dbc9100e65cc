"""The network of the e3nn tutorial: one layer against its definition in loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import graphs, testing
from demetar.errors import UserError
from demetar.nn import depthwise, steerable
from tests.models_test import num_params
from tests.support import plain, plain_steerable

TOLERANCE = 1e-10
FIELDS: dict = {
    "embedding_irreps": "3x0e+2x1o",
    "layer_irreps": ("4x0e+2x0o+3x1o+2x1e", "3x0e+2x0o+2x1o+2x1e"),
    "radial_sizes": (5,),
    "lmax": 1,
}
BATCH_SIZES = (3, 2)


def radial_weights(params, layer, values):
    """Linear, layer norm, SiLU, linear."""
    name = f"simple_network/radial_{layer}"
    hidden = plain.linear(params, f"{name}/linear_0", values)
    hidden = plain.silu(plain.layer_norm(params, f"{name}/norm_0", hidden))
    return plain.linear(params, f"{name}/linear_1", hidden)


def soft_odd(x):
    return (1 - np.exp(-(x**2))) * x


GATE_FUNCTIONS = {
    "e3nn": (jax.nn.sigmoid, jax.nn.gelu, soft_odd),
    "silu": (jax.nn.sigmoid, jax.nn.silu, np.tanh),
}


def message(params, layer, other, vector, weights, mix):
    """w(|r|) h_j x Y(r), with the products mixed before the weights if asked."""
    harmonics = {
        irrep: values / np.sqrt(irrep.dim)
        for irrep, values in plain_steerable.harmonics(vector, 1).items()
    }
    wanted = set(steerable.parse_channels(FIELDS["layer_irreps"][layer]))
    if not mix:
        return plain_steerable.tensor_product(other, harmonics, wanted, weights)
    products = plain_steerable.tensor_product(other, harmonics, wanted)
    products = plain_steerable.mix(params, f"simple_network/product_{layer}", products)
    for irrep in sorted(products):
        rows = len(products[irrep])
        products[irrep] = products[irrep] * weights[:rows, None]
        weights = weights[rows:]
    return products


def layer_outputs(params, layer, batch, recorded, gate, mix):
    """linear(concat(gate(linear(mean_j w(|r|) h_j x Y(r))), h_i))."""
    positions = np.asarray(batch.graph.nodes.positions)
    outputs = {}
    for i, senders in plain_steerable.neighbors(batch).items():
        own = plain_steerable.node_features(recorded, f"features_{layer - 1}", i)
        total: dict = {}
        for j, edge in senders:
            vector = positions[i] - positions[j]
            inputs = [np.linalg.norm(vector), *batch.graph.edges[edge]]
            sent = message(
                params,
                layer,
                plain_steerable.node_features(recorded, f"features_{layer - 1}", j),
                vector,
                radial_weights(params, layer, inputs),
                mix,
            )
            total = plain_steerable.add(total, sent)
        mean = {irrep: values / len(senders) for irrep, values in total.items()}
        name = f"simple_network/linear_{layer}"
        gated = plain_steerable.gate(
            plain_steerable.mix(params, f"{name}_0", mean), *GATE_FUNCTIONS[gate]
        )
        joined = {
            irrep: np.concatenate(
                [part[irrep] for part in (gated, own) if irrep in part]
            )
            for irrep in gated
        }
        outputs[i] = plain_steerable.mix(params, f"{name}_1", joined)
    return outputs


@pytest.mark.parametrize("gate, mix", [("e3nn", False), ("silu", True)])
def test_a_layer_is_the_tutorials(gate, mix):
    with jax.enable_x64(True):
        fields = {**FIELDS, "gate": gate, "mix_products": mix, "norm_epsilon": 1e-5}
        subject = testing.Subject("simple_network", "float64", fields)
        batch = testing.make_batch(testing.systems(BATCH_SIZES), "float64", extra=1)
        params = jax.tree.map(np.asarray, subject.params)
        _, recorded = plain_steerable.forward(subject, batch)
        expected = layer_outputs(params, 1, batch, recorded, gate, mix)
        assert len(expected) == sum(BATCH_SIZES)
        for node, values in expected.items():
            assert set(map(str, values)) == {"0e", "0o", "1o", "1e"}
            found = plain_steerable.node_features(recorded, "features_1", node)
            assert plain_steerable.largest_difference(found, values) < TOLERANCE


def summed(graph):
    return jnp.ones((graph.bucket.max_nodes, 1))


class NoRadial(depthwise.NormedMLP):
    """The weights of a pair at distance 0 with edge features 0."""

    def __call__(self, inputs):
        return super().__call__(0 * inputs)


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (steerable, "gate", plain_steerable.without_gate),
        (depthwise, "NormedMLP", NoRadial),
        (depthwise, "harmonics", plain_steerable.without_directions),
        (graphs, "num_neighbors", summed),
    ],
)
def test_no_part_is_idle(monkeypatch, module, part, replacement):
    plain_steerable.assert_not_idle(
        monkeypatch, "simple_network", FIELDS, module, part, replacement
    )


def test_fields_shape_the_model():
    base = num_params("simple_network", **FIELDS)
    for changed in (
        {"embedding_irreps": "2x0e+2x1o"},
        {"layer_irreps": FIELDS["layer_irreps"][:1]},
        {"layer_irreps": ("4x0e+3x1o", "3x0e+2x1o")},
        {"radial_sizes": (4,)},
        {"node_inputs": ("charge",)},
        {"gate": "silu"},
        {"lmax": 0},
    ):
        assert num_params("simple_network", **{**FIELDS, **changed}) < base, changed
    assert num_params("simple_network", **FIELDS, mix_products=True) > base


def test_default_size():
    assert num_params("simple_network") == 148_570


def test_any_irreps_per_layer():
    layers = ("2x0e+1x0o+1x1e+1x2e+1x2o+1x3o", "3x1o+2x0e+1x3e")
    fields = {**FIELDS, "lmax": 2, "layer_irreps": layers}
    testing.assert_symmetry(testing.Subject("simple_network", fields=fields))


def test_refuses_irreps_that_the_heads_cannot_read():
    with pytest.raises(UserError, match="needs 1o after its last layer"):
        num_params("simple_network", **{**FIELDS, "layer_irreps": ("4x0e",)})
    with pytest.raises(UserError, match="couples to no scalar that could gate"):
        layers = ("4x2e", "3x1o")
        num_params("simple_network", **{**FIELDS, "layer_irreps": layers})
    with pytest.raises(UserError, match="'4x0e\\+vectors' is not a sum of irreps"):
        num_params("simple_network", **{**FIELDS, "layer_irreps": ("4x0e+vectors",)})


def test_refuses_unknown_poolings():
    fields = {"node_inputs": ("all",), "pooling": "max"}
    with pytest.raises(UserError, match="a pooling of target, sum, mean, found 'max'"):
        num_params("simple_network", testing.MOLECULES, **fields)


def test_refuses_unknown_gates():
    with pytest.raises(UserError, match="a gate of e3nn, silu, found 'relu'"):
        num_params("simple_network", **FIELDS, gate="relu")


def test_every_kind_of_head():
    plain_steerable.assert_heads("simple_network", FIELDS)
    scalars = {**FIELDS, "layer_irreps": ("4x0e",)}
    task = dataclasses.replace(testing.TASK, heads=plain_steerable.HEADS[2:])
    assert testing.Subject("simple_network", fields=scalars, task=task).params
