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

from demetar import models
from demetar.data import molecules, qm9, splits
from demetar.data.dataset import Dataset
from demetar.errors import UserError
from demetar.settings import DATA, setting
from experiments.protocols import molecules as protocols
from experiments.protocols.settings import Settings
from experiments.run import cli, job, options, repeat
from tools.command_line import CommandLine, Given

MODULE = "experiments.qm9"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The molecules."""

    data_dir: str | None = setting(
        None,
        "The figshare archive or its single files, gdb9.sdf, a .npz of "
        "tools.prepare_qm9, own .npz or .xyz, or the folder of one.",
        DATA,
        default_words="the installed qm9pack",
    )

    @property
    def place(self) -> pathlib.Path | None:
        """None for the installed qm9pack."""
        return None if self.data_dir is None else pathlib.Path(self.data_dir)

    @property
    def dataset(self) -> str:
        """The name of the molecules."""
        return "qm9" if self.place is None else self.place.stem


_OF_PROTOCOL = ("connectivity", "cutoff", "node_features", "bond_features", "offsets")
LINE = CommandLine(
    Choice,
    (qm9.Settings, dict.fromkeys(_OF_PROTOCOL, options.OPEN)),
    *options.SHARED,
)


def main(given: Given, _: list[str]) -> int:
    """Train, or continue, or tell that the run is finished."""
    given = repeat.merged(given, LINE, MODULE)
    job.prepare(given)
    choice = given.read(Choice)
    target = given.get("target", qm9.Settings.target)
    name = given.read(options.Choice).protocol
    protocol = protocols.find(given["model"], name, target)
    given = settle_cutoff(given, protocol.data)
    settings = options.resolve(given, protocol, choice.dataset)
    settings = settings.changed({"cutoff": cutoff(settings.protocol.data)})
    known, place = job.load(lambda: read(choice.place, settings.protocol.data))
    given = without_settled(given, known)
    settings = settings.changed(
        {
            "split": given.get("split", splits.default_split(known)),
            "num_train": given.get("num_train"),
            "num_valid": given.get("num_valid"),
        }
    )
    dataset = job.load(lambda: load_dataset(known, settings))
    sizes = {f"num_{part}": len(dataset.splits[part]) for part in ("train", "valid")}
    names = models.input_defaults(settings.model)  # here these are the species
    automatic = {name: dataset.task.scalars for name in names}
    settings = settings.changed(sizes)
    settings = settings.with_protocol(fields={**automatic, **settings.fields})
    of_data = {"split": None, "num_train": None, "num_valid": None}
    changed = options.changes(given, protocol, of_data, automatic)
    return job.run(job.Job(MODULE, given, settings, changed, dataset, place))


def settle_cutoff(given: Given, own: qm9.Settings) -> Given:
    """The flags with the radius graphs that a cutoff makes of complete ones.

    Raises:
      UserError: one is asked for with graphs that have none.
    """
    if "cutoff" not in given:
        return given
    graphs = given.get("connectivity", own.connectivity)
    if graphs == "complete" and "connectivity" not in given:
        return given.plus("connectivity", "radius")
    if graphs != "radius":
        raise UserError(
            f"--cutoff={given['cutoff']:g} is of radius graphs, found "
            f"--connectivity={graphs}; give --connectivity=radius, or no cutoff"
        )
    if "cutoff" in given.repeated and given["cutoff"] == (own.cutoff or qm9.CUTOFF):
        return given.without("cutoff")
    return given


def cutoff(data: qm9.Settings) -> float | None:
    """The one cutoff of graphs, envelopes and bases; None but for radius graphs."""
    return (data.cutoff or qm9.CUTOFF) if data.connectivity == "radius" else None


def without_settled(given: Given, known: molecules.Molecules) -> Given:
    """The flags without those of --config that the molecules settle by themselves."""
    split = given.get("split", splits.default_split(known))
    own: dict[str, object] = {"split": splits.default_split(known)}
    if {"num_train", "num_valid"} & given.repeated:
        rows = splits.split_rows(split, len(known.index))
        own |= {f"num_{part}": len(rows[part]) for part in ("train", "valid")}
    for name, value in own.items():
        if name in given.repeated and given[name] == value:
            given = given.without(name)
    return given


def read(
    place: pathlib.Path | None, data: qm9.Settings
) -> tuple[molecules.Molecules, pathlib.Path]:
    """The molecules, and where they lie."""
    with_bonds = qm9.needs_bonds(data.connectivity, data.bond_features)
    known, path = qm9.cached(place, cli.cache_dir(), cli.progress, with_bonds)
    for note in known.notes:
        print(note)
    return known, path


def load_dataset(known: molecules.Molecules, settings: Settings) -> Dataset:
    """The data set of the molecules."""
    return qm9.load(known, settings.reading())


if __name__ == "__main__":
    cli.run(main, LINE)
