"""Gathers, sums and pools: the fast path of regular buckets against the ragged one."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from demetar import connectivity, graphs, pairs
from demetar.data.packing import RaggedPacking, make_packing
from demetar.data.samples import Samples
from demetar.types import Batch, Bucket, Graph, Nodes, TaskSpec

SIZES = (1, 2, 3, 5, 7)
NUM_GRAPHS, NUM_CHANNELS = 3, 4
LEADS = ((), (3, 2))


def make_graph(sizes, bucket):
    """Complete graphs of these sizes, padded by the last slot of a ragged bucket."""
    pairs = [connectivity.complete_edges(size) for size in sizes]
    starts = np.cumsum([0, *sizes])
    n_node = np.array(sizes, np.int32)
    n_edge = np.array([len(senders) for senders, _ in pairs], np.int32)
    ends = [
        np.concatenate(
            [pair[k] + start for pair, start in zip(pairs, starts[:-1], strict=True)]
        )
        for k in (0, 1)
    ]
    if bucket.nodes_per_graph is None:
        empty = np.zeros(bucket.num_graphs - len(sizes) - 1, np.int32)
        left = bucket.max_edges - n_edge.sum()
        ends = [np.append(end, np.full(left, bucket.max_nodes - 1)) for end in ends]
        n_node = np.concatenate([n_node, empty, [bucket.max_nodes - n_node.sum()]])
        n_edge = np.concatenate([n_edge, empty, [left]])
    nothing = np.zeros((bucket.max_nodes, 3), np.float32)
    return Graph(
        nodes=Nodes(nothing, nothing[:, :0], nothing[:, None]),
        edges=np.zeros((bucket.max_edges, 1), np.float32),
        senders=ends[0].astype(np.int32),
        receivers=ends[1].astype(np.int32),
        n_node=n_node.astype(np.int32),
        n_edge=n_edge.astype(np.int32),
        globals=None,
        bucket=bucket,
    )


def both_paths(size, degree=None):
    """The same graphs in two buckets: regular, and ragged without any padding.

    Complete ones, or of `degree` senders per node, drawn at random.
    """
    num_nodes, num_edges = NUM_GRAPHS * size, NUM_GRAPHS * size * (size - 1)
    regular = Bucket(num_nodes, num_edges, NUM_GRAPHS, size)
    graph = make_graph([size] * NUM_GRAPHS, regular)
    if degree is not None:
        generator = np.random.default_rng(3)
        others = graph.senders.reshape(num_nodes, size - 1)
        senders = generator.permuted(others, axis=1)[:, :degree].reshape(-1)
        num_edges = len(senders)
        regular = Bucket(
            num_nodes, num_edges, NUM_GRAPHS, size, neighbors_per_node=degree
        )
        graph = dataclasses.replace(
            graph,
            edges=graph.edges[:num_edges],
            senders=senders,
            receivers=np.repeat(np.arange(num_nodes, dtype=np.int32), degree),
            n_edge=np.full(NUM_GRAPHS, size * degree, np.int32),
            bucket=regular,
        )
    general = Bucket(num_nodes, num_edges, NUM_GRAPHS)
    return graph, dataclasses.replace(graph, bucket=general)


def ragged(sizes=(3, 1, 5, 2), extra_nodes=4, extra_edges=7, extra_slots=2):
    num_edges = sum(size * (size - 1) for size in sizes)
    bucket = Bucket(
        sum(sizes) + 1 + extra_nodes,
        num_edges + extra_edges,
        len(sizes) + 1 + extra_slots,
    )
    return make_graph(sizes, bucket)


# Each with what its values are: of nodes, edges or graphs, and whether axes may lead.
FUNCTIONS = {
    graphs.gather_receivers: ("nodes", True),
    graphs.gather_senders: ("nodes", True),
    graphs.sum_to_receivers: ("edges", True),
    graphs.mean_to_receivers: ("edges", True),
    graphs.softmax_to_receivers: ("edges", False),
    graphs.pool_sum: ("nodes", False),
    graphs.pool_mean: ("nodes", False),
    graphs.broadcast_to_nodes: ("graphs", False),
}


@pytest.mark.parametrize(
    "size, degree, dtype",
    [*((size, None, "float32") for size in SIZES), (7, 3, "float64")],
)
def test_regular_and_ragged_paths_are_one_function(size, degree, dtype):
    """Values and gradients; all functions in one program, so that it compiles once."""
    with jax.enable_x64(dtype == "float64"):
        assert_one_function(both_paths(size, degree), dtype)


def assert_one_function(paths, dtype):
    sizes = paths[0].bucket
    num_rows = {
        "nodes": sizes.max_nodes,
        "edges": sizes.max_edges,
        "graphs": NUM_GRAPHS,
    }
    generator = np.random.default_rng(sizes.nodes_per_graph)
    cases = [
        (function, generator.normal(size=(*lead, num_rows[rows], NUM_CHANNELS)))
        for function, (rows, leading) in FUNCTIONS.items()
        for lead in (LEADS if leading else LEADS[:1])
    ]
    inputs = [values.astype(dtype) for _, values in cases]
    tolerance = {"float32": (1e-5, 1e-6), "float64": (1e-13, 1e-14)}[dtype]

    @jax.jit
    def both(inputs):
        results = []
        for (function, _), values in zip(cases, inputs, strict=True):
            for graph in paths:
                output, back = jax.vjp(lambda x, f=function, g=graph: f(x, g), values)
                slope = jnp.cos(jnp.arange(output.size).reshape(output.shape))
                results.append((output, back(slope.astype(output.dtype))[0]))
        return results

    results = iter(both(inputs))
    for function, _ in cases:
        for fast, slow in zip(next(results), next(results), strict=True):
            assert fast.shape == slow.shape and fast.dtype == slow.dtype == dtype
            np.testing.assert_allclose(
                fast, slow, *tolerance, err_msg=function.__name__
            )


def test_functions_against_loops():
    """The ragged path, which the test above leans on, against plain Python."""
    graph = ragged()
    bucket = graph.bucket
    generator = np.random.default_rng(0)
    nodes = generator.normal(size=(bucket.max_nodes, NUM_CHANNELS)).astype(np.float32)
    edges = generator.normal(size=(bucket.max_edges, NUM_CHANNELS)).astype(np.float32)
    sums, weights = np.zeros_like(nodes), np.zeros_like(edges)
    degrees = np.zeros(bucket.max_nodes)
    for edge, receiver in enumerate(graph.receivers):
        sums[receiver] += edges[edge]
        degrees[receiver] += 1
    totals = np.zeros_like(nodes)
    for edge, receiver in enumerate(graph.receivers):
        totals[receiver] += np.exp(edges[edge])
    for edge, receiver in enumerate(graph.receivers):
        weights[edge] = np.exp(edges[edge]) / totals[receiver]
    pooled = np.zeros((bucket.num_graphs, NUM_CHANNELS))
    slots = np.concatenate([[k] * n for k, n in enumerate(graph.n_node)]).astype(int)
    for node, slot in enumerate(slots):
        pooled[slot] += nodes[node]

    @jax.jit
    def found(nodes, edges):
        return {
            "senders": graphs.gather_senders(nodes, graph),
            "receivers": graphs.gather_receivers(nodes, graph),
            "sums": graphs.sum_to_receivers(edges, graph),
            "means": graphs.mean_to_receivers(edges, graph),
            "softmax": graphs.softmax_to_receivers(edges, graph),
            "pooled": graphs.pool_sum(nodes, graph),
            "pooled means": graphs.pool_mean(nodes, graph),
            "slots": graphs.graph_of_node(graph),
            "broadcast": graphs.broadcast_to_nodes(pooled, graph),
        }

    expected = {
        "senders": nodes[graph.senders],
        "receivers": nodes[graph.receivers],
        "sums": sums,
        "means": sums / np.maximum(degrees, 1)[:, None],
        "softmax": weights,
        "pooled": pooled,
        "pooled means": pooled / np.maximum(graph.n_node, 1)[:, None],
        "slots": slots,
        "broadcast": pooled[slots],
    }
    for name, value in found(nodes, edges).items():
        np.testing.assert_allclose(
            value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("size", SIZES)
def test_complete_edges(size):
    senders, receivers = connectivity.complete_edges(size)
    assert senders.dtype == receivers.dtype == np.int32
    assert len(senders) == size * (size - 1)
    pairs = set(zip(senders.tolist(), receivers.tolist(), strict=True))
    assert pairs == {(j, i) for i in range(size) for j in range(size) if i != j}
    assert (np.diff(receivers) >= 0).all()
    cyclic = [(i + k) % size for i in range(size) for k in range(1, size)]
    assert senders.tolist() == cyclic


def test_masks_leave_out_padding_alone():
    sizes = (3, 1, 5, 2)
    graph = ragged(sizes)
    nodes, edges = graphs.node_mask(graph), graphs.edge_mask(graph)
    real_nodes, real_edges = sum(sizes), sum(n * (n - 1) for n in sizes)
    assert nodes.tolist() == [k < real_nodes for k in range(graph.bucket.max_nodes)]
    assert edges.tolist() == [k < real_edges for k in range(graph.bucket.max_edges)]
    graph, _ = both_paths(3)
    assert graphs.node_mask(graph).tolist() == [True] * graph.bucket.max_nodes
    assert graphs.edge_mask(graph).tolist() == [True] * graph.bucket.max_edges


def test_padding_never_reaches_a_real_node():
    """Whatever stands in padding rows, real rows of values and gradients stay."""
    graph = ragged()
    real_nodes = np.asarray(graphs.node_mask(graph))[:, None]
    real_edges = np.asarray(graphs.edge_mask(graph))[:, None]
    generator = np.random.default_rng(0)
    nodes = generator.normal(size=(graph.bucket.max_nodes, NUM_CHANNELS))
    edges = generator.normal(size=(graph.bucket.max_edges, NUM_CHANNELS))

    def outputs(nodes, edges):
        pooled = graphs.pool_mean(nodes, graph)
        senders = graphs.gather_senders(nodes, graph)
        attention = graphs.softmax_to_receivers(edges, graph)
        received = graphs.sum_to_receivers(senders * attention, graph)
        centred = nodes - graphs.broadcast_to_nodes(pooled, graph)
        return pooled[:-1], jnp.where(real_nodes, received + centred, 0)

    def total(nodes, edges):
        values = outputs(nodes, edges)
        return sum(jnp.sum(jnp.square(value)) for value in values), values

    compute = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    results = []
    for filling in (0.0, 1e3):
        rows = (
            np.where(real_nodes, nodes, filling),
            np.where(real_edges, edges, filling),
        )
        results.append(compute(*(row.astype(np.float32) for row in rows)))
    (_, clean), (gradients, filled) = results
    for found, expected in zip(filled, clean, strict=True):
        np.testing.assert_array_equal(found, expected)
    for gradient, real in zip(gradients, (real_nodes, real_edges), strict=True):
        padding = ~np.broadcast_to(real, gradient.shape)
        assert padding.any()
        assert (np.asarray(gradient)[padding] == 0).all()
        assert (np.asarray(gradient)[~padding] != 0).any()


def test_a_softmax_of_large_values_is_finite():
    graph = ragged()
    logits = jnp.full((graph.bucket.max_edges, 2), 1e4).at[0].set(-1e4)
    weights = graphs.softmax_to_receivers(logits, graph)
    assert bool(jnp.isfinite(weights).all())
    sums = graphs.sum_to_receivers(weights, graph)
    degrees = np.bincount(graph.receivers, minlength=graph.bucket.max_nodes)
    np.testing.assert_allclose(sums[:, 0], degrees > 0, rtol=1e-6)


@pytest.mark.parametrize("rows", ["nodes", "edges"])
@pytest.mark.parametrize("bound", [None, 20])
def test_dense_and_back(rows, bound):
    sizes = (3, 1, 5, 2)
    graph = ragged(sizes)
    bucket = dataclasses.replace(
        graph.bucket, max_nodes_per_graph=bound, max_edges_per_graph=bound
    )
    graph = dataclasses.replace(graph, bucket=bucket)
    mask = graphs.node_mask if rows == "nodes" else graphs.edge_mask
    real = np.asarray(mask(graph))
    values = np.random.default_rng(0).normal(size=(len(real), 2)).astype(np.float32)
    dense, present = graphs.ragged_to_dense(values, graph, rows)
    counts = sizes if rows == "nodes" else [size * (size - 1) for size in sizes]
    assert np.asarray(present).sum(axis=1).tolist() == [*counts, 0, 0, 0]
    start = 0
    for slot, count in enumerate(counts):
        np.testing.assert_array_equal(
            dense[slot, :count], values[start : start + count]
        )
        start += count
    assert (np.asarray(dense)[~np.asarray(present)] == 0).all()
    back = graphs.dense_to_ragged(dense, graph, rows)
    np.testing.assert_array_equal(back, np.where(real[:, None], values, 0))


@pytest.mark.parametrize("size, degree", [*((size, None) for size in SIZES), (7, 3)])
def test_dense_form_of_regular_graphs(size, degree):
    graph, _ = both_paths(size, degree)
    values = np.arange(graph.bucket.max_nodes * 2.0).reshape(-1, 2)
    dense, present = graphs.ragged_to_dense(values, graph)
    assert dense.shape == (NUM_GRAPHS, size, 2) and bool(present.all())
    back = graphs.dense_to_ragged(dense, graph)
    np.testing.assert_array_equal(back, values)
    edges = np.arange(graph.bucket.max_edges * 2.0).reshape(-1, 2)
    dense, present = graphs.ragged_to_dense(edges, graph, "edges")
    num_edges = graph.bucket.max_edges // NUM_GRAPHS
    assert dense.shape == (NUM_GRAPHS, num_edges, 2) and bool(present.all())
    back = graphs.dense_to_ragged(dense, graph, "edges")
    np.testing.assert_array_equal(back, edges)


@pytest.mark.parametrize("odd", [0, 1])
def test_bonds_are_the_pairs_that_edges_join(odd):
    """In a triangle, a node alone, a chain and padding, whatever the senders' order."""
    joined = [(0, 1), (1, 2), (0, 2), (4, 5), (5, 6), (6, 7)]
    edges = sorted(
        [(b, a) for a, b in joined] + [(a, b) for a, b in joined],
        key=lambda edge: (edge[0], -edge[1]),
    )
    edges += [(9, 9)] * (4 + odd)
    receivers, senders = np.array(edges, np.int32).T
    n_node, n_edge = np.array([3, 1, 4, 0, 2]), np.array([6, 0, 6, 0, 4 + odd])
    bucket = Bucket(10, len(edges), 5, max_edges_per_graph=6)
    nothing = np.zeros((10, 3))
    nodes = Nodes(nothing, nothing[:, :0], nothing[:, None])
    features = np.zeros((len(edges), 0))
    graph = Graph(nodes, features, senders, receivers, n_node, n_edge, None, bucket)
    bonds = pairs.find_bonds(graph)
    ends = [
        [(int(senders[edge]), int(receivers[edge])) for edge in both]
        for both in np.asarray(bonds.edges)
    ]
    real = sorted(tuple(sorted(pair)) for pair in joined)
    assert [tuple(sorted(both[0])) for both in ends[:6]] == real
    assert all(forth == back[::-1] for forth, back in ends)
    assert ends[6:] == [[(9, 9)] * 2] * (2 + odd)
    for bond, both in enumerate(np.asarray(bonds.edges)):
        assert (np.asarray(bonds.of_edge)[both] == bond).all()
    # One axis of graphs and back, in which the chain's bonds stand beside each other.
    values = np.arange(1.0, 1 + len(ends))[:, None]
    dense, present = graphs.ragged_to_dense(values, graph, "bonds")
    assert dense[:, :, 0].tolist() == [[1, 2, 3], [0] * 3, [4, 5, 6], [0] * 3, [0] * 3]
    np.testing.assert_array_equal(present, dense[:, :, 0] > 0)
    back = graphs.dense_to_ragged(dense, graph, "bonds")
    np.testing.assert_array_equal(back, np.where(values <= 6, values, 0))


