"""What the golden files of the authors' own code are compared through.

A module of `tests/support/author_cases` lists the cases of one model in `CASES`;
`tests/authors_test.py` runs them all, and `python -m tests.support.authors` prints
what they deviate by. The files are described in the README of the shared folder, or of
`tests/support/golden`: inputs, every weight, outputs and gradients, in float64.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import connectivity
from demetar.types import Bucket, Graph, Nodes

Data = Mapping[str, np.ndarray]

OWN_FILES = pathlib.Path(__file__).with_name("golden")  # beside the shared ones


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A golden file with its weights in our tree.

    Attributes:
      params: every weight of the file placed, every leaf of ours filled.
      output: (params, positions) -> what `expected` is; pure, differentiable.
      positions: [N, 3] of the file, in the order in which `output` takes them.
      expected: the authors' output.
      gradient: the authors' gradient of the loss by positions [N, 3]; None if the file
        has none.
      loss: of the output, what the gradients are of.
      weight_gradient: the authors' gradient of the loss by the weights, a tree as
        `params`; None if the file has none.
      difference_step: of the positions, if the authors' gradient is made of differences
        of fourth order; so is ours then, since a kink of an activation within a step
        moves both alike.
    """

    params: Any
    output: Callable[[Any, jax.Array], jax.Array]
    positions: np.ndarray
    expected: np.ndarray
    gradient: np.ndarray | None = None
    loss: Callable[[jax.Array], jax.Array] = jnp.sum
    weight_gradient: Any = None
    difference_step: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden file.

    Attributes:
      model: name in the registry.
      file: stem of the file.
      load: makes the case of the file's arrays, under float64.
      tolerance: largest relative deviation of outputs and gradients.
      gradient_tolerance: of gradients, if the file's are less exact than its outputs.
      slow: whether it is one of several of a model, and left to the long tests.
    """

    model: str
    file: str
    load: Callable[[Data], Loaded]
    tolerance: float = 1e-10
    gradient_tolerance: float | None = None
    slow: bool = False


class Deviations(NamedTuple):
    """Relative deviations from a golden file; None for what the file does not have.

    Attributes:
      output: of the output.
      gradient: of the gradient by positions.
      weight_gradient: of the gradient by weights, the largest of all leaves.
    """

    output: float
    gradient: float | None
    weight_gradient: float | None


class Comparison:
    """A loaded case and its compiled function."""

    def __init__(self, loaded: Loaded):
        self._loaded = loaded

        def loss(positions: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
            output = loaded.output(params, positions)
            return loaded.loss(output), output

        by = (0,) if loaded.weight_gradient is None else (0, 1)
        self._function = jax.jit(jax.value_and_grad(loss, by, has_aux=True))

    def deviations(self) -> Deviations:
        """With the weights of the file."""
        own = self._loaded
        (_, found), gradients = self._at(own.positions, own.params)
        by_position = by_weight = None
        if own.difference_step is not None:
            by_position = relative_error(
                self.differences(own.difference_step), own.gradient
            )
        elif own.gradient is not None:
            by_position = relative_error(gradients[0], own.gradient)
        if own.weight_gradient is not None:
            errors = jax.tree.map(relative_error, gradients[1], own.weight_gradient)
            by_weight = max(jax.tree.leaves(errors))
        return Deviations(self._error(found), by_position, by_weight)

    def output_deviation(self, params: Any) -> float:
        """Of the output alone, with other weights."""
        return self._error(self._at(self._loaded.positions, params)[0][1])

    def gradient(self) -> jax.Array:
        """Of the loss by positions, not made of differences."""
        return self._at(self._loaded.positions, self._loaded.params)[1][0]

    def _at(self, positions: np.ndarray, params: Any) -> Any:
        """((loss, output), gradients)."""
        return self._function(jnp.asarray(positions), params)

    def _error(self, output: jax.Array) -> float:
        expected = self._loaded.expected
        assert output.dtype == "float64" and output.shape == expected.shape
        return relative_error(output, expected)

    def differences(self, step: float) -> np.ndarray:
        """The gradient of the loss by positions, in differences of fourth order."""
        positions = self._loaded.positions
        gradient = np.zeros_like(positions)
        for index in np.ndindex(positions.shape):
            for steps, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
                moved = positions.copy()
                moved[index] += steps * step
                (loss, _), _ = self._at(moved, self._loaded.params)
                gradient[index] += weight * float(loss) / (12 * step)
        return gradient


def all_cases() -> list[Case]:
    """The cases of all modules of `tests/support/author_cases`."""
    folder = pathlib.Path(__file__).with_name("author_cases")
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    modules = [
        importlib.import_module(f"tests.support.author_cases.{name}") for name in names
    ]
    return [case for module in modules for case in module.CASES]


def read(shared_dir: pathlib.Path, stem: str) -> dict[str, np.ndarray]:
    """All arrays of a golden file."""
    own = OWN_FILES / f"{stem}.npz"
    path = own if own.exists() else shared_dir / "golden" / own.name
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def config(data: Data) -> dict[str, Any]:
    """The configuration of the authors' model that the file states."""
    return json.loads(str(data["config"]))


