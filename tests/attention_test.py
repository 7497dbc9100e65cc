"""Attention layers: masks, incidence, and the weights that are recorded."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import graphs, testing
from demetar.nn import attention, capture
from tests.support import plain

NUM_HEADS, CHANNELS = 3, 7  # 7 channels make heads of 3: rounded up


def test_masked_softmax_is_a_softmax_of_what_is_seen():
    logits = jnp.array([[1.0, 2.0, 5.0], [0.5, 0.25, 3.0], [1.0, 2.0, 3.0]])
    mask = jnp.array([[True, True, False], [True, True, True], [False] * 3])
    weights = attention.masked_softmax(logits, mask)
    np.testing.assert_allclose(weights[0, :2], plain.softmax([1.0, 2.0]), rtol=1e-6)
    np.testing.assert_allclose(weights[1], plain.softmax([0.5, 0.25, 3.0]), rtol=1e-6)
    np.testing.assert_array_equal(weights[2], 0)
    assert float(weights[0, 2]) == 0
    gradient = jax.grad(lambda x: jnp.sum(attention.masked_softmax(x, mask)[:, 0]))(
        logits
    )
    assert bool(jnp.isfinite(gradient).all())
    np.testing.assert_array_equal(gradient[2], 0)
    np.testing.assert_array_equal(gradient[0, 2], 0)


@pytest.mark.parametrize("channels, size", [(64, 8), (11, 2), (3, 1)])
def test_head_size_is_rounded_up(channels, size):
    assert attention.head_size(channels, 8) == size


def _transformed(function):
    """The function's values and records under fresh parameters, all in float64."""
    model = hk.transform(function)

    def run(params, *args):
        with capture.recording() as values:
            outputs = model.apply(params, None, *args)
        return outputs, values

    return model.init, run


def _plain_params(params, name):
    return {
        key.removeprefix(name): jax.tree.map(np.asarray, leaves)
        for key, leaves in params.items()
    }


@pytest.mark.slow
def test_attention_to_edges_is_that_of_the_incidence_mask():
    """The masked n x e attention over all pairs, of which one in n is computed."""
    with jax.enable_x64(True):
        members = testing.systems((4, 3))
        for batch in (
            testing.make_batch(members, "float64"),
            testing.regular_batch(testing.systems((4, 4)), "float64"),
        ):
            init, run = _transformed(
                lambda nodes, edges, graph: attention.EdgeAttention(
                    NUM_HEADS, "own", name="attend"
                )(nodes, edges, graph)
            )
            keys = jax.random.split(jax.random.key(1), 2)
            nodes = jax.random.normal(keys[0], (batch.graph.bucket.max_nodes, CHANNELS))
            edges = jax.random.normal(keys[1], (batch.graph.bucket.max_edges, 5))
            args = (nodes, edges, batch.graph)
            params = init(jax.random.key(2), *args)
            found, values = run(params, *args)
            plain_params = _plain_params(params, "attend")
            real = np.asarray(graphs.node_mask(batch.graph))
            mask = np.full((len(nodes), len(edges)), -np.inf)
            mask[batch.graph.receivers, np.arange(len(edges))] = 0.0
            queries = [plain.linear(plain_params, "/query", x) for x in nodes[real]]
            both = [plain.linear(plain_params, "/key_value", x) for x in edges]
            projections = (queries, *np.split(np.array(both), 2, axis=1))
            mixed = plain.multi_head(projections, NUM_HEADS, mask[real])
            expected = [plain.linear(plain_params, "/output", row) for row in mixed]
            np.testing.assert_allclose(found[real], expected, rtol=1e-12, atol=1e-12)
            sums = graphs.sum_to_receivers(values["attention_own"], batch.graph)
            np.testing.assert_allclose(np.asarray(sums)[real], 1, rtol=1e-12)


def test_recorded_self_attention_is_the_one_that_was_used():
    with jax.enable_x64(True):
        tokens = jax.random.normal(jax.random.key(0), (2, 5, CHANNELS))
        mask = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
        init, run = _transformed(
            lambda *args: attention.SelfAttention(NUM_HEADS, "own", name="attend")(
                *args
            )
        )
        params = init(jax.random.key(2), tokens, mask)
        found, values = run(params, tokens, mask)
        weights = np.asarray(values["attention_own"])  # [G, H, M, M]
        assert weights.shape == (2, NUM_HEADS, 5, 5)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
        assert (weights[1, :, :, 3:] == 0).all()
        plain_params = _plain_params(params, "attend")
        for graph, size in enumerate((5, 3)):
            rows = [
                plain.linear(plain_params, "/query_key_value", token)
                for token in tokens[graph]
            ]
            values_of = np.split(np.array(rows), 3, axis=1)[2].reshape(5, NUM_HEADS, -1)
            mixed = np.einsum("hmk,khc->mhc", weights[graph], values_of).reshape(5, -1)
            used = [plain.linear(plain_params, "/output", row) for row in mixed]
            np.testing.assert_allclose(found[graph], used, rtol=1e-12)
            expected = plain.self_attention(
                plain_params, "", tokens[graph, :size], NUM_HEADS
            )
            np.testing.assert_allclose(found[graph, :size], expected, rtol=1e-10)


def test_nothing_is_recorded_unless_asked():
    capture.record("attention_nobody", jnp.zeros(2))
    with capture.recording() as values:
        capture.record("attention_somebody", jnp.zeros(2))
    assert set(values) == {"attention_somebody"}