@pytest.mark.parametrize("size", SIZES)
def test_bonds_of_regular_graphs(size):
    graph, _ = both_paths(size, None)
    bonds = pairs.find_bonds(graph)
    ends = np.stack([graph.senders, graph.receivers], -1)[np.asarray(bonds.edges)]
    assert len(ends) == NUM_GRAPHS * size * (size - 1) // 2
    np.testing.assert_array_equal(ends[:, 0], ends[:, 1, ::-1])
    values = np.arange(2.0 * len(ends)).reshape(-1, 2)
    dense, present = graphs.ragged_to_dense(values, graph, "bonds")
    assert dense.shape == (NUM_GRAPHS, size * (size - 1) // 2, 2)
    assert bool(present.all())
    back = graphs.dense_to_ragged(dense, graph, "bonds")
    np.testing.assert_array_equal(back, values)


def test_a_graph_is_a_pytree_that_is_compiled_once_per_bucket():
    """Two buckets that arrays of the same shapes can have, each asked for twice."""
    traced = []

    @jax.jit
    def degrees(graph):
        traced.append(graph.bucket)
        return graphs.num_neighbors(graph)

    regular, general = both_paths(3)
    for graph in (regular, general, regular, general):
        np.testing.assert_array_equal(degrees(graph), np.full((9, 1), 2))
    assert traced == [regular.bucket, general.bucket]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, regular)
    assert doubled.bucket == regular.bucket
    np.testing.assert_array_equal(doubled.senders, 2 * regular.senders)


