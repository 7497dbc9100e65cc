"""The flags that training commands share, and the settings that they amount to."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from demetar import models
from demetar.data.dataset import Dataset
from demetar.distributed import launch
from demetar.settings import (
    COUNT,
    MODEL,
    NOT_NEGATIVE,
    OUTPUT,
    PROCESSES,
    setting,
    values_of,
)
from demetar.train import loop, optim
from experiments.protocols.settings import Protocol, Replicas, Settings, parse_phase
from experiments.run import sizes, workdir
from tools.command_line import Given


@dataclasses.dataclass(frozen=True)
class Choice:
    """The model, and whose settings it is trained with."""

    model: str | None = setting(
        None,
        f"Model to train: {', '.join(models.REGISTRY)}, or a class of your own as "
        f"{models.own.FORM}. Required.",
        MODEL,
    )
    protocol: str = setting(
        "default",
        "Named settings of the model: paper, tuned, fast or preset, if it has them; "
        "default stands for the paper's if there is one for these data, else the "
        "project's.",
        MODEL,
    )
    set: tuple[str, ...] = setting(
        (),
        "field=value of the model, as in --set=hidden_size=32.",
        MODEL,
        repeatable=True,
    )
    config: str | None = setting(
        None,
        "A run to repeat: its work directory or the config.json in it. Other flags "
        "replace what it says.",
        MODEL,
    )


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a run is kept."""

    workdir: str | None = setting(
        None,
        "Work directory.",
        OUTPUT,
        default_words="runs/DATASET/MODEL, with the changed settings appended",
    )
    compile_cache: bool = setting(
        False, "Keep compiled programs in ~/.cache/demetar/programs.", OUTPUT
    )
    figure_every: int = setting(
        0,
        "Evaluations between pictures of features, attention and symmetry errors in "
        "TensorBoard, of the first validation sample; 0 draws none.",
        OUTPUT,
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Processes:
    """What computes."""

    cpu_devices: int | None = setting(
        None,
        "Devices to make of the cores of a processor; they share each batch.",
        PROCESSES,
        COUNT,
        default_words=f"one per core, at most {launch.MOST_CORES}; 1 with "
        "--coordinator",
    )
    coordinator: str | None = setting(
        None,
        "HOST:PORT of process 0, for a run of several processes, each of which is "
        f"given the same flags; or {launch.CLUSTER}: as Slurm, Open MPI, Kubernetes or "
        "a TPU pod say in their environment.",
        PROCESSES,
    )
    num_processes: int | None = setting(
        None, "Processes of the run, with --coordinator.", PROCESSES
    )
    process_id: int | None = setting(
        None, "Number of this process, from 0; process 0 writes.", PROCESSES
    )


OPEN = "the protocol's"  # default of what a protocol says
SHARED = (
    Choice,
    *((loop.Settings, OPEN), (Protocol, OPEN), (optim.Settings, OPEN)),
    *(Replicas, Output, Processes),
)


def resolve(given: Given, protocol: Protocol, dataset: str) -> Settings:
    """The settings of the run, but for the data if the protocol has none.

    Args:
      given: the flags; they replace the settings of the same names.
      protocol: of the model.
      dataset: name of the data.

    Raises:
      UserError: the model has no such field, or a phase is malformed.
    """
    choice = given.read(Choice)
    assert choice.model is not None
    settings = Settings(dataset, choice.model, protocol, given.read(Replicas))
    settings = settings.changed(given)
    fields = chosen_fields(given, protocol)
    phases = tuple(filter(None, settings.protocol.phase))
    for text in phases:
        parse_phase(choice.model, text)  # refuses a malformed one
    return settings.with_protocol(fields={**protocol.fields, **fields}, phase=phases)


def chosen_fields(given: Given, protocol: Protocol) -> dict[str, Any]:
    """The fields of the model that a person set, checked.

    Of those in a file of settings, the ones that depart from the protocol.

    Raises:
      UserError: unknown field, a value of the wrong type, or an absurd size.
    """
    choice = given.read(Choice)
    assert choice.model is not None
    fields = models.check_fields(choice.model, given.fields)
    fields = {
        name: value
        for name, value in fields.items()
        if name not in protocol.fields or value != protocol.fields[name]
    }
    fields |= models.parse_fields(choice.model, choice.set)
    fields = models.check_fields(choice.model, fields)
    sizes.check_fields(choice.model, fields)
    return fields


def changes(
    given: Given,
    protocol: Protocol,
    of_data: Mapping[str, Any],
    automatic: Mapping[str, Any],
) -> dict[str, Any]:
    """The settings that depart from the protocol, by name.

    Args:
      given: the flags.
      protocol: of the model, as it was before.
      of_data: settings of the data if nobody says anything; None for those that the
        data set settles: whatever a person says of them is a change.
      automatic: fields of the model that follow from the data.
    """
    plain = {**values_of(protocol), **values_of(Replicas()), **of_data}
    found = {}
    for name, value in given.items():
        if name == "phase":
            value = tuple(filter(None, value))
        if name in plain and value != plain[name]:
            found[name] = value
    assigned = {text.partition("=")[0] for text in given.read(Choice).set}
    for name, value in chosen_fields(given, protocol).items():
        follows = name in automatic and value == automatic[name]
        if name in assigned or not follows:
            found[name] = value
    return found


def default_workdir(settings: Settings, changed: Mapping[str, Any]) -> pathlib.Path:
    """A folder of its own for every choice of settings, named by what was changed."""
    parts = [workdir.model_folder(settings.model)]
    if settings.protocol.name not in ("paper", "default"):
        parts.append(settings.protocol.name)
    for name, value in sorted(changed.items()):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{name}={text.replace('/', '_')}")
    return pathlib.Path("runs") / pathlib.Path(settings.dataset).name / "-".join(parts)


def make_phases(settings: Settings, dataset: Dataset) -> list[loop.Phase]:
    """The phases that the run begins with, as the trainer takes them."""
    phases, end = [], 0
    for text in settings.protocol.phase:
        phase = parse_phase(settings.model, text)
        end += phase.epochs
        fields = {**settings.fields, **phase.fields}
        model = models.build(settings.model, dataset.task, fields)
        phases.append(loop.Phase(end, model, phase.loss_floor))
    return phases
