"""Predict properties of molecules from wavelet scattering.

    python -m pip install '.[qm9]'
    python -m experiments.scattering --target=homo

300 invariants of each molecule are computed once for all targets, and kept in
~/.cache/demetar; a ridge regression of a target on them then takes seconds. Ctrl-C
loses nothing, and the same command continues. The work directory of a target ends with
record.json and test_errors.npz. Errors are mean absolute errors in the
unit of the papers' tables. Source: Eickenberg et al. 2018, arXiv 1805.00571.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar import files
from demetar.data import molecules, splits, targets
from demetar.data import qm9 as reader
from demetar.errors import UserError
from demetar.scattering import placement, ridge
from demetar.settings import DATA, MODEL, Bounds, setting
from demetar.types import Head, TaskSpec
from experiments import qm9
from experiments.run import cli, descriptors, records, run_files, workdir
from tools.command_line import CommandLine, Given

MODULE = "experiments.scattering"
NAME = "scattering"
PROTOCOL = "paper: Eickenberg et al. 2018, arXiv 1805.00571"
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is predicted."""

    target: tuple[str, ...] = setting(
        ("homo",),
        f"What is predicted: {', '.join(targets.TARGETS)}, or properties of own "
        "molecules; several separated by commas, or all.",
        DATA,
    )
    products: int = setting(
        0,
        "Principal components of the invariants whose pairwise products join them, for "
        "a bilinear regression; 0 for the linear one. 60 make 1,830.",
        MODEL,
        Bounds(least=0, most=100),
    )
    num_test: int | None = splits.counted("Test")


LINE = CommandLine(
    *(qm9.Choice, Options, placement.Settings),
    *(qm9.LINE.flags[name] for name in ("split", "num_train", "num_valid", "workdir")),
)


@dataclasses.dataclass(frozen=True)
class Data:
    """What all targets share.

    Attributes:
      known: the molecules.
      rows: of each part of the split.
      inputs: [rows, 300] coefficients of each part.
      turned: some rows of the test, and their coefficients after random rotations.
      seconds: that it took to read or to compute them.
    """

    known: molecules.Molecules
    rows: Mapping[str, np.ndarray]
    inputs: Mapping[str, np.ndarray]
    turned: tuple[np.ndarray, np.ndarray]
    seconds: float


def main(given: Given, _: list[str]) -> int:
    """Fit and test every target that is asked for."""
    choice, names = given.read(qm9.Choice), given.read(Options).target
    known, path = qm9.read(choice.place, reader.Settings())
    names = target_names(known, names)
    split = given.get("split", splits.default_split(known))
    counts = {part: given.get(f"num_{part}") for part in splits.PARTS}
    everything = splits.split_rows(split, len(known.index))
    rows = splits.first_rows(everything, counts)
    check(known, rows, names)
    chosen = sum(map(len, rows.values()))
    print(f"data      {path}, {chosen:,} of {len(known.index):,} molecules")
    runs = {name: plan(given, known, rows, name) for name in names}
    missing = {
        name: run for name, run in runs.items() if not told(*run, task(known, name))
    }
    if missing:
        data = load(known, rows, given.read(placement.Settings))
        regression = ridge.Ridge(data.inputs["train"], given.read(Options).products)
        for name, (folder, config) in missing.items():
            with workdir.locked(folder):
                workdir.claim(folder, config)
                found = fit(regression, data, name)
                finish(folder, config, found, task(known, name))
    return 0