def test_to_jraph_and_back():
    graph = ragged()
    theirs = graph.to_jraph()
    assert isinstance(theirs, jraph.GraphsTuple)
    assert theirs.senders is graph.senders and theirs.n_edge is graph.n_edge
    back = Graph.from_jraph(theirs, graph.bucket)
    assert back.bucket == graph.bucket
    assert all(map(operator.is_, jax.tree.leaves(back), jax.tree.leaves(graph)))


def test_a_regular_bucket_has_the_sizes_that_it_must():
    with pytest.raises(ValueError, match="has 15 nodes and 60 edges, found 15 and 61"):
        Bucket(15, 61, 3, 5)
    with pytest.raises(ValueError, match="has 15 nodes and 30 edges, found 15 and 60"):
        Bucket(15, 60, 3, 5, neighbors_per_node=2)
    with pytest.raises(ValueError, match="neighbors_per_node asks for nodes_per_graph"):
        Bucket(15, 30, 3, neighbors_per_node=2)


@pytest.mark.parametrize("at_once", [1, 2**22])
def test_nearest_neighbors_against_a_sort(monkeypatch, at_once):
    monkeypatch.setattr(connectivity, "_DISTANCES_AT_ONCE", at_once)
    positions = np.random.default_rng(0).normal(size=(5, 11, 3))
    found = connectivity.nearest_neighbors(positions, 4)
    assert found.shape == (5, 11, 4) and found.dtype == np.int32
    for system, nearest in zip(positions, found, strict=True):
        for body, own in enumerate(nearest):
            distances = np.linalg.norm(system - system[body], axis=1)
            order = [other for other in np.argsort(distances) if other != body]
            assert own.tolist() == order[:4]
    everyone = connectivity.nearest_neighbors(positions, 10)
    assert (np.sort(everyone, axis=2)[0, 3] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]).all()


