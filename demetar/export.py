r"""A predictor as one file that runs without this project.

The file is a line of JSON, the header, and then the program as `jax.export` serialises
it (StableHLO with the parameters), for one shape of its inputs. It does what the
predictor does: it takes double precision, subtracts the centre of each system, runs the
model in its own precision and adds what is known of the targets. Nothing but jax and
NumPy is needed to run it:

    def load(path):
        jax.config.update("jax_enable_x64", True)
        header, _, program = pathlib.Path(path).read_bytes().partition(b"\n")
        header = json.loads(header)
        call = jax.export.deserialize(bytearray(program)).call

        def predict(**inputs):
            asked = header["inputs"]
            arrays = [np.asarray(inputs[own["name"]], own["dtype"]) for own in asked]
            names = [own["name"] for own in header["outputs"]]
            return dict(zip(names, map(np.asarray, call(*arrays))))

        return predict
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from demetar import connectivity, elements, heads
from demetar.data import system_graphs, systems
from demetar.data.species import species_of
from demetar.errors import UserError
from demetar.precision import precision
from demetar.predict import Predictor, residuals
from demetar.train import checkpoint
from demetar.types import Array, Batch, Bucket, Globals, Graph, Head, Nodes, TaskSpec

FORMAT = "demetar exported model"
VERSION = 1
PLATFORMS = ("cpu", "cuda")


def export(
    model: Predictor,
    path: str | os.PathLike[str],
    num_nodes: int,
    num_systems: int = 1,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Write a predictor to a file that runs without this project, atomically.

    Args:
      model: of `demetar.load`.
      path: file to write.
      num_nodes, num_systems: its inputs are [num_systems, num_nodes, 3] vectors and
        [num_systems, num_nodes] scalars; species are atomic numbers, and those that the
        model does not know make the values NaN.
      platforms: on which it is to run.

    Returns:
      The header: format, version, model, task, inputs and outputs with their names,
      shapes, dtypes and units, and what made it.

    Raises:
      UserError: the graphs of the task cannot be built in a program of fixed shapes, as
        those of bonds; there are too few nodes; or the file cannot be written.
    """
    task = model.task
    _check(task, num_nodes, num_systems)
    inputs = _inputs(task, num_nodes, num_systems)
    core = _export_core(model, num_nodes, num_systems, platforms)
    with precision("float64"):
        whole = functools.partial(_whole, task, core, model.dtype)
        shapes = [jax.ShapeDtypeStruct(i["shape"], i["dtype"]) for i in inputs]
        program = jax_export.export(jax.jit(whole), platforms=platforms)(*shapes)
        serialized = _serialize(program)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.model,
        "task": task.name,
        "seed": model.seed,
        "inputs": inputs,
        "outputs": [
            {"name": head.name, "shape": list(aval.shape), "unit": head.unit}
            for head, aval in zip(task.heads, program.out_avals, strict=True)
        ],
        "species": list(species_of(task)),
        "platforms": list(platforms),
        "jax": jax.__version__,
    }
    content = json.dumps(header, sort_keys=True).encode()
    checkpoint.write_bytes(path, content + b"\n" + serialized)
    return header


def _serialize(program: jax_export.Exported) -> bytes:
    try:
        return bytes(program.serialize())
    except ImportError:
        raise UserError(
            "jax needs flatbuffers to write or read an exported program; install it "
            "with python -m pip install flatbuffers"
        ) from None


def _check(task: TaskSpec, num_nodes: int, num_systems: int) -> None:
    system_graphs.check_connectivity(task)
    if task.connectivity == "bonds" or system_graphs.has_bonds(task):
        raise UserError(
            f"the graphs of the task {task.name!r} are made of bonds, which a program "
            "of fixed shapes does not find; export a model of complete graphs, nearest "
            "neighbours or a cutoff"
        )
    least = 1 + (task.num_neighbors or 0) * (task.connectivity == "knn")
    if num_nodes < least or num_systems < 1:
        raise UserError(
            f"expected at least {least} nodes in at least 1 system to export, found "
            f"{num_nodes} in {num_systems}"
        )


def _inputs(task: TaskSpec, num_nodes: int, num_systems: int) -> list[dict[str, Any]]:
    """Name, shape, dtype and unit of each input."""
    units = {systems.POSITIONS: task.length_unit}
    return [
        {
            "name": item.keyword,
            "shape": [num_systems, num_nodes, *([3] if item.is_vector else [])],
            "dtype": "int32" if item.name == systems.SPECIES else "float64",
            "unit": units.get(item.name, ""),
        }
        for item in systems.inputs_of(task)
    ]


