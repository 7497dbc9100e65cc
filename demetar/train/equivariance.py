"""How far a trained model is from equivariance under rotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import geometry, graphs
from demetar.data import base as data
from demetar.types import Array, Batch, Params, TaskSpec


def rotation_errors(
    model: hk.Transformed, dataset: data.Dataset, params: Params, split: str = "test"
) -> dict[str, np.ndarray]:
    """Delta_EQ of each vector head and replica, the mean over the samples of a split.

    Delta_EQ = ||R F(f) - F(R f)|| / ||R F(f)|| for a rotation R uniform in SO(3), one
    per sample, that acts on positions and vectors; F is the output of the model before
    its base is added, so the error is relative to the predicted displacement. Source:
    Fuchs et al. 2020, arXiv 2006.10503, section 4.1.

    Args:
      model, dataset: as trained.
      params: [R, ...].
      split: whose samples.

    Returns:
      {head: [R]}; scalar heads compare F(f) with F(R f).
    """
    packing, task = dataset.packing, dataset.task
    plan = dataset.plan(split)

    @jax.jit
    def all_errors(params: Params, arrays: Any) -> dict[str, jax.Array]:
        def one(params: Params) -> dict[str, jax.Array]:
            def step(_: None, item: tuple[Array, Mapping[str, Array]]) -> Any:
                key, row = item
                batch = packing.assemble(arrays, row)
                return None, _batch_errors(model, task, params, key, batch)

            keys = jax.random.split(jax.random.key(0), len(plan["weight"]))
            return jax.lax.scan(step, None, (keys, plan))[1]

        return jax.lax.map(one, params)

    errors = all_errors(params, jax.tree.map(jnp.asarray, packing.arrays()))
    return {
        name: data.in_sample_order(value, plan).astype(np.float64).mean(axis=-1)
        for name, value in errors.items()
    }


def _batch_errors(
    model: hk.Transformed, task: TaskSpec, params: Params, key: Array, batch: Batch
) -> dict[str, jax.Array]:
    """Delta_EQ of each graph of a batch: {head: [G]}."""
    graph, bucket = batch.graph, batch.bucket
    rotations = geometry.random_rotations(key, (bucket.num_graphs,))  # [G, 3, 3]
    flat = rotations.reshape(-1, 9)
    at_nodes = graphs.broadcast_to_nodes(flat, graph, bucket).reshape(-1, 3, 3)
    turned = graph._replace(nodes=geometry.transform_nodes(graph.nodes, at_nodes))
    outputs = model.apply(params, None, graph, bucket, False)
    found = model.apply(params, None, turned, bucket, False)
    errors = {}
    for head in task.heads:
        expected = outputs[head.name]
        if head.kind == "node_vector":
            expected = jnp.einsum("nij,nkj->nki", at_nodes, expected)
        squares = [
            _sum_per_graph(head.kind, value, batch)
            for value in (found[head.name] - expected, expected)
        ]
        errors[head.name] = jnp.sqrt(squares[0] / squares[1])
    return errors


def _sum_per_graph(kind: str, values: Array, batch: Batch) -> jax.Array:
    sums = jnp.square(values).reshape(values.shape[0], -1).sum(axis=-1)
    if kind == "graph_scalar":
        return sums
    return graphs.pool_sum(sums[:, None], batch.graph, batch.bucket)[:, 0]