def test_nearest_neighbors_at_one_place_are_never_the_node_itself():
    nearest = connectivity.nearest_neighbors(np.zeros((2, 5, 3)), 3)
    assert (nearest != np.arange(5)[:, None]).all()
    assert all(len(set(own)) == 3 for own in nearest.reshape(-1, 3).tolist())


@pytest.mark.parametrize("degree", [None, 2])
def test_single_graphs_keep_their_own_senders(degree):
    """Complete graphs, and such whose senders differ from graph to graph."""
    graph, _ = both_paths(5, degree)
    num_nodes = graph.bucket.max_nodes
    values = np.random.default_rng(0).normal(size=(num_nodes, NUM_CHANNELS))
    batch = Batch(graph, {}, np.ones(NUM_GRAPHS, np.float32))
    singles = graphs.single_graphs(batch)

    def received(values, graph):
        sent = graphs.gather_senders(values, graph)
        return graphs.sum_to_receivers(sent, graph)

    expected = received(values, graph)
    found = jax.vmap(lambda own, one: received(own, one.graph))(
        values.reshape(NUM_GRAPHS, 5, NUM_CHANNELS), singles
    )
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-6)


# One edge of each pair


def mutual_samples():
    """Two molecules whose edges are mutual."""
    generator = np.random.default_rng(3)
    ends = [[(0, 1), (1, 2), (0, 3)], [(0, 2), (1, 2)]]
    sizes = np.array([4, 3], np.int32)
    rows = [
        sorted({(b, a) for a, b in pairs} | {(a, b) for a, b in pairs})
        for pairs in ends
    ]
    receivers, senders = np.array([row for part in rows for row in part]).T
    return Samples(
        nodes=Nodes(
            generator.normal(size=(7, 3)),
            generator.normal(size=(7, 2)),
            np.zeros((7, 0, 3)),
        ),
        edges=np.zeros((len(senders), 0)),
        senders=senders,
        receivers=receivers,
        n_node=sizes,
        n_edge=np.array([len(part) for part in rows], np.int32),
        targets={},
    )