def _whole(
    task: TaskSpec, core: jax_export.Exported, dtype: str, *given: jax.Array
) -> tuple[jax.Array, ...]:
    """The values of all heads by the inputs in their order, in double precision."""
    inputs = dict(
        zip((item.name for item in systems.inputs_of(task)), given, strict=True)
    )
    positions = inputs[systems.POSITIONS]  # [D, n, 3]
    centers = positions.mean(axis=1, keepdims=True)
    columns, is_known = _columns(task, inputs)
    scalars = [columns[name] for name in task.scalars]
    empty = jnp.zeros((*positions.shape[:2], 0))
    nodes = Nodes(
        positions - centers,
        jnp.stack(scalars, axis=-1) if scalars else empty,
        jnp.stack([inputs[own.name] for own in task.vectors], axis=2)
        if task.vectors
        else jnp.zeros((*positions.shape[:2], 0, 3)),
    )
    features, *ends = _edges(task, positions, nodes)
    rounded = [leaf.astype(dtype) for leaf in (*nodes, centers[:, 0], features)]
    found = core.call(*rounded, *ends)
    counts = [columns[name].sum(axis=1) for name in task.species]
    outputs = []
    for head, residual in zip(task.heads, found, strict=True):
        values = _absolute(head, residual.astype(jnp.float64), centers, counts)
        mask = is_known.reshape(-1, *[1] * (values.ndim - 1))
        outputs.append(jnp.where(mask, values, jnp.nan))
    return tuple(outputs)


