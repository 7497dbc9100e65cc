"""Train a network that draws molecules' shapes from bonds.

    python -m pip install '.[qm9,generation]'
    python -m tools.generate_conformers --out=DIR
    python -m experiments.conformers --model=egnn --dataset=DIR

A denoiser learns the noise that was added to conformers; from noise and a bond graph it
then draws new ones, step by step. Any model of the registry with vectors per atom can
be one, and with --score=gradient any model with a scalar. The same command continues an
interrupted run. The work directory ends with record.json, whose error is that of the
noise, and a folder `drawn`: samples.xyz, and conformers.json with the coverage (COV)
and matching (MAT) of the test molecules' conformers, beside those of RDKit. Source:
Xu et al. 2022 (GeoDiff), arXiv 2203.02923.
"""

from __future__ import annotations

import dataclasses
import pathlib

from demetar import models
from demetar.distributed import processes
from demetar.errors import UserError
from demetar.generation import bond_graphs, conformer_noise
from demetar.generation import conformer_graphs as data
from demetar.settings import DATA, setting
from experiments.protocols import conformers as protocols
from experiments.run import cli, conformer_drawing, job, options, repeat
from tools.command_line import CommandLine, Given

MODULE = "experiments.conformers"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The conformers."""

    dataset: str | None = setting(
        None, "A folder that tools.generate_conformers wrote. Required.", DATA
    )


LINE = CommandLine(Choice, data.Settings, conformer_drawing.Settings, *options.SHARED)


def main(given: Given, _: list[str]) -> int:
    """Train, or continue, and draw."""
    given = repeat.merged(given, LINE, MODULE)
    job.prepare(given)
    folder = given.read(Choice).dataset
    if not folder:
        raise UserError("expected --dataset=DIR, of tools.generate_conformers")
    asked = given.read(conformer_drawing.Settings)
    protocol = protocols.find(given["model"], given.read(options.Choice).protocol)
    settings = options.resolve(given, protocol, folder)
    reading = settings.reading()
    check_model(given["model"], reading.score)
    bond_graphs.version()  # the samples of a training without it could not be judged
    place = pathlib.Path(folder)
    sets = job.load(lambda: data.read(place, reading))
    conformer_drawing.check(asked, sets.parts["test"], reading.noise_steps)
    dataset = job.load(lambda: data.load(place.name, sets, reading))
    counts = {f"num_{split}": len(part) for split, part in sets.parts.items()}
    names = models.input_defaults(settings.model)
    automatic = {name: dataset.task.scalars for name in names}
    settings = settings.changed(counts)
    settings = settings.with_protocol(fields={**automatic, **settings.fields})
    changed = options.changes(given, protocol, dict.fromkeys(counts), automatic)
    training = job.Job(MODULE, given, settings, changed, dataset, place)
    code = job.run(training)
    if code == 0 and processes.is_main():
        conformer_drawing.draw(training, sets, asked)
    return code


def check_model(name: str, score: str) -> None:
    """Refuse a model that cannot say of each atom which noise it has.

    Raises:
      UserError: it has no vectors, or no scalar that depends on the positions.
    """
    if score == conformer_noise.GRADIENT:
        able = [known for known in models.REGISTRY if models.has_forces(known)]
        if not models.has_forces(name):
            raise UserError(
                f"{name} has no scalar that depends on the positions; expected one of "
                f"{', '.join(able)}"
            )
    elif "node_vector" not in models.model_class(name).supports:
        able = models.with_head("node_vector")
        raise UserError(
            f"{name} returns no vectors per atom; give --score=gradient for those of "
            f"its scalar, or one of {', '.join(able)}"
        )


if __name__ == "__main__":
    cli.run(main, LINE)
