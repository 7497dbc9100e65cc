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

from demetar import graphs, models
from demetar.data.dataset import Dataset
from demetar.errors import UserError
from demetar.settings import DATA, defaults_of, setting
from demetar.train import pictures, writers
from demetar.types import Array, Batch, TaskSpec
from experiments.protocols import nbody as protocols
from experiments.protocols.settings import Protocol, Settings
from experiments.run import cli, job, nbody_data, options, repeat
from tools.command_line import CommandLine, Given

MODULE = "experiments.nbody"
NUM_PICTURED = 4  # systems in the picture of predicted motion
HORIZON = "horizon"  # field of models that integrate


@dataclasses.dataclass(frozen=True)
class Choice:
    """The data set."""

    dataset: str = setting(
        "nbody_small",
        f"{', '.join(protocols.DATASETS)}, or a folder that tools.generate_nbody or "
        "tools.import_nbody wrote.",
        DATA,
    )
    eval_dataset: tuple[str, ...] = setting(
        (),
        "Another data set that the trained model is evaluated on too, as --dataset, of "
        "another size as nbody_small-20bodies, or other frames as "
        "nbody_small-frames20-30. Also after the training.",
        DATA,
        repeatable=True,
    )
    data_dir: str | None = setting(
        None,
        "Where generated data are kept.",
        DATA,
        default_words="~/.cache/demetar/data",
    )

    @property
    def root(self) -> pathlib.Path:
        """Where generated data sets are kept."""
        return cli.data_root(self.data_dir)


LINE = CommandLine(Choice, protocols.Data, *options.SHARED)


def main(given: Given, _: list[str]) -> int:
    """Train, or continue, or tell that the run is finished."""
    given = repeat.merged(given, LINE, MODULE)
    job.prepare(given)
    choice = given.read(Choice)
    protocol = find_protocol(given, choice.dataset)
    settings = options.resolve(given, protocol, choice.dataset)
    given = without_settled(given, choice, protocol)
    chosen = {**protocol.of_data, **given.only(protocols.Data)}
    data = nbody_data.settle(choice.dataset, chosen)
    settings = settings.with_protocol(data=data)
    dataset, folder = job.load(lambda: load_dataset(settings, choice.root))
    settings = settings.changed({"num_train": len(dataset.splits["train"])})
    automatic = horizon_field(settings, folder)
    settings = settings.with_protocol(fields={**automatic, **settings.fields})
    trained_on = (dataset.task, folder)

    def load_others() -> dict[str, Dataset]:
        own = settings.reading()
        return {
            name: nbody_data.load_other(name, chosen, own, trained_on, choice.root)
            for name in choice.eval_dataset
        }

    of_data = {**defaults_of(protocols.Data), "connectivity": None}
    changed = options.changes(given, protocol, of_data, automatic)
    return job.run(
        job.Job(
            *(MODULE, given, settings, changed, dataset, folder, draw_motion),
            job.load(load_others),
        )
    )


def find_protocol(given: Given, dataset: str) -> Protocol:
    """The protocol of the model, with the fields by which it reads the data."""
    data = {**defaults_of(protocols.Data), **given}
    model, name = given["model"], given.read(options.Choice).protocol
    protocol = protocols.find(model, name, dataset)
    inputs = protocols.input_fields(model, dataset, data["cues"])
    return dataclasses.replace(protocol, fields={**protocol.fields, **inputs})


def without_settled(given: Given, choice: Choice, protocol: Protocol) -> Given:
    """The flags without those of --config that data and protocol settle so anyway."""
    for name in protocols.SETTLED:
        if name not in given.repeated:
            continue
        others = given.without(name)
        try:
            chosen = {**protocol.of_data, **others.only(protocols.Data)}
            data = nbody_data.settle(choice.dataset, chosen)
        except UserError:
            continue  # the data set could not be read without it
        own = getattr(data, name)
        if name == "num_train" and own is None:
            whole, _ = nbody_data.load(choice.dataset, data, choice.root)
            own = len(whole.splits["train"])
        if own == given[name]:
            given = others
    return given


def load_dataset(
    settings: Settings, root: pathlib.Path
) -> tuple[Dataset, pathlib.Path]:
    """The data set and its folder."""
    return nbody_data.load(settings.dataset, settings.reading(), root)


def horizon_field(settings: Settings, folder: pathlib.Path) -> dict[str, Any]:
    """How far ahead the target is, for a model that integrates, if not its default."""
    known = models.fields(settings.model)
    if HORIZON not in known:
        return {}
    default: Any = known[HORIZON].default
    if not isinstance(default, float):
        return {}  # a model of one's own, which means something else by it
    found = nbody_data.horizon(folder, settings.reading())
    if found is None or math.isclose(found, default):
        return {}
    return {HORIZON: found}


def draw_motion(
    task: TaskSpec,
    batch: Batch,
    predictions: Mapping[str, Array],
    writer: writers.RunWriter,
    epoch: int,
) -> None:
    """A picture of the first systems of a test batch.

    Only if later positions are predicted: no other vector is the end of a motion.
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
    cli.run(main, LINE)
