"""The training loop: compiled calls over many batches, for several seeds at once.

Python plans batches, reads metrics once per call, evaluates, checkpoints. Everything
in between is one compiled program: `lax.scan` over the batches of a plan, `vmap` over
the replicas. What is trained is a function of (seeds, settings, data) alone, whether or
not the run was interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from demetar import graphs
from demetar.data import base as data
from demetar.errors import UserError
from demetar.train import checkpoint, equivariance, losses, optim
from demetar.types import Array, Batch, Params, TaskSpec, TrainState

AVERAGE_WARMUP = 10  # the moving average forgets its start over this many updates


@dataclasses.dataclass(frozen=True)
class Settings:
    """A run.

    Attributes:
      epochs: passes over the training set.
      eval_every: epochs between evaluations on the validation set.
      seeds: one replica each; they share one program.
      augment: 'none', or 'rotation': each training graph is turned at random, for
        models that are not equivariant.
      average_decay: decay of a moving average of the parameters that is evaluated in
        their place; 0 for none.
      loss: 'squared', the mean of the squared errors, or 'log', the mean over graphs of
        log(error + loss_floor) / 2, which weighs relative improvements alike. What is
        evaluated is the squared error either way.
      loss_floor: c of the logarithm, in the squared unit of the targets.
      clip_each: bound on the norm of the gradient of each graph by itself, before the
        mean over the batch, so that a few graphs cannot drown the rest; 0 for none.
        For graphs of equal size.
      max_steps_per_call: bound on the updates of one compiled call, so that a person
        hears of them in time and a signal is heeded.
      checkpoint_seconds: least time between two checkpoints.
    """

    epochs: int
    eval_every: int = 5
    seeds: tuple[int, ...] = (1,)
    augment: str = "none"
    average_decay: float = 0.0
    loss: str = "squared"
    loss_floor: float = 1e-3
    clip_each: float = 0.0
    max_steps_per_call: int = 256
    checkpoint_seconds: float = 20.0


@dataclasses.dataclass(frozen=True)
class Phase:
    """The beginning of a run, trained otherwise than its end.

    Attributes:
      end: epoch at which the next phase, or the run proper, begins.
      model: with the parameters of the run's model and another way to compute.
      loss_floor: in place of that of the settings; None for the same.
    """

    end: int
    model: hk.Transformed
    loss_floor: float | None = None


@dataclasses.dataclass
class Progress:
    """Where a run stands, as far as Python knows. Saved in every checkpoint.

    Attributes:
      epoch: epochs finished and evaluated.
      calls: compiled calls made since.
      partial: sums over those calls, [quantity][replica], in the order of `SUMS`.
      best_loss, best_epoch: lowest validation loss and its epoch, per replica.
      seconds: wall time of all sittings, compilation included.
      num_compiles: the largest number of programs that a sitting compiled.
      compile_seconds: what compilation took of `seconds`.
      data_seconds: what waiting for plans and their transfer took of it.
    """

    epoch: int
    calls: int
    partial: list[list[float]]
    best_loss: list[float]
    best_epoch: list[int]
    seconds: float
    num_compiles: int = 0
    compile_seconds: float = 0.0
    data_seconds: float = 0.0


AUGMENTATIONS = ("none", "rotation")
LOSSES = ("squared", "log")
METRICS = ("loss", "gradient_norm", "update_norm")  # of one update
SPARE_SHARE = 200  # one batch in so many of an interval, where their number varies
SUMS = (*METRICS, "updates", "graphs")  # of a call; the loss is summed over graphs


def make_update(
    model: hk.Transformed,
    task: TaskSpec,
    optimizer: optax.GradientTransformation,
    settings: Settings,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function that makes one update of one replica from one batch."""

    def loss_fn(
        params: Params, key: Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        outputs = model.apply(params, key, batch.graph, batch.bucket, True)
        predictions = losses.predict(task, outputs, batch.graph.nodes)
        errors = losses.sample_errors(task, predictions, batch)
        told = losses.mean_loss(errors, batch.weights)  # in the unit of the errors
        if settings.loss == "log":
            errors = losses.log_errors(errors, settings.loss_floor)
        return losses.training_loss(task, errors, batch.weights), told

    def told_and_gradients(
        params: Params, key: Array, batch: Batch
    ) -> tuple[jax.Array, Params]:
        gradients, told = jax.grad(loss_fn, has_aux=True)(params, key, batch)
        return told, gradients

    gradient_fn: GradientFn = told_and_gradients
    if settings.clip_each:
        gradient_fn = clipped_each(gradient_fn, settings.clip_each)

    def update(
        state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        if settings.augment == "rotation":
            key, rotation_key = jax.random.split(key)
            rotations = equivariance.random_rotations(rotation_key, batch)
            batch = equivariance.rotate(task, batch, rotations)
        loss, gradients = gradient_fn(state.params, key, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if settings.average_decay:
            decay = jnp.minimum(
                settings.average_decay,
                (1 + state.step) / (AVERAGE_WARMUP + state.step),
            )
            average = optax.incremental_update(params, average, 1 - decay)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.global_norm(gradients),
            "update_norm": optax.global_norm(updates),
        }
        return TrainState(params, opt_state, state.step + 1, state.key, average), (
            metrics
        )

    return update


GradientFn = Callable[[Params, Array, Batch], tuple[jax.Array, Params]]


def clipped_each(gradient_fn: GradientFn, bound: float) -> GradientFn:
    """Loss and gradient of a batch, the gradient of each graph clipped by its norm.

    A graph whose gradient is not finite counts as one whose gradient is zero: chaotic
    motions overflow, and would take the others with them.
    """

    def clipped(params: Params, key: Array, batch: Batch) -> tuple[jax.Array, Params]:
        def one(single: Batch) -> tuple[jax.Array, Params]:
            loss, gradients = gradient_fn(params, key, single)
            norm = optax.global_norm(gradients)
            finite = jnp.isfinite(norm)
            factor = bound / jnp.maximum(jnp.where(finite, norm, 1), bound)
            return loss, jax.tree.map(
                lambda leaf: jnp.where(finite, leaf * factor, 0), gradients
            )

        weights = batch.weights / jnp.maximum(batch.weights.sum(), 1)  # [G]
        of_graphs, gradients = jax.vmap(one)(graphs.single_graphs(batch))
        return of_graphs @ weights, jax.tree.map(
            lambda leaf: jnp.tensordot(weights, leaf, axes=1), gradients
        )

    return clipped


def over_replicas(function: Callable, num_replicas: int, axes: tuple) -> Callable:
    """`function` over the leading axis R of the arguments whose axis is 0."""
    if num_replicas > 1:
        return jax.vmap(function, in_axes=axes)

    def single(*args: Any) -> Any:  # a batch dimension of 1 would cost time
        args = tuple(
            jax.tree.map(lambda leaf: leaf[0], arg) if axis == 0 else arg
            for arg, axis in zip(args, axes, strict=True)
        )
        return jax.tree.map(lambda leaf: leaf[None], function(*args))

    return single


class Trainer:
    """A model on a data set: compiled programs and their state.

    Attributes:
      num_compiles, compile_seconds: of training and evaluation programs so far.
      num_steps: updates of a whole run.
    """

    def __init__(
        self,
        model: hk.Transformed,
        dataset: data.Dataset,
        settings: Settings,
        optimizer: optim.Settings,
        phases: Sequence[Phase] = (),
    ):
        self.dataset = dataset
        self.settings = settings
        self.num_compiles = 0
        self.compile_seconds = 0.0
        self._model = model
        self._phases = tuple(phases)
        self._arrays = jax.tree.map(jnp.asarray, dataset.packing.arrays())
        self._valid_plan = dataset.plan("valid")
        per_epoch = len(dataset.train_plan(settings.seeds[0], 0)["weight"])
        self.num_steps = per_epoch * settings.epochs
        self._interval_steps = per_epoch * min(settings.eval_every, settings.epochs)
        num_calls = math.ceil(self._interval_steps / settings.max_steps_per_call)
        # Room for epochs of a few batches more than the first, or they would take
        # another call, all but empty.
        spare = self._interval_steps // SPARE_SHARE if _is_ragged(dataset) else 0
        self.steps_per_call = math.ceil((self._interval_steps + spare) / num_calls)
        self._optimizer = optim.make(optimizer, self.num_steps)
        self.learning_rate = optim.learning_rate(optimizer, self.num_steps)
        self._programs: dict[str, Any] = {}

    def init(self) -> TrainState:
        """The state before the first update, one replica per seed."""
        packing = self.dataset.packing
        row = {name: jnp.asarray(value[0]) for name, value in packing.empty().items()}

        def init_one(key: Array) -> TrainState:
            batch = packing.assemble(self._arrays, row)
            init_key = jax.random.fold_in(key, np.uint32(2**32 - 1))
            params = self._model.init(init_key, batch.graph, batch.bucket, True)
            average = params if self.settings.average_decay else {}
            opt_state = self._optimizer.init(params)
            return TrainState(params, opt_state, jnp.int32(0), key, average)

        keys = jnp.stack([jax.random.key(seed) for seed in self.settings.seeds])
        return jax.jit(jax.vmap(init_one))(keys)

    def evaluated_params(self, state: TrainState) -> Params:
        """The parameters that are evaluated and kept, [R, ...]."""
        return state.average if self.settings.average_decay else state.params

    def interval_plan(self, start: int, stop: int) -> data.Plan:
        """Training batches of the epochs start to stop - 1 of every seed: [B, R, ...].

        The number of batches is a multiple of `steps_per_call`.
        """
        packing = self.dataset.packing
        plans = [
            data.concatenate_plans(
                [self.dataset.train_plan(seed, epoch) for epoch in range(start, stop)]
            )
            for seed in self.settings.seeds
        ]
        longest = max(len(plan["weight"]) for plan in plans)
        length = math.ceil(longest / self.steps_per_call) * self.steps_per_call
        padded = [data.pad_plan(plan, packing, length) for plan in plans]
        return {
            name: np.stack([plan[name] for plan in padded], axis=1)
            for name in padded[0]
        }

    def interval_end(self, epoch: int) -> int:
        """The epoch at which the interval that begins at `epoch` is evaluated."""
        ends = [phase.end for phase in self._phases if phase.end > epoch]
        return min(epoch + self.settings.eval_every, self.settings.epochs, *ends)

    def train(
        self, state: TrainState, rows: data.Plan, epoch: int = 0
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
        program = self._program(f"train {number}", call, (state, rows), donate=0)
        state, metrics = program(state, self._arrays, rows)
        return state, {name: np.asarray(value) for name, value in metrics.items()}

    def evaluate(
        self, params: Params, plan: data.Plan
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Errors of every sample of a plan, as its heads measure them, and predictions.

        Args:
          params: [R, ...].
          plan: of `Dataset.plan`.

        Returns:
          {head: [R, D']} in the order of the plan, and {head: [R, B, ...]} as the
          batches hold them.
        """
        steps = len(self._valid_plan["weight"])
        length = math.ceil(len(plan["weight"]) / steps) * steps
        padded = data.pad_plan(plan, self.dataset.packing, length)
        parts = []
        for start in range(0, length, steps):
            rows = {
                name: value[start : start + steps] for name, value in padded.items()
            }
            program = self._program("evaluate", self._evaluate_call, (params, rows))
            parts.append(jax.device_get(program(params, self._arrays, rows)))
        errors, predictions = (
            {
                name: np.concatenate([part[index][name] for part in parts], axis=1)
                for name in parts[0][index]
            }
            for index in (0, 1)
        )
        ordered = {
            name: data.in_sample_order(value, padded) for name, value in errors.items()
        }
        return ordered, predictions

    def validate(self, params: Params) -> np.ndarray:
        """Validation loss of each replica, [R]: mean over heads and samples."""
        errors, _ = self.evaluate(params, self._valid_plan)
        means = [value.astype(np.float64).mean(axis=1) for value in errors.values()]
        return np.mean(means, axis=0)

    def _program(
        self, name: str, function: Callable, args: tuple, donate: int | None = None
    ) -> Any:
        """The compiled program, made on first use; it accepts one set of shapes."""
        if name not in self._programs:
            start = time.perf_counter()
            jitted = jax.jit(function, donate_argnums=() if donate is None else donate)
            lowered = jitted.lower(args[0], self._arrays, args[1])
            self._programs[name] = lowered.compile()
            self.compile_seconds += time.perf_counter() - start
            self.num_compiles += 1
        return self._programs[name]

    def _train_call(
        self,
        model: hk.Transformed,
        settings: Settings,
        state: TrainState,
        arrays: Any,
        rows: Mapping[str, Array],
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        task, packing = self.dataset.task, self.dataset.packing
        update = make_update(model, task, self._optimizer, settings)

        def step(
            state: TrainState, row: Mapping[str, Array]
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = packing.assemble(arrays, row)

            def skip(state: TrainState, batch: Batch) -> Any:
                zero = jnp.zeros((), batch.weights.dtype)
                return state, dict.fromkeys(METRICS, zero)

            num_graphs = jnp.sum(batch.weights)
            state, metrics = jax.lax.cond(num_graphs > 0, update, skip, state, batch)
            metrics["loss"] = metrics["loss"] * num_graphs
            updates = jnp.int32(num_graphs > 0)
            return state, {**metrics, "updates": updates, "graphs": num_graphs}

        many = over_replicas(step, len(self.settings.seeds), (0, 0))
        state, metrics = jax.lax.scan(many, state, rows)
        return state, {name: value.sum(axis=0) for name, value in metrics.items()}

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

        return over_replicas(one, len(self.settings.seeds), (0,))(params)


@dataclasses.dataclass
class Run:
    """A training run in its work directory.

    Attributes:
      trainer: programs.
      state: what the last call left.
      best: parameters with the lowest validation loss so far, [R, ...].
      progress: where the run stands.
      path: the checkpoint that it continues from.
    """

    trainer: Trainer
    state: TrainState
    best: Params
    progress: Progress
    path: pathlib.Path
    _planner: futures.Executor = dataclasses.field(
        default_factory=lambda: futures.ThreadPoolExecutor(1), repr=False
    )
    _planned: dict[tuple[int, int], futures.Future] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @classmethod
    def start(cls, trainer: Trainer, path: pathlib.Path) -> Run:
        """A new run, or the one that the checkpoint at `path` holds.

        Raises:
          UserError: the checkpoint is damaged or belongs to another model.
        """
        state = trainer.init()
        best = jax.tree.map(jnp.copy, trainer.evaluated_params(state))
        num = len(trainer.settings.seeds)
        progress = Progress(0, 0, _zeros(num), [math.inf] * num, [0] * num, 0.0)
        if path.exists():
            template = {"state": state, "best": best}
            arrays, metadata = checkpoint.restore(path, template)
            state, best = jax.tree.map(jnp.asarray, (arrays["state"], arrays["best"]))
            fields = metadata["progress"]
            fields["best_loss"] = [
                math.inf if loss is None else loss for loss in fields["best_loss"]
            ]
            if not fields["calls"]:  # nothing is summed: any earlier release will do
                fields["partial"] = _zeros(num)
            progress = Progress(**fields)
        return cls(trainer, state, best, progress, path)

    def save(self) -> None:
        """Write the checkpoint. Atomic: a crash leaves the earlier one."""
        self.progress.num_compiles = max(
            self.progress.num_compiles, self.trainer.num_compiles
        )
        progress = dataclasses.asdict(self.progress)
        progress["best_loss"] = [
            loss if math.isfinite(loss) else None for loss in self.progress.best_loss
        ]
        arrays = {"state": self.state, "best": self.best}
        checkpoint.save(self.path, arrays, {"progress": progress})

    def fit(
        self,
        on_evaluation: Callable[[dict[str, Any]], None],
        on_save: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Train to the end or until asked to stop; either way the run is saved.

        Args:
          on_evaluation: gets the metrics of each evaluation.
          on_save: called before each checkpoint, so that what it writes is never
            older than the checkpoint.
          should_stop: asked after each compiled call.

        Returns:
          True where the run is finished.

        Raises:
          UserError: the loss is not finite, or the disk is full.
        """
        saved = time.perf_counter()
        while self.progress.epoch < self.trainer.settings.epochs:
            stopped = not self._interval(on_evaluation, should_stop)
            seconds = time.perf_counter() - saved
            finished = self.progress.epoch >= self.trainer.settings.epochs
            due = seconds >= self.trainer.settings.checkpoint_seconds
            if stopped or finished or due:
                on_save()
                self.save()
                saved = time.perf_counter()
            if stopped and not finished:
                return False
        return True

    def _interval(
        self,
        on_evaluation: Callable[[dict[str, Any]], None],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Train up to the next evaluation and make it; False where asked to stop."""
        trainer, progress = self.trainer, self.progress
        settings = trainer.settings
        stop = trainer.interval_end(progress.epoch)
        began = time.perf_counter()
        plan = self._plan(progress.epoch, stop)
        progress.data_seconds += time.perf_counter() - began
        steps = trainer.steps_per_call
        num_calls = len(plan["weight"]) // steps
        clock = _Clock(trainer)
        first_row = progress.calls * steps
        while progress.calls < num_calls:
            start = progress.calls * steps
            began = time.perf_counter()
            rows = jax.block_until_ready(
                jax.device_put(
                    {name: value[start : start + steps] for name, value in plan.items()}
                )
            )
            progress.data_seconds += time.perf_counter() - began
            self.state, metrics = trainer.train(self.state, rows, progress.epoch)
            self._check_finite(metrics, stop)
            for sums, name in zip(progress.partial, SUMS, strict=True):
                sums[:] = (np.asarray(sums) + metrics[name]).tolist()
            progress.calls += 1
            if should_stop() and progress.calls < num_calls:
                clock.add_to(progress)
                return False
        seconds = clock.running_seconds()
        weights = plan["weight"][first_row:]  # [B, R, G]
        done = weights.any(axis=-1).sum() / len(settings.seeds)
        num_graphs = weights.sum() / len(settings.seeds)
        self._keep_best(stop)
        clock.add_to(progress)
        on_evaluation(
            {
                **self._averages(),
                "epoch": stop,
                "steps_per_second": float(done) / seconds,
                "graphs_per_second": float(num_graphs) / seconds,
                "wall_seconds": progress.seconds,
            }
        )
        progress.epoch, progress.calls = stop, 0
        progress.partial = _zeros(len(settings.seeds))
        return not should_stop()

    def _plan(self, start: int, stop: int) -> data.Plan:
        """The plan of an interval; that of the next one is made in the meantime."""
        trainer, settings = self.trainer, self.trainer.settings
        planned = self._planned.pop((start, stop), None)
        plan = planned.result() if planned else trainer.interval_plan(start, stop)
        if stop < settings.epochs:
            following = (stop, trainer.interval_end(stop))
            future = self._planner.submit(trainer.interval_plan, *following)
            self._planned[following] = future
        return plan

    def _keep_best(self, epoch: int) -> None:
        trainer, progress = self.trainer, self.progress
        params = trainer.evaluated_params(self.state)
        self.valid_loss = trainer.validate(params)
        if not np.isfinite(self.valid_loss).all():
            raise self._not_finite("validation loss", epoch)
        improved = self.valid_loss < np.asarray(progress.best_loss)
        if improved.any():
            self.best = _select(jnp.asarray(improved), params, self.best)
        for index in np.flatnonzero(improved).tolist():
            progress.best_loss[index] = float(self.valid_loss[index])
            progress.best_epoch[index] = epoch

    def _averages(self) -> dict[str, Any]:
        loss, gradient, update, updates, num_graphs = map(
            np.asarray, self.progress.partial
        )
        steps = int(np.asarray(self.state.step)[0])
        return {
            "step": steps,
            "train_loss": (loss / num_graphs).tolist(),
            "valid_loss": self.valid_loss.tolist(),
            "best_valid_loss": list(self.progress.best_loss),
            "best_epoch": list(self.progress.best_epoch),
            "learning_rate": float(self.trainer.learning_rate(max(steps - 1, 0))),
            "gradient_norm": (gradient / updates).tolist(),
            "update_norm": (update / updates).tolist(),
        }

    def _check_finite(self, metrics: Mapping[str, np.ndarray], epoch: int) -> None:
        # A gradient may overflow before the loss does.
        for name, what in zip(METRICS, ("loss", "gradient", "update"), strict=True):
            if not np.isfinite(metrics[name]).all():
                raise self._not_finite(f"training {what}", epoch)

    def _not_finite(self, what: str, epoch: int) -> UserError:
        kept = f"{self.path} keeps the last good state"
        if not self.path.exists():
            kept = "no checkpoint was written yet"
        return UserError(
            f"the {what} is not finite before epoch {epoch}; {kept}; try a lower "
            "--learning_rate or a --clip_norm in another --workdir"
        )


class _Clock:
    """Wall time from now on, and what compilation takes of it."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._began = time.perf_counter()
        self._compiled = trainer.compile_seconds

    def compile_seconds(self) -> float:
        return self._trainer.compile_seconds - self._compiled

    def running_seconds(self) -> float:
        """Without compilation."""
        return time.perf_counter() - self._began - self.compile_seconds()

    def add_to(self, progress: Progress) -> None:
        progress.seconds += time.perf_counter() - self._began
        progress.compile_seconds += self.compile_seconds()


def _is_ragged(dataset: data.Dataset) -> bool:
    return dataset.packing.bucket.nodes_per_graph is None


@jax.jit
def _select(mask: Array, new: Params, old: Params) -> Params:
    """Per replica, `new` where the mask [R] is True and `old` elsewhere."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _zeros(num_replicas: int) -> list[list[float]]:
    return [[0.0] * num_replicas for _ in SUMS]
