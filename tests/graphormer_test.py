"""Graphormer: published size, shortest paths, molecules in pieces, refusals."""

import functools
import itertools

import jax
import numpy as np
import pytest

from demetar import models, testing
from demetar.data import bonds
from demetar.errors import UserError
from demetar.nn import capture, paths
from demetar.testing.subject import quick_params
from demetar.types import Batch, Head, TaskSpec
from tests.support import authors

HEAD = Head("energy", "graph_scalar")
TASK = TaskSpec("bonds", (HEAD,), scalars=("H", "C"), edge_features=bonds.TYPES)
SMALL = dict(models.model_class("graphormer").small)


def make_graph(sizes, edges, num_scalars=2, features=None):
    """A ragged batch of directed edges (sender, receiver) with random features."""
    generator = np.random.default_rng(2)
    senders, receivers = np.array(edges, int).reshape(-1, 2).T
    if features is None:
        features = generator.normal(size=(len(senders), len(bonds.TYPES)))
    count = sum(sizes)
    return authors.ragged_graph(
        generator.normal(size=(count, 3)),
        generator.normal(size=(count, num_scalars)),
        senders,
        receivers,
        np.array(sizes),
        features,
    )


def both_ways(edges):
    return [*edges, *((j, i) for i, j in edges)]


# --- Size ---------------------------------------------------------------------------


def num_params(name, task, graph, **fields):
    init = functools.partial(models.build(name, task, fields).init, jax.random.key(0))
    shapes = jax.eval_shape(lambda graph: init(graph, False), graph)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_slim_model_has_its_published_size_on_zinc():
    """Table 3 of 2106.05234 counts 489,321, the authors' code makes 160 more.

    The tables have the sizes of that code for ZINC: 64 rows of atoms, bonds and
    degrees, 40 distances and hops (of which 20 are read).
    """
    zinc = TaskSpec(
        "ZINC",
        (HEAD,),
        scalars=tuple(map(str, range(64))),
        edge_features=tuple(map(str, range(64))),
    )
    graph = make_graph((2,), [(0, 1), (1, 0)], 64, np.zeros((2, 64)))
    size = functools.partial(num_params, "graphormer", zinc, graph, max_hops=40)
    attention = 4 * (80 * 80 + 80)
    feed_forward = 2 * (80 * 80 + 80)
    norm = 2 * 80
    terms = {
        "layers": 12 * (attention + feed_forward + 2 * norm),
        "atoms": 64 * 80,
        "degrees": 2 * 64 * 80,
        "bonds": 64 * 8,
        "hops": 40 * 8 * 8,
        "distances": 40 * 8,
        "virtual node and its distance": 80 + 8,
        "head": 80 + 1,
    }
    published = 489_321
    assert sum(terms.values()) == published
    assert size(final_norm=False) == published  # equations 8 and 9 end without a norm
    assert size() == published + norm


def test_numbers_of_parameters():
    graph = make_graph((2,), [(0, 1), (1, 0)], 5)
    qm9 = TaskSpec("QM9", (HEAD,), scalars=tuple("HCNOF"), edge_features=bonds.TYPES)
    assert num_params("graphormer", qm9, graph) == 482_041
    body = testing.regular_batch(testing.systems((5,))).graph
    assert num_params("graphormer_3d", testing.TASK, body) == 173_252
    untied = num_params("graphormer_3d_untied", testing.TASK, body)
    assert untied == 173_252 + 3 - 160 + 3 * 160


# --- Paths --------------------------------------------------------------------------


def all_shortest_paths(edges, size, start, end):
    """Every shortest path as a list of edges, by trying all of every length."""
    for length in range(size):
        fronts = [[start]]
        for _ in range(length):
            fronts = [
                [*front, j] for front in fronts for i, j in edges if i == front[-1]
            ]
        found = [front for front in fronts if front[-1] == end]
        if found:
            return [list(itertools.pairwise(front)) for front in found]
    return []


CUBE = both_ways([(i, i ^ bit) for i in range(8) for bit in (1, 2, 4) if i < i ^ bit])
RING_WITH_TAIL = both_ways([(0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 5), (5, 6)])
PIECES = both_ways([(0, 1), (1, 2), (3, 4)])
ONE_WAY = [(0, 1), (1, 2), (2, 0), (2, 3)]


@pytest.mark.parametrize("num_hops", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_paths_are_means_over_all_shortest_ones(num_hops):
    """Against a search that tries everything, also through directed edges."""
    parts = [(8, CUBE), (7, RING_WITH_TAIL), (5, PIECES), (4, ONE_WAY), (1, [])]
    sizes = [size for size, _ in parts]
    starts = np.cumsum([0, *sizes])
    edges = [
        (i + start, j + start)
        for start, (_, own) in zip(starts, parts, strict=False)
        for i, j in own
    ]
    graph = make_graph(sizes, edges)
    pairs = zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
    features = dict(zip(pairs, graph.edges, strict=True))
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, paths.shortest_paths(graph, num_hops))
    for number, (start, (size, own)) in enumerate(zip(starts, parts, strict=False)):
        for i, j in itertools.product(range(size), repeat=2):
            known = all_shortest_paths(own, size, i, j)
            length = len(known[0]) if known else paths.UNREACHABLE
            assert found.distances[number, i, j] == length
            expected = np.zeros((num_hops, len(bonds.TYPES)))
            for path in known:
                for hop, (a, b) in enumerate(path[:num_hops]):
                    expected[hop] += features[a + start, b + start] / len(known)
            np.testing.assert_allclose(
                found.hops[number, :, :, i, j], expected, atol=1e-12
            )


