"""Weights of a golden file under the names of our tree."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar.types import Graph

Params = dict[str, dict[str, jax.Array]]


class Placement:
    """Moves every weight of a file to every leaf of ours, each of them once."""

    def __init__(
        self,
        model: hk.Transformed,
        graph: Graph,
        data: Mapping[str, np.ndarray],
        prefixes: tuple[str, ...] = ("param/",),
    ):
        """Takes the model for its shapes, and the file's arrays of these prefixes."""
        init = functools.partial(model.init, graph=graph, is_training=False)
        template = jax.eval_shape(init, jax.random.key(0))
        self._shapes = {
            (module, leaf): value.shape
            for module, leaves in template.items()
            for leaf, value in leaves.items()
        }
        self._scope = next(iter(template)).split("/")[0]
        self._left = {
            key.removeprefix(prefix): value
            for key, value in data.items()
            for prefix in prefixes
            if key.startswith(prefix)
        }
        self._params: Params = {}

    def has(self, name: str) -> bool:
        """Whether the file has that weight and it is not placed yet."""
        return name in self._left

    def take(self, name: str) -> np.ndarray:
        """A weight of the file, which is then used up."""
        return self._left.pop(name)

    def put(self, module: str, leaf: str, value: np.ndarray) -> None:
        """Fill a leaf of ours; the module is named without the model, '' for itself."""
        module = f"{self._scope}/{module}" if module else self._scope
        expected, found = self._shapes.pop((module, leaf)), value.shape
        assert expected == found, (module, leaf, expected, found)
        self._params.setdefault(module, {})[leaf] = jnp.asarray(value)

    def linear(self, ours: str, theirs: str) -> None:
        """A torch Linear, whose weights are (out, in), as one of ours."""
        self.put(ours, "w", self.take(f"{theirs}.weight").T)
        if self.has(f"{theirs}.bias"):
            self.put(ours, "b", self.take(f"{theirs}.bias"))

    def mlp(self, ours: str, *theirs: str) -> None:
        """Layers of a torch Sequential as one of our perceptrons."""
        for index, name in enumerate(theirs):
            self.linear(f"{ours}/linear_{index}", name)

    def finish(self) -> Params:
        """Our tree, with nothing of the file left and every leaf filled."""
        assert not self._left, f"not placed: {sorted(self._left)}"
        assert not self._shapes, f"not filled: {sorted(self._shapes)}"
        return self._params
