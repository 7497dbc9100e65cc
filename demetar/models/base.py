"""What every model is: a Haiku module with typed fields that states its symmetry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.errors import UserError
from demetar.nn import inputs, mlp
from demetar.types import Array, Graph, Head, Nodes, TaskSpec

# Those that break rotations come last: they must, or they would state another one.
BREAK_ROTATIONS = ("octahedral", "T(3)", "S(n)")
SYMMETRIES = ("E(3)", "SE(3)", *BREAK_ROTATIONS)


@dataclasses.dataclass
class Model(hk.Module):
    """Base of the models. Subclasses are dataclasses; their fields are configuration.

    Attributes:
      task: inputs and heads.
      symmetry: 'E(3)', 'SE(3)', 'octahedral' (translations and the 48 signed
        permutations of the axes), 'T(3)' (translations) or 'S(n)' (permutations of
        particles alone, which all of them have). Tests hold a model to it, and the
        last three to breaking rotations.
      supports: kinds of heads that the model has.
      needs: vectors without which it has no vector heads: 'velocity', if it moves its
        particles along them.
      ignores: inputs that the model does not read, by its paper: 'charge', 'velocity',
        'position', 'species' or 'edge feature'. Tests hold it to reading the others.
      fades_at_cutoff: whether what an edge says ends smoothly at the cutoff of the
        task, by an envelope, so that energies have no jump as an atom crosses it. Tests
        hold a model to it; molecular dynamics within a cutoff asks for it.
      small: fields of the configuration that tests use, which compiles fast.
      small_molecular: further ones, on molecules.
    """

    symmetry: ClassVar[str]
    supports: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]] = frozenset()
    ignores: ClassVar[frozenset[str]] = frozenset()
    fades_at_cutoff: ClassVar[bool] = False
    small: ClassVar[Mapping[str, Any]] = {}
    small_molecular: ClassVar[Mapping[str, Any]] = {}

    task: TaskSpec

    @classmethod
    def fades(cls, fields: Mapping[str, Any]) -> bool:
        """Whether a model with these fields is one that `fades_at_cutoff`."""
        return cls.fades_at_cutoff

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        """Outputs per head: {name: [N, K, 3] | [N, T] | [G, T]}.

        They are offsets from the base of the head in units of its scale:
        `train.predict` makes predictions of them.
        """
        raise NotImplementedError


def raw_coordinates(graph: Graph) -> jax.Array:
    """Positions as the source has them beside the vectors, [N, 3 + 3V].

    For S(n) models alone: all others see no origin.
    """
    nodes = graph.nodes
    vectors = nodes.vectors.reshape(nodes.vectors.shape[0], -1)
    positions = nodes.positions + graphs.centers_of_nodes(graph)
    return jnp.concatenate([positions, vectors], axis=-1)


def raw_inputs(graph: Graph) -> jax.Array:
    """Scalars and raw coordinates, [N, S + 3 + 3V], for S(n) models alone."""
    coordinates = raw_coordinates(graph)
    return jnp.concatenate([graph.nodes.scalars, coordinates], axis=-1)


def base_vectors(head: Head, task: TaskSpec, nodes: Nodes) -> Array:
    """What the output of a vector head is added to: [N, 1, 3] in its unit."""
    if head.base == "positions":
        return nodes.positions[:, None]
    if head.base:
        return inputs.vector(nodes, task, head.base)[:, None]
    return jnp.zeros_like(nodes.positions)[:, None]


def without_base(values: Array, head: Head, task: TaskSpec, nodes: Nodes) -> Array:
    """The output whose prediction is `values` [N, K, 3] itself."""
    return (values - base_vectors(head, task, nodes)) / head.scale


def absolute(values: Array, head: Head, task: TaskSpec, graph: Graph) -> Array:
    """The output whose prediction is `values` [N, K, 3] in the frame of the source.

    For models whose papers predict absolute vectors; they are not equivariant under
    translations.
    """
    if head.base == "positions":
        values = values - graphs.centers_of_nodes(graph)[:, None]
    return without_base(values, head, task, graph.nodes)


def shared_cutoff(task: TaskSpec, own: float | None, model: str) -> float | None:
    """The cutoff of a model that has a field of that name: envelope and basis.

    It is that of the task, so that graphs, envelope and basis have one. A model on a
    task without a cutoff may have its own.

    Args:
      task: what the model is built for.
      own: value of the model's field; None for the task's.
      model: named in the error.

    Raises:
      UserError: both have one, and they differ.
    """
    if own is None or task.cutoff is None:
        return task.cutoff if own is None else own
    if own != task.cutoff:
        raise UserError(
            f"{model}.cutoff is {own:g} where that of the graphs is {task.cutoff:g}; "
            "leave it out of --set, and choose --cutoff for both"
        )
    return own


def vector_heads(task: TaskSpec) -> list[Head]:
    """The heads that are vectors per node."""
    return [head for head in task.heads if head.kind == "node_vector"]


def absolute_heads(task: TaskSpec, features: Array, graph: Graph) -> dict[str, Array]:
    """Vectors decoded from features [N, C] by one perceptron per vector head.

    Returns:
      {head: [N, K, 3]} whose predictions are absolute, for S(n) models alone.
    """
    outputs: dict[str, Array] = {}
    for head in vector_heads(task):
        sizes = [features.shape[-1], head.size * 3]
        values = mlp.MLP(sizes, name=f"decoder_{head.name}")(features)
        values = values.reshape(-1, head.size, 3)
        outputs[head.name] = absolute(values, head, task, graph)
    return outputs


def without_means(
    task: TaskSpec, outputs: Mapping[str, Array], graph: Graph
) -> dict[str, Array]:
    """The outputs, those of heads of mean zero less their mean over each graph."""
    found = dict(outputs)
    for head in task.heads:
        if head.zero_mean:
            flat = found[head.name].reshape(-1, 3 * head.size)
            means = graphs.broadcast_to_nodes(graphs.pool_mean(flat, graph), graph)
            found[head.name] = (flat - means).reshape(-1, head.size, 3)
    return found


def moved_heads(
    task: TaskSpec, model: str, shift: Array, moves: Array, nodes: Nodes
) -> dict[str, Array]:
    """Vector heads of models that move their particles in steps.

    Args:
      task: heads, of one vector each if they are vectors.
      model: named in the error.
      shift: [N, 3] sum of all steps, for a head based on positions or on nothing.
      moves: [N, 3] the last step, for a head based on a vector input.
      nodes: inputs of the batch.

    Returns:
      {head: [N, 1, 3]}.

    Raises:
      UserError: a head of more than one vector.
    """
    outputs: dict[str, Array] = {}
    for head in vector_heads(task):
        if head.size != 1:
            raise UserError(
                f"{model} predicts one vector per node and head, the head "
                f"{head.name!r} asks for {head.size}"
            )
        if head.base in ("positions", ""):
            outputs[head.name] = shift[:, None] / head.scale
        else:
            outputs[head.name] = without_base(moves[:, None], head, task, nodes)
    return outputs
