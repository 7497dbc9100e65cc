"""A model on a data set as compiled programs: calls over many batches.

One call is one compiled program: `lax.scan` over the batches of a plan, for every
replica. What it computes is a function of (seeds, settings, data) alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import heads
from demetar.data.dataset import Dataset
from demetar.data.packing import Plan, concatenate_plans, in_sample_order, pad_plan
from demetar.distributed import shares
from demetar.distributed.placement import AXIS, Placement
from demetar.train import flat, loop, losses, optim
from demetar.train.program_cache import ProgramCache
from demetar.types import Array, Batch, Params, TrainState

SPARE_SHARE = 200  # one batch in so many of an interval, where their number varies


class Trainer:
    """A model on a data set: compiled programs and their state.

    Args:
      model, dataset, settings, optimizer: of the run.
      phases: with which it begins.
      devices: that share each batch; by default all, those of other hosts too.
      cache: where compiled programs are kept; its description is of these arguments.
        Runs of several hosts compile their own.

    Attributes:
      dataset: its plans are those that the programs take.
      placement: puts arrays where the programs take them from.
      num_compiles, compile_seconds: of training and evaluation programs so far.
      call_seconds: what their calls took so far, waiting for the results included.
      num_steps: updates of a whole run.
      telling: gives a context in which a program is compiled, to tell a person.
    """

    def __init__(
        self,
        model: hk.Transformed,
        dataset: Dataset,
        settings: loop.Settings,
        optimizer: optim.Settings,
        phases: Sequence[loop.Phase] = (),
        devices: Sequence[jax.Device] | None = None,
        cache: ProgramCache | None = None,
    ):
        self.placement = Placement(jax.devices() if devices is None else devices)
        num_batches = len(dataset.plan("train")["weight"])
        self._whole = dataset.packing
        if self.placement.num_devices > 1:
            shared = shares.SharedPacking(self._whole, self.placement.num_devices)
            dataset = dataclasses.replace(dataset, packing=shared)
        self.dataset = dataset
        self.settings = settings
        self.num_compiles = 0
        self.compile_seconds = 0.0
        self.call_seconds = 0.0
        self._model = model
        self._cache = cache if jax.process_count() == 1 else None
        self._phases = tuple(phases)
        self._composition = dataset.composition()  # [D, Z]
        self._arrays = self.placement.everywhere(dataset.packing.arrays())
        self._valid_plan = dataset.plan("valid")
        per_epoch = len(dataset.train_plan(settings.seeds[0], 0)["weight"])
        self.num_steps = per_epoch * settings.epochs
        self._interval_steps = per_epoch * min(settings.eval_every, settings.epochs)
        num_calls = math.ceil(self._interval_steps / settings.max_steps_per_call)
        # Room for epochs of a few batches more than the first, or they would take
        # another call, all but empty.
        spare = self._interval_steps // SPARE_SHARE if _is_ragged(dataset) else 0
        self.steps_per_call = math.ceil((self._interval_steps + spare) / num_calls)
        rated = (optimizer, self.num_steps, num_batches)
        self._optimizer = optim.make(*rated)
        self.learning_rate = optim.learning_rate(*rated)
        self._programs: dict[str, Any] = {}
        self.telling: Callable[[], AbstractContextManager] = contextlib.nullcontext

    def init(self) -> TrainState:
        """The state before the first update, one replica per seed."""

        def init_one(key: Array) -> TrainState:
            params = self.first_params(key)
            average = params if self.settings.average_decay else {}
            opt_state = self._optimizer.init(params)
            return TrainState(params, opt_state, jnp.int32(0), key, average)

        keys = jnp.stack([jax.random.key(seed) for seed in self.settings.seeds])
        with self.telling():
            start = self._kept(
                "init",
                keys,
                list(keys.devices()),
                lambda: jax.jit(jax.vmap(init_one)).lower(keys).compile(),
            )
        return self.placement.everywhere(start(keys))

    def first_params(self, key: Array | None = None) -> Params:
        """The parameters of a replica before the first update.

        Args:
          key: of the replica; None for that of the first one.
        """
        if key is None:
            key = jax.random.key(self.settings.seeds[0])
        packing, arrays = self._whole, self.placement.here(self._arrays)
        row = {name: jnp.asarray(value[0]) for name, value in packing.empty().items()}
        batch = packing.assemble(arrays, row)
        init_key = jax.random.fold_in(key, np.uint32(2**32 - 1))
        return self._model.init(init_key, batch.graph, batch.bucket, True)

    def evaluated_params(self, state: TrainState) -> Params:
        """The parameters that are evaluated and kept, [R, ...]."""
        return state.average if self.settings.average_decay else state.params

    def interval_plan(self, start: int, stop: int, done: int = 0) -> Plan:
        """Training batches of the epochs start to stop - 1 of every seed: [B, R, ...].

        Without the first `done`, the number of batches is a multiple of
        `steps_per_call`.
        """
        packing = self.dataset.packing
        plans = [
            concatenate_plans(
                [self.dataset.train_plan(seed, epoch) for epoch in range(start, stop)]
            )
            for seed in self.settings.seeds
        ]
        longest = max(len(plan["weight"]) for plan in plans)
        calls = math.ceil(max(longest - done, 0) / self.steps_per_call)
        length = done + calls * self.steps_per_call
        padded = [pad_plan(plan, packing, length) for plan in plans]
        return {
            name: np.stack([plan[name] for plan in padded], axis=1)
            for name in padded[0]
        }

    def interval_end(self, epoch: int) -> int:
        """The epoch at which the interval that begins at `epoch` is evaluated."""
        ends = [phase.end for phase in self._phases if phase.end > epoch]
        began = max([phase.end for phase in self._phases if phase.end <= epoch] or [0])
        every = self.settings.eval_every
        # A run that was extended goes on as one that was longer from the start.
        following = began + ((epoch - began) // every + 1) * every
        return min(following, self.settings.epochs, *ends)

    def train(
        self, state: TrainState, rows: Plan, epoch: int = 0
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """One compiled call of `steps_per_call` updates. The state is donated.

        Args:
          epoch: at which the interval of `rows` begins; it chooses the phase.

        Returns:
          The state and each of `SUMS` over the batches [R].
        """
        number = sum(phase.end <= epoch for phase in self._phases)
        model, settings = self._model, self.settings
        if number < len(self._phases):
            phase = self._phases[number]
            model = phase.model
            if phase.loss_floor is not None:
                settings = dataclasses.replace(settings, loss_floor=phase.loss_floor)
        call = functools.partial(self._train_call, model, settings)
        program = self._program(f"train {number}", call, (state, rows), donate=(0,))
        began = time.perf_counter()
        state, metrics = program(state, self._arrays, rows)
        told = {name: np.asarray(value) for name, value in metrics.items()}
        self.call_seconds += time.perf_counter() - began
        return state, told

    def evaluate(
        self, params: Params, plan: Plan
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Errors of every sample of a plan, as its heads measure them, and predictions.

        Args:
          params: [R, ...].
          plan: of `self.dataset.plan`.

        Returns:
          {head: [R, D']} in the order of the plan, and {head: [R, B, ...]}, the values
          themselves and not their residuals, as the batches hold them; the shares of
          several devices one after the other.
        """
        params = self.placement.everywhere(params)
        steps = len(self._valid_plan["weight"])
        length = math.ceil(len(plan["weight"]) / steps) * steps
        padded = pad_plan(plan, self.dataset.packing, length)
        parts = []
        for start in range(0, length, steps):
            rows = self.placement.rows(
                {name: value[start : start + steps] for name, value in padded.items()}
            )
            program = self._program("evaluate", self._evaluate_call, (params, rows), 2)
            began = time.perf_counter()
            parts.append(jax.device_get(program(params, self._arrays, rows)))
            self.call_seconds += time.perf_counter() - began
        errors, predictions = (
            {
                name: np.concatenate([part[index][name] for part in parts], axis=1)
                for name in parts[0][index]
            }
            for index in (0, 1)
        )
        ordered = {
            name: in_sample_order(value, padded) for name, value in errors.items()
        }
        counts = self._composition[padded["sample"]]  # [B, G, Z]
        return ordered, heads.absolute_all(self.dataset.task, predictions, counts)

    def validate(self, params: Params) -> np.ndarray:
        """Validation loss of each replica, [R]: mean over heads and samples."""
        errors, _ = self.evaluate(params, self._valid_plan)
        means = [value.astype(np.float64).mean(axis=1) for value in errors.values()]
        return np.mean(means, axis=0)

    def first_batch(
        self, plan: Plan, predictions: Mapping[str, Array]
    ) -> tuple[Batch, dict[str, Array]]:
        """The first batch of a plan with its predictions, of the first replica.

        Its targets are the values themselves, as the predictions are. With several
        devices, the share of the first one.

        Args:
          plan, predictions: of `evaluate`.
        """
        packing = self.dataset.packing
        slots = packing.bucket.num_graphs
        row = {name: value[0, :slots] for name, value in plan.items()}
        first = {
            name: value[0, 0, : value.shape[2] // self.placement.num_devices]
            for name, value in predictions.items()
        }
        batch = packing.assemble(packing.arrays(), row)
        task, counts = self.dataset.task, self._composition[plan["sample"][0]]
        share = counts[: len(batch.weights)]
        targets: dict[str, Array] = {**heads.absolute_all(task, batch.targets, share)}
        return dataclasses.replace(batch, targets=targets), first

    def _program(
        self,
        name: str,
        function: Callable,
        args: tuple[Any, Any],
        out_axis: int | None = None,
        donate: tuple[int, ...] = (),
    ) -> Any:
        """The compiled program, got on first use; it accepts one set of shapes."""
        if name not in self._programs:
            start = time.perf_counter()
            whole = (args[0], self._arrays, args[1])
            with self.telling():
                self._programs[name] = self._kept(
                    name,
                    whole,
                    self.placement.devices,
                    lambda: self.placement.compile(function, whole, out_axis, donate),
                )
            self.compile_seconds += time.perf_counter() - start
            self.num_compiles += 1
        return self._programs[name]

    def _kept(
        self,
        name: str,
        args: Any,
        devices: Sequence[jax.Device],
        make: Callable[[], Any],
    ) -> Any:
        """What `make` compiles for `args` and `devices`, or the same from the cache."""
        return self._cache.get(name, args, devices, make) if self._cache else make()

    def _train_call(
        self,
        model: hk.Transformed,
        settings: loop.Settings,
        state: TrainState,
        arrays: Any,
        rows: Mapping[str, Array],
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        task, packing = self.dataset.task, self.dataset.packing
        shared = self.placement.num_devices > 1
        slots = self._whole.bucket.num_graphs if shared else 0
        model = flat.of_vectors(model, state.params)
        update = loop.make_update(model, task, self._optimizer, settings, slots)

        def step(
            state: TrainState, row: Mapping[str, Array]
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = packing.assemble(arrays, row)

            def skip(state: TrainState, batch: Batch, slots: Array | None) -> Any:
                zero = jnp.zeros((), batch.weights.dtype)
                return state, dict.fromkeys(loop.METRICS, zero)

            num_graphs = jnp.sum(batch.weights)
            if shared:
                num_graphs = jax.lax.psum(num_graphs, AXIS)
            state, metrics = jax.lax.cond(
                num_graphs > 0, update, skip, state, batch, row.get(shares.SLOT)
            )
            metrics["loss"] = metrics["loss"] * num_graphs
            updates = jnp.int32(num_graphs > 0)
            return state, {**metrics, "updates": updates, "graphs": num_graphs}

        def steps(state: TrainState, rows: Mapping[str, Array]) -> tuple[Any, Any]:
            state, metrics = jax.lax.scan(step, state, rows)
            return state, {name: value.sum(axis=0) for name, value in metrics.items()}

        flat_state, restore = flat.flatten(state)
        flat_state, sums = self._over_replicas(steps, (0, 1))(flat_state, rows)
        return restore(flat_state), sums

    def _evaluate_call(
        self, params: Params, arrays: Any, rows: Mapping[str, Array]
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        task, packing = self.dataset.task, self.dataset.packing

        def one(params: Params) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
            def step(_: None, row: Mapping[str, Array]) -> Any:
                batch = packing.assemble(arrays, row)
                outputs = self._model.apply(
                    params, None, batch.graph, batch.bucket, False
                )
                predictions = losses.predict(task, outputs, batch.graph.nodes)
                return None, (
                    losses.sample_errors(task, predictions, batch),
                    predictions,
                )

            return jax.lax.scan(step, None, rows)[1]

        return self._over_replicas(one, (0,))(params)

    def _over_replicas(self, function: Callable, axes: tuple[int, ...]) -> Callable:
        """`function` of one replica, for all of them; results along axis 0.

        One after the other on a CPU, whose cores are busy with one and whose caches do
        not hold several, else side by side.

        Args:
          axes: of the replicas R, for each argument.
        """
        if len(self.settings.seeds) > 1 and not self.placement.on_cpu:
            return jax.vmap(function, in_axes=axes)

        def in_turn(*args: Any) -> Any:
            replicas_first = tuple(
                jax.tree.map(lambda leaf, axis=axis: jnp.moveaxis(leaf, axis, 0), arg)
                for arg, axis in zip(args, axes, strict=True)
            )
            if len(self.settings.seeds) > 1:
                return jax.lax.map(lambda own: function(*own), replicas_first)
            own = jax.tree.map(lambda leaf: leaf[0], replicas_first)
            return jax.tree.map(lambda leaf: leaf[None], function(*own))

        return in_turn


def _is_ragged(dataset: Dataset) -> bool:
    return dataset.packing.bucket.nodes_per_graph is None
