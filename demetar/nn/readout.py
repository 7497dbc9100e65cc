"""Heads: the last layer of the models that end in scalars and vectors."""

from __future__ import annotations

import jax.numpy as jnp

from demetar import graphs
from demetar.errors import UserError
from demetar.nn import mlp
from demetar.types import Array, Bucket, TaskSpec

KINDS = frozenset({"node_vector", "node_scalar", "graph_scalar"})


def heads(
    task: TaskSpec,
    scalars: Array,
    vectors: Array | None,
    graph: graphs.Graph,
    bucket: Bucket,
) -> dict[str, Array]:
    """All outputs of a task from the features of the last layer.

    A vector head is a linear map of the vectors without bias, so the symmetry of the
    features is that of the output. A scalar head is a perceptron with one hidden layer;
    for graphs its result is averaged over the nodes.

    Args:
      task: heads.
      scalars: [N, C].
      vectors: [3, N, C'] polar vectors; None where the model has none.
      graph, bucket: the batch.

    Returns:
      {head: [N, K, 3] | [N, T] | [G, T]}.

    Raises:
      UserError: a vector head without vectors.
    """
    outputs = scalar_heads(task, scalars, graph, bucket)
    for head in task.heads:
        if head.kind != "node_vector":
            continue
        if vectors is None:
            raise UserError(f"head {head.name!r} needs a model with vector features")
        linear = mlp.Linear(head.size, with_bias=False, name=f"readout_{head.name}")
        outputs[head.name] = jnp.transpose(linear(vectors), (1, 2, 0))
    return outputs


def scalar_heads(
    task: TaskSpec, scalars: Array, graph: graphs.Graph, bucket: Bucket
) -> dict[str, Array]:
    """The scalar heads of a task from scalars [N, C]: {head: [N, T] | [G, T]}."""
    outputs: dict[str, Array] = {}
    for head in task.heads:
        if head.kind == "node_vector":
            continue
        sizes = [scalars.shape[-1], head.size]
        values = mlp.MLP(sizes, name=f"readout_{head.name}")(scalars)
        if head.kind == "graph_scalar":
            values = graphs.pool_mean(values, graph, bucket)
        outputs[head.name] = values
    return outputs
