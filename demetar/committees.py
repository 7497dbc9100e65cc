"""Several trained models as one: the mean of what they predict, and how far apart they
are.

    model = demetar.committee(["runs/rmd17_ethanol/egnn", "runs/rmd17_ethanol/segnn"])
    model(positions=x, species="CCOHHHHHH")["forces"]
    model.spread(positions=x, species="CCOHHHHHH")["forces"]

The mean has smaller errors than its members as far as these err independently, which
models of different kinds do more than seeds of one. Forces of the mean are the gradient
of the mean energy, so that dynamics conserve it.

Source: Seung, Opper, Sompolinsky 1992, doi 10.1145/130385.130417, "Query by committee";
Lakshminarayanan, Pritzel, Blundell 2017, arXiv 1612.01474, whose spread of an ensemble
stands for the uncertainty.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from demetar import predict
from demetar.data import systems as named
from demetar.data.systems import Systems
from demetar.errors import UserError
from demetar.predict import Function, Predictor, Values
from demetar.types import TaskSpec


def committee(
    runs: Sequence[str | os.PathLike[str]],
    seed: int | str | None = None,
    dtype: str | None = None,
) -> Committee:
    """Several trained models as one.

    Args:
      runs: each as `demetar.load` takes it.
      seed, dtype: of `demetar.load`, for all of them.

    Raises:
      UserError: one cannot be loaded or is there twice, or they do not predict the same
        from the same.
    """
    if isinstance(runs, str | os.PathLike):
        runs = [runs]
    places = [predict.path_of(run).resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise UserError(
                f"expected each trained model of a committee once, found {run} "
                f"{places.count(place)} times"
            )
    return Committee([predict.load(run, seed, dtype) for run in runs])


def load(
    runs: Sequence[str | os.PathLike[str]],
    seed: int | str | None = None,
    dtype: str | None = None,
) -> Function:
    """One trained model, or the committee of several.

    Args:
      runs, seed, dtype: of `committee`.

    Raises:
      UserError: as `committee` does.
    """
    if len(runs) == 1:
        return predict.load(runs[0], seed, dtype)
    return committee(runs, seed, dtype)


class Committee(Function):
    """Several trained models as one function of arrays: the mean of their values.

    It is called as a `Predictor` is.

    Args:
      members: two trained models or more.

    Attributes:
      model, seed: those of the members, joined by '+'.
      task, metadata: of the first.

    Raises:
      UserError: there are fewer, or they do not predict the same from the same.
    """

    def __init__(self, members: Sequence[Predictor]):
        if len(members) < 2:
            raise UserError(
                "expected at least two trained models for a committee, found "
                f"{len(members)}; demetar.load takes one"
            )
        first = members[0]
        for other in members[1:]:
            _check_same(first, other)
        self._members = tuple(members)
        self.task, self.metadata = first.task, first.metadata
        self.model = "+".join(member.model for member in members)
        self.seed = "+".join(str(member.seed) for member in members)

    def __repr__(self) -> str:
        return (
            f"<demetar committee of {self.model} of the task {self.task.name!r}: "
            f"{named.describe_inputs(self.task)} -> {', '.join(self.units)}>"
        )

    @property
    def members(self) -> tuple[Predictor, ...]:
        return self._members

    def values(self, found: Systems) -> Values:
        return self.mean_and_spread(found)[0]

    def spread(self, positions: Any = None, **inputs: Any) -> dict[str, Any]:
        """By how much the members differ: the standard deviation of each value.

        That of a sample: the members less one are what is divided by.

        Args:
          positions, inputs: of a call.

        Returns:
          As a call does, in the same units.

        Raises:
          UserError: as a call does.
        """
        found = named.parse(self.task, {named.POSITIONS: positions, **inputs})
        return self._as_given(self.mean_and_spread(found)[1], found)

    def mean_and_spread(self, found: Systems) -> tuple[Values, Values]:
        """Of every value the mean over the members, and their standard deviation."""
        values = [member.values(found) for member in self.members]
        stacked = {name: np.stack([own[name] for own in values]) for name in values[0]}
        return (
            {name: own.mean(axis=0) for name, own in stacked.items()},
            {name: own.std(axis=0, ddof=1) for name, own in stacked.items()},
        )


def _check_same(first: Predictor, other: Predictor) -> None:
    """Refuse models that do not predict the same values from the same inputs."""
    for what, one, two in (
        ("inputs", _inputs(first.task), _inputs(other.task)),
        ("outputs", _outputs(first.task), _outputs(other.task)),
    ):
        if one != two:
            raise UserError(
                f"expected models of the same {what} for a committee, found {one} of "
                f"{first.model} and {two} of {other.model}; train them on the same data"
            )


def _inputs(task: TaskSpec) -> str:
    """The inputs, the order of their columns included."""
    scalars = f" ({', '.join(task.scalars)})" if task.scalars else ""
    lengths = f" in {task.length_unit}" if task.length_unit else ""
    return f"{named.describe_inputs(task)}{scalars}{lengths}"


def _outputs(task: TaskSpec) -> str:
    return ", ".join(
        f"{head.size} {head.kind} {head.name}"
        + (f" in {head.unit}" if head.unit else "")
        + (f" of {head.quantity}" if head.quantity else "")
        for head in task.heads
    )