def target_names(known: molecules.Molecules, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The targets that are meant, each once.

    Raises:
      UserError: there are none.
    """
    every = tuple(targets.TARGETS) if known.source == "qm9" else known.names
    names = every if asked == (ALL,) else tuple(dict.fromkeys(asked))
    if not names:
        known_names = ", ".join(every) or "none: the molecules have no properties"
        raise UserError(f"expected a --target, found none; there are {known_names}")
    return names


def check(
    known: molecules.Molecules, rows: Mapping[str, np.ndarray], names: tuple[str, ...]
) -> None:
    """Refuse what no regression can be made of, before anything is computed.

    Raises:
      UserError: an unknown target, one that is not known of every molecule, or too few
        molecules.
    """
    chosen = np.concatenate([rows[part] for part in splits.PARTS])
    for name in names:
        values, _ = targets.target_values(known, name)
        targets.check_finite(known, name, values, chosen)
    ridge.check(len(rows["train"]))


def plan(
    given: Given,
    known: molecules.Molecules,
    rows: Mapping[str, np.ndarray],
    target: str,
) -> tuple[pathlib.Path, dict[str, Any]]:
    """The work directory of a target, and all that decides its numbers."""
    choice = given.read(qm9.Choice)
    own = dataclasses.asdict(given.read(placement.Settings))
    counts = {f"num_{part}": len(rows[part]) for part in splits.PARTS}
    split = given.get("split", splits.default_split(known))
    hashes = {part: files.array_hash(rows[part], "<i8") for part in splits.PARTS}
    config = {
        **{"model": NAME, "dataset": choice.dataset, "target": target, "epochs": 0},
        "fields": {"products": given.read(Options).products},
        **{"split": split, "fingerprint": known.fingerprint, **counts, **own},
        workdir.IDENTITY: files.json_hash(hashes),
    }
    if "num_test" in given:  # not the test set that others are tested on
        told = {"molecules": known.fingerprint, "test": hashes["test"]}
        config["fingerprint"] = files.json_hash(told)
    several = len(target_names(known, given.read(Options).target)) > 1
    if "workdir" in given:
        folder = workdir.place(given["workdir"])
        return folder / target if several else folder, config
    folder_name = "-".join([NAME, *changes(given), f"target={target}"])
    return pathlib.Path("runs") / choice.dataset / folder_name, config


def changes(given: Given) -> list[str]:
    """What departs from the defaults, as name=value; places and the target do not."""
    left_out = ("target", "workdir", "data_dir")
    return [
        f"{name}={str(value).replace('/', '_')}"
        for name, value in sorted(given.items())
        if name not in left_out
    ]


def task(known: molecules.Molecules, target: str) -> TaskSpec:
    """What is predicted."""
    _, unit = targets.target_values(known, target)
    extensive = targets.is_extensive(known, target, "auto")
    head = Head(
        target, "graph_scalar", unit=unit, error="absolute", extensive=extensive
    )
    return TaskSpec(f"{NAME} {target}", (head,), length_unit="Å")


def told(folder: pathlib.Path, config: dict[str, Any], task: TaskSpec) -> bool:
    """Whether the work directory holds the record of this run; then tell of it."""
    record = workdir.check(folder, config, task).record
    if record is None:
        return False
    print(f"already finished: {config['target']}, {records.describe(record)}")
    print(f"record: {folder / run_files.RECORD_FILE}")
    return True


def load(
    known: molecules.Molecules,
    rows: Mapping[str, np.ndarray],
    settings: placement.Settings,
) -> Data:
    """The coefficients of all parts, and of some test molecules after rotations."""
    start = time.monotonic()
    chosen = np.concatenate([rows[part] for part in splits.PARTS])
    placed = placement.place(known, settings)
    found = descriptors.load(descriptors.store(known, settings), placed, chosen)
    stops = np.cumsum([len(rows[part]) for part in splits.PARTS])[:-1]
    inputs = dict(zip(splits.PARTS, np.split(found, stops), strict=True))
    turned = descriptors.turned(known, placed, rows["test"])
    return Data(known, rows, inputs, turned, time.monotonic() - start)


def fit(regression: ridge.Ridge, data: Data, target: str) -> dict[str, Any]:
    """The regression of one target, as entries of its record, and `errors` [1, D]."""
    start = time.monotonic()
    values, _ = targets.target_values(data.known, target)
    own = {part: values[rows] for part, rows in data.rows.items()}
    valid = data.inputs["valid"], own["valid"]
    model, valid_loss = regression.fit(own["train"], valid)
    predicted = model(data.inputs["test"])
    rows, turned = data.turned
    at = {row: place for place, row in enumerate(data.rows["test"])}
    before = predicted[[at[row] for row in rows]] - model.mean
    after = model(turned) - model.mean
    return {
        "delta_eq": {target: float(np.mean(np.abs(after - before) / np.abs(before)))},
        "errors": np.abs(predicted - own["test"])[None],
        "num_params": model.num_params,
        "strength": model.strength,
        "valid_loss": valid_loss,
        "wall_seconds": data.seconds + time.monotonic() - start,
    }


def finish(
    folder: pathlib.Path, config: dict[str, Any], found: dict[str, Any], task: TaskSpec
) -> None:
    """Write the record and the errors, and tell of them."""
    errors = found.pop("errors")
    run_id = run_files.run_id(config)
    record = {
        **found,
        **records.test_record(task, {config["target"]: errors}, errors),
        **{
            name: config[name]
            for name in ("dataset", "epochs", "fields", "model", "target")
        },
        "command": command(config["target"]),
        "device": cli.device(),
        "fingerprint": config["fingerprint"],
        "protocol": PROTOCOL,
        "seeds": [0],
        "settings": config,
        "steps_per_second": None,
        "versions": cli.versions(),
        run_files.RUN_ID: run_id,
    }
    path = folder / run_files.RECORD_FILE
    records.save_errors(folder / run_files.ERRORS_FILE, task.heads, errors, run_id)
    records.write(path, record)
    print(f"{config['target']}: {records.describe(record)}\nrecord: {path}")


def command(target: str) -> str:
    """The command line that repeats the run of one target."""
    typed = shlex.split(records.typed_command(MODULE))
    kept = [word for word in typed if not word.lstrip("-").startswith("target=")]
    return shlex.join([*kept, f"--target={target}"])


if __name__ == "__main__":
    cli.run(main, LINE)