def mutual_graph(spare):
    """Both molecules as a batch with room for some edges more."""
    samples = mutual_samples()
    packing = make_packing(samples, TaskSpec("molecules", ()), 2)
    bucket = dataclasses.replace(
        packing.bucket, max_edges=packing.bucket.max_edges + spare
    )
    packing = RaggedPacking(samples, bucket, ())
    row = {name: values[0] for name, values in packing.plan(np.arange(2)).items()}
    return packing.assemble(packing.arrays(), row).graph


def test_the_packing_knows_whether_edges_are_mutual():
    samples = mutual_samples()
    task = TaskSpec("molecules", ())
    assert make_packing(samples, task, 2).bucket.mutual
    senders = samples.senders.copy()
    senders[0] = 2  # 0 hears of 2, which does not hear of 0
    assert not dataclasses.replace(samples, senders=senders).mutual()
    loop = samples.senders.copy()
    loop[0] = samples.receivers[0]
    assert not dataclasses.replace(samples, senders=loop).mutual()
    swapped = samples.n_edge[::-1].copy()  # the same edges, of other graphs
    assert not dataclasses.replace(samples, n_edge=swapped).mutual()


@pytest.mark.parametrize("spare", [0, 3])
def test_one_edge_of_each_pair_sums_to_all(spare):
    graph = mutual_graph(spare)
    bucket = graph.bucket
    values = np.random.default_rng(0).normal(size=(bucket.max_nodes, 5))
    half = pairs.one_way(graph)
    assert half is not None and half.bucket.max_edges == bucket.max_edges // 2
    assert int(graphs.edge_mask(half).sum()) == 5
    edges, ways = pairs.ways(graph)
    found: Any = sum(way.total(way.other(values, edges), edges) for way in ways)
    expected = graphs.sum_to_receivers(graphs.gather_senders(values, graph), graph)
    np.testing.assert_allclose(found[:-1], expected[:-1], rtol=1e-6)
    assert np.abs(expected[:7]).min() > 1e-3


def test_edges_with_features_or_of_one_direction_stay():
    samples = dataclasses.replace(mutual_samples(), edges=np.ones((10, 1)))
    packing = make_packing(samples, TaskSpec("molecules", ()), 2)
    row = {name: values[0] for name, values in packing.plan(np.arange(2)).items()}
    assert pairs.one_way(packing.assemble(packing.arrays(), row).graph) is None