def _columns(
    task: TaskSpec, inputs: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Scalars by name [D, n], and whether all species of a system are known [D]."""
    columns = dict(inputs)
    is_known = jnp.ones(len(inputs[systems.POSITIONS]), bool)
    known = species_of(task)
    if known:
        given = inputs[systems.SPECIES]
        numbers = np.array([elements.NUMBERS[name] for name in known])
        powers = given / numbers.max()
        for name, number in zip(known, numbers, strict=True):
            one_hot = (given == number).astype(jnp.float64)
            columns[name] = one_hot
            columns[f"{name}*Z/{numbers.max()}"] = one_hot * powers
            columns[f"{name}*(Z/{numbers.max()})^2"] = one_hot * powers**2
        is_known = jnp.isin(given, numbers).all(axis=1)
    return columns, is_known


def _absolute(
    head: Head, values: jax.Array, centers: jax.Array, counts: Sequence[jax.Array]
) -> jax.Array:
    """Values as a person reads them: [D, n, 3], [D, n] or [D]; with K or T above 1."""
    if head.base == systems.POSITIONS:
        values = values + centers[:, :, None]
    if heads.knows(head):
        by_species = zip(counts, head.offsets, strict=bool(head.offsets))
        known = head.mean + sum(count * offset for count, offset in by_species)
        values = values + jnp.reshape(known, (-1, *[1] * (values.ndim - 1)))
    axis = {"node_vector": 2, "node_scalar": 2, "graph_scalar": 1}[head.kind]
    return values.squeeze(axis) if head.size == 1 else values


# --- Graphs -------------------------------------------------------------------------


def _edges(
    task: TaskSpec, positions: jax.Array, nodes: Nodes
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features [D, e, F] of the edges of all systems, senders and receivers [D, e].

    The ends are numbers of nodes within their graph; -1 for an edge that is none.
    """
    count, size, _ = positions.shape
    senders, receivers = (
        jnp.broadcast_to(jnp.asarray(ends, jnp.int32), (count, len(ends)))
        for ends in connectivity.complete_edges(size)
    )
    offsets = positions[:, :, None] - positions[:, None]  # [D, n, n, 3]
    squares = jnp.square(offsets).sum(axis=-1)
    if task.connectivity == "knn":
        degree = task.num_neighbors or 0
        alone = jnp.where(jnp.eye(size, dtype=bool), jnp.inf, squares)
        nearest = jax.lax.top_k(-alone, degree)[1]  # [D, n, k]
        senders = nearest.reshape(count, -1).astype(jnp.int32)
        ends = jnp.repeat(jnp.arange(size, dtype=jnp.int32), degree)
        receivers = jnp.broadcast_to(ends, senders.shape)
    rows = jnp.arange(count)[:, None]
    factors = [
        task.scalars.index(system_graphs.factor(task, f)) for f in task.edge_features
    ]
    scalars = nodes.scalars[..., jnp.array(factors, int)]  # [D, n, F]
    features = scalars[rows, senders] * scalars[rows, receivers]
    cutoff = system_graphs.cutoff(task)
    if cutoff is not None:
        kept = jnp.sqrt(squares)[rows, receivers, senders] < cutoff
        senders, receivers = (
            jnp.where(kept, ends, -1) for ends in (senders, receivers)
        )
    return features, senders, receivers


def _export_core(
    model: Predictor, num_nodes: int, num_systems: int, platforms: Sequence[str]
) -> jax_export.Exported:
    """The residuals of a model by a graph, in the precision of the model."""
    task, kind = model.task, model.dtype
    degree = num_nodes - 1
    if task.connectivity == "knn":
        degree = task.num_neighbors or 0
    rows, num_edges = (num_systems, num_nodes), num_nodes * degree
    with precision(kind):
        reals = (
            *((*rows, 3), (*rows, len(task.scalars)), (*rows, len(task.vectors), 3)),
            *((num_systems, 3), (num_systems, num_edges, len(task.edge_features))),
        )
        shapes = [jax.ShapeDtypeStruct(shape, kind) for shape in reals]
        shapes += [jax.ShapeDtypeStruct((num_systems, num_edges), jnp.int32)] * 2
        return jax_export.export(
            jax.jit(functools.partial(_core, model)), platforms=platforms
        )(*shapes)


def _core(model: Predictor, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Residuals per head: [D, n, K, 3], [D, n, T] or [D, T]; means over seeds.

    Args:
      model: what is exported.
      arrays: positions, scalars and vectors [D, n, ...], centers [D, 3], features and
        both ends of the edges [D, e, ...].
    """
    positions, scalars, vectors, centers, edges, senders, receivers = arrays
    task, (count, size) = model.task, positions.shape[:2]
    starts = size * jnp.arange(count, dtype=jnp.int32)[:, None]
    flat = Nodes(
        *(
            leaf.reshape(count * size, *leaf.shape[2:])
            for leaf in (positions, scalars, vectors)
        )
    )
    make = _ragged if system_graphs.cutoff(task) is not None else _regular
    batch = make(task, flat, centers, edges, (senders, receivers), starts)
    found = [residuals(model.net, task, own, batch) for own in model.replicas]
    outputs = []
    for head in task.heads:
        mean = jnp.stack([one[head.name] for one in found]).mean(axis=0)
        per_graph = head.kind == "graph_scalar"
        real = mean[:count] if per_graph else mean[: count * size]
        shape = (count,) if per_graph else (count, size)
        outputs.append(real.reshape(*shape, *mean.shape[1:]))
    return tuple(outputs)


def _regular(
    task: TaskSpec,
    nodes: Nodes,
    centers: jax.Array,
    edges: jax.Array,
    ends: tuple[jax.Array, jax.Array],
    starts: jax.Array,
) -> Batch:
    """A batch of graphs in which every node has as many senders."""
    count, num_edges = ends[0].shape
    size = len(nodes.positions) // count
    degree = task.num_neighbors if task.connectivity == "knn" else None
    bucket = Bucket(
        count * size, count * num_edges, count, size, neighbors_per_node=degree
    )
    senders, receivers = ((starts + own).reshape(-1) for own in ends)
    graph = Graph(
        nodes=nodes,
        edges=edges.reshape(count * num_edges, edges.shape[-1]),
        senders=senders,
        receivers=receivers,
        n_node=np.full(count, size, np.int32),
        n_edge=np.full(count, num_edges, np.int32),
        globals=Globals(centers),
        bucket=bucket,
    )
    return Batch(graph, {}, np.ones(count, np.float32))


def _ragged(
    task: TaskSpec,
    nodes: Nodes,
    centers: jax.Array,
    edges: jax.Array,
    ends: tuple[jax.Array, jax.Array],
    starts: jax.Array,
) -> Batch:
    """A batch in which the edges that are none go to the padding graph."""
    count, num_edges = ends[0].shape
    total = len(nodes.positions)
    size = total // count
    bucket = Bucket(
        total + 1,
        count * num_edges,
        count + 1,
        max_nodes_per_graph=size,
        max_edges_per_graph=num_edges,
    )
    kept = ends[1] >= 0  # [D, e]
    senders, receivers = (
        jnp.where(kept, starts + own, total).reshape(-1) for own in ends
    )
    order = jnp.argsort(receivers, stable=True)
    n_edge = kept.sum(axis=1).astype(jnp.int32)

    def pad(leaf: Array) -> jax.Array:
        return jnp.concatenate([leaf, jnp.zeros_like(leaf[:1])])

    graph = Graph(
        nodes=Nodes(*map(pad, nodes)),
        edges=jnp.where(kept[..., None], edges, 0).reshape(
            count * num_edges, edges.shape[-1]
        )[order],
        senders=senders[order],
        receivers=receivers[order],
        n_node=np.array([size] * count + [1], np.int32),
        n_edge=jnp.append(n_edge, count * num_edges - n_edge.sum(dtype=jnp.int32)),
        globals=Globals(pad(centers)),
        bucket=bucket,
    )
    return Batch(graph, {}, np.append(np.ones(count, "f4"), np.float32(0)))
