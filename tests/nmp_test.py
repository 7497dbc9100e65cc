"""NMP: its network against the equations of the papers in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models
from demetar.errors import UserError
from demetar.models import nmp
from demetar.nn import attention
from tests import contract, plain, plain_molecules
from tests.models_test import num_params

SIZE = 3
FIELDS = {
    "hidden_size": SIZE,
    "num_layers": 2,
    "edge_sizes": (4,),
    "num_readout_steps": 3,
    "readout_size": 5,
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gated_unit(params, state, received):
    """H' = (1 - z) h + z tanh(W m + U (r h))."""
    z_m, r_m, w_m = np.split(plain.linear(params, "update/received", received), 3)
    z_h, r_h = np.split(plain.linear(params, "update/states", state), 2)
    z, r = sigmoid(z_m + z_h), sigmoid(r_m + r_h)
    kept = plain.linear(params, "update/reset_states", r * state)
    return (1 - z) * state + z * np.tanh(w_m + kept)


def set_to_set(params, members, num_steps):
    """q_t = LSTM(q*_{t-1}); r_t = sum_i softmax(m_i . q_t) m_i; q*_t = [q_t, r_t]."""
    query, memory, asked = np.zeros(SIZE), np.zeros(SIZE), np.zeros(2 * SIZE)
    for _ in range(num_steps):
        gates = np.split(plain.linear(params, "query/gates", asked), 4)
        memory = sigmoid(gates[1]) * memory + sigmoid(gates[0]) * np.tanh(gates[3])
        query = sigmoid(gates[2]) * np.tanh(memory)
        weights = plain.softmax([member @ query for member in members])
        answer = sum(w * member for w, member in zip(weights, members, strict=True))
        asked = np.concatenate([query, answer])
    return asked


def test_the_network_is_the_papers():
    with jax.enable_x64(True):
        case = plain_molecules.Case("nmp", FIELDS, plain_molecules.GRAPH_TASK)
    params = case.params
    h = {i: plain.linear(params, "embedding", case.scalars[i]) for i in case.nodes}
    for step in range(2):
        received = {}
        for i in case.nodes:
            received[i] = np.zeros(SIZE)
            for j, edge in case.neighbors[i]:
                vector, features = case.edge(i, j, edge)
                values = np.array([np.linalg.norm(vector), *features])
                matrix = plain.mlp(params, "edge_network", values, plain.relu)
                received[i] += matrix.reshape(SIZE, SIZE) @ h[j]
        h = {i: gated_unit(params, h[i], received[i]) for i in case.nodes}
        for i in case.nodes:
            plain_molecules.assert_close(case.recorded[f"states_{step}"][i], h[i])
    for graph, nodes in enumerate(case.members()):
        both = [np.concatenate([h[i], case.scalars[i]]) for i in nodes]
        members = [plain.linear(params, "members", row) for row in both]
        summary = set_to_set(params, members, 3)
        plain_molecules.assert_close(case.recorded["summary"][graph], summary)
        energy = plain.mlp(params, "readout_energy", summary, plain.relu)
        plain_molecules.assert_close(case.outputs["energy"][graph], energy)


@pytest.fixture(scope="module")
def subject():
    return contract.Subject("nmp", task=contract.MOLECULES)


def alike(self, graph, bucket):
    """The same matrix for every edge."""
    shape = (bucket.max_edges, self.hidden_size, self.hidden_size)
    return jnp.broadcast_to(0.1 * jnp.eye(self.hidden_size), shape)


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (nmp.NMP, "_matrices", alike),
        (nmp.GatedUnit, "__call__", lambda self, states, received: states),
        (attention, "masked_softmax", lambda logits, mask: jnp.where(mask, 0.1, 0.0)),
    ],
)
def test_no_part_is_idle(monkeypatch, subject, module, part, replacement):
    plain_molecules.assert_not_idle(monkeypatch, subject, module, part, replacement)


def test_every_layer_is_read(subject):
    plain_molecules.assert_layers_read(
        subject,
        "embedding",
        "edge_network",
        "update/received",
        "update/states",
        "update/reset_states",
        "members",
        "query",
    )


def test_the_steps_share_their_weights():
    sizes = {
        num_params("nmp", contract.MOLECULES, num_layers=n, num_readout_steps=m)
        for n, m in ((6, 12), (3, 12), (6, 2))
    }
    # The paper states no count. With 5 species and 50 channels:
    edges = (1 * 50 + 50) + 3 * (50 * 50 + 50) + 50 * 2500 + 2500
    update = (50 * 150 + 150) + 50 * 100 + 50 * 50
    readout = 55 * 50 + (100 * 200 + 200) + (100 * 200 + 200) + 200 + 1
    assert sizes == {5 * 50 + 50 + edges + update + readout}


def test_other_heads_are_refused():
    with pytest.raises(UserError, match="nmp has no head of kind node_scalar"):
        models.build("nmp", plain_molecules.TASK)
