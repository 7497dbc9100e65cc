"""When a run trains on what: its intervals, phases and compiled calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from demetar.data.dataset import Dataset
from demetar.data.packing import Plan, concatenate_plans, pad_plan
from demetar.train import loop

SPARE_SHARE = 200  # one batch in so many of an interval, if their number varies


class Schedule:
    """The epochs of a run, split into intervals between evaluations and into calls.

    Args:
      dataset: whose plans are trained on.
      settings: of the run.
      phases: with which it begins.

    Attributes:
      num_steps: updates of the whole run.
      steps_per_call: updates of one compiled call.
    """

    def __init__(
        self, dataset: Dataset, settings: loop.Settings, phases: Sequence[loop.Phase]
    ):
        self._dataset = dataset
        self._settings = settings
        self._phases = tuple(phases)
        per_epoch = len(dataset.train_plan(settings.seeds[0], 0)["weight"])
        self.num_steps = per_epoch * settings.epochs
        steps = per_epoch * min(settings.eval_every, settings.epochs)
        num_calls = math.ceil(steps / settings.max_steps_per_call)
        # Room for epochs of a few batches more than the first, or they would take
        # another call, all but empty.
        is_ragged = dataset.packing.bucket.nodes_per_graph is None
        spare = steps // SPARE_SHARE if is_ragged else 0
        self.steps_per_call = math.ceil((steps + spare) / num_calls)

    def plan(self, start: int, stop: int, done: int = 0) -> Plan:
        """Training batches of the epochs start to stop - 1 of every seed: [B, R, ...].

        Without the first `done`, the number of batches is a multiple of
        `steps_per_call`.
        """
        packing = self._dataset.packing
        plans = [
            concatenate_plans(
                [self._dataset.train_plan(seed, epoch) for epoch in range(start, stop)]
            )
            for seed in self._settings.seeds
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
        every = self._settings.eval_every
        # A run that was extended goes on as one that was longer from the start.
        following = began + ((epoch - began) // every + 1) * every
        return min(following, self._settings.epochs, *ends)

    def phase_number(self, epoch: int) -> int:
        """How many phases are over at `epoch`; as many as there are after the last."""
        return sum(phase.end <= epoch for phase in self._phases)

    def phase(self, epoch: int) -> loop.Phase | None:
        """The phase that `epoch` belongs to; None after the last one."""
        number = self.phase_number(epoch)
        return self._phases[number] if number < len(self._phases) else None
