"""Heads that are the negative gradient of another: forces of an energy.

No model knows of it. What is differentiated is the sum of a graph scalar over the
graphs of a batch; each of them depends on its own nodes alone, so the gradient at a
node is that of its own graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import graphs
from demetar.nn import capture
from demetar.types import Array, Graph, Head, Params, TaskSpec

Outputs = dict[str, Array]


def without_gradients(task: TaskSpec) -> TaskSpec:
    """The task of the model itself: the heads that are no gradients."""
    own = tuple(head for head in task.heads if not head.gradient_of)
    return dataclasses.replace(task, heads=own, judged_by="")


def with_gradients(model: hk.Transformed, task: TaskSpec) -> hk.Transformed:
    """A model with the heads of a task that are gradients of its own ones.

    `models.build` and `demetar.build` do this to every model; it serves those of
    `hk.transform` that are made in another way.

    Args:
      model: `apply(params, key, graph, is_training)` gives the other heads.
      task: all heads.

    Returns:
      The same `init`, and an `apply` with {head: [N, 1, 3]} for each head with
      `gradient_of`: -dE/dx in units of its scale, zero at padding. E is the scalar in
      its own unit, x are the positions, so the unit is that of E per length. It can be
      differentiated again.
    """
    slopes = [head for head in task.heads if head.gradient_of]
    if not slopes:
        return model
    known = {head.name: head for head in task.heads}
    sources = {head.gradient_of: known[head.gradient_of] for head in slopes}

    def apply(
        params: Params, key: Array | None, graph: Graph, is_training: bool
    ) -> Outputs:
        def scalars(positions: Array) -> tuple[Outputs, tuple[Outputs, Outputs]]:
            nodes = graph.nodes._replace(positions=positions)
            moved = dataclasses.replace(graph, nodes=nodes)
            with _recording() as values:
                outputs: Outputs = model.apply(params, key, moved, is_training)
            return {name: outputs[name] for name in sources}, (outputs, values)

        totals, pull_back, (outputs, values) = jax.vjp(
            scalars, jnp.asarray(graph.nodes.positions), has_aux=True
        )
        for name, value in values.items():
            capture.record(name, value)
        found = {
            name: pull_back(_only(name, totals, graph))[0][:, None] for name in sources
        }
        mask = graphs.node_mask(graph)[:, None, None]
        forces = {
            head.name: jnp.where(mask, _rescaled(head, known, found), 0)
            for head in slopes
        }
        return {**outputs, **forces}

    return hk.Transformed(model.init, apply)


def _recording() -> contextlib.AbstractContextManager[Outputs]:
    """Values of the pass, which must leave the differentiated function as results."""
    if capture.is_recording():
        return capture.recording()
    return contextlib.nullcontext({})


def _only(name: str, totals: Mapping[str, Array], graph: Graph) -> Outputs:
    """The weights of the sum of one scalar over the graphs that are no padding."""
    weights = {key: jnp.zeros_like(value) for key, value in totals.items()}
    ones = jnp.ones_like(totals[name])
    is_ragged = graph.bucket.nodes_per_graph is None
    weights[name] = ones.at[-1].set(0) if is_ragged else ones
    return {**weights}


def _rescaled(
    head: Head, known: Mapping[str, Head], slopes: Mapping[str, Array]
) -> jax.Array:
    """The output of a head: its value is the slope of the scalar in its unit."""
    factor = known[head.gradient_of].scale / head.scale
    return -factor * jnp.asarray(slopes[head.gradient_of])
