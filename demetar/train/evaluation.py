"""Errors and predictions of parameters on the splits of a data set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import heads
from demetar.data.dataset import Dataset
from demetar.data.packing import Plan, in_sample_order, pad_plan
from demetar.distributed.placement import Placement
from demetar.train import losses
from demetar.train.programs import Programs, over_replicas
from demetar.types import ERRORS, Array, Batch, Params, TaskSpec


class Evaluation(NamedTuple):
    """What parameters make of the samples of a plan.

    Attributes:
      errors: {head: [R, D']} as the heads report them, in the order of the plan.
      predictions: {head: [R, B, ...]}, the values themselves and not their residuals,
        as the batches hold them; the shares of several devices one after the other.
      measures: {kind: {head: [R, D']}}, squared errors in unit^2 and absolute ones in
        the unit, also in the order of the plan.
      mean: of the mean of the predictions of all replicas, as one replica of its own;
        None if there is one replica alone.
    """

    errors: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]
    measures: dict[str, dict[str, np.ndarray]]
    mean: Evaluation | None = None

    def overall(self, task: TaskSpec) -> np.ndarray:
        """What `losses.overall` makes of the errors in float64: [R, D']."""
        errors = {name: own.astype(np.float64) for name, own in self.errors.items()}
        found: np.ndarray = losses.overall(task, errors)
        return found


class Evaluator:
    """Evaluates parameters with one program, whatever the number of batches.

    Args:
      model, dataset, programs, placement: of the run.
      arrays: of the packing, where the placement has put them.
      num_replicas: R.
    """

    def __init__(
        self,
        model: hk.Transformed,
        dataset: Dataset,
        programs: Programs,
        placement: Placement,
        arrays: Any,
        num_replicas: int,
    ):
        self._model = model
        self._dataset = dataset
        self._programs = programs
        self._placement = placement
        self._arrays = arrays
        self._num_replicas = num_replicas
        self._composition = dataset.composition()  # [D, Z]
        self._valid_plan = dataset.plan("valid")

    def evaluate(
        self,
        params: Params,
        plan: Plan,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> Evaluation:
        """Errors of every sample of a plan, and predictions.

        Args:
          params: [R, ...].
          plan: of the data set.
          progress: goes through the calls of the program and may tell how far it is.
        """
        params = self._placement.everywhere(params)
        steps = len(self._valid_plan["weight"])
        length = math.ceil(len(plan["weight"]) / steps) * steps
        padded = pad_plan(plan, self._dataset.packing, length)
        parts = [
            self._call(
                params,
                {name: value[start : start + steps] for name, value in padded.items()},
            )
            for start in progress(range(0, length, steps))
        ]
        found, predictions = jax.tree.map(
            lambda *own: np.concatenate(own, axis=1), *parts
        )
        measures = jax.tree.map(lambda value: in_sample_order(value, padded), found)
        counts = self._composition[padded["sample"]]  # [B, G, Z]
        task = self._dataset.task
        errors = {head.name: measures[head.error][head.name] for head in task.heads}
        values = heads.absolute_all(task, predictions, counts)
        every = Evaluation(errors, values, measures)
        if self._num_replicas == 1:
            return every
        mean: Evaluation = jax.tree.map(lambda value: value[-1:], every)
        replicas: Evaluation = jax.tree.map(lambda value: value[:-1], every)
        return replicas._replace(mean=mean)

    def validate(self, params: Params) -> dict[str, np.ndarray]:
        """Mean error of each head and replica on the validation samples, {head: [R]}.

        `losses.overall` makes the validation loss of them.
        """
        errors = self.evaluate(params, self._valid_plan).errors
        return {
            name: value.astype(np.float64).mean(axis=1)
            for name, value in errors.items()
        }

    def first_batch(
        self, plan: Plan, predictions: Mapping[str, Array]
    ) -> tuple[Batch, dict[str, Array]]:
        """The first batch of a plan with its predictions, of the first replica.

        Its targets are the values themselves, as the predictions are. With several
        devices, the share of the first one.

        Args:
          plan, predictions: of `evaluate`.
        """
        packing = self._dataset.packing
        slots = packing.bucket.num_graphs
        row = {name: value[0, :slots] for name, value in plan.items()}
        first = {
            name: value[0, 0, : value.shape[2] // self._placement.num_devices]
            for name, value in predictions.items()
        }
        batch = self._dataset.batch(packing.arrays(), row)
        task, counts = self._dataset.task, self._composition[plan["sample"][0]]
        share = counts[: len(batch.weights)]
        targets: dict[str, Array] = {**heads.absolute_all(task, batch.targets, share)}
        return dataclasses.replace(batch, targets=targets), first

    def _call(self, params: Params, rows: Plan) -> tuple[dict[str, Any], ...]:
        args = (params, self._arrays, self._placement.rows(rows))
        found: tuple[dict[str, Any], ...] = jax.device_get(
            self._programs.call("evaluate", self._program, args, out_axis=2)
        )
        return found

    def _program(
        self, params: Params, arrays: Any, rows: Mapping[str, Array]
    ) -> tuple[dict[str, dict[str, jax.Array]], dict[str, jax.Array]]:
        """Measures and predictions of all replicas, and of their mean if several."""
        task = self._dataset.task

        def measures(predictions: Mapping[str, Array], batch: Batch) -> Any:
            return {
                kind: losses.sample_errors(task, predictions, batch, kind)
                for kind in ERRORS
            }

        def one(params: Params) -> Any:
            def step(_: None, row: Mapping[str, Array]) -> Any:
                batch = self._dataset.batch(arrays, row)
                outputs = self._model.apply(params, None, batch.graph, False)
                predictions = losses.predict(task, outputs, batch.graph.nodes)
                return None, (measures(predictions, batch), predictions)

            return jax.lax.scan(step, None, rows)[1]

        def of_mean(predictions: Mapping[str, jax.Array]) -> Any:
            def step(_: None, known: Any) -> Any:
                row, mean = known
                return None, (measures(mean, self._dataset.batch(arrays, row)), mean)

            mean = jax.tree.map(lambda value: value.mean(axis=0), predictions)
            found = jax.lax.scan(step, None, (rows, mean))[1]
            return jax.tree.map(lambda value: value[None], found)

        on_cpu = self._placement.on_cpu
        found: tuple[dict[str, dict[str, jax.Array]], dict[str, jax.Array]]
        found = over_replicas(one, (0,), self._num_replicas, on_cpu)(params)
        if self._num_replicas > 1:
            found = jax.tree.map(
                lambda *own: jnp.concatenate(own), found, of_mean(found[1])
            )
        return found
