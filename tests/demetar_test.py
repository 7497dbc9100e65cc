"""DEMETAr against its equations in loops, and what each part of it does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import connectivity, graphs, models, testing
from demetar.errors import UserError
from demetar.nn import attention, capture, radial
from demetar.types import Head, VectorInput
from tests.support import plain

TINY = {"hidden_size": 7, "num_heads": 3, "num_basis": 4, "joint_layers": 1}
SIZES = (5, 1, 3)
NUM_NODES = sum(SIZES)


@functools.cache
def subject(**fields):
    return testing.Subject("demetar", fields={**TINY, **fields})


@functools.cache
def small_batch():
    """One batch for all tests of parts, so that each subject compiles once."""
    return testing.make_batch(testing.systems(SIZES), extra=2)


@functools.cache
def recorder(**fields):
    """A function of a batch: outputs, and what was recorded on the way."""
    own = subject(**fields)
    params = own.params  # made here: what is first made within a trace leaks from it

    @jax.jit
    def run(graph):
        with capture.recording() as values:
            outputs = own.model.apply(params, None, graph, False)
        return outputs, values

    return lambda batch: run(batch.graph)


def with_edge(batch, index, change=0.7):
    edges = batch.graph.edges.at[index].add(change)
    return dataclasses.replace(
        batch, graph=dataclasses.replace(batch.graph, edges=edges)
    )


# --- The equations, in loops --------------------------------------------------------


def unit(vector):
    return vector / np.linalg.norm(vector)


def node_tokens(system, names):
    centre = sum(system.positions) / len(system.positions)
    tokens = []
    for x, v, charge in zip(
        system.positions, system.velocities, system.charges, strict=True
    ):
        known = {"charge": charge, "|velocity|": np.linalg.norm(v)}
        inward = centre - x
        distance = np.linalg.norm(inward)
        cosine = unit(v) @ unit(inward) if distance > 0 else 0.0
        extent = testing.TASK.radial_extent
        tokens.append(
            np.array([*(known[name] for name in names), distance / extent, cosine])
        )
    return tokens


def edge_tokens(system, pairs, num_basis):
    extent = testing.TASK.radial_extent
    tokens = []
    for j, i in pairs:
        r = system.positions[i] - system.positions[j]
        length = np.linalg.norm(r)
        basis = [
            np.sqrt(2 / extent) * np.sin(k * np.pi * length / extent) / length
            for k in range(1, num_basis + 1)
        ]
        product = system.charges[i] * system.charges[j]
        along = [system.velocities[i] @ unit(r), system.velocities[j] @ unit(r)]
        relative = np.linalg.norm(system.velocities[i] - system.velocities[j])
        tokens.append(np.array([*basis, product, *along, relative]))
    return tokens


def cross_attention(params, nodes, edges, pairs, num_heads):
    """Equation 9 with its incidence mask, n x e of 0 and -inf."""
    queries = [plain.linear(params, "cross/query", node) for node in nodes]
    both = [plain.linear(params, "cross/key_value", edge) for edge in edges]
    keys, values = np.split(np.array(both), 2, axis=1)
    mask = np.full((len(nodes), len(edges)), -np.inf)
    for e, (_, i) in enumerate(pairs):
        mask[i, e] = 0.0
    mixed = plain.multi_head((queries, keys, values), num_heads, mask)
    return [plain.linear(params, "cross/output", row) for row in mixed]


def reference(params, fields, system):
    """Displacements of one system, [n, 3]."""
    num = len(system.charges)
    pairs = list(zip(*connectivity.complete_edges(num), strict=True))
    heads = fields["num_heads"]
    tokens = node_tokens(system, fields["node_inputs"])
    nodes = [plain.mlp(params, "node_embedding", token) for token in tokens]
    nodes = plain.encoder(params, "node", nodes, fields["node_layers"], heads)
    edges = [np.zeros(0)] * len(pairs)
    if not fields["node_only"] and pairs:
        tokens = edge_tokens(system, pairs, fields["num_basis"])
        edges = [plain.mlp(params, "edge_embedding", token) for token in tokens]
        edges = plain.encoder(params, "edge", edges, fields["edge_layers"] - 1, heads)
        added = cross_attention(params, nodes, edges, pairs, heads)
        nodes = [x + y for x, y in zip(nodes, added, strict=True)]  # equation 11
    elif not fields["node_only"]:
        nodes = [node + params["cross/output"]["b"] for node in nodes]
    nodes = plain.encoder(params, "joint", nodes, fields["joint_layers"], heads)
    centre = sum(system.positions) / num
    moves = np.zeros((num, 3))
    name = "readout_position"
    for i in range(num):
        hidden = plain.silu(plain.linear(params, f"{name}_nodes", nodes[i]))
        a, b = plain.linear(params, f"{name}_node_scalars", hidden)
        moves[i] = a * (system.positions[i] - centre) + b * system.velocities[i]
    for (j, i), edge in zip(pairs, edges, strict=True):
        together = np.concatenate([nodes[i], nodes[j], edge])
        hidden = plain.silu(plain.linear(params, f"{name}_edges", together))
        a, b = plain.linear(params, f"{name}_edge_scalars", hidden)
        moves[i] += a * (system.positions[i] - system.positions[j])
        moves[i] += b * (system.velocities[i] - system.velocities[j])
    return moves


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"node_only": True},
        {"node_layers": 0, "edge_layers": 3, "joint_layers": 2},
        {"edge_layers": 1, "num_basis": 2, "node_inputs": ("charge",), "num_heads": 1},
    ],
    ids=str,
)
def test_forward_pass_is_the_equations(changes):
    members = testing.systems((4, 1, 3))
    with jax.enable_x64(True):
        own = testing.Subject("demetar", "float64", {**TINY, **changes})
        found = own.displacements(testing.make_batch(members, "float64"))[:, 0]
        params = {
            name.removeprefix("demetar/"): jax.tree.map(np.asarray, leaves)
            for name, leaves in own.params.items()
        }
    defaults = {name: f.default for name, f in models.fields("demetar").items()}
    fields = {**defaults, **own.small}
    expected = np.concatenate([reference(params, fields, one) for one in members])
    assert testing.relative_error(found, expected) < 1e-10


# --- Bonds --------------------------------------------------------------------------

BONDED = dataclasses.replace(testing.MOLECULES, edge_features=("bond",))


@functools.cache
def bonded(dtype="float32", **fields):
    fields = {"node_layers": 0, "edge_layers": 3, **TINY, **fields}
    return testing.Subject("demetar", dtype, fields, BONDED)


def bonded_batch(dtype="float32", turned=False):
    """Molecules whose edges have a feature of their own in each direction.

    Args:
      turned: with the features of both directions exchanged.
    """
    batch = testing.make_batch(
        testing.systems(SIZES), dtype, bucket=testing.BUCKET, task=BONDED
    )
    graph = batch.graph
    number = np.asarray(graph.senders), np.asarray(graph.receivers)
    sender, receiver = number[::-1] if turned else number
    features = jnp.sin(3.0 * sender + receiver).astype(dtype)[:, None]
    return dataclasses.replace(batch, graph=dataclasses.replace(graph, edges=features))


def received(own, batch):
    """What each node hears of its bonds, [N, C]."""
    with capture.recording() as values:
        own.model.apply(own.params, None, batch.graph, False)
    return np.asarray(values["edge_encoding"])


@pytest.mark.slow
def test_tokens_of_bonds_are_the_function_of_tokens_of_directions():
    """Where both directions of an edge are the same, and the [G, H, P, P] of a quarter.

    So the equations in loops above are those of bonds too.
    """
    with jax.enable_x64(True):
        batch = bonded_batch("float64")
        graph = batch.graph
        features = np.cos(graph.senders + graph.receivers)[:, None]
        batch = dataclasses.replace(
            batch, graph=dataclasses.replace(graph, edges=features)
        )
        maps, outputs = [], []
        for bond_tokens in (True, False):
            own = bonded("float64", bond_tokens=bond_tokens)
            params = bonded("float64", bond_tokens=True).params
            with capture.recording() as values:
                found = own.model.apply(params, None, batch.graph, False)
            maps.append(values["attention_edge_1"].shape)
            outputs.append(np.asarray(found["energy"])[:3])
    edges = testing.BUCKET.max_edges
    assert maps == [(9, 3, edges // 2, edges // 2), (9, 3, edges, edges)]
    assert testing.relative_error(*outputs) < 1e-10


def test_a_bond_does_not_know_which_end_comes_first():
    """What is told of both directions may be exchanged; a directed token notices."""
    own, directed = (bonded(bond_tokens=bond_tokens) for bond_tokens in (True, False))
    errors = []
    for one in (own, directed):
        found = [
            one.apply(own.params, batch.graph)["energy"][:3]
            for batch in (bonded_batch(), bonded_batch(turned=True))
        ]
        errors.append(testing.relative_error(*map(np.asarray, found)))
    assert errors[0] < 1e-6
    assert errors[1] > 1e-3


@pytest.mark.slow
def test_nodes_attend_to_the_bonds_that_they_are_an_end_of():
    own, batch = bonded(edge_layers=1, bond_tokens=True), bonded_batch()
    for changed in (7, 13):
        ends = {int(batch.graph.senders[changed]), int(batch.graph.receivers[changed])}
        after = received(own, with_edge(batch, changed))
        differs = np.abs(after - received(own, batch)).max(axis=1) > 0
        assert set(np.flatnonzero(differs).tolist()) == ends


@pytest.mark.slow
def test_bonds_of_a_graph_hear_of_each_other():
    own, batch = bonded(bond_tokens=True), bonded_batch()
    change = np.abs(received(own, with_edge(batch, 7)) - received(own, batch))
    assert (change[:5].max(axis=1) > 0).all()
    np.testing.assert_array_equal(change[5:], 0)  # other graphs and padding


def test_bonds_of_a_regular_bucket_and_of_a_ragged_one():
    own = bonded(bond_tokens=True)
    members = testing.systems((5, 5, 5))
    regular = testing.regular_batch(members, task=BONDED)
    ragged = testing.make_batch(members, bucket=testing.BUCKET, task=BONDED)
    found = [
        np.asarray(own.outputs(batch)["energy"])[:3] for batch in (regular, ragged)
    ]
    assert testing.relative_error(*found) < testing.TOLERANCE["float32"]


# --- What each part does ------------------------------------------------------------


def test_nodes_attend_to_their_own_edges_alone():
    batch, record = small_batch(), recorder(edge_layers=1)
    changed = 7
    receiver = int(batch.graph.receivers[changed])
    before = record(batch)[1]["edge_encoding"]
    after = record(with_edge(batch, changed))[1]["edge_encoding"]
    differs = np.abs(np.asarray(after - before)).max(axis=1) > 0
    assert np.flatnonzero(differs).tolist() == [receiver]


@pytest.mark.slow
def test_edges_of_a_graph_hear_of_each_other_before():
    before, after = (
        np.asarray(recorder()(item)[1]["edge_encoding"])
        for item in (small_batch(), with_edge(small_batch(), 7))
    )
    assert (np.abs(after - before)[:5].max(axis=1) > 0).all()
    np.testing.assert_array_equal(after[5:9], before[5:9])  # other graphs


@pytest.mark.slow
def test_the_edge_encoder_can_be_left_out():
    batch = small_batch()
    full, ablated = subject(), subject(node_only=True)
    assert not any("edge_embedding" in name for name in ablated.params)
    shared = {name: full.params[name] for name in ablated.params if name in full.params}
    # Same weights wherever both have them: what differs is what the edges give.
    params = {**ablated.params, **shared}
    params["demetar/readout_position_edges"] = {
        "w": full.params["demetar/readout_position_edges"]["w"][:14],
        "b": full.params["demetar/readout_position_edges"]["b"],
    }
    outputs = ablated.apply(params, batch.graph)["position"]
    expected = recorder()(batch)[0]["position"]
    assert testing.relative_error(np.asarray(outputs), np.asarray(expected)) > 0.01
    changed = with_edge(batch, 7)
    np.testing.assert_array_equal(
        outputs, ablated.apply(params, changed.graph)["position"]
    )
    error = testing.transformation_error(ablated, testing.rotation(), testing.NO_SHIFT)
    assert error < testing.TOLERANCE["float32"]


def _flat(logits, mask):
    mask = jnp.broadcast_to(mask, logits.shape)
    return mask / jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)


@pytest.mark.parametrize(
    "module, name, replacement",
    [
        (attention, "masked_softmax", _flat),
        (graphs, "softmax_to_receivers", lambda x, *_: jnp.full_like(x, 0.25)),
        (radial, "bessel", lambda x, count, _: jnp.zeros((len(x), count))),
    ],
    ids=["self-attention", "cross attention", "radial basis"],
)
def test_removing_a_part_changes_the_output(module, name, replacement, monkeypatch):
    batch, own = small_batch(), subject()
    expected = np.asarray(recorder()(batch)[0]["position"])
    monkeypatch.setattr(module, name, replacement)
    apply = jax.jit(own.model.apply, static_argnums=3)
    outputs = apply(own.params, None, batch.graph, False)["position"]
    assert testing.relative_error(np.asarray(outputs), expected) > 1e-3


def test_attention_maps():
    batch = small_batch()
    _, values = recorder()(batch)
    maps = {name for name in values if name.startswith("attention")}
    assert maps == {
        f"attention_{which}" for which in ("node_0", "edge_0", "joint_0")
    } | {"attention_cross"}
    for name, counts in (("node_0", (5, 1, 3)), ("edge_0", (20, 0, 6))):
        weights = np.asarray(values[f"attention_{name}"])
        for slot, count in enumerate(counts):
            sums = weights[slot, :, :count, :count].sum(axis=-1)
            np.testing.assert_allclose(sums, 1, rtol=1e-5)
            assert (weights[slot, :, :, count:] == 0).all()
        assert (weights[3:] == 0).all()  # empty slots and the padding graph
    cross = values["attention_cross"]  # [E, H]
    sums = np.asarray(graphs.sum_to_receivers(cross, batch.graph))
    np.testing.assert_allclose(sums[[0, 1, 2, 3, 4, 6, 7, 8]], 1, rtol=1e-5)
    np.testing.assert_array_equal(sums[5], 0)  # the graph of one node


# --- Symmetry -----------------------------------------------------------------------


def test_raw_coordinates_are_the_free_model():
    free = testing.Subject("demetar_free", fields=TINY)
    batch = small_batch()
    ablated = testing.Subject("demetar", fields={**TINY, "equivariance": "none"})
    params = {
        name.replace("demetar_free", "demetar"): leaves
        for name, leaves in free.params.items()
    }
    found = ablated.apply(params, batch.graph)["position"]
    np.testing.assert_array_equal(found, free.outputs(batch)["position"])
    assert models.model_class("demetar_free").symmetry == "S(n)"


def test_axial_vectors_keep_reflections():
    """An axial vector has no invariant angle with a polar one, and is no output."""
    task = dataclasses.replace(testing.TASK, vectors=(VectorInput("velocity", 1),))
    own = testing.Subject("demetar", fields=TINY, task=task)
    batch = small_batch()
    nodes = batch.graph.nodes
    mirrored = dataclasses.replace(
        batch.graph, nodes=nodes._replace(positions=-nodes.positions)
    )
    found = own.apply(own.params, mirrored)["position"]
    expected = -own.outputs(batch)["position"]
    error = testing.relative_error(np.asarray(found), np.asarray(expected))
    assert error < testing.TOLERANCE["float32"]


# --- Heads and fields ---------------------------------------------------------------

HEADS = (
    Head("position", "node_vector", base="positions"),
    Head("forces", "node_vector", size=2),
    Head("charges", "node_scalar", size=3),
    Head("energy", "graph_scalar", size=2),
)


@functools.cache
def all_heads():
    task = dataclasses.replace(testing.TASK, heads=HEADS)
    return testing.Subject("demetar", fields=TINY, task=task)


def test_every_kind_of_head_at_once():
    own = all_heads()
    found = own.outputs(small_batch())
    shapes = {name: value.shape for name, value in found.items()}
    assert shapes == {
        "position": (12, 1, 3),
        "forces": (12, 2, 3),
        "charges": (12, 3),
        "energy": (6, 2),
    }
    matrix = -testing.rotation()
    members = testing.moved(testing.systems(SIZES), matrix, testing.SHIFT)
    turned = own.outputs(testing.make_batch(members, extra=2))
    expected = np.einsum("ij,nkj->nki", matrix, found["forces"])[:NUM_NODES]
    found = {name: np.asarray(value) for name, value in found.items()}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    close(turned["forces"][:NUM_NODES], expected)
    close(turned["charges"][:NUM_NODES], found["charges"][:NUM_NODES])
    close(turned["energy"][:3], found["energy"][:3])


@pytest.mark.slow
def test_an_extensive_scalar_is_a_sum_over_the_nodes():
    def found(extensive, pooling):
        head = Head("energy", "graph_scalar", extensive=extensive)
        task = dataclasses.replace(testing.TASK, heads=(head,))
        fields = {**TINY, "pooling": pooling}
        own = testing.Subject("demetar", fields=fields, task=task)
        values = own.outputs(small_batch())["energy"]
        return np.asarray(values)[: len(SIZES), 0], own.params

    total, params = found(True, "target")
    assert "demetar" not in params  # the module that has the token
    np.testing.assert_allclose(total, found(False, "sum")[0], rtol=1e-6)
    means = found(True, "mean")[0] * np.array(SIZES)
    np.testing.assert_allclose(total, means, rtol=1e-5)
    token, params = found(False, "target")
    assert "cls" in params["demetar"]
    np.testing.assert_allclose(token, found(True, "cls")[0], rtol=1e-6)
    assert np.abs(total - token).max() > 1e-3


def test_the_summary_token_reads_nodes_and_edges_of_its_graph():
    own = all_heads()
    assert own.params["demetar"]["cls"].shape == (7,)
    expected = np.asarray(own.outputs(small_batch())["energy"])
    found = np.asarray(own.outputs(with_edge(small_batch(), 7))["energy"])
    assert np.abs(found[0] - expected[0]).max() > 1e-5
    np.testing.assert_array_equal(found[1:], expected[1:])
    # Neither padding nor batch mates reach it.
    alone = testing.make_batch(testing.systems(SIZES[:1]))
    np.testing.assert_allclose(
        own.outputs(alone)["energy"][:1], expected[:1], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"equivariance": "some"}, "expects one of full, none, found 'some'"),
        ({"pooling": "max"}, "one of target, cls, sum, mean, found 'max'"),
        ({"edge_layers": 0}, "at least 1, found 0; node_only=true leaves the edges"),
        ({"bond_tokens": True}, "both directions, which graphs of nearest neighbours"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    batch = testing.make_batch(testing.systems((3,)))
    task = dataclasses.replace(testing.TASK, connectivity="knn", num_neighbors=2)
    model = models.build("demetar", task, fields)
    with pytest.raises(UserError, match=message):
        model.init(jax.random.key(0), batch.graph, False)


@pytest.mark.parametrize(
    "name, count",
    [
        ("demetar", 177_664),
        ("demetar_free", 164_483),
        ("deep_set", 150_403),
        ("set_transformer", 138_755),
        ("radial_field", 2_052),
    ],
)
def test_number_of_parameters(name, count):
    batch = testing.regular_batch(testing.systems((5,)))
    model = models.build(name, testing.TASK)
    init = functools.partial(model.init, jax.random.key(0))
    params = jax.eval_shape(lambda graph: init(graph, False), batch.graph)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("bond_tokens", [False, True])
@pytest.mark.parametrize("regular", [False, True])
def test_more_edge_tokens_than_the_limit_are_refused_with_their_memory(
    bond_tokens, regular
):
    members = testing.systems((7, 7))
    batch = testing.make_batch(members, bucket=testing.BUCKET)
    edges, num_graphs = testing.BUCKET.max_edges, testing.BUCKET.num_graphs
    if regular:  # else nothing bounds the edges of one graph
        batch = testing.regular_batch(members)
        edges, num_graphs = 42, 2
    tokens = edges // 2 if bond_tokens else edges
    fields = {"hidden_size": 8, "num_heads": 2, "max_edge_tokens": tokens - 1}
    fields["bond_tokens"] = bond_tokens

    def init(**more):
        model = models.build("demetar", testing.TASK, {**fields, **more})
        return jax.eval_shape(
            lambda key: model.init(key, batch.graph, True),
            jax.random.key(0),
        )

    memory = 4 * num_graphs * 2 * tokens**2 / 2**30
    message = f"{edges} edges, .* {tokens} tokens.*{memory:.1f} GiB per layer"
    with pytest.raises(UserError, match=message):
        init()
    for more in (
        {"max_edge_tokens": tokens},
        {"max_edge_tokens": 0},
        {"edge_layers": 1},
        {"node_only": True},
    ):
        assert init(**more)
