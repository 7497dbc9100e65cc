"""The data of `experiments.nbody`: named sets, generated on first use, and folders."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from demetar import settings as fields
from demetar.data import nbody, nbody_files
from demetar.data.dataset import Dataset
from demetar.errors import UserError
from demetar.types import TaskSpec
from experiments.protocols import nbody as protocols
from experiments.protocols.nbody import Data
from experiments.run import generators, workdir

# What a generated set, and no folder, can be asked for.
_OF_NAMED_SETS = {
    "data_seed": "a fresh set",
    "num_bodies": "another size",
    "full_data": "all of a large set",
}
# Of --eval_dataset: a named set with another size, other frames, or both.
_VARIANT = re.compile(r"(\w+?)(?:-(\d+)bodies)?(?:-frames(\d+)-(\d+))?")


def settle(name: str, given: Mapping[str, Any]) -> Data:
    """What is read of a data set, if a person leaves open what that settles.

    Args:
      name: of the data set, or a folder.
      given: settings of `Data` that a person chose.

    Raises:
      UserError: there is no such data set, or it cannot be what is asked for.
    """
    if name in protocols.DATASETS:
        own = protocols.DATASETS[name]
        if is_quick(name, given.get("full_data", False)):
            own = _quick(name, own, given)
    else:
        folder = _folder(name, given)
        own = protocols.folder_data(nbody_files.read_metadata(folder)["frames"])
    neighbors = None
    if given.get("connectivity", own.connectivity) == "knn":
        neighbors = own.num_neighbors or protocols.NUM_NEIGHBORS
    elif "num_neighbors" in given:
        raise UserError(
            "--num_neighbors is of nearest-neighbour graphs: give --connectivity=knn"
        )
    data = fields.replaced(own, {"num_neighbors": neighbors, **given})
    if data.num_bodies is not None:
        nbody.check_neighbors(data.num_bodies, data, name)
    return data


def load(name: str, data: Data, root: pathlib.Path) -> tuple[Dataset, pathlib.Path]:
    """A data set and its folder; a named one is generated.

    Args:
      name: of the data set, or a folder.
      data: what is read of it.
      root: where generated data sets are kept.

    Raises:
      UserError: it cannot be generated, or does not hold what is asked for.
    """
    named = name in protocols.DATASETS
    folder = generated(name, data, root) if named else pathlib.Path(name)
    names = [field.name for field in dataclasses.fields(nbody.Settings)]
    reading = nbody.Settings(**{name: getattr(data, name) for name in names})
    return nbody.load(folder, reading), folder


def is_quick(name: str, full_data: bool) -> bool:
    """Whether a part of a large data set will do."""
    return name in protocols.QUICK and not full_data


def _quick(name: str, own: Data, given: Mapping[str, Any]) -> Data:
    """A large data set, of which only a part is generated."""
    most = protocols.QUICK[name]["num_train"]
    if given.get("num_train", 0) > most:
        raise UserError(
            f"expected --num_train of at most {most}, which the quick start on "
            f"{name} generates, found {given['num_train']}; --full_data "
            f"generates all {own.num_train:,}"
        )
    return dataclasses.replace(own, num_train=most)


def _folder(name: str, given: Mapping[str, Any]) -> pathlib.Path:
    known = ", ".join(protocols.DATASETS)
    for flag, what in _OF_NAMED_SETS.items():
        if given.get(flag, False) is not False:
            raise UserError(f"--{flag} makes {what} of {known}, found --dataset={name}")
    folder = pathlib.Path(name)
    if not folder.exists():
        raise UserError(
            f"expected --dataset to be {known} or an existing folder, found {name!r}"
        )
    return folder


def _recipe(name: str, data: Data) -> tuple[str, list[str]]:
    """The folder's name and the generator's arguments.

    The published sets come with all frames; what departs from them by more than the
    seed with those that are read.
    """
    seed, bodies = data.data_seed, data.num_bodies
    protocol = protocols.DATASETS[name]
    labels, arguments = [name], [f"--preset={name}"]
    if seed is not None:
        labels.append(f"seed{seed}")
        arguments.append(f"--seed={seed}")
    lean = name in protocols.QUICK
    if bodies != protocol.num_bodies:
        lean = True
        labels.append(f"{bodies}bodies")
        arguments.append(f"--num_bodies={bodies}")
    if data.needs_forces and name != "gravity":  # which has them always
        lean = True
        labels.append("forces")
        arguments.append("--save_forces")
    if lean:
        ends = [data.start_frame, data.target_frame]
        frames = [str(frame) for frame in sorted({*ends})]
        arguments.append(f"--save_frames={','.join(frames)}")
        if ends != [protocol.start_frame, protocol.target_frame]:
            labels.append(f"frames{'-'.join(frames)}")
    if is_quick(name, data.full_data):
        labels.append("quick")
        sizes = protocols.QUICK[name]
        arguments += [f"--{flag}={size}" for flag, size in sizes.items()]
        # In the published stream these would be training simulations of the full set.
        arguments.append("--random_stream=jax")
    return "-".join(labels), arguments


def folder_of(name: str, data: Data, root: pathlib.Path) -> pathlib.Path:
    """Where a data set lies, or would lie; nothing is generated."""
    if name not in protocols.DATASETS:
        return pathlib.Path(name)
    return root / _recipe(name, data)[0]


def generated(name: str, data: Data, root: pathlib.Path) -> pathlib.Path:
    """The folder of a named data set; it is written on first use.

    The generator works in float64, in a process of its own.

    Raises:
      UserError: the generator failed.
    """
    label, arguments = _recipe(name, data)
    folder = folder_of(name, data, root)
    if (folder / "metadata.json").exists():
        return folder
    print(f"generating {label} in {folder}", flush=True)
    if is_quick(name, data.full_data):
        total = sum(protocols.QUICK[name].values())
        print(
            f"a quick start: {total} simulations, those that it needs; --full_data "
            "generates the whole set of the paper",
            flush=True,
        )
    generators.run("tools.generate_nbody", arguments, folder)
    return folder


def load_other(
    name: str,
    given: Mapping[str, Any],
    own: Data,
    trained_on: tuple[TaskSpec, pathlib.Path],
    root: pathlib.Path,
) -> Dataset:
    """A data set that a model of another one is evaluated on, as that one was read.

    Args:
      name: a named data set, a variant of one as nbody_small-20bodies,
        nbody_small-frames20-30 or nbody_small-20bodies-frames20-30, or a folder.
      given: settings of the data that a person chose: frames that were not chosen are
        the other data set's own.
      own: what was read of the model's own data set.
      trained_on: task and folder of that one.
      root: where generated data sets are kept.

    Raises:
      UserError: there is no such data set, or it has other inputs or targets, or looks
        further or less far ahead.
    """
    not_shared = ("data_seed", "num_bodies", "num_neighbors")
    other = {key: value for key, value in given.items() if key not in not_shared}
    other |= {"connectivity": own.connectivity, "num_train": 1}
    if own.num_neighbors is not None:
        other["num_neighbors"] = own.num_neighbors
    found, variant = _variant(name)
    if found not in protocols.QUICK:
        other["full_data"] = False
    try:
        data = settle(found, other | variant)
        data = dataclasses.replace(data, batch_size=own.batch_size, dtype=own.dtype)
        dataset, folder = load(found, data, root)
    except UserError as error:
        raise UserError(f"--eval_dataset={name}: {error}") from None
    task, own_folder = trained_on
    differences = workdir.task_differences(dataset.task, task, "the model")
    if differences:
        raise UserError(f"--eval_dataset={name} does not fit: it has {differences}")
    there, expected = horizon(folder, data), horizon(own_folder, own)
    if there and expected and not math.isclose(there, expected):
        raise UserError(
            f"--eval_dataset={name} looks {there:g} ahead where the model looks "
            f"{expected:g}; choose --start_frame and --target_frame for both"
        )
    return dataset


def _variant(name: str) -> tuple[str, dict[str, int]]:
    """The data set that is meant by the name of a variant, and what that says of it."""
    found = _VARIANT.fullmatch(name)
    if not found or found[1] not in protocols.DATASETS:
        return name, {}
    keys = ("num_bodies", "start_frame", "target_frame")
    numbers = zip(keys, found.groups()[1:], strict=True)
    return found[1], {key: int(number) for key, number in numbers if number is not None}


def horizon(folder: pathlib.Path, data: nbody.Settings) -> float | None:
    """Time from the start frame to the target frame; None if the folder tells none.

    Args:
      folder: of the data set.
      data: what is read of it.
    """
    made = nbody_files.read_metadata(folder)["settings"]
    if not {"dt", "sample_every"} <= made.keys():
        return None
    return made["dt"] * made["sample_every"] * (data.target_frame - data.start_frame)
