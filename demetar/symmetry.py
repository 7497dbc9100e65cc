"""How far a model is from the symmetries of point clouds, measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.net import Net, build
from demetar.precision import DTYPES, precision
from demetar.predict import Predictor
from demetar.types import Array, Batch, Graph, Params, TaskSpec

GROUPS = ("rotation", "reflection", "translation", "permutation")
DISTURBANCE = 0.1  # of untrained parameters, which may be 0
SHIFT = (1.3, -0.7, 2.1)  # of translations, in the length unit

Model = Net | Predictor | hk.Transformed | str


class SymmetryErrors(dict[str, dict[str, dict[str, float]]]):
    """Errors by precision, group and head: errors['float64']['rotation']['position'].

    Printed, they are a table.
    """

    def __str__(self) -> str:
        heads = list(next(iter(self.values()))[GROUPS[0]])
        names = [f"{dtype} {head}" for dtype in self for head in heads]
        lines = [" ".join([" " * 12, *(name.rjust(20) for name in names)])]
        for group in GROUPS:
            values = [self[dtype][group][head] for dtype in self for head in heads]
            cells = [
                f"{value:.1e}".rjust(max(20, len(name)))
                for value, name in zip(values, names, strict=True)
            ]
            lines.append(" ".join([group.ljust(12), *cells]))
        return "\n".join(lines)


def check_symmetry(
    model: Model,
    batch: Batch,
    task: TaskSpec | None = None,
    params: Params | None = None,
    seed: int = 0,
) -> SymmetryErrors:
    """The errors of a model under each group, in float32 and in float64.

    An error is ||T F(x) - F(T x)|| / ||F(x)|| over the nodes or graphs of the batch,
    for a random T of the group (for each graph its own rotation or permutation); F is
    the output before its base is added, so that it is relative to what the model adds.
    An equivariant model has about 1e-6 in float32 and 1e-14 in float64; an error that
    does not fall with the precision is no rounding.

    >>> import demetar
    >>> task = demetar.TaskSpec(
    ...     "orbits",
    ...     heads=(demetar.Head("position", "node_vector", base="positions"),),
    ...     scalars=("charge",),
    ...     vectors=(demetar.VectorInput("velocity"),),
    ... )
    >>> net = demetar.build("egnn", task, hidden_size=8, num_layers=1)
    >>> batch = demetar.make_batch(
    ...     task, positions=[[0, 0, 0], [1, 0, 0], [0, 2, 1]], charges=[1, -1, 1],
    ...     velocities=[[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    ... )
    >>> errors = demetar.check_symmetry(net, batch)
    >>> max(errors["float64"][group]["position"] for group in errors["float64"]) < 1e-10
    True

    Args:
      model: of `build`, `load` or `hk.transform`, or a name of the registry.
      batch: of `make_batch`.
      task: of a model that does not know its own.
      params: of the model; None for those of a `Predictor`, or as the model draws them,
        disturbed: some models begin as the identity, which has every symmetry.
      seed: of the random numbers.

    Raises:
      UserError: the task is not known.
    """
    net, task, params = _resolve(model, task, params)
    found = SymmetryErrors()
    if params is None:
        params = random_params(net, batch, seed)
    for dtype in DTYPES:
        with precision(dtype):
            own, own_params = cast((batch, params), dtype)
            found[dtype] = _errors(net, task, own_params, own, seed)
    return found


def _resolve(
    model: Model, task: TaskSpec | None, params: Params | None
) -> tuple[hk.Transformed, TaskSpec, Params | None]:
    if isinstance(model, Predictor):
        return model.net, model.task, model.params if params is None else params
    if isinstance(model, Net):
        return model, model.task, params
    if task is None:
        raise UserError(
            "expected task= beside a model that does not know its own; pass it, or the "
            "model of demetar.build or demetar.load"
        )
    return build(model, task) if isinstance(model, str) else model, task, params


def cast(tree: Any, dtype: str) -> Any:
    """The tree with every floating-point array in a dtype."""

    def converted(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        is_real = jnp.issubdtype(leaf.dtype, jnp.floating)
        found: jax.Array = leaf.astype(dtype) if is_real else leaf
        return found

    return jax.tree.map(converted, tree)


def random_params(net: hk.Transformed, batch: Batch, seed: int) -> Params:
    """As the model draws them, disturbed; in float32."""
    with precision("float32"):
        graph = cast(batch.graph, "float32")
        init = jax.jit(lambda key: net.init(key, graph, True))
        drawn = jax.device_get(init(jax.random.key(seed)))
    generator = np.random.default_rng(seed)

    def disturb(leaf: np.ndarray) -> np.ndarray:
        size = DISTURBANCE / np.sqrt(np.prod(leaf.shape[:-1]))
        disturbed: np.ndarray = leaf + size * generator.normal(size=leaf.shape)
        return disturbed

    found: Params = jax.tree.map(disturb, drawn)
    return found


def _errors(
    net: hk.Transformed, task: TaskSpec, params: Params, batch: Batch, seed: int
) -> dict[str, dict[str, float]]:
    apply = jax.jit(lambda params, batch: net.apply(params, None, batch.graph, False))
    outputs = _real(task, jax.device_get(apply(params, batch)), batch)
    errors: dict[str, dict[str, float]] = {}
    for group, move in moves(task, batch, seed).items():
        moved = jax.device_get(apply(params, move.batch))
        found = _real(task, _moved_back(task, moved, move), batch)
        errors[group] = {
            name: relative_norm(found[name] - value, value)
            for name, value in outputs.items()
        }
    return errors


def relative_norm(difference: np.ndarray, values: np.ndarray) -> float:
    """The norm of a difference over that of values; 0 if both are 0."""
    size = float(np.linalg.norm(difference))
    with np.errstate(divide="ignore"):
        return float(size / np.linalg.norm(values)) if size else 0.0


class Move(NamedTuple):
    """A batch as another observer sees it.

    Attributes:
      batch: the one that is seen.
      matrix: [3, 3] orthogonal, by which vectors are turned.
      nodes, edges: [N] and [E] the new number of each old node and edge.
    """

    batch: Batch
    matrix: np.ndarray
    nodes: np.ndarray
    edges: np.ndarray


Outputs = dict[str, np.ndarray]


def _moved_back(task: TaskSpec, outputs: Mapping[str, Any], move: Move) -> Outputs:
    """Outputs for a moved batch as those for the batch itself would be."""
    found = {}
    for head in task.heads:
        value = np.asarray(outputs[head.name], np.float64)
        if head.kind != "graph_scalar":
            value = value[move.nodes]
        if head.kind == "node_vector":
            value = value @ move.matrix
        found[head.name] = value
    return found


def _real(task: TaskSpec, outputs: Mapping[str, Any], batch: Batch) -> Outputs:
    """The outputs without padding, in float64."""
    nodes = np.asarray(graphs.node_mask(batch.graph))
    slots = np.asarray(batch.weights) > 0
    return {
        head.name: np.asarray(outputs[head.name], np.float64)[
            slots if head.kind == "graph_scalar" else nodes
        ]
        for head in task.heads
    }


def turned(task: TaskSpec, graph: Graph, matrix: Array) -> Graph:
    """A graph under an orthogonal matrix [3, 3] about the origin of the source.

    Axial vectors turn without the sign of its determinant.
    """
    dtype = graph.nodes.positions.dtype
    matrix = jnp.asarray(matrix, dtype)
    nodes = geometry.transform_nodes(graph.nodes, matrix)
    parities = [vector.parity > 0 for vector in task.vectors]
    if any(parities):
        sign = jnp.sign(jnp.linalg.det(matrix))
        signs = jnp.where(jnp.asarray(parities), sign, 1)[:, None]  # [V, 1]
        nodes = nodes._replace(vectors=nodes.vectors * signs)
    known = graph.globals
    if known is not None:
        centers = jnp.einsum("ij,gj->gi", matrix, known.centers)
        known = known._replace(centers=centers)
    return dataclasses.replace(graph, nodes=nodes, globals=known)


def moves(task: TaskSpec, batch: Batch, seed: int = 0) -> dict[str, Move]:
    """A random move of each group, by its name in `GROUPS`."""
    generator = np.random.default_rng(seed)
    changes = (_rotated, _reflected, _translated, _permuted)
    return {
        group: change(task, batch, generator)
        for group, change in zip(GROUPS, changes, strict=True)
    }


def _unmoved(batch: Batch) -> Move:
    """The move that changes nothing."""
    bucket = batch.graph.bucket
    return Move(
        batch, np.eye(3), np.arange(bucket.max_nodes), np.arange(bucket.max_edges)
    )


def _orthogonal(task: TaskSpec, batch: Batch, matrix: np.ndarray) -> Move:
    changed = dataclasses.replace(batch, graph=turned(task, batch.graph, matrix))
    return _unmoved(batch)._replace(batch=changed, matrix=matrix)


def _rotation_matrix(generator: np.random.Generator) -> np.ndarray:
    """Uniform in SO(3), by the QR decomposition of a normal matrix."""
    matrix, upper = np.linalg.qr(generator.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    turned: np.ndarray = matrix * np.linalg.det(matrix)
    return turned


def _rotated(task: TaskSpec, batch: Batch, generator: np.random.Generator) -> Move:
    return _orthogonal(task, batch, _rotation_matrix(generator))


def _reflected(task: TaskSpec, batch: Batch, generator: np.random.Generator) -> Move:
    return _orthogonal(task, batch, -_rotation_matrix(generator))


def _translated(task: TaskSpec, batch: Batch, generator: np.random.Generator) -> Move:
    graph = batch.graph
    shift = jnp.asarray(SHIFT, graph.nodes.positions.dtype)
    nodes = graph.nodes._replace(positions=graph.nodes.positions + shift)
    changed = dataclasses.replace(batch, graph=dataclasses.replace(graph, nodes=nodes))
    return _unmoved(batch)._replace(batch=changed)


def _permuted(task: TaskSpec, batch: Batch, generator: np.random.Generator) -> Move:
    """Nodes of each graph in another order; edges in the order that buckets ask for."""
    graph = jax.tree.map(np.asarray, batch.graph)
    real = np.asarray(batch.weights) > 0
    stops = np.cumsum(graph.n_node)
    order = np.arange(len(graph.nodes.positions))  # the old number of each new node
    for start, stop in zip((stops - graph.n_node)[real], stops[real], strict=True):
        order[start:stop] = start + generator.permutation(stop - start)
    new = np.argsort(order)  # the new number of each old node
    senders, receivers = new[graph.senders], new[graph.receivers]
    sizes = np.repeat(graph.n_node, graph.n_node)[receivers]
    # The cyclic order of complete graphs; any will do for others.
    rows = np.lexsort(((senders - receivers) % sizes, receivers))
    changed = dataclasses.replace(
        graph,
        nodes=jax.tree.map(lambda leaf: leaf[order], graph.nodes),
        edges=graph.edges[rows],
        senders=senders[rows].astype(np.int32),
        receivers=receivers[rows].astype(np.int32),
    )
    whole = dataclasses.replace(batch, graph=jax.tree.map(jnp.asarray, changed))
    return _unmoved(batch)._replace(batch=whole, nodes=new, edges=np.argsort(rows))
