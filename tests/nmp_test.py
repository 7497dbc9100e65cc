"""NMP: its network against the equations of the papers in loops."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models, testing
from demetar.errors import UserError
from demetar.models import nmp
from demetar.nn import attention, capture, mlp
from tests.models_test import num_params
from tests.support import author_molecules, authors, plain, plain_molecules
from tests.support.author_cases import nmp as author_cases

SIZE = 6
FIELDS = {
    "hidden_size": SIZE,
    "num_layers": 2,
    "edge_sizes": (4,),
    "num_readout_steps": 3,
    "readout_size": 5,
}
# As the papers have it, and not the authors' code.
PAPERS = {"dot_attention": True, "standard_cell": True}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gated_unit(params, state, received):
    """H' = (1 - z) h + z tanh(W m + U (r h))."""
    z_m, r_m, w_m = np.split(plain.linear(params, "update/received", received), 3)
    z_h, r_h = np.split(plain.linear(params, "update/states", state), 2)
    z, r = sigmoid(z_m + z_h), sigmoid(r_m + r_h)
    kept = plain.linear(params, "update/reset_states", r * state)
    return (1 - z) * state + z * np.tanh(w_m + kept)


def messages(case, h, i, direction):
    """Sum of A(e_ij) h_j over the neighbours j and i itself, which has e = 0."""
    total = np.zeros(SIZE)
    for j, edge in [*case.neighbors[i], (i, None)]:
        values = np.zeros(2)
        if edge is not None:
            vector, features = case.edge(i, j, edge)
            values = np.array([np.linalg.norm(vector), *features])
        name = f"edge_network_{direction}"
        matrix = plain.mlp(case.params, name, values, plain.relu)
        total += matrix.reshape(SIZE, SIZE) @ h[j]
    return total


def set_to_set(params, members, num_steps, dot_attention=False, standard_cell=False):
    """q_t = LSTM(q*_{t-1}); r_t = sum_i softmax(e_i) m_i; q*_t = [q_t, r_t]."""
    query = memory = np.zeros(len(members[0]))
    asked = np.zeros(2 * len(members[0]))
    for _ in range(num_steps):
        gates = np.split(plain.linear(params, "query/gates", asked), 4)
        candidate = gates[3] if standard_cell else sigmoid(gates[3])
        memory = sigmoid(gates[1]) * memory + sigmoid(gates[0]) * np.tanh(candidate)
        query = sigmoid(gates[2]) * np.tanh(memory)
        turned = plain.linear(params, "comparison/query", query)
        if dot_attention:
            logits = [member @ turned for member in members]
        else:
            (v,) = params["comparison/logits"]["w"].T
            logits = [v @ np.tanh(turned + member) for member in members]
        weights = plain.softmax(logits)
        answer = sum(w * member for w, member in zip(weights, members, strict=True))
        asked = np.concatenate([query, answer])
    return asked


@pytest.mark.parametrize(
    "directions, options", [(("in", "out"), {}), (("in",), PAPERS)]
)
def test_the_network_is_the_papers(directions, options):
    fields = {**FIELDS, **options, "one_network": len(directions) == 1}
    with jax.enable_x64(True):
        case = plain_molecules.Case("nmp", fields, plain_molecules.GRAPH_TASK)
    params = case.params
    bias = params["nmp"]["message_bias"]
    h = {i: np.array([*case.scalars[i], *np.zeros(SIZE - 5)]) for i in case.nodes}
    for step in range(2):
        received = {
            i: np.concatenate([messages(case, h, i, name) for name in directions])
            for i in case.nodes
        }
        h = {i: gated_unit(params, h[i], received[i] + bias) for i in case.nodes}
        for i in case.nodes:
            plain_molecules.assert_close(case.recorded[f"states_{step}"][i], h[i])
    for graph, nodes in enumerate(case.members()):
        both = [np.concatenate([h[i], case.scalars[i]]) for i in nodes]
        members = [plain.linear(params, "members", row) for row in both]
        summary = set_to_set(params, members, 3, **options)
        plain_molecules.assert_close(case.recorded["summary"][graph], summary)
        energy = plain.mlp(params, "readout_energy", summary, plain.relu)
        plain_molecules.assert_close(case.outputs["energy"][graph], energy)


@pytest.mark.parametrize("case", author_cases.CASES, ids=lambda case: case.file)
def test_states_after_every_step_are_the_authors(case, shared_dir):
    with jax.enable_x64(True):
        data = authors.read(shared_dir, case.file)
        loaded = case.load(data)

        def states(params, positions):
            with capture.recording() as values:
                loaded.output(params, positions)
            return [values[f"states_{k}"] for k in range(len(data["states"]) - 1)]

        found = jax.jit(states)(loaded.params, loaded.positions)
    species = data["states"][0]
    assert np.array_equal(species[:, :5].argmax(1), _species(data))
    for state, expected in zip(found, data["states"][1:], strict=True):
        error = authors.relative_error(state[: len(expected)], expected)
        assert error < case.tolerance


def _species(data):
    """Columns of the atoms' elements, [N]."""
    return np.searchsorted(author_molecules.NUMBERS, data["atomic_numbers"])


@pytest.fixture(scope="module")
def subject():
    return testing.Subject("nmp", task=testing.MOLECULES)


def alike(self, direction, graph):
    """The same matrix for every edge."""
    matrix = 0.1 * jnp.eye(self.hidden_size)
    return jnp.broadcast_to(matrix, (graph.bucket.max_edges, *matrix.shape)), matrix


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
        "edge_network_in",
        "edge_network_out",
        "update/received",
        "update/states",
        "update/reset_states",
        "members",
        "query",
        "comparison/query",
    )


def test_the_steps_share_their_weights():
    sizes = {
        num_params("nmp", testing.MOLECULES, num_layers=n, num_readout_steps=m)
        for n, m in ((6, 12), (3, 12), (6, 2))
    }
    # The paper states no count. With 5 species and 50 channels:
    edges = (1 * 50 + 50) + 3 * (50 * 50 + 50) + 50 * 2500 + 2500
    update = 100 + 100 * 150 + 50 * 100 + 50 * 50
    readout = 55 * 55 + (110 * 220 + 220) + 55 * 55 + 55
    assert sizes == {2 * edges + update + readout + (110 * 200 + 200) + 200 + 1}


def test_the_start_is_the_authors():
    """Glorot's for each of the authors' matrices; biases too, but those of the cell."""
    starts = testing.initializers("nmp", {}, testing.MOLECULES)
    plain_starts = {path for path in starts if starts[path] is mlp.GLOROT_UNIFORM}
    assert "message_bias" in plain_starts
    assert {path for path in starts if path.endswith("/b")} - plain_starts == {
        "query/gates/b"
    }
    assert starts["query/gates/b"] is mlp.ZEROS

    def draw():
        return starts["query/gates/w"]((40, 80), jnp.float32)  # 4 gates of 20

    gates = hk.transform(draw).apply({}, jax.random.key(0))
    limit = (6 / (40 + 20)) ** 0.5
    assert 0.99 * limit < np.abs(gates).max() <= limit


def test_more_inputs_than_channels_are_refused():
    with pytest.raises(UserError, match="the 5 node inputs: expected a hidden_size of"):
        num_params("nmp", testing.MOLECULES, hidden_size=4)


def test_other_heads_are_refused():
    with pytest.raises(UserError, match="nmp has no head of kind node_scalar"):
        models.build("nmp", plain_molecules.TASK)
