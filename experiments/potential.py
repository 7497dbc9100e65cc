"""Train a model on energies and forces of atoms.

    python -m pip install '.[potential]'
    python -m experiments.potential --model=nequip

Any model with a scalar of a graph becomes an interatomic potential: forces are minus
the gradient of its energy.
Data that is not on the disk is generated first: molecular dynamics of ethanol under
GFN2-xTB. The defaults are this project's protocol; any flag changes it. The same
command continues an interrupted run. The work directory ends with record.json,
test_errors.npz and the checkpoints best.npz and last.npz. Energies are in meV, forces
in meV/Å; what is shown while training, and selects the best epoch, is the mean absolute
error of the forces.
"""

from __future__ import annotations

import dataclasses
import pathlib

from demetar import models
from demetar.data import potential_heads
from demetar.data.potentials import SPLITS, Sets
from demetar.errors import UserError
from demetar.settings import DATA, defaults_of, setting
from experiments.protocols import potential as protocols
from experiments.protocols.settings import Settings
from experiments.run import cli, job, options, potential_data, repeat
from tools.command_line import CommandLine, Given

MODULE = "experiments.potential"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The frames."""

    dataset: str = setting(
        potential_data.DEFAULT,
        f"{potential_data.DATASETS}.",
        DATA,
    )
    data_dir: str | None = setting(
        None,
        "Where data sets lie, and generated ones are kept.",
        DATA,
        default_words="~/.cache/demetar/data",
    )

    @property
    def root(self) -> pathlib.Path:
        """Where data sets lie."""
        return cli.data_root(self.data_dir)


LINE = CommandLine(Choice, (protocols.Data, {}), *options.SHARED)


def main(given: Given, _: list[str]) -> int:
    """Train, or continue, or tell that the run is finished."""
    given = repeat.merged(given, LINE, MODULE)
    job.prepare(given)
    check_model(given["model"])
    choice = given.read(Choice)
    protocol = protocols.find(given["model"], given.read(options.Choice).protocol)
    settings = options.resolve(given, protocol, choice.dataset)
    sets = job.load(lambda: read(choice, settings))
    given = without_settled(given, choice, settings)
    reading = settings.reading()
    for note in sets.notes:
        print(f"note      {note}")
    dataset = potential_heads.load(choice.dataset, sets, reading)
    names = models.input_defaults(settings.model)  # here these are the species
    automatic = {name: dataset.task.scalars for name in names}
    settings = settings.changed(sizes(sets))
    settings = settings.with_protocol(fields={**automatic, **settings.fields})
    changed = options.changes(given, protocol, defaults_of(protocols.Data), automatic)
    return job.run(job.Job(MODULE, given, settings, changed, dataset, sets.place))


def check_model(name: str) -> None:
    """Refuse a model that has no forces.

    Raises:
      UserError: its energy does not depend on the positions, or it has none.
    """
    if not models.has_forces(name):
        able = [known for known in models.REGISTRY if models.has_forces(known)]
        raise UserError(
            f"{name} has no energy that depends on the positions, and so no forces; "
            f"choose one of {', '.join(able)}"
        )


def read(choice: Choice, settings: Settings) -> Sets:
    """The frames."""
    return potential_data.load(choice.dataset, choice.root, settings.reading())


def sizes(sets: Sets) -> dict[str, int]:
    """The settings that say how many frames there are."""
    return {f"num_{part}": len(frames) for part, frames in sets.parts.items()}


def without_settled(given: Given, choice: Choice, settings: Settings) -> Given:
    """The flags without those of --config that the frames settle by themselves."""
    names = [f"num_{part}" for part in SPLITS]
    repeated = [name for name in names if name in given.repeated]
    if not repeated:
        return given
    own = sizes(read(choice, settings.changed(dict.fromkeys(repeated))))
    for name in repeated:
        if given[name] == own[name]:
            given = given.without(name)
    return given


if __name__ == "__main__":
    cli.run(main, LINE)
