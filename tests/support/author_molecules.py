"""What the golden files of networks on molecules share: graphs and weights."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from demetar import models
from demetar.types import Head, TaskSpec
from tests.support import authors

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
NUMBERS = np.array(list(ELEMENTS.values()))
TASK = TaskSpec(
    name="molecules",
    heads=(Head("energy", "graph_scalar", extensive=True),),
    scalars=tuple(ELEMENTS),
    length_unit="angstrom",
)


class Weights:
    """The weights of a golden file, which remember what has been read of them."""

    def __init__(self, data: authors.Data, prefix: str = ""):
        self._data = data
        self._prefix = f"param/{prefix}"
        self._unread = {key for key in data if key.startswith("param/")}

    def __call__(self, name: str) -> np.ndarray:
        """The weight of that name."""
        key = self._prefix + name
        self._unread.discard(key)
        return self._data[key]

    def torch(self, name: str) -> dict[str, np.ndarray]:
        """Our weights of a linear layer of PyTorch, whose matrix is (out, in)."""
        layer = {"w": self(f"{name}.weight").T}
        if f"{self._prefix}{name}.bias" in self._data:
            layer["b"] = self(f"{name}.bias")
        return layer

    def assert_all_read(self) -> None:
        assert not self._unread


def loaded(
    name: str,
    fields: Mapping[str, Any],
    data: authors.Data,
    layers: Mapping[str, Mapping[str, np.ndarray]],
    task: TaskSpec = TASK,
    edges: np.ndarray | None = None,
) -> authors.Loaded:
    """The case of a model on the molecules of a golden file.

    Args:
      name: of the model.
      fields: of the model.
      data: the golden file.
      layers: its weights by our names without the scope of the model; '' has those of
        the model itself.
      task: inputs and one head.
      edges: [E, F] edge features.
    """
    graph = authors.ragged_graph(
        data["positions"],
        (data["atomic_numbers"][:, None] == NUMBERS).astype(np.float64),
        data["senders"],
        data["receivers"],
        data["n_node"],
        edges,
    )
    model = models.build(name, task, fields)
    expected = jax.eval_shape(
        lambda key: model.init(key, graph, False), jax.random.key(0)
    )
    scope = next(iter(expected)).split("/")[0]
    params = {
        f"{scope}/{key}".rstrip("/"): dict(leaves) for key, leaves in layers.items()
    }
    found, expected = (jax.tree.map(np.shape, tree) for tree in (params, expected))
    assert found == expected

    head = task.heads[0]
    make, count = authors.graph_outputs, len(data["n_node"])
    if head.kind != "graph_scalar":
        make, count = authors.node_outputs, len(data["positions"])
    output = make(model, graph, head.name, count)
    return authors.Loaded(
        params, output, data["positions"], data["output"], data["gradient"]
    )
