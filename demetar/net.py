"""A model by name as two pure functions."""

from __future__ import annotations

from typing import Any

import haiku as hk

from demetar import models
from demetar.types import TaskSpec


class Net(hk.Transformed):
    """`init` and `apply` of a model, as `hk.transform` gives them, and what they are.

    Attributes:
      model: name of the model.
      task: inputs and heads.
      fields: of the model, other than their defaults.
    """

    model: str
    task: TaskSpec
    fields: dict[str, Any]


def build(model: str, task: TaskSpec, **fields: Any) -> Net:
    """A model as pure functions, ready for your own training loop.

    >>> import demetar, jax
    >>> task = demetar.TaskSpec(
    ...     "orbits",
    ...     heads=(demetar.Head("position", "node_vector", base="positions"),),
    ...     scalars=("charge",),
    ...     vectors=(demetar.VectorInput("velocity"),),
    ... )
    >>> net = demetar.build("egnn", task, hidden_size=8, num_layers=1)
    >>> batch = demetar.make_batch(
    ...     task, positions=[[0, 0, 0], [1, 0, 0]], velocities=[[0, 1, 0], [0, 0, 1]],
    ...     charges=[1, -1],
    ... )
    >>> init = jax.jit(net.init, static_argnames="is_training")
    >>> params = init(jax.random.key(0), batch.graph, is_training=True)
    >>> apply = jax.jit(net.apply, static_argnames="is_training")
    >>> apply(params, None, batch.graph, is_training=False)["position"].shape
    (2, 1, 3)

    Args:
      model: a key of `demetar.REGISTRY`.
      task: inputs and heads. Where a default of the model names an input that the task
        does not have, it is fitted to the task.
      fields: of the model other than their defaults.

    Returns:
      `init(key, graph, is_training)` and `apply(params, key, graph, is_training)`, of
      which is_training is static. Outputs are {head: [N, K, 3] | [N, T] | [G, T]},
      offsets from the base of the head in units of its scale.

    Raises:
      UserError: unknown model or field, a value of the wrong type, or a head that the
        model does not support.
    """
    net = Net(*models.build(model, task, fields))
    net.model, net.task, net.fields = model, task, dict(fields)
    return net
