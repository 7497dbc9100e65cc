"""The flags that training commands share, and the settings that they amount to."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from demetar import models
from demetar.data.dataset import Dataset
from demetar.distributed import launch
from demetar.errors import UserError
from demetar.train import loop, optim
from experiments import protocols
from experiments.run import sizes

# The least value of each number that has one.
LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "eval_every": 1,
    "num_seeds": 1,
    "seed": 0,
    "warmup_epochs": 0,
    "weight_decay": 0,
    "clip_norm": 0,
    "average_decay": 0,
    "clip_each": 0,
    "num_bodies": 2,
    "num_neighbors": 1,
}

MOST_SEEDS = 10_000  # replicas that train side by side
RUN_FLAGS = ("seed", "num_seeds", "dtype", "target", "augment")  # with defaults

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", None, f"Model to train: {', '.join(models.REGISTRY)}. Required."
)
flags.DEFINE_integer(
    "num_train",
    None,
    "Training samples: the first of the whole set. Default: the protocol's.",
)
flags.DEFINE_string(
    "protocol",
    "default",
    "Named settings of the model: paper, tuned or preset, if it has them. default: the "
    "paper's if there is one for these data, else the project's.",
)
flags.DEFINE_integer("batch_size", None, "Graphs per batch. Default: the protocol's.")
flags.DEFINE_integer("epochs", None, "Passes over the data. Default: the protocol's.")
flags.DEFINE_float("learning_rate", None, "Highest rate. Default: the protocol's.")
flags.DEFINE_enum(
    "schedule", None, optim.SCHEDULES, "Of the rate. Default: the protocol's."
)
flags.DEFINE_enum("optimizer", None, optim.OPTIMIZERS, "Default: the protocol's.")
flags.DEFINE_float("weight_decay", None, "Default: the protocol's.")
flags.DEFINE_integer("warmup_epochs", None, "Linear warm-up. Default: the protocol's.")
flags.DEFINE_float(
    "clip_norm", None, "Bound on the gradient's norm, 0: none. Default: the protocol's."
)
flags.DEFINE_float(
    "average_decay",
    None,
    "Decay of the moving average of the parameters that is evaluated, 0: none. "
    "Default: the protocol's.",
)
flags.DEFINE_enum(
    "loss_transform",
    None,
    loop.LOSS_TRANSFORMS,
    "Of the error of each graph: none, or log(error + floor) / 2.",
)
flags.DEFINE_float(
    "loss_floor", None, "Of --loss_transform=log. Default: the protocol's."
)
flags.DEFINE_float(
    "clip_each",
    None,
    "Bound on the norm of each graph's gradient, 0: none. Default: the protocol's.",
)
flags.DEFINE_multi_string(
    "phase",
    None,
    "How the run begins: EPOCHS:field=value,... of the model, or loss_floor=value. "
    "Repeatable; an empty one stands for none. Default: the protocol's.",
)
flags.DEFINE_enum(
    "augment", "none", loop.AUGMENTATIONS, "For models that are not equivariant."
)
flags.DEFINE_integer("eval_every", None, "Epochs between evaluations on valid.")
flags.DEFINE_integer("seed", 1, "Seed of initialisation and order of the data.")
flags.DEFINE_integer(
    "num_seeds", 1, "Replicas with seeds seed, seed + 1, ... in one compiled program."
)
flags.DEFINE_multi_string(
    "set", [], "field=value of the model, e.g. --set hidden_size=32. Repeatable."
)
flags.DEFINE_string(
    "workdir", None, "Work directory. Default: runs/DATASET/MODEL, changes appended."
)
flags.DEFINE_bool(
    "compile_cache", False, "Keep compiled programs in ~/.cache/demetar/programs."
)
flags.DEFINE_enum("dtype", "float32", ("float32", "float64"), "Of the training.")
flags.DEFINE_integer(
    "cpu_devices",
    None,
    "Devices to make of a processor's cores; they share each batch. Default: one per "
    f"core, at most {launch.MOST_CORES}; 1 with --coordinator.",
    lower_bound=1,
)
flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, for a run of several processes, of which each is given "
    f"the same flags; or {launch.CLUSTER}: as Slurm, Open MPI, Kubernetes or a TPU "
    "pod say in their environment.",
)
flags.DEFINE_integer("num_processes", None, "Of the run, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Of this process, from 0; 0 writes.")


def resolve(
    protocol: protocols.Protocol, own_flags: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All settings of the run, and those that depart from the protocol.

    Args:
      protocol: whose values the flags of the same names replace.
      own_flags: names of the command's other flags that are settings.
    """
    settings: dict[str, Any] = dataclasses.asdict(protocol)
    del settings["source"], settings["name"]
    changed = {}
    for name in settings:
        value = getattr(FLAGS, name, None)
        if name == "phase" and value is not None:
            value = tuple(filter(None, value))
        if value is not None and value != settings[name]:
            changed[name] = settings[name] = value
    fields = models.parse_fields(FLAGS.model, FLAGS.set)
    fields = models.check_fields(FLAGS.model, fields)
    sizes.check_fields(FLAGS.model, fields)
    changed |= fields
    settings["fields"] = {**protocol.fields, **fields}
    for name in (*own_flags, *RUN_FLAGS):
        settings[name] = getattr(FLAGS, name)
        if settings[name] != FLAGS[name].default:
            changed[name] = settings[name]
    check_ranges(settings)
    for text in settings["phase"]:
        protocols.parse_phase(FLAGS.model, text)  # refuses a malformed one
    settings |= {"model": FLAGS.model, "protocol": protocol.name}
    return settings, changed


