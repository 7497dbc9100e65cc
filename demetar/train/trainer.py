"""A model on a data set as compiled programs: calls over many batches.

One call is one compiled program: `lax.scan` over the batches of a plan, for every
replica. What it computes is a function of (seeds, settings, data) alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar.data.dataset import Dataset
from demetar.data.packing import Plan
from demetar.distributed import shares
from demetar.distributed.placement import AXIS, Placement
from demetar.train import flat, loop, optim
from demetar.train.evaluation import Evaluator
from demetar.train.program_cache import ProgramCache
from demetar.train.programs import Programs, over_replicas
from demetar.train.schedule import Schedule
from demetar.types import Array, Batch, Params, TrainState


class Trainer:
    """A model on a data set: compiled programs and their state.

    Args:
      model, dataset, settings, optimizer: of the run.
      phases: with which it begins.
      devices: that share each batch; by default all, those of other processes too.
      cache: where compiled programs are kept; its description is of these arguments.
        Runs of several processes compile their own.

    Attributes:
      dataset: its plans are those that the programs take.
      placement: puts arrays where the programs take them from.
      programs: the compiled ones, and what they took.
      schedule: intervals, phases and calls of the run.
      evaluator: evaluates parameters on the splits of the data set.
      learning_rate: of a step.
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
        self._model = model
        is_alone = jax.process_count() == 1
        self.programs = Programs(self.placement, cache if is_alone else None)
        self._arrays = self.placement.everywhere(dataset.packing.arrays())
        self.schedule = Schedule(dataset, settings, phases)
        rated = (optimizer, self.schedule.num_steps, num_batches)
        optim.check(optimizer, settings.average_decay)
        self._rates = optimizer
        self._optimizer = optim.make(*rated)
        self._needs_shapes = optim.needs_shapes(optimizer)
        self.learning_rate = optim.learning_rate(*rated)
        self.evaluator = Evaluator(
            *(model, dataset, self.programs, self.placement, self._arrays),
            num_replicas=len(settings.seeds),
        )

    def init(self) -> TrainState:
        """The state before the first update, one replica per seed."""

        def init_one(key: Array) -> TrainState:
            params = self.first_params(key)
            average = params if self.settings.average_decay else {}
            opt_state = self._optimizer.init(params)
            return TrainState(params, opt_state, jnp.int32(0), key, average)

        keys = jnp.stack([jax.random.key(seed) for seed in self.settings.seeds])
        with self.programs.telling():
            start = self.programs.kept(
                "init",
                keys,
                list(keys.devices()),
                lambda: jax.jit(jax.vmap(init_one)).lower(keys).compile(),
            )
        found: TrainState = self.placement.everywhere(start(keys))
        return found

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
        return self._model.init(init_key, batch.graph, True)

    def evaluated_params(self, state: TrainState) -> Params:
        """The parameters that are evaluated and kept, [R, ...]."""
        if self.settings.average_decay:
            return state.average
        return optim.evaluated(self._rates, state.params, state.opt_state)

    def train(
        self, state: TrainState, rows: Plan, epoch: int = 0
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """One compiled call of `schedule.steps_per_call` updates. The state is donated.

        Args:
          epoch: at which the interval of `rows` begins; it chooses the phase.

        Returns:
          The state and each of `SUMS` over the batches [R].
        """
        model, settings = self._model, self.settings
        phase = self.schedule.phase(epoch)
        if phase is not None:
            model = phase.model
            if phase.loss_floor is not None:
                settings = dataclasses.replace(settings, loss_floor=phase.loss_floor)
        name = f"train {self.schedule.phase_number(epoch)}"
        call = functools.partial(self._train_call, model, settings)
        args = (state, self._arrays, rows)
        state, metrics = self.programs.call(name, call, args, donate=(0,))
        return state, {name: np.asarray(value) for name, value in metrics.items()}

    def _train_call(
        self,
        model: hk.Transformed,
        settings: loop.Settings,
        state: TrainState,
        arrays: Any,
        rows: Mapping[str, Array],
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        shared = self.placement.num_devices > 1
        slots = self._whole.bucket.num_graphs if shared else 0
        model, optimizer = flat.of_vectors(model, state.params), self._optimizer
        if self._needs_shapes:
            optimizer = flat.optimizer_of_vectors(optimizer, state.params)
        update = loop.make_update(model, self.dataset.task, optimizer, settings, slots)

        def step(
            state: TrainState, row: Mapping[str, Array]
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = self.dataset.batch(arrays, row)

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
        num_replicas, on_cpu = len(self.settings.seeds), self.placement.on_cpu
        call = over_replicas(steps, (0, 1), num_replicas, on_cpu)
        flat_state, sums = call(flat_state, rows)
        return restore(flat_state), sums