def test_without_features_every_bond_is_one():
    graph = make_graph((3,), both_ways([(0, 1), (1, 2)]), features=np.zeros((4, 0)))
    found = paths.shortest_paths(graph, 2)
    assert np.asarray(found.hops)[0, :, 0, 0, 2].tolist() == [1, 1]


# --- Molecules in pieces ------------------------------------------------------------


@functools.cache
def small_model():
    """The small model, compiled once, and its parameters."""
    model = models.build("graphormer", TASK, SMALL)
    graph = make_graph((5, 5), [*PIECES, *both_ways([(5, 6), (6, 7), (7, 8), (8, 9)])])
    params = quick_params(model, Batch(graph, {}, np.zeros(0)))
    apply = jax.jit(lambda params, graph: model.apply(params, None, graph, False))
    return apply, params, graph


def test_two_atoms_without_a_path_have_a_bias_of_their_own():
    apply, params, graph = small_model()
    before = np.asarray(apply(params, graph)["energy"])[:2]
    assert np.isfinite(before).all()
    table = params["graphormer"]["distances"]
    raised = table + (np.arange(len(table)) == len(table) - 1)[:, None] * np.arange(3.0)
    changed = {**params["graphormer"], "distances": raised}
    after = np.asarray(apply({**params, "graphormer": changed}, graph)["energy"])[:2]
    assert abs(after - before)[0] > 1e-4  # in pieces
    assert abs(after - before)[1] < 1e-6  # a chain


def test_atoms_without_any_bond():
    model = models.build("graphormer", TASK, SMALL)
    graph = make_graph((3, 1), [])
    _, params, _ = small_model()
    apply = jax.jit(lambda graph: model.apply(params, None, graph, False))
    assert np.isfinite(apply(graph)["energy"][:2]).all()


# --- Vectors ------------------------------------------------------------------------


def test_the_published_head_of_vectors_is_not_equivariant():
    """The negative control of `graphormer_3d`, of which the contract tests the rest."""
    testing.assert_symmetry(testing.Subject("graphormer_3d_untied"))
    assert models.model_class("graphormer_3d_untied").symmetry == "T(3)"


# --- Options and refusals -----------------------------------------------------------


@pytest.mark.slow
def test_dropout_acts_in_training_alone():
    rates = {"dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5}
    _, params, graph = small_model()
    model = models.build("graphormer", TASK, SMALL | rates)

    @functools.partial(jax.jit, static_argnums=1)
    def apply(key, is_training):
        return model.apply(params, key, graph, is_training)["energy"][:2]

    calm = apply(jax.random.key(0), False)
    np.testing.assert_array_equal(calm, apply(jax.random.key(1), False))
    stirred = [apply(jax.random.key(seed), True) for seed in (0, 1)]
    assert abs(stirred[0] - stirred[1]).min() > 1e-4
    assert abs(stirred[0] - calm).min() > 1e-4


def test_blocks_share_their_weights():
    graph = testing.regular_batch(testing.systems((5,))).graph
    fields = dict(models.model_class("graphormer_3d").small)

    def shapes(num_blocks):
        model = models.build(
            "graphormer_3d", testing.TASK, fields | {"num_blocks": num_blocks}
        )

        def init(graph):
            with capture.recording() as values:
                return model.init(jax.random.key(0), graph, False), dict(values)

        return jax.eval_shape(init, graph)

    (once, maps), (often, more_maps) = shapes(1), shapes(3)
    assert once == often
    assert len(more_maps) - len(maps) == 2 * fields["num_layers"]


@pytest.mark.parametrize("name", ["graphormer", "graphormer_3d"])
def test_too_many_nodes_are_refused_with_their_memory(name):
    task = testing.home_task(name)
    batch = testing.make_batch(testing.systems((5, 3)), task=task)
    model = models.build(name, task, {"max_nodes": 4})
    with pytest.raises(UserError, match=rf"^{name} joins .* max_nodes is 4, found a g"):
        model.init(jax.random.key(0), batch.graph, False)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"pooling": "cls"}, "pooling expects one of target, token, sum, mean, found"),
        ({"num_distances": 1}, "num_distances expects at least 2, found 1"),
        ({"max_hops": 0}, "max_hops expects at least 1, found 0"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    model = models.build("graphormer", TASK, fields)
    graph = make_graph((2,), [(0, 1), (1, 0)])
    with pytest.raises(UserError, match=message):
        model.init(jax.random.key(0), graph, False)
