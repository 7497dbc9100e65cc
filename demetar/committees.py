"""Several trained models as one: the mean of what they predict, and how far apart they
are.

    model = demetar.committee(["runs/rmd17_ethanol/egnn", "runs/rmd17_ethanol/segnn"])
    model(positions=x, species=[6, 6, 8, 1, 1, 1, 1, 1, 1])["forces"]
    model.spread(positions=x, species=[6, 6, 8, 1, 1, 1, 1, 1, 1])["forces"]

The mean has smaller errors than its members as far as these err independently. If
forces are the gradient of the energy in each of them, they are so in the mean, and
dynamics conserve it.

Source: Seung, Opper, Sompolinsky 1992, doi 10.1145/130385.130417, "Query by committee";
Lakshminarayanan, Pritzel, Blundell 2017, arXiv 1612.01474, whose spread of an ensemble
stands for the uncertainty.
"""

from __future__ import annotations

import os
import pathlib
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
    runs = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    places = [predict.path_of(run).resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise _repeated(f"{os.fspath(run)} more than once")
    return Committee([_member(run, seed, dtype) for run in runs])


def _member(
    run: str | os.PathLike[str], seed: int | str | None, dtype: str | None
) -> Predictor:
    try:
        return predict.load(run, seed, dtype)
    except UserError as error:
        raise UserError(f"{os.fspath(run)}: {error}") from None


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
    runs = list(runs)
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
        for index, member in enumerate(members):
            _check_same(members[0], member)
            run = _run(member)
            if run is not None and run in map(_run, members[:index]):
                raise _repeated("copies of one run")
        first = members[0]
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
        return summary([member.values(found) for member in self.members])


def summary(values: Sequence[Values]) -> tuple[Values, Values]:
    """Of what two models or more predict, the mean and the standard deviation."""
    stacked = {name: np.stack([own[name] for own in values]) for name in values[0]}
    return (
        {name: own.mean(axis=0) for name, own in stacked.items()},
        {name: own.std(axis=0, ddof=1) for name, own in stacked.items()},
    )


def _run(member: Predictor) -> tuple[str, int | str] | None:
    """The training and the seed of a member; None if its file does not tell."""
    found = member.metadata.get("run_id")
    return (found, member.seed) if isinstance(found, str) and found else None


def _repeated(what: str) -> UserError:
    return UserError(f"expected different trained models for a committee, found {what}")


def _check_same(first: Predictor, other: Predictor) -> None:
    """Refuse models that do not predict the same values from the same inputs."""
    for what, one, two in (
        ("inputs", _inputs(first.task), _inputs(other.task)),
        ("outputs", _outputs(first.task), _outputs(other.task)),
        ("task", _name(first.task), _name(other.task)),
    ):
        if one != two:
            raise UserError(
                f"expected models of the same {what} for a committee, found {one!r} of "
                f"{first.model} and {two!r} of {other.model}; train them on the same "
                "data"
            )


def _inputs(task: TaskSpec) -> str:
    """The inputs, the order of their columns included."""
    scalars = f" ({', '.join(task.scalars)})" if task.scalars else ""
    lengths = f" in {task.length_unit}" if task.length_unit else ""
    return f"{named.describe_inputs(task)}{scalars}{lengths}"


def _outputs(task: TaskSpec) -> str:
    return ", ".join(
        f"{head.name}, {head.size} {head.kind.replace('_', ' ')}"
        + (f" in {head.unit}" if head.unit else "")
        for head in task.heads
    )


def _name(task: TaskSpec) -> str:
    """What the task is called, wherever the file of its data lies."""
    return pathlib.PurePath(task.name).name