def check_ranges(settings: dict[str, Any]) -> None:
    """Refuse numbers that no run can be made with."""
    for name, least in LEAST.items():
        value = settings.get(name)
        if value is not None and not least <= value < math.inf:  # nor NaN
            raise UserError(f"expected --{name} of at least {least}, found {value}")
    if settings["num_seeds"] > MOST_SEEDS:
        raise UserError(
            f"expected --num_seeds of at most {MOST_SEEDS:,}, found "
            f"{settings['num_seeds']}; start further runs with another --seed"
        )
    for name in ("learning_rate", "loss_floor"):
        if not 0 < settings[name] < math.inf:
            raise UserError(f"expected a --{name} above 0, found {settings[name]}")
    if settings["average_decay"] >= 1:
        raise UserError(
            f"expected an --average_decay below 1, found {settings['average_decay']}"
        )
    if settings["seed"] + settings["num_seeds"] > 2**31:
        raise UserError(f"expected --seed below 2^31, found {settings['seed']}")


def default_workdir(settings: dict[str, Any], changed: dict[str, Any]) -> pathlib.Path:
    """A folder of its own for every choice of settings, named by what was changed."""
    parts = [settings["model"]]
    if settings["protocol"] not in ("paper", "default"):
        parts.append(settings["protocol"])
    for name, value in sorted(changed.items()):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{name}={text.replace('/', '_')}")
    return (
        pathlib.Path("runs") / pathlib.Path(settings["dataset"]).name / "-".join(parts)
    )


def training_settings(
    settings: dict[str, Any], dataset: Dataset
) -> tuple[loop.Settings, optim.Settings]:
    """The settings as the trainer takes them."""
    seed, per_epoch = settings["seed"], len(dataset.plan("train")["weight"])
    run = loop.Settings(
        epochs=settings["epochs"],
        eval_every=settings["eval_every"],
        seeds=tuple(range(seed, seed + settings["num_seeds"])),
        augment=settings["augment"],
        average_decay=settings["average_decay"],
        loss_transform=settings["loss_transform"],
        loss_floor=settings["loss_floor"],
        clip_each=settings["clip_each"],
    )
    optimizer = optim.Settings(
        optimizer=settings["optimizer"],
        learning_rate=settings["learning_rate"],
        schedule=settings["schedule"],
        warmup_steps=settings["warmup_epochs"] * per_epoch,
        weight_decay=settings["weight_decay"],
        clip_norm=settings["clip_norm"],
    )
    return run, optimizer


def make_phases(settings: dict[str, Any], dataset: Dataset) -> list[loop.Phase]:
    """The phases that the run begins with, as the trainer takes them."""
    name, phases, end = settings["model"], [], 0
    for text in settings["phase"]:
        phase = protocols.parse_phase(name, text)
        end += phase.epochs
        fields = {**settings["fields"], **phase.fields}
        model = models.build(name, dataset.task, fields)
        phases.append(loop.Phase(end, model, phase.loss_floor))
    return phases
