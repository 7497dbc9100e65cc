"""What the golden files of the authors' own code are compared through.

A module of `tests/author_cases` lists the cases of one model in `CASES`;
`tests/authors_test.py` runs them all. The files are described in the README of the
shared folder: inputs, every weight, outputs and their gradients by positions, float64.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from demetar import graphs
from demetar.types import Bucket, Nodes

Data = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A golden file with its weights in our tree.

    Attributes:
      params: every weight of the file placed, every leaf of ours filled.
      output: (params, positions) -> what `expected` is; pure, differentiable.
      positions: [N, 3] of the file, in the order in which `output` takes them.
      expected: the authors' output.
      gradient: the authors' gradient of the sum of the output by positions [N, 3];
        None if the file has none.
    """

    params: Any
    output: Callable[[Any, jax.Array], jax.Array]
    positions: np.ndarray
    expected: np.ndarray
    gradient: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden file.

    Attributes:
      model: name in the registry.
      file: stem of the file.
      load: makes the case of the file's arrays, under float64.
      tolerance: largest relative deviation of outputs and gradients.
      gradient_tolerance: of gradients, if the file's are less exact than its outputs.
    """

    model: str
    file: str
    load: Callable[[Data], Loaded]
    tolerance: float = 1e-10
    gradient_tolerance: float | None = None


def all_cases() -> list[Case]:
    """The cases of all modules of `tests/author_cases`."""
    folder = pathlib.Path(__file__).with_name("author_cases")
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    modules = [importlib.import_module(f"tests.author_cases.{name}") for name in names]
    return [case for module in modules for case in module.CASES]


def read(shared_dir: pathlib.Path, stem: str) -> dict[str, np.ndarray]:
    """All arrays of a golden file."""
    with np.load(shared_dir / "golden" / f"{stem}.npz", allow_pickle=False) as file:
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
) -> tuple[graphs.Graph, Bucket]:
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

    graph = graphs.Graph(
        nodes=Nodes(padded(positions), padded(scalars), padded(vectors)),
        edges=edges[order],
        senders=np.asarray(senders)[order],
        receivers=np.asarray(receivers)[order],
        n_node=np.array([*n_node, 1]),
        n_edge=np.array([*n_edge, 0]),
        globals=None,
    )
    return graph, Bucket(num_nodes + 1, len(order), len(n_node) + 1)


def with_positions(graph: graphs.Graph, positions: jax.Array) -> graphs.Graph:
    """The graph with other positions [N, 3] of its real nodes, which come first."""
    old = jax.numpy.asarray(graph.nodes.positions)
    moved = old.at[: len(positions)].set(positions)
    return graph._replace(nodes=graph.nodes._replace(positions=moved))
