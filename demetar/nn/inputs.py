"""The inputs that a model reads, by name."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from demetar import elements, geometry
from demetar.errors import UserError
from demetar.types import Array, Nodes, TaskSpec

ALL = "all"


def invariants(nodes: Nodes, task: TaskSpec, names: Sequence[str]) -> jax.Array:
    """Invariant node features, one column per name: [N, C].

    Args:
      nodes: inputs of the batch.
      task: names their columns.
      names: a scalar input ('charge'), the norm of a vector input ('|velocity|'), or
        'all' for every scalar input of the task. Without any name a column of ones.

    Raises:
      UserError: the task has no input of that name.
    """
    columns = {name: nodes.scalars[:, i] for i, name in enumerate(task.scalars)}
    for i, vector in enumerate(task.vectors):
        columns[f"|{vector.name}|"] = geometry.safe_norm(nodes.vectors[:, i])
    names = [
        column for name in names for column in (task.scalars if name == ALL else [name])
    ]
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise UserError(
            f"the task {task.name!r} has no node input {unknown[0]!r}; "
            f"it has {', '.join(columns) or 'none'}"
        )
    if not names:
        return jnp.ones((*nodes.positions.shape[:-1], 1), nodes.positions.dtype)
    return jnp.stack([columns[name] for name in names], axis=-1)


def names_of(task: TaskSpec) -> tuple[str, ...]:
    """What `invariants` knows by name."""
    norms = (f"|{vector.name}|" for vector in task.vectors)
    return (*task.scalars, *norms)


def fitted(task: TaskSpec, names: Sequence[str]) -> tuple[str, ...]:
    """Names of inputs that a model has by default, fitted to a task.

    Norms of vectors that the task does not have are left out; if it lacks a scalar, or
    nothing else is left, all its scalars are read.
    """
    known = names_of(task)
    absent = [name for name in names if name not in (*known, ALL)]
    if not absent:
        return tuple(names)
    kept = tuple(name for name in names if name in known and name.startswith("|"))
    lacks_scalar = any(not name.startswith("|") for name in absent)
    scalars = tuple(name for name in names if name in task.scalars)
    if task.scalars and (lacks_scalar or not (kept or scalars)):
        scalars = (ALL,)
    return (*scalars, *kept)


def has_vector(task: TaskSpec, name: str) -> bool:
    """Whether a task has a vector input of that name."""
    return name in [vector.name for vector in task.vectors]


def vector(nodes: Nodes, task: TaskSpec, name: str) -> Array:
    """The vector input of that name: [N, 3].

    Raises:
      UserError: the task has no such vector.
    """
    names = [vector.name for vector in task.vectors]
    if name not in names:
        raise UserError(
            f"the task {task.name!r} has no vector input {name!r}; it has "
            f"{', '.join(names) or 'none'}; give it VectorInput({name!r}), or choose "
            "another model"
        )
    return nodes.vectors[:, names.index(name)]


def polar_vectors(nodes: Nodes, task: TaskSpec) -> list[Array]:
    """Vector inputs [N, 3] that a reflection turns round.

    The angle of an axial vector with a polar one is no invariant.
    """
    return [
        nodes.vectors[:, index]
        for index, own in enumerate(task.vectors)
        if own.parity < 0
    ]


def masses(nodes: Nodes, task: TaskSpec) -> jax.Array:
    """Masses of atoms in u by the one-hot inputs that are named after elements: [N, 1].

    Padding has mass 0.

    Raises:
      UserError: no input of the task is named after an element.
    """
    columns = [i for i, name in enumerate(task.scalars) if name in elements.MASSES]
    if not columns:
        raise UserError(
            f"the task {task.name!r} has no node input named after an element, whose "
            f"masses a centre of mass needs; it has {', '.join(task.scalars) or 'none'}"
        )
    values = np.array([[elements.MASSES[task.scalars[i]]] for i in columns])
    scalars = nodes.scalars[:, np.array(columns)]
    return jnp.matmul(scalars, values.astype(scalars.dtype))
