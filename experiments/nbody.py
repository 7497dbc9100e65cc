"""Train a model on an N-body data set.

    python -m experiments.nbody --model=segnn

Data that is not on the disk is generated first. The defaults are the protocol of a
paper if one has the model on these data, else this project's; any flag changes it. The
same command continues an interrupted run. The work directory ends with record.json,
test_errors.npz and the checkpoints best.npz and last.npz.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from demetar import graphs, models
from demetar.data import nbody
from demetar.data.dataset import Dataset
from demetar.train import pictures, writers
from demetar.types import Array, Batch, TaskSpec
from experiments import protocols
from experiments.run import cli, job, nbody_data, options

NUM_PICTURED = 4  # systems in the picture of predicted motion

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset",
    "nbody_small",
    f"{', '.join(protocols.DATASETS)}, or a folder that tools.generate_nbody wrote.",
)
flags.DEFINE_integer(
    "data_seed", None, "Seed of a fresh data set of the same kind; default: published."
)
flags.DEFINE_integer(
    "num_bodies", None, "Bodies per system of a generated set. Default: the published."
)
flags.DEFINE_bool(
    "full_data", False, "Generate all of gravity, not only what a quick start needs."
)
flags.DEFINE_multi_string(
    "eval_dataset",
    [],
    "Another data set that the trained model is evaluated on too, as --dataset, of "
    "another size as nbody_small-20bodies, or other frames as nbody_small-frames20-30. "
    "Repeatable; also after the training.",
)
flags.DEFINE_integer(
    "start_frame", None, "Frame that the model sees. Default: the data set's protocol."
)
flags.DEFINE_integer("target_frame", None, "Frame that it predicts. Default: likewise.")
flags.DEFINE_enum(
    "target",
    "position",
    list(nbody.TARGETS),
    "Predicted; the loss of both: the mean.",
    allow_override=True,  # another command has a flag of that name
)
flags.DEFINE_enum(
    "cues",
    "velocity",
    list(nbody.CUES),
    "Vector inputs: none, the velocity, or the velocity and the force.",
)
flags.DEFINE_enum(
    "connectivity",
    None,
    nbody.CONNECTIVITIES,
    "Of the graphs: complete or nearest neighbours. Default: the data set's protocol.",
    allow_override=True,
)
flags.DEFINE_integer(
    "num_neighbors", None, "Senders per body of knn. Default: the data set's protocol."
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Where generated data is kept. Default: the user's cache.",
    allow_override=True,
)

OWN_FLAGS = (
    *("data_seed", "num_bodies", "full_data", "start_frame", "target_frame"),
    *("cues", "connectivity", "num_neighbors", "num_train"),
)


def main(_: list[str]) -> int:
    """Train, or continue, or tell that the run is finished."""
    job.prepare()
    protocol = protocols.find(FLAGS.model, FLAGS.protocol, FLAGS.dataset)
    inputs = protocols.input_fields(FLAGS.model, FLAGS.dataset, FLAGS.cues)
    protocol = dataclasses.replace(protocol, fields={**protocol.fields, **inputs})
    settings, changed = options.resolve(protocol, OWN_FLAGS)
    settings["dataset"] = FLAGS.dataset
    given = dict(settings)
    dataset, folder = job.load(lambda: load_dataset(settings))
    set_horizon(settings, folder)
    trained_on = (dataset.task, folder)

    def load_others() -> dict[str, Dataset]:
        return {
            name: nbody_data.load_other(name, given, settings, trained_on, data_root())
            for name in FLAGS.eval_dataset
        }

    others = job.load(load_others)
    described = protocols.describe(protocol, changed)
    return job.run(
        job.Job(
            "experiments.nbody",
            *(settings, changed, described, dataset, folder, draw_motion, others),
        )
    )


def data_root() -> pathlib.Path:
    """Where generated data sets are kept."""
    return pathlib.Path(FLAGS.data_dir or cli.cache_dir() / "data")


def load_dataset(settings: dict[str, Any]) -> tuple[Dataset, pathlib.Path]:
    """The data set and its folder; what the settings leave open is filled in."""
    return nbody_data.load(settings, data_root())


def set_horizon(settings: dict[str, Any], folder: pathlib.Path) -> None:
    """Tell a model that integrates how far ahead the target is, where nobody did."""
    name = "horizon"
    known = models.fields(settings["model"])
    if name not in known or name in settings["fields"]:
        return
    default: Any = known[name].default
    found = nbody_data.horizon(folder, settings)
    if found is not None and not math.isclose(found, default):
        settings["fields"][name] = found


def draw_motion(
    task: TaskSpec,
    batch: Batch,
    predictions: Mapping[str, Array],
    writer: writers.RunWriter,
    epoch: int,
) -> None:
    """A picture of the first systems of a test batch.

    Only where later positions are predicted: no other vector is the end of a motion.
    """
    heads = [head for head in task.heads if head.base == "positions"]
    if not heads:
        return
    head = heads[0]
    num_pictured = min(NUM_PICTURED, int((np.asarray(batch.weights) > 0).sum()))
    sizes = np.asarray(batch.graph.n_node)[:num_pictured]
    stops = np.cumsum(sizes)
    centers = np.asarray(graphs.centers_of_nodes(batch.graph))
    for index, (size, stop) in enumerate(zip(sizes, stops, strict=True)):
        body = slice(stop - size, stop)
        figure = pictures.motion_figure(
            batch.graph.nodes.positions[body] + centers[body],
            batch.targets[head.name][body, 0] + centers[body],
            predictions[head.name][body, 0] + centers[body],
            f"test system {index}, {task.name}",
            head.unit,
        )
        writer.figure(f"motion/system_{index}", figure, epoch)


if __name__ == "__main__":
    cli.run(main)
