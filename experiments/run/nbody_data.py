"""The data of `experiments.nbody`: named sets, generated on first use, and folders."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from demetar.data import nbody, nbody_files
from demetar.data.dataset import Dataset
from demetar.errors import UserError
from demetar.types import TaskSpec
from experiments import protocols
from experiments.run import workdir

# What a generated set, and no folder, can be asked for.
_OF_NAMED_SETS = {
    "data_seed": "a fresh set",
    "num_bodies": "another size",
    "full_data": "all of a large set",
}
# What the settings of a run say of its data.
READ = (
    *("num_train", *_OF_NAMED_SETS),
    *(field.name for field in dataclasses.fields(nbody.Settings)),
)
# Of --eval_dataset: a named set with another size, other frames, or both.
_VARIANT = re.compile(r"(\w+?)(?:-(\d+)bodies)?(?:-frames(\d+)-(\d+))?")


def load(settings: dict[str, Any], root: pathlib.Path) -> tuple[Dataset, pathlib.Path]:
    """The data set of the settings, and its folder; a named one is generated.

    Frames, graphs and numbers that are left open are filled into the settings.

    Args:
      settings: of a run.
      root: where generated data sets are kept.

    Raises:
      UserError: there is no such data set, it cannot be generated, or it does not hold
        what is asked for.
    """
    name = settings["dataset"]
    if name in protocols.DATASETS:
        protocol = protocols.DATASETS[name]
        if is_quick(settings):
            most = protocols.QUICK[name]["num_train"]
            if (settings["num_train"] or 0) > most:
                raise UserError(
                    f"expected --num_train of at most {most}, which the quick start on "
                    f"{name} generates, found {settings['num_train']}; --full_data "
                    f"generates all {protocol.num_train:,}"
                )
            protocol = dataclasses.replace(protocol, num_train=most)
        _fill(settings, protocol)
        nbody.check_neighbors(settings["num_bodies"], reading(settings), name)
        folder = generated(settings, root)
    else:
        folder = _folder(name, settings)
        frames = nbody_files.read_metadata(folder)["frames"]
        _fill(settings, protocols.folder_protocol(frames))
    dataset = nbody.load(folder, reading(settings))
    settings["num_train"] = len(dataset.splits["train"])
    return dataset, folder


def reading(settings: Mapping[str, Any]) -> nbody.Settings:
    """What is read of the folder."""
    names = [field.name for field in dataclasses.fields(nbody.Settings)]
    return nbody.Settings(**{name: settings[name] for name in names})


def is_quick(settings: Mapping[str, Any]) -> bool:
    """Whether a part of a large data set will do."""
    return settings["dataset"] in protocols.QUICK and not settings["full_data"]


def _folder(name: str, settings: Mapping[str, Any]) -> pathlib.Path:
    known = ", ".join(protocols.DATASETS)
    for flag, what in _OF_NAMED_SETS.items():
        if settings[flag] not in (None, False):
            raise UserError(f"--{flag} makes {what} of {known}, found --dataset={name}")
    folder = pathlib.Path(name)
    if not folder.exists():
        raise UserError(
            f"expected --dataset to be {known} or an existing folder, found {name!r}"
        )
    return folder


def _fill(settings: dict[str, Any], protocol: protocols.DataProtocol) -> None:
    """The protocol's values for what the settings leave open."""
    own = dataclasses.asdict(protocol)
    if (settings["connectivity"] or protocol.connectivity) == "knn":
        own["num_neighbors"] = protocol.num_neighbors or protocols.NUM_NEIGHBORS
    elif settings["num_neighbors"] is not None:
        raise UserError(
            "--num_neighbors is of nearest-neighbour graphs: give --connectivity=knn"
        )
    else:
        own["num_neighbors"] = None
    for name, value in own.items():
        if settings[name] is None:
            settings[name] = value


