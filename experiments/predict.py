r"""Predict with a trained model from files.

    python -m experiments.predict --checkpoint=RUN --input=PATH --out=FILE

The checkpoint is the work directory of a run, its best.npz, or pretrained:NAME. If
--checkpoint is given several times, the mean of these models predicts, and an .npz also
gets NAME_spread of each head, their standard deviation, except in rollouts. What is
read depends on the model: states of N bodies as .npz with the arrays that it names
(positions, velocities, charges: [n, 3] and [n], or with an axis of systems in front, or
the splits of a generated data set), or molecules as .xyz, extended xyz, .npz or .sdf; a
potential also reads the .npz that experiments.potential trains on, as the test.npz of
tools.generate_md. A folder is read file by file. Output is .npz, or extended xyz for
molecules, with the unit of every head; it is there only if all went well. --export
writes the model itself as a file that runs with nothing but jax. Neither is written
over what is read.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from demetar import committees, export, predict
from demetar.committees import Committee
from demetar.data import nbody_files
from demetar.errors import UserError
from demetar.predict import MEAN, Function, Predictor
from demetar.settings import COUNT, DATA, MODEL, OUTPUT, setting
from experiments.run import (
    cli,
    overwriting,
    prediction_inputs,
    prediction_outputs,
    rollout,
)
from experiments.run.prediction_inputs import Chunk
from experiments.run.prediction_outputs import SPREAD
from tools.command_line import MOST_DIGITS, CommandLine, Given


@dataclasses.dataclass(frozen=True)
class Options:
    """The model, what it predicts from, and what is written."""

    checkpoint: tuple[str, ...] = setting(
        (),
        "Work directory of a run, a checkpoint, or pretrained:NAME; several for the "
        "mean of their predictions. Required.",
        MODEL,
        repeatable=True,
    )
    seed: str | None = setting(
        None,
        f"Of a run of several seeds, the one to use, or {MEAN}.",
        MODEL,
        default_words="the first",
    )
    input: str | None = setting(
        None, "File to predict from, or a folder of them.", DATA
    )
    frame: int | None = setting(
        None,
        "Of states with several frames, the one to predict from.",
        DATA,
        default_words="the frame that the model was trained on",
    )
    batch_size: int = setting(
        256, "Systems that are read and predicted at once.", DATA, COUNT
    )
    out: str | None = setting(
        None, "File to write: .npz, or .xyz for molecules.", OUTPUT
    )
    rollout_steps: int = setting(
        1, "Feed predictions back: so often is the model applied.", OUTPUT, COUNT
    )
    export: str | None = setting(
        None, "Write the model to this file, for one shape of its inputs.", OUTPUT
    )
    num_nodes: int | None = setting(
        None,
        "Nodes per system of the exported model.",
        OUTPUT,
        COUNT,
        default_words="those of the first system read",
    )
    num_systems: int = setting(1, "Systems of the exported model.", OUTPUT, COUNT)


LINE = CommandLine(Options)


def main(given: Given, _: list[str]) -> None:
    """Predict, export, or both."""
    options = given.read(Options)
    if not options.checkpoint or "" in options.checkpoint:
        raise UserError("expected --checkpoint=RUN, the model to predict with")
    if not (options.export or (options.input and options.out)):
        raise UserError("expected --input=PATH and --out=FILE, or --export=FILE")
    if options.out and not options.input:
        raise UserError("expected --input=PATH, what to predict from")
    model = committees.load(options.checkpoint, _seed(options.seed))
    print(f"model     {model!r}")
    out = pathlib.Path(options.out) if options.out else None
    paths: list[pathlib.Path] = []
    if options.input:
        place = pathlib.Path(options.input)
        paths = prediction_inputs.find(place, model.task, out)
    check_outputs(options, paths)
    if options.export:
        if not isinstance(model, Predictor):
            raise UserError(
                "expected one --checkpoint with --export, found "
                f"{len(options.checkpoint)}; export each of them"
            )
        export_model(model, options, paths, pathlib.Path(options.export))
    if out:
        predict_files(model, options, paths, out)


def check_outputs(options: Options, paths: Sequence[pathlib.Path]) -> None:
    """Make sure that nothing is written over an input, the model or a run.

    Args:
      options: which files are written.
      paths: that are read.

    Raises:
      UserError: it would be.
    """
    kept = {
        "the model that predicts": [predict.path_of(own) for own in options.checkpoint],
        "read as --input": [
            *paths,
            *(pathlib.Path(f"{path}.csv") for path in paths if path.suffix == ".sdf"),
        ],
    }
    if options.export:
        overwriting.check("export", pathlib.Path(options.export), kept)
        kept["what --export writes"] = [pathlib.Path(options.export)]
    if options.out:
        overwriting.check("out", pathlib.Path(options.out), kept)


def _seed(text: str | None) -> int | str | None:
    if text is None or text == MEAN:
        return text
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise UserError(f"expected --seed of a whole number or {MEAN}, found {text!r}")
    return int(text)


def export_model(
    model: Predictor,
    options: Options,
    paths: Sequence[pathlib.Path],
    path: pathlib.Path,
) -> None:
    """Write the exported model to a path, and say what it takes."""
    num_nodes = options.num_nodes
    if num_nodes is None:
        if not options.input:
            raise UserError("expected --num_nodes with --export, or --input to read it")
        first = next(_chunks(model, paths, 1, options.frame), None)
        if first is None:
            raise UserError(
                f"expected at least one system in {options.input}, found none"
            )
        num_nodes = int(first.systems.n_node[0])
    header = export.export(model, path, num_nodes, options.num_systems)
    shapes = ", ".join(f"{own['name']} {own['shape']}" for own in header["inputs"])
    print(f"exported  {path}, for {shapes}")


def predict_files(
    model: Function,
    options: Options,
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
) -> None:
    """Predict for every system of some files, and write what comes."""
    steps = options.rollout_steps
    if steps > 1:
        rollout.check(model.task)
    about = {
        "model": model.model,
        "task": model.task.name,
        "seed": model.seed,
        "length_unit": model.task.length_unit,
        "rollout_steps": steps,
        "files": [path.name for path in paths],
    }
    total = prediction_inputs.count(paths)
    drifts: dict[str, list[np.ndarray]] = {}
    num_systems = 0
    with (
        prediction_outputs.writing(out, model.task, about, steps) as writer,
        tqdm.tqdm(
            total=total,
            unit=" systems",
            mininterval=0.2,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        for chunk in _chunks(model, paths, options.batch_size, options.frame):
            values = _values(model, chunk, paths[chunk.file], steps)
            for name in values.keys() - model.units.keys() if steps > 1 else ():
                drifts.setdefault(name, []).append(values[name])
            writer.add(chunk.systems, values, chunk.file)
            num_systems += len(chunk.systems.n_node)
            bar.update(len(chunk.systems.n_node))
        if not num_systems:
            raise UserError(
                f"expected at least one system in {options.input}, found none"
            )
    for line in rollout.describe(_joined(drifts), steps):
        print(line)
    written = prediction_outputs.units(out, model.task)
    units = ", ".join(f"{name} in {unit or '1'}" for name, unit in written.items())
    print(f"predicted {num_systems} systems in {out}: {units}")


def _joined(parts: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate(own) for name, own in sorted(parts.items())}


def _chunks(
    model: Function, paths: Sequence[pathlib.Path], size: int, frame: int | None
) -> Iterator[Chunk]:
    settings = model.metadata.get("settings")
    if frame is None and isinstance(settings, dict):
        frame = settings.get("start_frame")
    return prediction_inputs.read(paths, model.task, size, frame)


def _values(
    model: Function, chunk: Chunk, path: pathlib.Path, steps: int
) -> dict[str, np.ndarray]:
    """The values of a chunk and, of a committee, their spreads; of a rollout, those of
    every step, and drifts.
    """
    try:
        if steps == 1 and isinstance(model, Committee):
            mean, spread = model.mean_and_spread(chunk.systems)
            named = {f"{name}{SPREAD}": own for name, own in spread.items()}
            return named | mean  # outputs come first if one is called so
        if steps == 1:
            return model.values(chunk.systems)
        return rollout.roll(model, chunk.systems, steps, _softening(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _softening(path: pathlib.Path) -> float | None:
    """Of the law of force, if the file is of a generated data set."""
    if not (path.parent / nbody_files.METADATA).exists():
        return None
    found: Any = nbody_files.read_metadata(path.parent)["settings"].get("softening")
    return float(found) if isinstance(found, (int, float)) else None


if __name__ == "__main__":
    cli.run(main, LINE)
