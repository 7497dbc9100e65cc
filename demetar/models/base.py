"""What every model is: a Haiku module with typed fields that states its symmetry."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.errors import UserError
from demetar.nn import inputs
from demetar.types import Array, Bucket, Head, Nodes, TaskSpec


@dataclasses.dataclass
class Model(hk.Module):
    """Base of the models. Subclasses are dataclasses; their fields are configuration.

    Attributes:
      task: inputs and heads.
      symmetry: 'E(3)', 'SE(3)' or 'S(n)' (permutations alone). Tests hold a model to
        it, and an S(n) model to breaking rotations.
      supports: kinds of heads that the model has.
    """

    symmetry: ClassVar[str]
    supports: ClassVar[frozenset[str]]

    task: TaskSpec

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        """Outputs per head: {name: [N, K, 3] | [N, T] | [G, T]}.

        They are offsets from the base of the head in units of its scale:
        `train.predict` makes predictions of them.
        """
        raise NotImplementedError


def raw_coordinates(nodes: Nodes) -> jax.Array:
    """Positions and vectors side by side, [N, 3 + 3V], for S(n) models alone."""
    vectors = nodes.vectors.reshape(nodes.vectors.shape[0], -1)
    return jnp.concatenate([nodes.positions, vectors], axis=-1)


def base_vectors(head: Head, task: TaskSpec, nodes: Nodes) -> Array:
    """What the output of a vector head is added to: [N, 1, 3] in its unit."""
    if head.base == "positions":
        return nodes.positions[:, None]
    if head.base:
        return inputs.vector(nodes, task, head.base)[:, None]
    return jnp.zeros_like(nodes.positions)[:, None]


def absolute(values: Array, head: Head, task: TaskSpec, nodes: Nodes) -> Array:
    """The output whose prediction is `values` [N, K, 3] itself, without the base.

    For models whose papers predict absolute vectors; they are not equivariant under
    translations.
    """
    return (values - base_vectors(head, task, nodes)) / head.scale


def single_vector_head(task: TaskSpec, model: str) -> Head:
    """The one head of a task for models that predict one vector per node.

    Raises:
      UserError: the task asks for anything else.
    """
    head = task.heads[0]
    if len(task.heads) > 1 or head.kind != "node_vector" or head.size != 1:
        asked = ", ".join(f"{h.name} ({h.size} {h.kind})" for h in task.heads)
        raise UserError(
            f"{model} predicts one vector per node, the task {task.name!r} asks for "
            f"{asked}; choose a single target"
        )
    return head
