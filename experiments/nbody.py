"""Train a model on an N-body data set.

    python -m experiments.nbody --model=segnn

Data that is not on the disk is generated first. The defaults are the protocol of the
model's paper; any flag changes it. The same command continues an interrupted run. The
work directory ends with record.json, test_errors.npz and the checkpoints best.npz and
last.npz.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from absl import flags

from demetar.data import base as data
from demetar.data import nbody
from demetar.errors import UserError
from demetar.train import writers
from experiments import common, protocols, training

NUM_PICTURED = 4  # systems in the picture of predicted motion

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(training)  # --help lists them
flags.DEFINE_string(
    "dataset",
    "nbody_small",
    f"{', '.join(protocols.DATASETS)}, or a folder that tools.generate_nbody wrote.",
)
flags.DEFINE_integer(
    "data_seed", None, "Seed of a fresh data set of the same kind; default: published."
)
flags.DEFINE_integer(
    "start_frame", None, "Frame that the model sees. Default: the data set's protocol."
)
flags.DEFINE_integer("target_frame", None, "Frame that it predicts. Default: likewise.")
flags.DEFINE_enum(
    "target", "position", list(nbody.TARGETS), "Predicted; the loss of both: the mean."
)
flags.DEFINE_string(
    "data_dir", None, "Where generated data is kept. Default: the user's cache."
)

OWN_FLAGS = ("data_seed", "start_frame", "target_frame", "num_train")


def main(_: list[str]) -> int:
    """Train, or continue, or tell that the run is finished."""
    training.prepare()
    protocol = protocols.find(FLAGS.model, FLAGS.protocol)
    settings, changed = training.resolve(protocol, OWN_FLAGS)
    settings["dataset"] = FLAGS.dataset
    dataset, folder = load_dataset(settings)
    described = protocols.describe(FLAGS.protocol, protocol, changed)
    return training.run(
        training.Job(
            "experiments.nbody",
            *(settings, changed, described, dataset, folder, draw_motion),
        )
    )


def load_dataset(settings: dict[str, Any]) -> tuple[data.Dataset, pathlib.Path]:
    """The data set, generated where it is a named one that is not on the disk.

    Frames and number of samples that are left open are filled into the settings.
    """
    name = settings["dataset"]
    named = protocols.DATASETS.get(name)
    if named is None:
        folder = pathlib.Path(name)
        if settings["data_seed"] is not None:
            raise UserError(
                f"--data_seed makes a fresh set of {', '.join(protocols.DATASETS)}, "
                f"found --dataset={name}"
            )
        if not folder.exists():
            raise UserError(
                f"expected --dataset to be {', '.join(protocols.DATASETS)} or an "
                f"existing folder, found {name!r}"
            )
        frames = nbody.read_metadata(folder)["frames"]
        named = protocols.folder_protocol(frames)
    else:
        folder = generated(name, settings["data_seed"])

    for field, value in dataclasses.asdict(named).items():
        if settings[field] is None:
            settings[field] = value
    reading = {
        field.name: settings[field.name] for field in dataclasses.fields(nbody.Settings)
    }
    dataset = nbody.load(folder, nbody.Settings(**reading))
    settings["num_train"] = len(dataset.splits["train"])
    return dataset, folder


def generated(preset: str, seed: int | None) -> pathlib.Path:
    """The folder of a generated data set; it is written on first use.

    The generator works in float64, in a process of its own.
    """
    root = pathlib.Path(FLAGS.data_dir or common.cache_dir() / "data")
    folder = root / (preset if seed is None else f"{preset}-seed{seed}")
    if (folder / "metadata.json").exists():
        return folder
    print(f"generating {preset} in {folder}", flush=True)
    arguments = [f"--preset={preset}", f"--out={folder}"]
    if seed is not None:
        arguments.append(f"--seed={seed}")
    process = subprocess.run(
        [sys.executable, "-m", "tools.generate_nbody", *arguments], check=False
    )
    if process.returncode:
        raise UserError(
            f"the data could not be generated (exit code {process.returncode}); "
            "the reason stands above; --data_dir chooses another place"
        )
    return folder


def draw_motion(
    dataset: data.Dataset,
    plan: data.Plan,
    predictions: dict[str, np.ndarray],
    writer: writers.RunWriter,
    epoch: int,
) -> None:
    """A picture of the first test systems, of the first replica."""
    packing, head = dataset.packing, dataset.task.heads[0]
    row = {name: value[0] for name, value in plan.items()}
    batch = packing.assemble(packing.arrays(), row)
    num_pictured = min(NUM_PICTURED, int((row["weight"] > 0).sum()))
    sizes = np.asarray(batch.graph.n_node)[:num_pictured]
    stops = np.cumsum(sizes)
    for index, (size, stop) in enumerate(zip(sizes, stops, strict=True)):
        body = slice(stop - size, stop)
        figure = writers.motion_figure(
            batch.graph.nodes.positions[body],
            batch.targets[head.name][body, 0],
            predictions[head.name][0, 0, body, 0],
            f"test system {index}, {dataset.task.name}",
            head.unit,
        )
        writer.figure(f"motion/system_{index}", figure, epoch)


if __name__ == "__main__":
    common.run(main)
