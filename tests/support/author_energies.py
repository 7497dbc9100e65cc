"""Golden files of one energy per molecule, whose weights a function places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from demetar import models
from demetar.types import Head, TaskSpec
from tests.support import authors

ENERGY = Head("energy", "graph_scalar", extensive=True)


def load(
    name: str,
    data: authors.Data,
    fields: Mapping[str, Any],
    place: Callable[[Mapping[str, Any]], Any],
    species: np.ndarray,
    n_node: np.ndarray,
    names: tuple[str, str] = ("output", "gradient"),
    head: Head = ENERGY,
    **task: Any,
) -> authors.Loaded:
    """A model of molecules with the weights of a golden file.

    Args:
      name: of the model.
      data: of the file: positions, senders, receivers.
      fields: of the model.
      place: (shapes and dtypes of our parameters) -> parameters.
      species: [N, S] one-hot.
      n_node: [G] sizes of the molecules.
      names: of the file's output and gradient.
      head: the energy.
      **task: other properties of the task.
    """
    spec = TaskSpec(
        "golden", (head,), tuple(str(row) for row in range(species.shape[1])), **task
    )
    graph = authors.ragged_graph(
        data["positions"], species, data["senders"], data["receivers"], n_node
    )
    model = models.build(name, spec, {"node_inputs": ("all",), **fields})
    start = jax.eval_shape(lambda: model.init(jax.random.key(0), graph, False))
    params = place(start)
    shapes = [jax.tree.map(np.shape, tree) for tree in (start, params)]
    assert shapes[0] == shapes[1]

    output = authors.graph_outputs(model, graph, head.name, len(n_node))
    expected, gradient = (data[name] for name in names)
    return authors.Loaded(
        params, output, data["positions"], expected.reshape(-1), gradient
    )
