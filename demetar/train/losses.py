"""Predicted residuals from outputs, and their errors per graph."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.models import base
from demetar.types import Array, Batch, Graph, Head, Nodes, TaskSpec


def predict(
    task: TaskSpec, outputs: Mapping[str, Array], nodes: Nodes
) -> dict[str, Array]:
    """Residuals in the units of the heads: base + scale * output.

    The one place where a base is added, so that translation equivariance is exact for
    every model whose output does not depend on the origin. What is known of a target
    beforehand is in neither the targets nor these: `heads.absolute` adds it.

    Args:
      task: heads.
      outputs: of the model, {head: [N, K, 3] | [N, T] | [G, T]}.
      nodes: inputs of the batch.

    Returns:
      {head: same shape as its output}.
    """
    predictions: dict[str, Array] = {}
    for head in task.heads:
        values = head.scale * outputs[head.name]
        if head.kind == "node_vector":
            values = values + base.base_vectors(head, task, nodes)
        predictions[head.name] = values
    return predictions


def sample_errors(
    task: TaskSpec, predictions: Mapping[str, Array], batch: Batch
) -> dict[str, jax.Array]:
    """Mean error of each graph, {head: [G]}, over its nodes and components.

    Squared, in unit^2, or absolute, in the unit of the head: what the head says.
    """
    measures = {"squared": jnp.square, "absolute": jnp.abs}
    return {
        head.name: _per_graph(
            head,
            measures[head.error](predictions[head.name] - batch.targets[head.name]),
            batch.graph,
        )
        for head in task.heads
    }


def log_errors(errors: Mapping[str, Array], floor: float) -> dict[str, jax.Array]:
    """log(error + floor) / 2 of each graph: {head: [G]}.

    The gradient weighs relative improvements alike, down to errors of the floor's size.
    """
    return {name: jnp.log(error + floor) / 2 for name, error in errors.items()}


def _per_graph(head: Head, values: Array, graph: Graph) -> jax.Array:
    means = values.reshape(values.shape[0], -1).mean(axis=-1)  # [N] or [G]
    if head.kind == "graph_scalar":
        return means
    return graphs.pool_mean(means[:, None], graph)[:, 0]


def mean_loss(errors: Mapping[str, Array], weights: Array) -> jax.Array:
    """Mean over heads of the mean over the graphs that count; 0 without any."""
    total = sum(jnp.sum(jnp.where(weights > 0, error, 0)) for error in errors.values())
    return total / len(errors) / jnp.maximum(jnp.sum(weights), 1)


def training_loss(
    task: TaskSpec, errors: Mapping[str, Array], weights: Array
) -> jax.Array:
    """`mean_loss` of errors of which the absolute ones are in multiples of the scale.

    So the learning rate of the papers, whose targets are standardised, is ours.
    """
    scaled = {
        head.name: errors[head.name] / head.scale
        if head.error == "absolute"
        else errors[head.name]
        for head in task.heads
    }
    return mean_loss(scaled, weights)
