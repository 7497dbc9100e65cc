"""A training run in its work directory.

Python plans batches, reads metrics once per compiled call, evaluates, checkpoints. What
is trained is the same whether or not the run was interrupted.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demetar.data.packing import Plan
from demetar.distributed import processes
from demetar.errors import UserError
from demetar.train import checkpoint, loop, losses
from demetar.train.stopwatch import Stopwatch
from demetar.train.trainer import Trainer
from demetar.types import Array, Params, TrainState


@dataclasses.dataclass
class Progress:
    """Where a run stands, as far as Python knows. Saved in every checkpoint.

    Attributes:
      epoch: epochs finished and evaluated.
      rows: batches of the plan trained since; what follows may be called otherwise.
      partial: sums over those, [quantity][replica], in the order of `SUMS`.
      best_loss, best_epoch: lowest validation loss and its epoch, per replica.
      seconds: wall time of all sittings, compilation included.
      num_compiles: the largest number of programs that a sitting compiled.
      compile_seconds: what compilation took of `seconds`.
      data_seconds: what waiting for plans and their transfer took of it.
      call_seconds: what the calls of compiled programs took of it.
      between_seconds: time spent on logging and checkpoints, not part of `seconds`.
    """

    epoch: int
    rows: int
    partial: list[list[float]]
    best_loss: list[float]
    best_epoch: list[int]
    seconds: float
    num_compiles: int = 0
    compile_seconds: float = 0.0
    data_seconds: float = 0.0
    call_seconds: float = 0.0
    between_seconds: float = 0.0

    def add_times(self, spent: Mapping[str, float]) -> None:
        """Count what a stopwatch says: {field: seconds}."""
        for name, seconds in spent.items():
            setattr(self, name, getattr(self, name) + seconds)


@dataclasses.dataclass
class Run:
    """A training run in its work directory.

    Attributes:
      trainer: programs.
      state: what the last call left.
      best: parameters with the lowest validation loss so far, [R, ...].
      progress: where the run stands.
      path: the checkpoint that it continues from.
      run_id: of the run, in every checkpoint; '' for none.
      is_saved: whether there is a checkpoint.
      valid_errors: mean error of each head and replica at the last evaluation, on the
        validation samples: {head: [R]}.
      valid_loss: what `losses.overall` makes of them, [R].
    """

    trainer: Trainer
    state: TrainState
    best: Params
    progress: Progress
    path: pathlib.Path
    run_id: str = ""
    is_saved: bool = False
    valid_errors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    valid_loss: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    _planner: futures.Executor = dataclasses.field(
        default_factory=lambda: futures.ThreadPoolExecutor(1), repr=False
    )
    _planned: dict[tuple[int, int], futures.Future[Plan]] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @classmethod
    def start(cls, trainer: Trainer, path: pathlib.Path, run_id: str = "") -> Run:
        """A new run, or the one that the checkpoint at `path` holds.

        Args:
          run_id: that the checkpoint must carry.

        Raises:
          UserError: the checkpoint is damaged or belongs to another run or model.
        """
        state = trainer.init()
        best = jax.tree.map(jnp.copy, trainer.evaluated_params(state))
        num = len(trainer.settings.seeds)
        progress = Progress(0, 0, _zeros(num), [math.inf] * num, [0] * num, 0.0)
        restored = _restore(path, trainer.placement.here((state, best)), run_id)
        if restored is not None:
            (state, best), fields = restored
            state, best = trainer.placement.everywhere((state, best))
            progress = _progress(path, fields, trainer)
        return cls(trainer, state, best, progress, path, run_id, restored is not None)

    def save(self) -> None:
        """Write the checkpoint. Atomic: a crash leaves the earlier one.

        What it holds does not depend on the number of devices or hosts.
        """
        if not processes.is_main():
            return
        self.progress.num_compiles = max(
            self.progress.num_compiles, self.trainer.programs.num_compiled
        )
        progress = dataclasses.asdict(self.progress)
        progress["best_loss"] = [
            loss if math.isfinite(loss) else None for loss in self.progress.best_loss
        ]
        arrays = {"state": self.state, "best": self.best}
        arrays = self.trainer.placement.here(arrays)
        checkpoint.save(self.path, arrays, {"progress": progress, "run": self.run_id})

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
          should_stop: asked after each compiled call; one process of several is
            enough.

        Returns:
          True if the run is finished.

        Raises:
          UserError: the loss is not finite, or the disk is full.
        """
        self._stopwatch.take()  # what came before is of no run, or of another
        saved = time.perf_counter()
        while self.progress.epoch < self.trainer.settings.epochs:
            stopped = not self._interval(on_evaluation, should_stop)
            self._count_times()
            seconds = time.perf_counter() - saved
            finished = self.progress.epoch >= self.trainer.settings.epochs
            due = seconds >= self.trainer.settings.checkpoint_seconds
            if stopped or finished or due or not self.is_saved:
                with self._stopwatch.timing("between_seconds"):
                    on_save()
                    self.save()
                self.is_saved = True
                saved = time.perf_counter()
            self._count_times()
            if stopped and not finished:
                return False
        return True

    def _interval(
        self,
        on_evaluation: Callable[[dict[str, Any]], None],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Train up to the next evaluation and make it; False if asked to stop."""
        progress, watch = self.progress, self._stopwatch
        stop = self.trainer.schedule.interval_end(progress.epoch)
        with watch.timing("data_seconds"):
            plan = self._plan(progress.epoch, stop)
        first_row = progress.rows
        with watch.timing("seconds"):
            compiled = watch.seconds.get("compile_seconds", 0.0)
            began = time.perf_counter()
            if not self._calls(plan, stop, should_stop):
                return False
            running = time.perf_counter() - began
            running -= watch.seconds.get("compile_seconds", 0.0) - compiled
            self._keep_best(stop)
        self._count_times()
        with watch.timing("between_seconds"):
            told = {"epoch": stop, **self._speed(plan, first_row, running)}
            on_evaluation({**self._averages(), **told})
        progress.epoch, progress.rows = stop, 0
        progress.partial = _zeros(len(self.trainer.settings.seeds))
        return not processes.any_process(should_stop())

    def _calls(self, plan: Plan, stop: int, should_stop: Callable[[], bool]) -> bool:
        """Train on the rows of a plan that are left; False if asked to stop."""
        trainer, progress = self.trainer, self.progress
        steps, num_rows = trainer.schedule.steps_per_call, len(plan["weight"])
        while progress.rows < num_rows:
            called = slice(progress.rows, progress.rows + steps)
            with self._stopwatch.timing("data_seconds"):
                rows = trainer.placement.rows(
                    {name: value[called] for name, value in plan.items()}
                )
                rows = jax.block_until_ready(rows)
            self.state, metrics = trainer.train(self.state, rows, progress.epoch)
            self._check_finite(metrics, stop)
            for sums, name in zip(progress.partial, loop.SUMS, strict=True):
                sums[:] = (np.asarray(sums) + metrics[name]).tolist()
            progress.rows += steps
            if processes.any_process(should_stop()) and progress.rows < num_rows:
                return False
        return True

    def _speed(self, plan: Plan, first_row: int, seconds: float) -> dict[str, float]:
        """Updates and graphs per second since the first row, and the time so far."""
        weights = plan["weight"][first_row:]  # [B, R, G]
        num_seeds = len(self.trainer.settings.seeds)
        num_updates = weights.any(axis=-1).sum() / num_seeds
        num_graphs = weights.sum() / num_seeds
        return {
            "steps_per_second": float(num_updates) / seconds,
            "graphs_per_second": float(num_graphs) / seconds,
            "wall_seconds": self.progress.seconds,
        }

    @property
    def _stopwatch(self) -> Stopwatch:
        return self.trainer.programs.stopwatch

    def _count_times(self) -> None:
        self.progress.add_times(self._stopwatch.take())

    def _plan(self, start: int, stop: int) -> Plan:
        """The plan of an interval; that of the next one is made in the meantime."""
        schedule, settings = self.trainer.schedule, self.trainer.settings
        planned = self._planned.pop((start, stop), None)
        if planned:
            plan = planned.result()
        else:
            plan = schedule.plan(start, stop, self.progress.rows)
        if stop < settings.epochs:
            following = (stop, schedule.interval_end(stop))
            future = self._planner.submit(schedule.plan, *following)
            self._planned[following] = future
        found: Plan = plan
        return found

    def _keep_best(self, epoch: int) -> None:
        trainer, progress = self.trainer, self.progress
        params = trainer.evaluated_params(self.state)
        self.valid_errors = trainer.evaluator.validate(params)
        self.valid_loss = losses.overall(trainer.dataset.task, self.valid_errors)
        if not np.isfinite(self.valid_loss).all():
            raise self._not_finite("validation loss", epoch)
        improved = self.valid_loss < np.asarray(progress.best_loss)
        if improved.any():
            self.best = _select(improved, params, self.best)
        for index in np.flatnonzero(improved).tolist():
            progress.best_loss[index] = float(self.valid_loss[index])
            progress.best_epoch[index] = epoch

    def _averages(self) -> dict[str, Any]:
        loss, gradient, update, updates, num_graphs = map(
            np.asarray, self.progress.partial
        )
        steps = int(np.asarray(self.state.step)[0])
        by_head = {name: error.tolist() for name, error in self.valid_errors.items()}
        return {
            **({"valid_by_head": by_head} if len(by_head) > 1 else {}),
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
        for name, what in zip(
            loop.METRICS, ("loss", "gradient", "update"), strict=True
        ):
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


@jax.jit
def _select(mask: Array, new: Params, old: Params) -> Params:
    """Per replica, `new` where the mask [R] is True and `old` elsewhere."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    found: Params = jax.tree.map(choose, new, old)
    return found


def _restore(
    path: pathlib.Path, template: Any, run_id: str
) -> tuple[Any, dict[str, Any]] | None:
    """State and best parameters as `save` left them, and `Progress` as JSON data."""
    names = ("state", "best")
    found = dict(zip(names, template, strict=True))

    def read() -> dict[str, Any] | None:
        if not path.exists():
            return None
        arrays, metadata = checkpoint.restore(path, found, run_id)
        found.update(arrays)
        return metadata

    metadata = processes.from_main(read)
    if metadata is None:
        return None
    return processes.tree_from_main(tuple(found[name] for name in names)), metadata


def _progress(
    path: pathlib.Path, metadata: dict[str, Any], trainer: Trainer
) -> Progress:
    """Where the run stood, from the metadata of its checkpoint.

    Raises:
      UserError: they say something else.
    """
    try:
        fields = dict(metadata["progress"])
        if "calls" in fields:  # what earlier releases counted
            fields["rows"] = fields.pop("calls") * trainer.schedule.steps_per_call
        fields["best_loss"] = [
            math.inf if loss is None else loss for loss in fields["best_loss"]
        ]
        if not fields["rows"]:  # nothing is summed: any earlier release will do
            fields["partial"] = _zeros(len(trainer.settings.seeds))
        return Progress(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: expected where a run stands, found something else ({error!r}); "
            "restore it from a copy, or remove it and train again"
        ) from None


def _zeros(num_replicas: int) -> list[list[float]]:
    return [[0.0] * num_replicas for _ in loop.SUMS]
