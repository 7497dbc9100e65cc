"""A verdict on every promise of a model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from demetar import models
from demetar.errors import UserError
from demetar.precision import precision
from demetar.testing import potentials, promises, symmetry
from demetar.testing.batches import ATOMS, MOLECULES, POTENTIAL, SHORT_RANGED, TASK
from demetar.testing.measure import BrokenPromise
from demetar.testing.subject import Subject, home_tasks
from demetar.testing.symmetry import Promise
from demetar.types import TaskSpec

_LABELS = {
    TASK.name: "charged bodies",
    MOLECULES.name: "molecules",
    ATOMS.name: "atoms of molecules",
    POTENTIAL.name: "energy and forces",
    SHORT_RANGED.name: "energy and forces within a cutoff",
}
SHAPES = "shapes and dtypes"
ALONE = "padding and batch mates"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model keeps a promise.

    Attributes:
      task: what it was tried on.
      promise: in a few words.
      kept: whether it does.
      detail: how well, or what is wrong; one line.
      seconds: that it took, mostly to compile.
    """

    task: str
    promise: str
    kept: bool
    detail: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """Promises that are tried on one task in one precision."""

    task: TaskSpec
    dtype: str
    promises: Mapping[str, Promise]

    @property
    def label(self) -> str:
        """What a person reads of it."""
        return f"{_LABELS[self.task.name]}, {self.dtype}"


def check(
    name: str,
    fields: Mapping[str, Any] | None = None,
    begin: Callable[[str, str], None] = lambda task, promise: None,
) -> Iterator[Verdict]:
    """Try every promise of a model, in its small configuration.

    What cannot be tried because the model gives no outputs is left out.

    Args:
      name: of the registry, or 'module:Class'.
      fields: other values of some fields.
      begin: is told the task and the promise before each is tried.

    Raises:
      UserError: there is no such model, or it cannot be built with these fields.
    """
    for trial in trials(name):
        subject = Subject(name, trial.dtype, fields, trial.task)
        for text, promise in trial.promises.items():
            begin(trial.label, text)
            verdict = _try(subject, trial, text, promise)
            yield verdict
            if text == SHAPES and not verdict.kept:
                break


def trials(name: str) -> list[Trial]:
    """What a model is tried on: a task for every kind of head that it supports.

    Everything is tried on the first one, the rest only if it may differ there.
    """
    of_group = symmetry.OF_SYMMETRY[models.model_class(name).symmetry]
    basic: dict[str, Promise] = {
        SHAPES: promises.assert_shapes,
        **of_group,
        "permutations": symmetry.assert_permutation,
    }
    further = {**basic, ALONE: promises.assert_mates_change_nothing}
    inputs: dict[str, Promise] = {
        "finite gradients": promises.assert_finite,
        "every input matters": promises.assert_every_input_matters,
    }
    potential: dict[str, Promise] = {
        SHAPES: promises.assert_shapes,
        "forces are slopes": potentials.assert_slopes,
        "no net force or torque": potentials.assert_at_rest,
        "forward and reverse mode": potentials.assert_both_modes,
        "finite second derivatives": promises.assert_finite,
    }
    first: dict[str, Promise] = {
        **basic,
        ALONE: promises.assert_alone,
        **inputs,
        "one compilation per size": promises.assert_one_trace,
        "forward and reverse mode": potentials.assert_both_modes,
        "initial values": promises.assert_initial_values,
        "the loss falls": promises.assert_learns,
        "saving and loading": promises.assert_saves_and_loads,
    }
    home, *others = home_tasks(name)
    more = [
        Trial(task, "float32", further | (inputs if task is MOLECULES else {}))
        for task in others
    ]
    precise = Trial(home, "float64", {**basic, ALONE: promises.assert_alone})
    found = [Trial(home, "float32", first), *more, precise]
    if models.has_forces(name):
        if models.model_class(name).fades_at_cutoff:
            potential["no jump at the cutoff"] = potentials.assert_fades
        task = potentials.potential_task(name)
        found.append(Trial(task, "float64", potential))
    return found


def _try(subject: Subject, trial: Trial, text: str, promise: Promise) -> Verdict:
    start = time.perf_counter()
    try:
        with precision(trial.dtype):
            kept, detail = True, promise(subject)
    except (BrokenPromise, UserError) as error:
        kept, detail = False, str(error)
    except Exception as error:  # of the model's own code
        kept, detail = False, models.own.describe(error, subject.name)
    return Verdict(trial.label, text, kept, detail, time.perf_counter() - start)
