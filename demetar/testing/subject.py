"""A model under test, with parameters that are quickly drawn."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.flatten_util
import numpy as np

from demetar import graphs, models
from demetar.testing.batches import (
    ATOMS,
    BUCKET,
    MOLECULES,
    TASK,
    System,
    make_batch,
    systems,
)
from demetar.train import losses
from demetar.types import Batch, Bucket, Nodes, TaskSpec


def home_task(name: str) -> TaskSpec:
    """What a model is tried on first: bodies if it predicts vectors, else molecules."""
    return home_tasks(name)[0]


def home_tasks(name: str) -> list[TaskSpec]:
    """A task for every kind of head that a model supports."""
    supported = models.model_class(name).supports
    known = (TASK, MOLECULES, ATOMS)
    return [task for task in known if task.heads[0].kind in supported]


def small_fields(name: str, task: TaskSpec) -> dict[str, Any]:
    """Fields of a model with which it compiles fast, as its class states them."""
    cls = models.model_class(name)
    fields = dict(cls.small)
    if not task.vectors:
        fields |= dict.fromkeys(models.input_defaults(name), ("all",))
        fields |= cls.small_molecular
    return fields


def quick_params(model: hk.Transformed, batch: Batch) -> Any:
    """Parameters of a model, drawn with NumPy and far from any special value.

    To compile the initialisers takes longer than everything else about a small model.
    They are called without it here, and a slow test runs them.
    """
    shapes = jax.eval_shape(
        lambda key: model.init(key, batch.graph, True), jax.random.key(0)
    )
    generator = np.random.default_rng(5)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = generator.normal(size=leaf.shape)
        if len(leaf.shape) > 1:
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1].key.startswith("scale"):
            values = 1 + 0.1 * values
        else:
            values *= 0.2
        return np.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def initializers(
    name: str, fields: Mapping[str, Any], task: TaskSpec = TASK
) -> dict[str, Any]:
    """What each parameter of a model is drawn by, without drawing it."""
    found: dict[str, Any] = {}

    def note(
        create: Any, shape: Any, dtype: Any, init: Any, context: hk.GetterContext
    ) -> Any:
        found[context.full_name.partition("/")[2]] = init
        return create(shape, dtype, init)

    batch = make_batch(systems((2,)), task=task)

    def run() -> None:
        with hk.custom_creator(note):
            model = models.model_class(name)(task, **fields)
            model(batch.graph, True)

    jax.eval_shape(hk.transform(run).init, jax.random.key(0))
    return found


@dataclasses.dataclass
class Subject:
    """A model under test: `displacements(batch)` gives its outputs without padding."""

    name: str
    dtype: str = "float32"
    fields: Mapping[str, Any] | None = None
    task: TaskSpec = TASK

    def __post_init__(self) -> None:
        own = small_fields(self.name, self.task)
        self.small = {**own, **(self.fields or {})}
        self.model = models.build(self.name, self.task, self.small)
        self.traces = 0

        def apply(params: Any, graph: Any) -> Any:
            self.traces += 1
            return self.model.apply(params, jax.random.key(0), graph, False)

        self.apply = jax.jit(apply)
        self.loss_and_gradients = jax.jit(
            jax.value_and_grad(self._loss, argnums=(0, 1))
        )

    @functools.cached_property
    def params(self) -> Any:
        return quick_params(self.model, self.batch(systems(), None))

    def batch(self, members: Sequence[System], bucket: Bucket | None = BUCKET) -> Batch:
        """A ragged batch of the systems as the task has them."""
        return make_batch(members, self.dtype, bucket=bucket, task=self.task)

    def _loss(self, flat_params: jax.Array, nodes: Nodes, batch: Batch) -> jax.Array:
        params = jax.flatten_util.ravel_pytree(self.params)[1](flat_params)
        graph = dataclasses.replace(batch.graph, nodes=nodes)
        outputs = self.model.apply(params, jax.random.key(0), graph, True)
        predictions = losses.predict(self.task, outputs, nodes)
        errors = losses.sample_errors(self.task, predictions, batch)
        return losses.mean_loss(self.task, errors, batch.weights)

    def outputs(self, batch: Batch) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = self.apply(self.params, batch.graph)
        return found

    def displacements(self, batch: Batch) -> np.ndarray:
        """Outputs of the first head at the real nodes, [n, K, 3] or [n, T].

        Or those for the real graphs, [g, T].
        """
        return self.real(self.outputs(batch), batch)

    def real(self, outputs: Mapping[str, jax.Array], batch: Batch) -> np.ndarray:
        """Those of the outputs for a batch that are no padding, of the first head."""
        head = self.task.heads[0]
        mask = np.asarray(batch.weights) > 0
        if head.kind != "graph_scalar":
            mask = np.asarray(graphs.node_mask(batch.graph))
        return np.asarray(outputs[head.name])[mask]
