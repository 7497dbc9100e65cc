"""Linear extrapolation: the baseline of the N-body tables.

Source: Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844, table 1 ("Linear"); Fuchs
et al. 2020, arXiv 2006.10503, table 1 for the map from position and velocity.

Differs from the papers: nothing.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import haiku as hk
import jax.numpy as jnp

from demetar.models import base
from demetar.nn import mlp
from demetar.types import Array, Graph


@dataclasses.dataclass
class Linear(base.Model):
    """A learned multiple of each vector input is added: x + a v on N-body, and
    x + a v + b F if the force is an input.

    Attributes:
      initial_time: initial a, in the time unit of the data.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})
    needs = frozenset({"velocity"})
    ignores = frozenset({"charge", "edge feature", "position"})

    initial_time: float = 0.7

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        vectors = graph.nodes.vectors  # [N, V, 3]
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            times = hk.get_parameter(
                f"times_{head.name}",
                (head.size, vectors.shape[1]),
                vectors.dtype,
                hk.initializers.Constant(self.initial_time),
            )
            outputs[head.name] = jnp.einsum("kv,nvc->nkc", times, vectors)
        return outputs


@dataclasses.dataclass
class LinearMap(base.Model):
    """One matrix from all coordinates of a node to its target: 6 -> 3 on N-body."""

    symmetry: ClassVar[str] = "S(n)"
    supports: ClassVar[frozenset[str]] = frozenset({"node_vector"})
    ignores = frozenset({"charge", "edge feature"})

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        coordinates = base.raw_coordinates(graph)  # [N, 3 + 3V]
        outputs: dict[str, Array] = {}
        for head in self.task.heads:
            layer = mlp.Linear(head.size * 3, name=f"map_{head.name}")
            values = layer(coordinates).reshape(-1, head.size, 3)
            outputs[head.name] = base.absolute(values, head, self.task, graph)
        return outputs