def relative_error(found: Any, expected: Any) -> float:
    """Largest deviation, relative to the largest value."""
    scale = max(float(np.max(np.abs(expected))), 1e-12)
    return float(np.max(np.abs(np.asarray(found) - np.asarray(expected)))) / scale


def ragged_graph(
    positions: np.ndarray,
    scalars: np.ndarray,
    senders: np.ndarray,
    receivers: np.ndarray,
    n_node: np.ndarray,
    edges: np.ndarray | None = None,
    vectors: np.ndarray | None = None,
) -> Graph:
    """Graphs as a ragged batch: edges sorted by receiver, one padding node at the end.

    Args:
      positions: [N, 3].
      scalars: [N, S].
      senders, receivers: [E] rows of all nodes.
      n_node: [G] sizes of the graphs, whose nodes lie one after the other.
      edges: [E, F].
      vectors: [N, V, 3].
    """
    order = np.lexsort((senders, receivers))
    num_nodes = len(positions)
    edges = np.zeros((len(order), 0)) if edges is None else edges
    vectors = np.zeros((num_nodes, 0, 3)) if vectors is None else vectors
    owner = np.repeat(np.arange(len(n_node)), n_node)
    n_edge = np.bincount(owner[receivers], minlength=len(n_node))

    def padded(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros_like(array[:1])])

    return Graph(
        nodes=Nodes(padded(positions), padded(scalars), padded(vectors)),
        edges=edges[order],
        senders=np.asarray(senders)[order],
        receivers=np.asarray(receivers)[order],
        n_node=np.array([*n_node, 1]),
        n_edge=np.array([*n_edge, 0]),
        globals=None,
        bucket=Bucket(num_nodes + 1, len(order), len(n_node) + 1),
    )


def complete_edges(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Senders and receivers of complete graphs of these sizes, one after the other."""
    starts = np.cumsum(sizes) - sizes
    ends = [
        np.stack(connectivity.complete_edges(size)) + start
        for size, start in zip(sizes, starts, strict=True)
    ]
    senders, receivers = np.concatenate(ends, axis=1)
    return senders, receivers


def graph_outputs(
    model: hk.Transformed, graph: Graph, head: str, count: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """`Loaded.output` of a graph scalar: [count], without the padding graph."""

    def output(params: Any, positions: jax.Array) -> jax.Array:
        moved = with_positions(graph, positions)
        return model.apply(params, None, moved, False)[head][:count, 0]

    return output


def node_outputs(
    model: hk.Transformed, graph: Graph, head: str, count: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """`Loaded.output` of a head of the nodes, without the padding node."""

    def output(params: Any, positions: jax.Array) -> jax.Array:
        moved = with_positions(graph, positions)
        return model.apply(params, None, moved, False)[head][:count]

    return output


def with_positions(graph: Graph, positions: jax.Array) -> Graph:
    """The graph with other positions [N, 3] of its real nodes, which come first."""
    old = jax.numpy.asarray(graph.nodes.positions)
    moved = old.at[: len(positions)].set(positions)
    return dataclasses.replace(graph, nodes=graph.nodes._replace(positions=moved))


def table(shared_dir: pathlib.Path) -> str:
    """What every case deviates from its golden file by, in Markdown."""
    names = ("model", "golden file", "output", "gradient by positions", "by weights")
    rows: list[tuple[str, ...]] = [names, ("---", "---", "---:", "---:", "---:")]
    with jax.enable_x64(True):
        for case in all_cases():
            found = Comparison(case.load(read(shared_dir, case.file))).deviations()
            cells = ["—" if error is None else f"{error:.0e}" for error in found]
            rows.append((f"`{case.model}`", f"`{case.file}.npz`", *cells))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table(pathlib.Path(os.environ.get("DEMETAR_SHARED", "../shared"))))
