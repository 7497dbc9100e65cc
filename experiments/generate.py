"""Train a network that draws molecules, and draw some.

    python -m pip install '.[qm9,generation]'
    python -m experiments.generate --model=egnn --protocol=fast

A denoiser learns the noise that was added to the molecules of QM9, or of one's own;
from noise alone it then draws new ones, step by step. Any model of the registry with
vectors and scalars per atom can be one. The same command continues an interrupted run.
The work directory ends with record.json, whose error is that of the noise, and a folder
`drawn` of the molecules: samples.xyz, pictures, and generation.json with the shares of
stable atoms and molecules, of valid, unique and new ones, and the bound on the
likelihood. Source: Hoogeboom et al. 2022, arXiv 2203.17003.
"""

from __future__ import annotations

from typing import Any

from demetar import models
from demetar.data import qm9 as reader
from demetar.data import splits
from demetar.distributed import processes
from demetar.errors import UserError
from demetar.generation import dataset as data
from experiments import qm9
from experiments.protocols import generate as protocols
from experiments.run import cli, drawing, job, options, repeat
from tools.command_line import CommandLine, Given

MODULE = "experiments.generate"
LINE = CommandLine(
    *(qm9.Choice, data.Settings, drawing.Settings),
    *options.SHARED,
)


def main(given: Given, _: list[str]) -> int:
    """Train, or continue, and draw."""
    given = repeat.merged(given, LINE, MODULE)
    job.prepare(given)
    check_model(given["model"])
    choice, asked = given.read(qm9.Choice), given.read(drawing.Settings)
    protocol = protocols.find(given["model"], given.read(options.Choice).protocol)
    settings = options.resolve(given, protocol, choice.dataset)
    known, place = job.load(lambda: qm9.read(choice.place, reader.Settings()))
    split = given.get("split", splits.default_split(known))
    settings = settings.changed({"split": split})
    dataset = job.load(lambda: data.load(known, settings.reading()))
    drawing.check(asked, dataset)
    counts = {f"num_{part}": len(dataset.splits[part]) for part in splits.PARTS}
    names = models.input_defaults(settings.model)
    automatic = {name: dataset.task.scalars for name in names}
    settings = settings.changed(counts)
    settings = settings.with_protocol(fields={**automatic, **settings.fields})
    of_data: dict[str, Any] = dict.fromkeys(("split", *counts))
    changed = options.changes(given, protocol, of_data, automatic)
    training = job.Job(MODULE, given, settings, changed, dataset, place)
    code = job.run(training)
    if code == 0 and processes.is_main():
        drawing.draw(training, known, asked)
    return code


def check_model(name: str) -> None:
    """Refuse a model that cannot say of each atom which noise it has.

    Raises:
      UserError: it has no vectors or no scalars per node.
    """
    lacking = [
        what
        for kind, what in (("node_vector", "vectors"), ("node_scalar", "scalars"))
        if kind not in models.model_class(name).supports
    ]
    if lacking:
        able = {*models.with_head("node_vector")} & {*models.with_head("node_scalar")}
        raise UserError(
            f"{name} returns no {' and no '.join(lacking)} per atom, which a denoiser "
            f"must; expected one of "
            f"{', '.join(known for known in models.REGISTRY if known in able)}"
        )


if __name__ == "__main__":
    cli.run(main, LINE)
