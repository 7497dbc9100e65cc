"""How far a trained model is from equivariance under rotations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import geometry, graphs
from demetar.data.dataset import Dataset
from demetar.data.packing import in_sample_order
from demetar.types import Array, Batch, Params, TaskSpec


def rotation_errors(
    model: hk.Transformed, dataset: Dataset, params: Params, split: str = "test"
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
      {head: [R]}; scalar heads compare F(f) with F(R f). Two equal outputs have an
      error of 0, also if they are 0.
    """
    packing, task = dataset.packing, dataset.task
    plan = dataset.plan(split)

    @jax.jit
    def all_errors(params: Params, arrays: Any) -> dict[str, jax.Array]:
        def one(params: Params) -> dict[str, jax.Array]:
            def step(_: None, item: tuple[Array, Mapping[str, Array]]) -> Any:
                key, row = item
                batch = dataset.batch(arrays, row)
                return None, _batch_errors(model, task, params, key, batch)

            keys = jax.random.split(jax.random.key(0), len(plan["weight"]))
            found: dict[str, jax.Array] = jax.lax.scan(step, None, (keys, plan))[1]
            return found

        found: dict[str, jax.Array] = jax.lax.map(one, params)
        return found

    errors = all_errors(params, jax.tree.map(jnp.asarray, packing.arrays()))
    return {
        name: in_sample_order(value, plan).astype(np.float64).mean(axis=-1)
        for name, value in errors.items()
    }


def _batch_errors(
    model: hk.Transformed, task: TaskSpec, params: Params, key: Array, batch: Batch
) -> dict[str, jax.Array]:
    """Delta_EQ of each graph of a batch: {head: [G]}."""
    rotations = random_rotations(key, batch)  # [N, 3, 3]
    turned = rotate(task, batch, rotations).graph
    outputs = model.apply(params, None, batch.graph, False)
    found = model.apply(params, None, turned, False)
    errors = {}
    for head in task.heads:
        expected = outputs[head.name]
        if head.kind == "node_vector":
            expected = _rotate_vectors(rotations, expected)
        squares = [
            _sum_per_graph(head.kind, value, batch)
            for value in (found[head.name] - expected, expected)
        ]
        same = squares[0] == 0  # an output of 0 too
        ratios = squares[0] / jnp.where(same, 1, squares[1])
        errors[head.name] = jnp.sqrt(ratios)
    return errors


def random_rotations(
    key: Array, batch: Batch, slots: tuple[Array, int] | None = None
) -> jax.Array:
    """One rotation uniform in SO(3) per graph, at each of its nodes: [N, 3, 3].

    Args:
      key: random.
      batch: whose graphs are to be turned.
      slots: if the batch is a share of a larger one, the slots [G] of its graphs
        there, and their number there: each gets the rotation that it gets there.
    """
    num_graphs = batch.graph.bucket.num_graphs if slots is None else slots[1]
    flat = geometry.random_rotations(key, (num_graphs,)).reshape(-1, 9)
    if slots is not None:
        flat = flat[slots[0]]
    at_nodes = graphs.broadcast_to_nodes(flat, batch.graph)
    return at_nodes.reshape(-1, 3, 3).astype(batch.weights.dtype)


def rotate(task: TaskSpec, batch: Batch, rotations: Array) -> Batch:
    """The batch with positions, vectors and vector targets under rotations [N, 3, 3].

    The rotations are about the origin of the source: centres turn too. Also what
    augmentation by rotations trains on.
    """
    graph = batch.graph
    nodes = geometry.transform_nodes(graph.nodes, rotations)
    vector_heads = {head.name for head in task.heads if head.kind == "node_vector"}
    targets = {
        name: _rotate_vectors(rotations, target) if name in vector_heads else target
        for name, target in batch.targets.items()
    }
    known = graph.globals
    if known is not None:
        flat = rotations.reshape(-1, 9)
        turns = graphs.pool_mean(flat, graph).reshape(-1, 3, 3)
        known = known._replace(centers=jnp.einsum("gij,gj->gi", turns, known.centers))
    graph = dataclasses.replace(graph, nodes=nodes, globals=known)
    return dataclasses.replace(batch, graph=graph, targets=targets)


def _rotate_vectors(rotations: Array, vectors: Array) -> jax.Array:
    return jnp.einsum("nij,nkj->nki", rotations, vectors)


def _sum_per_graph(kind: str, values: Array, batch: Batch) -> jax.Array:
    sums = jnp.square(values).reshape(values.shape[0], -1).sum(axis=-1)
    if kind == "graph_scalar":
        return sums
    return graphs.pool_sum(sums[:, None], batch.graph)[:, 0]
