"""The settings of a run, made of those of data, training, optimiser and model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from demetar import models
from demetar.errors import UserError
from demetar.settings import (
    COUNT,
    NOT_NEGATIVE,
    TRAINING,
    Bounds,
    replaced,
    setting,
    values_of,
)
from demetar.train import loop, optim
from tools.command_line import MOST_DIGITS

PAPER, PROJECT = "paper", "project"  # who chose a protocol
MOST_SEEDS = 10_000  # replicas that train side by side
LATER = {"adaptive_clip": False}  # settings since 0.2.0, as runs before were trained


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a model is trained.

    Attributes:
      source: where the settings are from; of a paper's with its section.
      origin: `PAPER` or `PROJECT`: who chose the settings.
      name: of the protocol among those of the model; `named` fills it in.
      data: what is read of the data, `nbody.Data` or `qm9.Settings`; None until the
        data set is known.
      of_data: settings of the data, in place of what the data set settles.
      training, optimizer: as the trainer takes them.
      fields: of the model, other than its defaults.
    """

    source: str
    origin: str = PROJECT
    name: str = ""
    data: Any = None
    of_data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: loop.Settings = loop.Settings(epochs=1_000)
    optimizer: optim.Settings = optim.Settings()
    batch_size: int = setting(100, "Graphs per batch.", TRAINING, COUNT)
    phase: tuple[str, ...] = setting(
        (),
        "How the run begins: EPOCHS:field=value,... has other fields of the model, or "
        "another loss_floor, for so many epochs. After the last phase comes the run as "
        "the other settings say. An empty text stands for no phase.",
        TRAINING,
        repeatable=True,
    )
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The seeds that train side by side, and their precision."""

    seed: int = setting(
        1,
        "Seed of the initialisation and of the order of the data.",
        TRAINING,
        NOT_NEGATIVE,
    )
    num_seeds: int = setting(
        1,
        "Replicas with the seeds seed, seed + 1, ... in one compiled program.",
        TRAINING,
        Bounds(1, MOST_SEEDS, advice="start further runs with another --seed"),
    )
    dtype: str = setting(
        "float32",
        "Precision of the training.",
        TRAINING,
        choices=("float32", "float64"),
    )

    def __post_init__(self) -> None:
        """Refuse seeds that are no 32-bit integers, with a UserError."""
        if self.seed + self.num_seeds > 2**31:
            raise UserError(f"expected --seed below 2^31, found {self.seed}")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all replicas."""
        return tuple(range(self.seed, self.seed + self.num_seeds))


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides a run but for the content of the data set.

    Attributes:
      dataset: its name, or its folder.
      model: its name.
      protocol: with all that was changed of it.
      replicas: the seeds and the precision.
    """

    dataset: str
    model: str
    protocol: Protocol
    replicas: Replicas = Replicas()

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of the model, other than its defaults."""
        return self.protocol.fields

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """A copy with the settings of these names."""
        return replaced(self, values)

    def with_protocol(self, **changes: Any) -> Settings:
        """A copy with other attributes of the protocol."""
        return dataclasses.replace(
            self, protocol=dataclasses.replace(self.protocol, **changes)
        )

    def config(self) -> dict[str, Any]:
        """All settings by name, as config.json has them.

        One that came later is left out while it is what it was before, so that runs
        of earlier releases go on.
        """
        known = values_of(self)
        for name, before in LATER.items():
            if known.get(name) == before:
                del known[name]
        return {
            "dataset": self.dataset,
            "model": self.model,
            "protocol": self.protocol.name,
            "origin": self.protocol.origin,
            "fields": dict(self.fields),
            **known,
        }

    def reading(self) -> Any:
        """What is read of the data, with the sizes and the precision of the batches."""
        return dataclasses.replace(
            self.protocol.data,
            batch_size=self.protocol.batch_size,
            dtype=self.replicas.dtype,
        )

    def training(self) -> tuple[loop.Settings, optim.Settings]:
        """The settings as the trainer takes them."""
        told = values_of(self.protocol.training)
        return (
            loop.Settings(seeds=self.replicas.seeds, **told),
            self.protocol.optimizer,
        )


def named(known: Mapping[str, Protocol], model: str, name: str) -> Protocol:
    """The one of that name among the known protocols of a model, with its name.

    Args:
      known: by name.
      model: as the error calls it.
      name: 'default' for the paper's if there is one, else the project's.

    Raises:
      UserError: there is none.
    """
    if name == "default" and "paper" in known:
        name = "paper"
    if name not in known:
        names = dict.fromkeys(("default", *known))
        raise UserError(
            f"{model} has no protocol {name!r}; expected one of {', '.join(names)}"
        )
    return dataclasses.replace(known[name], name=name)


def describe(protocol: Protocol, changed: Mapping[str, Any]) -> str:
    """The protocol, who chose it and what departs from it, in one line."""
    whose = "" if protocol.origin == PAPER else ", of this project"
    text = f"{protocol.name}{whose}: {protocol.source}"
    if not changed:
        return text
    changes = ", ".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return f"{text}; changed: {changes}"


@dataclasses.dataclass(frozen=True)
class Phase:
    """A parsed phase: the fields that it changes, and the floor of the loss."""

    epochs: int
    fields: Mapping[str, Any]
    loss_floor: float | None


def parse_phase(model: str, text: str) -> Phase:
    """A phase 'EPOCHS:field=value,...' of a model.

    Raises:
      UserError: it is malformed, or the model has no such field.
    """
    epochs, colon, assignments = text.partition(":")
    is_number = epochs.isdecimal() and len(epochs) <= MOST_DIGITS
    if not (colon and is_number and int(epochs)):
        raise UserError(
            f"expected --phase=EPOCHS:field=value,... with at least 1 epoch, "
            f"found {text!r}"
        )
    given = [item for item in assignments.split(",") if item]
    floors = [item for item in given if item.startswith("loss_floor=")]
    fields = models.parse_fields(model, [item for item in given if item not in floors])
    return Phase(int(epochs), fields, _floor(floors))


def _floor(assignments: Sequence[str]) -> float | None:
    """The last of several 'loss_floor=NUMBER'; None for none of them."""
    values = []
    for item in assignments:
        try:
            values.append(float(item.partition("=")[2]))
        except ValueError:
            raise UserError(f"expected a number, found {item!r} in --phase") from None
        if not 0 < values[-1] < math.inf:
            raise UserError(f"expected a loss_floor above 0, found {item!r} in --phase")
    return values[-1] if values else None
