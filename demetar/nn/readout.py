"""Heads: the last layer of the models that end in scalars and vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.heads import known_values
from demetar.nn import inputs, mlp
from demetar.types import Array, Graph, Head, TaskSpec

KINDS = frozenset({"node_vector", "node_scalar", "graph_scalar"})
SCALAR_KINDS = frozenset({"node_scalar", "graph_scalar"})
POOLINGS = ("target", "sum", "mean")
OUTPUTS = ("target", "scalar", "dipole", "spatial_extent")


def pool(values: Array, head: Head, pooling: str, graph: Graph) -> jax.Array:
    """One value per graph of those of its nodes: [N, C] -> [G, C].

    Args:
      values: of the nodes.
      head: a graph scalar.
      pooling: 'sum', 'mean', or 'target': the sum for an extensive head, the mean for
        any other.
      graph: the batch.

    Raises:
      UserError: unknown pooling.
    """
    if pooling not in POOLINGS:
        raise UserError(
            f"expected a pooling of {', '.join(POOLINGS)}, found {pooling!r}"
        )
    if pooling == "target":
        pooling = "sum" if head.extensive else "mean"
    pooled = {"sum": graphs.pool_sum, "mean": graphs.pool_mean}[pooling]
    return pooled(values, graph)


def heads(
    task: TaskSpec,
    scalars: Array,
    vectors: Array | None,
    graph: Graph,
    pooling: str = "target",
) -> dict[str, Array]:
    """All outputs of a task from the features of the last layer.

    A vector head is a linear map of the vectors without bias, so the symmetry of the
    features is that of the output. A scalar head is a perceptron with one hidden layer;
    for graphs its result is pooled over the nodes.

    Args:
      task: heads.
      scalars: [N, C].
      vectors: [3, N, C'] polar vectors; None if the model has none.
      graph: the batch.
      pooling: of `pool`.

    Returns:
      {head: [N, K, 3] | [N, T] | [G, T]}.

    Raises:
      UserError: a vector head without vectors, or unknown pooling.
    """
    outputs = scalar_heads(task, scalars, graph, pooling=pooling)
    return outputs | vector_heads(task, vectors)


def vector_heads(task: TaskSpec, vectors: Array | None) -> dict[str, Array]:
    """The vector heads of a task: linear maps without bias.

    Args:
      task: heads.
      vectors: [3, N, C'] polar vectors; None if the model has none.

    Returns:
      {head: [N, K, 3]}.

    Raises:
      UserError: a vector head without vectors.
    """
    outputs: dict[str, Array] = {}
    for head in task.heads:
        if head.kind != "node_vector":
            continue
        if vectors is None:
            raise UserError(f"head {head.name!r} needs a model with vector features")
        linear = mlp.Linear(head.size, with_bias=False, name=f"readout_{head.name}")
        outputs[head.name] = jnp.transpose(linear(vectors), (1, 2, 0))
    return outputs


def linear_heads(
    task: TaskSpec,
    scalars: Array,
    graph: Graph,
    pooling: str = "target",
    hidden_sizes: Sequence[int] = (),
    per_node: Callable[[Head, Array], Array] = lambda head, values: values,
) -> dict[str, Array]:
    """The scalar heads of a task: linear maps of the nodes alone, without biases.

    They are drawn as e3nn draws them: normal, variance 1 / inputs.

    Args:
      task: heads.
      scalars: [N, C].
      graph: the batch.
      pooling: of `pool`.
      hidden_sizes: channels between several maps one after the other.
      per_node: (head, values [N, T]) -> [N, T], before the pooling.

    Returns:
      {head: [N, T] | [G, T]}.

    Raises:
      UserError: unknown pooling.
    """
    init = hk.initializers.VarianceScaling(1.0, "fan_in", "normal")
    outputs: dict[str, Array] = {}
    for head in task.heads:
        if head.kind == "node_vector":
            continue
        values: Array = scalars
        for index, size in enumerate((*hidden_sizes, head.size)):
            name = f"readout_{head.name}_{index}"
            values = mlp.Linear(size, False, w_init=init, name=name)(values)
        outputs[head.name] = per_node(head, values)
    return pooled(task, outputs, graph, pooling)


def scalar_heads(
    task: TaskSpec,
    scalars: Array,
    graph: Graph,
    hidden_size: int | None = None,
    activation: mlp.Activation = jax.nn.silu,
    pooling: str = "target",
) -> dict[str, Array]:
    """The scalar heads of a task: a perceptron of each node, pooled for graphs.

    Args:
      task: heads.
      scalars: [N, C].
      graph: the batch.
      hidden_size: of the perceptron, C by default.
      activation: of its hidden layer.
      pooling: of `pool`.

    Returns:
      {head: [N, T] | [G, T]}.

    Raises:
      UserError: unknown pooling.
    """
    values: dict[str, Array] = {}
    for head in task.heads:
        if head.kind == "node_vector":
            continue
        sizes = [hidden_size or scalars.shape[-1], head.size]
        network = mlp.MLP(sizes, activation, name=f"readout_{head.name}")
        values[head.name] = network(scalars)
    return pooled(task, values, graph, pooling)


def pooled(
    task: TaskSpec, values: Mapping[str, Array], graph: Graph, pooling: str = "target"
) -> dict[str, Array]:
    """Values of the nodes {head: [N, T]}, pooled if the head is of the graph.

    Args:
      task: heads.
      values: of scalar heads.
      graph: the batch.
      pooling: of `pool`.

    Returns:
      {head: [N, T] | [G, T]}.

    Raises:
      UserError: unknown pooling.
    """
    return {
        head.name: pool(values[head.name], head, pooling, graph)
        if head.kind == "graph_scalar"
        else values[head.name]
        for head in task.heads
        if head.name in values
    }


def summed_heads(
    task: TaskSpec,
    scalars: Array,
    node_sizes: Sequence[int],
    graph_size: int,
    activation: mlp.Activation,
    graph: Graph,
) -> dict[str, Array]:
    """The scalar heads of a task: a perceptron of the nodes, their sum, one per head.

    A head of node scalars decodes the nodes without the sum.

    Args:
      task: heads.
      scalars: [N, C].
      node_sizes: layers of the perceptron of the nodes, which all heads share.
      graph_size: hidden layer of the perceptron of each head.
      activation: of both.
      graph: the batch.

    Returns:
      {head: [N, T] | [G, T]}.
    """
    heads = [head for head in task.heads if head.kind != "node_vector"]
    if not heads:
        return {}
    nodes = mlp.MLP(node_sizes, activation, name="node_decoder")(scalars)  # [N, C']
    pooled = graphs.pool_sum(nodes, graph)  # [G, C']
    outputs: dict[str, Array] = {}
    for head in heads:
        decoder = mlp.MLP(
            [graph_size, head.size], activation, name=f"decoder_{head.name}"
        )
        outputs[head.name] = decoder(pooled if head.kind == "graph_scalar" else nodes)
    return outputs


def output_of(head: Head, output: str) -> str:
    """What a head is made of: 'scalar', 'dipole' or 'spatial_extent'.

    Args:
      head: any.
      output: one of these for all graph scalars, or 'target' for what the quantity of
        the head asks for. Any other kind of head is not concerned.

    Raises:
      UserError: unknown output.
    """
    if output not in OUTPUTS:
        raise UserError(f"expected an output of {', '.join(OUTPUTS)}, found {output!r}")
    if head.kind != "graph_scalar":
        return "scalar"
    return (head.quantity or "scalar") if output == "target" else output


def dipole(
    task: TaskSpec, head: Head, charges: Array, moments: Array | None, graph: Graph
) -> jax.Array:
    """The length of sum_i (q_i (x_i - c) + m_i), c the centre of mass: [G, T].

    Source: Schuett et al. 2021, arXiv 2102.03150, section 4.3, from the centre of mass
    as in the code of Thoelke and De Fabritiis 2022, arXiv 2202.02541.

    Args:
      task: names the elements.
      head: a graph scalar, whose prediction is the length itself.
      charges: [N, T].
      moments: [3, N, T] polar vectors, or None.
      graph: the batch.

    Raises:
      UserError: the task names no elements.
    """
    places = _from_centre_of_mass(task, graph).T[..., None]  # [3, N, 1]
    vectors = places * charges
    if moments is not None:
        vectors = vectors + moments
    rows = jnp.moveaxis(vectors, 0, -1)  # [N, T, 3]
    total = graphs.pool_sum(rows.reshape(rows.shape[0], -1), graph)
    lengths = geometry.safe_norm(total.reshape(-1, *rows.shape[1:]))
    return lengths / head.scale - _known(task, head, graph)


def spatial_extent(
    task: TaskSpec, head: Head, values: Array, graph: Graph
) -> jax.Array:
    """sum_i q_i |x_i - c|^2 with the centre of mass c: [G, T].

    Source: that of `dipole`.

    Args:
      task: names the elements.
      head: a graph scalar, whose prediction is the extent itself.
      values: q [N, T].
      graph: the batch.

    Raises:
      UserError: the task names no elements.
    """
    squares = jnp.square(_from_centre_of_mass(task, graph)).sum(-1)  # [N]
    total = graphs.pool_sum(squares[:, None] * values, graph)
    return total / head.scale - _known(task, head, graph)


def _known(task: TaskSpec, head: Head, graph: Graph) -> Array:
    """What is known of a head beforehand, in multiples of its scale: [G or 1, 1]."""
    columns = [task.scalars.index(name) for name in task.species]
    counts = graphs.pool_sum(graph.nodes.scalars[:, columns], graph)
    return jnp.asarray(known_values(head, counts) / head.scale, counts.dtype)


def _from_centre_of_mass(task: TaskSpec, graph: Graph) -> jax.Array:
    """Places of the atoms relative to the centre of mass of their molecule: [N, 3]."""
    masses = inputs.masses(graph.nodes, task)
    return geometry.centred_positions(graph, masses)
