"""What is asked of the player and what it is given: models, test samples, scenes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import demetar
from demetar.errors import UserError
from demetar.predict import PRETRAINED, Predictor
from experiments.run import finished

# By which a model and a record are known to have one task.
_OF_TASK = (
    *("dataset", "target", "start_frame", "target_frame", "data_seed", "num_bodies"),
    *("full_data", "split", "labels", "fold"),
)
# Shares of the test set that are easier than the samples that are shown by default.
QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a person wants to see.

    Attributes:
      checkpoints: trained models beside those in the folders, as `demetar.load` takes
        them.
      systems: numbers of test samples; () for some of each difficulty.
      data_root: where generated data sets are kept.
      cache: where the molecules are kept.
    """

    checkpoints: tuple[str, ...]
    systems: tuple[int, ...]
    data_root: pathlib.Path
    cache: pathlib.Path


@dataclasses.dataclass
class Asked:
    """A trained model that is shown.

    Attributes:
      name: as it was given.
      label: what the page calls it.
      model: the trained model.
      used: whether a group of runs has its task.
    """

    name: str
    label: str
    model: Predictor
    used: bool = False

    @classmethod
    def of(cls, name: str, label: str = "") -> Asked:
        """Load a model.

        Raises:
          UserError: there is none, or it is damaged.
        """
        short = name.removeprefix(PRETRAINED).rpartition("-")[0]
        own = f"{short}, pretrained" if name.startswith(PRETRAINED) else name
        return cls(name, label or own, demetar.load(name))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those that it was trained under; none if the checkpoint does not tell."""
        found = self.model.metadata.get("settings")
        return found if isinstance(found, Mapping) else {}

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether the model was trained on the task of a record."""
        own, other = self.settings, record["settings"]
        target = " and ".join(head.name for head in self.model.task.heads)
        mine = {"dataset": own.get("dataset"), "target": target, **own}
        theirs = {**other, "dataset": record["dataset"], "target": record["target"]}
        shared = [name for name in _OF_TASK if name in mine and name in theirs]
        return all(mine[name] == theirs[name] for name in shared)

    def describe(self) -> str:
        """The task of the model, in words."""
        return f"{self.settings.get('dataset', 'unknown data')}: {self.model.task.name}"


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the player is given of a group of runs.

    Attributes:
      scenes: one for each test sample.
      reason: why there are none.
      closest: of an N-body test set, the least distance of two bodies of each sample
        on the way to the target [D]; None if it is not known.
      notes: what is missing, one line each.
    """

    scenes: Sequence[Mapping[str, Any]] = ()
    reason: str = ""
    closest: np.ndarray | None = None
    notes: Sequence[str] = ()


def choose(
    members: Sequence[finished.Run], systems: Sequence[int], count: int
) -> dict[int, str]:
    """Numbers of the test samples that are shown, and how hard they are.

    Args:
      members: the runs on one test set.
      systems: those that a person wants; () for some of each difficulty, which is the
        mean logarithm of the errors of all runs.
      count: number of test samples.

    Raises:
      UserError: there is no such sample.
    """
    for number in systems:
        if not 0 <= number < count:
            raise UserError(
                f"expected --systems from 0 to {count - 1}, the test samples of "
                f"{members[0].label}, found {number}"
            )
    ranks = _ranks(members, count)
    if systems:
        return {number: _difficulty(ranks, number) for number in systems}
    if ranks is None:
        return {number: "" for number in range(min(count, len(QUANTILES)))}
    order = np.argsort(ranks)
    rows = [order[round(share * (count - 1))] for share in QUANTILES]
    return {int(row): _difficulty(ranks, int(row)) for row in rows}


def _ranks(members: Sequence[finished.Run], count: int) -> np.ndarray | None:
    """Share of the test samples that are easier than each; None without errors."""
    errors = [
        np.log(np.maximum(run.errors.mean(axis=0, dtype=np.float64), 1e-30))
        for run in members
        if run.errors is not None and run.errors.shape[-1] == count
    ]
    logs = [own for own in errors if np.isfinite(own).all()]
    if not logs:
        return None
    ranks = np.argsort(np.argsort(np.mean(logs, axis=0), kind="stable"))
    return np.asarray(ranks / max(count - 1, 1))


def _difficulty(ranks: np.ndarray | None, number: int) -> str:
    if ranks is None:
        return ""
    if ranks[number] == 1:
        return "the hardest"
    return f"harder than {100 * ranks[number]:.0f} %"


def errors_of(members: Sequence[finished.Run], number: int) -> dict[str, float]:
    """The error of each run on a test sample, mean over the seeds, by label."""
    return {
        run.label: float(f"{run.errors[:, number].mean(dtype=np.float64):.4g}")
        for run in members
        if run.errors is not None and number < run.errors.shape[-1]
    }
