"""One batch of systems that a person gives, as arrays or as graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demetar import heads
from demetar.data import pyg, system_graphs, systems
from demetar.data.packing import make_packing, only_batch
from demetar.data.samples import Samples, centred, to_dtype
from demetar.errors import UserError
from demetar.precision import precision
from demetar.types import Batch, Head, TaskSpec


def make_batch(
    task: TaskSpec,
    positions: Any = None,
    *,
    graphs: Iterable[Any] | None = None,
    targets: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    **inputs: Any,
) -> Batch:
    """One batch of all systems, for `apply` and `init` of a model.

    >>> import demetar
    >>> task = demetar.TaskSpec(
    ...     "orbits",
    ...     heads=(demetar.Head("position", "node_vector", base="positions"),),
    ...     scalars=("charge",),
    ... )
    >>> batch = demetar.make_batch(
    ...     task,
    ...     positions=[[[0, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 2, 0], [3, 0, 0]]],
    ...     charges=[[1, -1], [1, 1, -1]],
    ... )
    >>> int(batch.weights.sum())  # other slots are padding
    2

    Args:
      task: inputs and connectivity.
      positions: [n, 3], [systems, n, 3] or a list of arrays [n_i, 3].
      graphs: instead of positions and inputs, objects as PyTorch Geometric has them:
        `pos`, `edge_index`, and if the task has such inputs `x` (its scalars),
        `edge_attr` (its edge features) and each vector by its name. See
        `demetar.data.pyg.from_pyg`.
      targets: {head: values} in the unit of the head, of the nodes as positions are
        given, or [systems]; of graphs, `y` is the target of a task of one head. None
        for a batch without targets.
      dtype: 'float32' or 'float64'.
      inputs: the other inputs by name, as `Predictor` takes them: `charges`,
        `velocities`, `species`.

    Returns:
      The batch, whose targets are less what is known of them (`demetar.heads`).

    Raises:
      UserError: an input is missing, unknown, of another shape or not finite, or both
        or neither of positions and graphs were given.
    """
    if graphs is not None:
        if positions is not None or inputs or targets:
            raise UserError("expected graphs or positions with inputs, found both")
        samples = _of_graphs(task, graphs)
    else:
        found = systems.parse(task, {systems.POSITIONS: positions, **inputs})
        samples = system_graphs.to_samples(task, found)
        samples = _with_targets(task, samples, targets or {})
    return of_samples(samples, task, dtype)


def of_samples(samples: Samples, task: TaskSpec, dtype: str = "float32") -> Batch:
    """One batch of all samples."""
    samples = to_dtype(samples, dtype)
    packing = make_packing(samples, task, len(samples.n_node))
    with precision(dtype):
        batch: Batch = jax.tree.map(jnp.asarray, only_batch(packing))
    return batch


def _with_targets(
    task: TaskSpec, samples: Samples, targets: Mapping[str, Any]
) -> Samples:
    """The samples with targets less what is known of them."""
    known = {head.name: head for head in task.heads}
    unknown = [name for name in targets if name not in known]
    if unknown:
        raise UserError(
            f"the task {task.name!r} has no head {unknown[0]!r}; it has "
            f"{', '.join(known)}"
        )
    counts = heads.composition(task, samples.nodes.scalars, samples.n_node)
    assert samples.centers is not None
    centers = np.repeat(samples.centers, samples.n_node, axis=0)[:, None]  # [A, 1, 3]
    found = {}
    for name, values in targets.items():
        head = known[name]
        flat = _flat_target(head, values, samples)
        if head.base == systems.POSITIONS:
            flat = flat - centers
        found[name] = heads.residual(head, flat, counts) if heads.knows(head) else flat
    return dataclasses.replace(samples, targets=found)


def _flat_target(head: Head, values: Any, samples: Samples) -> np.ndarray:
    """Values of a head: [A, K, 3], [A, T] or [D, T]."""
    per_graph = head.kind == "graph_scalar"
    rows = len(samples.n_node) if per_graph else int(samples.n_node.sum())
    tail = (head.size, 3) if head.kind == "node_vector" else (head.size,)
    try:
        flat = np.asarray(values, np.float64).ravel()
    except ValueError:  # systems of several sizes
        flat = np.concatenate([np.asarray(own, np.float64).ravel() for own in values])
    if flat.size != rows * int(np.prod(tail)) or not np.isfinite(flat).all():
        raise UserError(
            f"expected finite targets of {head.name}, {rows * int(np.prod(tail))} "
            f"numbers for {rows} {'systems' if per_graph else 'nodes'}, found "
            f"{flat.size} with {int((~np.isfinite(flat)).sum())} that are not finite"
        )
    return flat.reshape(rows, *tail)


def _of_graphs(task: TaskSpec, graphs: Iterable[Any]) -> Samples:
    """Samples of graphs of the PyTorch world, checked against the task."""
    target = task.heads[0].name if len(task.heads) == 1 else ""
    samples = pyg.from_pyg(graphs, target, [vector.name for vector in task.vectors])
    for what, count, names in (
        ("x", samples.nodes.scalars.shape[1], task.scalars),
        ("edge_attr", samples.edges.shape[1], task.edge_features),
    ):
        if count != len(names):
            raise UserError(
                f"the task {task.name!r} has {len(names)} columns in {what} "
                f"({', '.join(names) or 'none'}), the graphs have {count}"
            )
    samples = to_dtype(samples, "float64")
    targets = samples.targets if target else {}
    return _with_targets(task, centred(samples, ()), targets)
