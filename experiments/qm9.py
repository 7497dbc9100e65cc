"""Train a model on QM9, or on molecules of one's own.

    python -m pip install '.[qm9]'
    python -m experiments.qm9 --model=egnn --target=homo

The molecules come from the wheel `qm9pack`; --data_dir names other sources. The
defaults are the protocol of a paper if one trains the model so, else this project's;
any flag changes it. The same command continues an interrupted run. The work directory
ends with record.json, test_errors.npz and the checkpoints best.npz and last.npz.
Errors are mean absolute errors in the unit of the papers' tables.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from absl import flags

from demetar import heads, models
from demetar.data import qm9, splits
from demetar.data.dataset import Dataset
from demetar.errors import UserError
from experiments import molecule_protocols, protocols
from experiments.run import cli, job, options

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "target",
    "homo",
    f"{', '.join(qm9.TARGETS)}, or a property of own molecules.",
    allow_override=True,  # another command has a flag of that name
)
flags.DEFINE_string(
    "split",
    None,
    f"{', '.join(splits.SPLITS)}, or a .npz of the row numbers train, valid and test. "
    "Default: egnn of QM9, random of own molecules.",
)
flags.DEFINE_string(
    "data_dir",
    None,
    "The figshare archive or its single files, gdb9.sdf, a .npz of tools.prepare_qm9, "
    "own .npz or .xyz, or the folder of one. Default: the installed qm9pack.",
    allow_override=True,
)
flags.DEFINE_enum(
    "connectivity",
    None,
    qm9.CONNECTIVITY,
    "Of the graphs. Default: the protocol's.",
    allow_override=True,
)
flags.DEFINE_float(
    "cutoff",
    None,
    "In Å, of radius graphs, envelopes and bases alike; it makes radius graphs of "
    "complete ones. Default: the protocol's.",
)
flags.DEFINE_enum(
    "node_features", None, qm9.NODE_FEATURES, "Of the atoms. Default: the protocol's."
)
flags.DEFINE_bool(
    "bond_features", None, "Edges know their bond. Default: the protocol's."
)
flags.DEFINE_integer(
    "num_valid", None, "Validation samples: the first of the split's. Default: all."
)

flags.DEFINE_enum(
    "target_kind",
    "auto",
    qm9.TARGET_KINDS,
    "Whether the target is a sum over atoms (extensive) or a mean (intensive). auto: "
    "known of QM9's, and by its name (energy, U0, alpha, ...) of own molecules'.",
)
flags.DEFINE_enum(
    "offsets",
    None,
    heads.OFFSETS,
    "What is subtracted of an extensive target beforehand: a number per species, or "
    "the mean, either by the training molecules. Default: the protocol's.",
)

OWN_FLAGS = ("split", "num_train", "num_valid", "target_kind")


def main(_: list[str]) -> int:
    """Train, or continue, or tell that the run is finished."""
    job.prepare()
    protocol = molecule_protocols.find(FLAGS.model, FLAGS.protocol, FLAGS.target)
    settings, changed = options.resolve(protocol, OWN_FLAGS)
    settle_cutoff(settings, changed)
    dataset, place = job.load(lambda: load_dataset(settings))
    for name in models.input_defaults(FLAGS.model):  # here these are the species
        settings["fields"].setdefault(name, dataset.task.scalars)
    described = protocols.describe(protocol, changed)
    return job.run(
        job.Job("experiments.qm9", settings, changed, described, dataset, place)
    )


def settle_cutoff(settings: dict[str, Any], changed: dict[str, Any]) -> None:
    """The one cutoff of graphs, envelopes and bases: that of radius graphs, or none.

    Raises:
      UserError: one is asked for with graphs that have none.
    """
    asked, graphs = FLAGS.cutoff is not None, settings["connectivity"]
    if asked and graphs == "complete" and FLAGS.connectivity is None:
        settings["connectivity"] = changed["connectivity"] = graphs = "radius"
    if graphs == "radius":
        settings["cutoff"] = settings["cutoff"] or qm9.CUTOFF
    elif asked:
        raise UserError(
            f"--cutoff={FLAGS.cutoff:g} is of radius graphs, found "
            f"--connectivity={graphs}; give --connectivity=radius, or no cutoff"
        )
    else:
        settings["cutoff"] = None


def load_dataset(settings: dict[str, Any]) -> tuple[Dataset, pathlib.Path]:
    """The data set; the split and the numbers of samples left open are filled in."""
    place = FLAGS.data_dir
    settings["dataset"] = "qm9" if place is None else pathlib.Path(place).stem
    known, path = qm9.cached(
        None if place is None else pathlib.Path(place),
        cli.cache_dir(),
        cli.progress,
        qm9.needs_bonds(settings["connectivity"], settings["bond_features"]),
    )
    for note in known.notes:
        print(note)
    if settings["split"] is None:
        settings["split"] = splits.default_split(known)
    reading = {
        field.name: settings[field.name] for field in dataclasses.fields(qm9.Settings)
    }
    dataset = qm9.load(known, qm9.Settings(**reading))
    for part in ("train", "valid"):
        settings[f"num_{part}"] = len(dataset.splits[part])
    return dataset, path


if __name__ == "__main__":
    cli.run(main)