def _recipe(settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The folder's name and the generator's arguments.

    The published sets come with all frames; what departs from them by more than the
    seed with those that are read.
    """
    name, seed = settings["dataset"], settings["data_seed"]
    protocol = protocols.DATASETS[name]
    labels, arguments = [name], [f"--preset={name}"]
    if seed is not None:
        labels.append(f"seed{seed}")
        arguments.append(f"--seed={seed}")
    bodies = settings["num_bodies"]
    lean = name in protocols.QUICK
    if bodies != protocol.num_bodies:
        lean = True
        labels.append(f"{bodies}bodies")
        arguments.append(f"--num_bodies={bodies}")
    if reading(settings).needs_forces and name != "gravity":  # which has them always
        lean = True
        labels.append("forces")
        arguments.append("--save_forces")
    if lean:
        ends = [settings["start_frame"], settings["target_frame"]]
        frames = [str(frame) for frame in sorted({*ends})]
        arguments.append(f"--save_frames={','.join(frames)}")
        if ends != [protocol.start_frame, protocol.target_frame]:
            labels.append(f"frames{'-'.join(frames)}")
    if is_quick(settings):
        labels.append("quick")
        sizes = protocols.QUICK[name]
        arguments += [f"--{flag}={size}" for flag, size in sizes.items()]
        # In the published stream these would be training simulations of the full set.
        arguments.append("--random_stream=jax")
    return "-".join(labels), arguments


def generated(settings: Mapping[str, Any], root: pathlib.Path) -> pathlib.Path:
    """The folder of a named data set; it is written on first use.

    The generator works in float64, in a process of its own.

    Raises:
      UserError: the generator failed.
    """
    label, arguments = _recipe(settings)
    folder = root / label
    if (folder / "metadata.json").exists():
        return folder
    print(f"generating {label} in {folder}", flush=True)
    if is_quick(settings):
        total = sum(protocols.QUICK[settings["dataset"]].values())
        print(
            f"a quick start: {total} simulations, those that it needs; --full_data "
            "generates the whole set of the paper",
            flush=True,
        )
    command = [sys.executable, "-m", "tools.generate_nbody", *arguments]
    process = subprocess.run([*command, f"--out={folder}"], check=False)
    if process.returncode:
        raise UserError(
            f"the data could not be generated (exit code {process.returncode}); "
            "the reason stands above; --data_dir chooses another place"
        )
    return folder


def load_other(
    name: str,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    trained_on: tuple[TaskSpec, pathlib.Path],
    root: pathlib.Path,
) -> Dataset:
    """A data set that a model of another one is evaluated on, as that one was read.

    Args:
      name: a named data set, a variant of one as nbody_small-20bodies,
        nbody_small-frames20-30 or nbody_small-20bodies-frames20-30, or a folder.
      given: settings of the run as the flags gave them: frames that were not chosen are
        the other data set's own.
      settings: settings of the run as `load` filled them in.
      trained_on: task and folder of the model's own data set.
      root: where generated data sets are kept.

    Raises:
      UserError: there is no such data set, or it has other inputs or targets, or looks
        further or less far ahead.
    """
    same = ("connectivity", "num_neighbors")
    other = {**given, **{key: settings[key] for key in same}}
    other |= {"dataset": name, "data_seed": None, "num_bodies": None, "num_train": 1}
    other |= _variant(name)
    if other["dataset"] not in protocols.QUICK:
        other["full_data"] = False
    try:
        dataset, folder = load(other, root)
    except UserError as error:
        raise UserError(f"--eval_dataset={name}: {error}") from None
    task, own_folder = trained_on
    differences = workdir.task_differences(dataset.task, task, "the model")
    if differences:
        raise UserError(f"--eval_dataset={name} does not fit: it has {differences}")
    found, expected = horizon(folder, other), horizon(own_folder, settings)
    if found and expected and not math.isclose(found, expected):
        raise UserError(
            f"--eval_dataset={name} looks {found:g} ahead where the model looks "
            f"{expected:g}; choose --start_frame and --target_frame for both"
        )
    return dataset


def _variant(name: str) -> dict[str, Any]:
    """What the name of a variant of a named data set says of it; else nothing."""
    found = _VARIANT.fullmatch(name)
    if not found or found[1] not in protocols.DATASETS:
        return {}
    keys = ("num_bodies", "start_frame", "target_frame")
    numbers = zip(keys, found.groups()[1:], strict=True)
    return {"dataset": found[1]} | {
        key: int(number) for key, number in numbers if number is not None
    }


def horizon(folder: pathlib.Path, settings: Mapping[str, Any]) -> float | None:
    """Time from the start frame to the target frame, where the folder tells.

    Args:
      folder: of the data set.
      settings: of a run, with both frames filled in.
    """
    made = nbody_files.read_metadata(folder)["settings"]
    if not {"dt", "sample_every"} <= made.keys():
        return None
    frames = settings["target_frame"] - settings["start_frame"]
    return made["dt"] * made["sample_every"] * frames
