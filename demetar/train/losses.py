"""Predicted residuals from outputs, and their errors per graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.models import base
from demetar.types import Array, Batch, Graph, Head, Nodes, TaskSpec

REPORTED, TRAINED = "reported", "trained"  # kinds of errors, by what the heads say
_MEASURES = {"squared": jnp.square, "absolute": jnp.abs}


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
    task: TaskSpec,
    predictions: Mapping[str, Array],
    batch: Batch,
    kind: str = REPORTED,
) -> dict[str, jax.Array]:
    """Mean error of each graph, {head: [G]}, over its nodes and components.

    Squared, in unit^2, or absolute, in the unit of the head.

    Args:
      task: heads.
      predictions: of `predict`.
      batch: targets.
      kind: 'squared' or 'absolute' for all heads; `REPORTED` for what each head
        reports, `TRAINED` for what each is trained on.
    """
    return {
        head.name: _per_graph(
            head,
            _MEASURES[_kind_of(head, kind)](
                predictions[head.name] - batch.targets[head.name]
            ),
            batch.graph,
        )
        for head in task.heads
    }


def _kind_of(head: Head, kind: str) -> str:
    if kind == TRAINED:
        return head.training_error or head.error
    return head.error if kind == REPORTED else kind


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


def overall(task: TaskSpec, errors: Mapping[str, Any]) -> Any:
    """The one error of each graph by which a run is judged, of those of the heads.

    That of the head that `TaskSpec.judged_by` names, or the mean over all by their
    weights. Errors in several units have no mean, so tasks with such name one.

    Args:
      task: heads.
      errors: {head: [...]} as the heads report them.
    """
    if task.judged_by:
        return errors[task.judged_by]
    return _weighted(task, errors)


def _weighted(task: TaskSpec, errors: Mapping[str, Any]) -> Any:
    total = sum(head.weight * errors[head.name] for head in task.heads)
    return total / sum(head.weight for head in task.heads)


def mean_loss(task: TaskSpec, errors: Mapping[str, Array], weights: Array) -> jax.Array:
    """`overall` of the heads' errors, and its mean over the graphs that count."""
    return _over_graphs(overall(task, errors), weights)


def _over_graphs(values: Array, weights: Array) -> jax.Array:
    """Mean over the graphs that count; 0 without any."""
    total = jnp.sum(jnp.where(weights > 0, values, 0))
    return total / jnp.maximum(jnp.sum(weights), 1)


def training_loss(
    task: TaskSpec, errors: Mapping[str, Array], weights: Array
) -> jax.Array:
    """Mean over heads, by their weights, and graphs of what the heads are trained on.

    Absolute errors are in multiples of the scale, so that the learning rate of the
    papers, whose targets are standardised, is ours. Squared ones are in multiples of
    its square for heads with a `training_error` of their own.

    Args:
      task: heads.
      errors: of `sample_errors` with `TRAINED`.
      weights: [G].
    """
    scaled = {
        head.name: errors[head.name] / _unit_of_training(head) for head in task.heads
    }
    return _over_graphs(_weighted(task, scaled), weights)


def _unit_of_training(head: Head) -> float:
    if _kind_of(head, TRAINED) == "absolute":
        return head.scale
    return head.scale**2 if head.training_error else 1.0
