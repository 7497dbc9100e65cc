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
from demetar.train import checkpoint, loop
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
      between_seconds: what telling and saving took beside it.
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
    """

    trainer: Trainer
    state: TrainState
    best: Params
    progress: Progress
    path: pathlib.Path
    run_id: str = ""
    is_saved: bool = False
    _planner: futures.Executor = dataclasses.field(
        default_factory=lambda: futures.ThreadPoolExecutor(1), repr=False
    )
    _planned: dict[tuple[int, int], futures.Future] = dataclasses.field(
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
            self.progress.num_compiles, self.trainer.num_compiles
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
          True where the run is finished.

        Raises:
          UserError: the loss is not finite, or the disk is full.
        """
        saved = time.perf_counter()
        while self.progress.epoch < self.trainer.settings.epochs:
            began, counted = time.perf_counter(), self.progress.seconds
            stopped = not self._interval(on_evaluation, should_stop)
            seconds = time.perf_counter() - saved
            finished = self.progress.epoch >= self.trainer.settings.epochs
            due = seconds >= self.trainer.settings.checkpoint_seconds
            if stopped or finished or due or not self.is_saved:
                on_save()
                self.save()
                self.is_saved = True
                saved = time.perf_counter()
            elapsed = time.perf_counter() - began
            self.progress.between_seconds += elapsed - self.progress.seconds + counted
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
        num_rows = len(plan["weight"])
        clock = _Clock(trainer)
        first_row = progress.rows
        while progress.rows < num_rows:
            start = progress.rows
            began = time.perf_counter()
            rows = jax.block_until_ready(
                trainer.placement.rows(
                    {name: value[start : start + steps] for name, value in plan.items()}
                )
            )
            progress.data_seconds += time.perf_counter() - began
            self.state, metrics = trainer.train(self.state, rows, progress.epoch)
            self._check_finite(metrics, stop)
            for sums, name in zip(progress.partial, loop.SUMS, strict=True):
                sums[:] = (np.asarray(sums) + metrics[name]).tolist()
            progress.rows += steps
            if processes.any_process(should_stop()) and progress.rows < num_rows:
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
        progress.epoch, progress.rows = stop, 0
        progress.partial = _zeros(len(settings.seeds))
        return not processes.any_process(should_stop())

    def _plan(self, start: int, stop: int) -> Plan:
        """The plan of an interval; that of the next one is made in the meantime."""
        trainer, settings = self.trainer, self.trainer.settings
        planned = self._planned.pop((start, stop), None)
        if planned:
            plan = planned.result()
        else:
            plan = trainer.interval_plan(start, stop, self.progress.rows)
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
            self.best = _select(improved, params, self.best)
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


class _Clock:
    """Wall time from now on, and what compilation takes of it."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._began = time.perf_counter()
        self._compiled = trainer.compile_seconds
        self._called = trainer.call_seconds

    def compile_seconds(self) -> float:
        return self._trainer.compile_seconds - self._compiled

    def running_seconds(self) -> float:
        """Without compilation."""
        return time.perf_counter() - self._began - self.compile_seconds()

    def add_to(self, progress: Progress) -> None:
        progress.seconds += time.perf_counter() - self._began
        progress.compile_seconds += self.compile_seconds()
        progress.call_seconds += self._trainer.call_seconds - self._called


@jax.jit
def _select(mask: Array, new: Params, old: Params) -> Params:
    """Per replica, `new` where the mask [R] is True and `old` elsewhere."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


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
            fields["rows"] = fields.pop("calls") * trainer.steps_per_call
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
