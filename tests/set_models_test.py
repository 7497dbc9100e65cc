"""Deep Set and Set Transformer against their equations in loops, and Radial Field."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import testing
from demetar.errors import UserError
from demetar.nn import attention, capture
from demetar.types import Head
from tests.support import plain

SIZES = (4, 1, 3)
FIELDS = {
    "deep_set": {"hidden_size": 7, "num_layers": 3},
    "set_transformer": {"hidden_size": 7, "num_heads": 2, "num_layers": 2},
}
BOTH = (
    Head("position", "node_vector", base="positions"),
    Head("velocity", "node_vector", base="velocity", scale=2.0),
)


def raw_inputs(system):
    return [
        np.concatenate([[charge], position, velocity])
        for charge, position, velocity in zip(
            system.charges, system.positions, system.velocities, strict=True
        )
    ]


def deep_set(params, system):
    """Three times x -> relu(x Lambda + 1 mean(x) Gamma + beta)."""
    nodes = raw_inputs(system)
    for layer in range(3):
        mean = sum(nodes) / len(nodes)
        pooled = plain.linear(params, f"pooled_linear_{layer}", mean)
        nodes = [
            plain.relu(plain.linear(params, f"own_linear_{layer}", node) + pooled)
            for node in nodes
        ]
    return nodes


def set_transformer(params, system):
    """MAB(X, X) = LayerNorm(H + rFF(H)), H = LayerNorm(X + Multihead(X, X, X))."""
    tokens = [plain.linear(params, "embedding", x) for x in raw_inputs(system)]
    for layer in range(2):
        added = plain.self_attention(params, f"attention_{layer}", tokens, num_heads=2)
        hidden = [
            plain.layer_norm(params, f"norm_{layer}_0", x + y)
            for x, y in zip(tokens, added, strict=True)
        ]
        tokens = [
            plain.layer_norm(
                params,
                f"norm_{layer}_1",
                h + plain.mlp(params, f"mlp_{layer}", h, plain.relu),
            )
            for h in hidden
        ]
    return tokens


@pytest.mark.parametrize(
    "name, equations", [("deep_set", deep_set), ("set_transformer", set_transformer)]
)
def test_forward_pass_is_the_equations(name, equations):
    members = testing.systems(SIZES)
    with jax.enable_x64(True):
        own = testing.Subject(name, "float64", FIELDS[name])
        found = own.displacements(testing.make_batch(members, "float64"))[:, 0]
        params = {
            key.removeprefix(f"{name}/"): jax.tree.map(np.asarray, leaves)
            for key, leaves in own.params.items()
        }
    expected = [
        plain.mlp(params, "decoder_position", features) - position
        for system in members
        for features, position in zip(
            equations(params, system), system.positions, strict=True
        )
    ]
    assert testing.relative_error(found, np.array(expected)) < 1e-10


@pytest.mark.parametrize("name", [*FIELDS, "radial_field"])
def test_position_and_velocity_at_once(name):
    task = dataclasses.replace(testing.TASK, heads=BOTH)
    own = testing.Subject(name, fields=FIELDS.get(name), task=task)
    batch = testing.make_batch(testing.systems(SIZES))
    outputs = own.outputs(batch)
    assert {key: value.shape for key, value in outputs.items()} == {
        "position": (9, 1, 3),
        "velocity": (9, 1, 3),
    }
    velocities = batch.graph.nodes.vectors + 2.0 * outputs["velocity"]
    positions = batch.graph.nodes.positions[:, None] + outputs["position"]
    assert float(jnp.abs(velocities - positions).max()) > 1e-2


def test_heads_of_several_vectors():
    heads = (Head("position", "node_vector", size=2),)
    task = dataclasses.replace(testing.TASK, heads=heads)
    batch = testing.make_batch(testing.systems(SIZES))
    for name, fields in FIELDS.items():
        own = testing.Subject(name, fields=fields, task=task)
        assert own.outputs(batch)["position"].shape == (9, 2, 3)
    with pytest.raises(UserError, match="radial_field predicts one vector per node"):
        testing.Subject("radial_field", task=task).outputs(batch)


def test_radial_field_predicts_the_last_step_as_velocity():
    """With one layer that step is the whole displacement."""
    task = dataclasses.replace(testing.TASK, heads=BOTH)
    own = testing.Subject("radial_field", fields={"num_layers": 1}, task=task)
    batch = testing.make_batch(testing.systems(SIZES))
    outputs = own.outputs(batch)
    velocities = batch.graph.nodes.vectors + 2.0 * outputs["velocity"]
    np.testing.assert_allclose(velocities, outputs["position"], rtol=1e-4, atol=1e-5)


def test_attention_maps_of_the_set_transformer(monkeypatch):
    own = testing.Subject("set_transformer", fields=FIELDS["set_transformer"])
    batch = testing.make_batch(testing.systems(SIZES), extra=2)

    @jax.jit
    def run(params, graph):
        with capture.recording() as values:
            outputs = own.model.apply(params, None, graph, False)
        return outputs, values

    outputs, values = run(own.params, batch.graph)
    assert set(values) == {"attention_0", "attention_1"}
    for slot, size in enumerate(SIZES):
        weights = values["attention_1"][slot]  # [H, M, M]
        np.testing.assert_allclose(weights[:, :, :size].sum(-1), 1, rtol=1e-5)
        assert float(jnp.abs(weights[:, :, size:]).max(initial=0)) == 0

    # Put back as they were recorded they give the same outputs, shuffled they do not.
    maps = iter([values["attention_0"], values["attention_1"]] * 2)
    monkeypatch.setattr(attention, "masked_softmax", lambda *_: next(maps))
    apply = own.model.apply
    found = apply(own.params, None, batch.graph, False)["position"]
    np.testing.assert_allclose(found, outputs["position"], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(
        attention, "masked_softmax", lambda *_: next(maps)[:, ::-1, ::-1]
    )
    found = apply(own.params, None, batch.graph, False)["position"]
    assert float(jnp.abs(found - outputs["position"])[:4].max()) > 1e-3
