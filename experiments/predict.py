r"""Predict with a trained model from files.

    python -m experiments.predict --checkpoint=RUN --input=PATH --out=FILE

The checkpoint is the work directory of a run, its best.npz, or pretrained:NAME. What is
read depends on the model: states of N bodies as .npz with the arrays that it names
(positions, velocities, charges: [n, 3] and [n], or with an axis of systems in front, or
the splits of a generated data set), or molecules as .xyz, extended xyz, .npz or .sdf. A
folder is read file by file. Output is .npz, or extended xyz for molecules, with the
unit of every head; it is there only if all went well. --export writes the model itself
as a file that runs with nothing but jax.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags

import demetar
from demetar import export
from demetar.data import nbody_files
from demetar.errors import UserError
from demetar.predict import MEAN, Predictor
from experiments.run import cli, prediction_inputs, prediction_outputs, rollout
from experiments.run.prediction_inputs import Chunk

FLAGS = flags.FLAGS
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Work directory of a run, a checkpoint, or pretrained:NAME."
)
_INPUT = flags.DEFINE_string(
    "input", None, "File to predict from, or a folder of them."
)
flags.DEFINE_string(
    "out",
    None,
    "File to write: .npz, or .xyz for molecules.",
    allow_override=True,  # other commands have flags of these names
)
flags.DEFINE_string(
    "seed",
    None,
    "Of a run of several seeds, the one to use, or mean. Default: the first.",
    allow_override=True,
)
flags.DEFINE_integer(
    "batch_size",
    256,
    "Systems that are read and predicted at once.",
    lower_bound=1,
    allow_override=True,
)
_FRAME = flags.DEFINE_integer(
    "frame",
    None,
    "Of states with several frames, the one to predict from. Default: the frame that "
    "the model was trained on.",
)
_STEPS = flags.DEFINE_integer(
    "rollout_steps",
    1,
    "Feed predictions back: so often is the model applied.",
    lower_bound=1,
)
_EXPORT = flags.DEFINE_string(
    "export", None, "Write the model to this file, for one shape of its inputs."
)
_NODES = flags.DEFINE_integer(
    "num_nodes",
    None,
    "Nodes per system of the exported model. Default: those of the first system read.",
    lower_bound=1,
)
_SYSTEMS = flags.DEFINE_integer(
    "num_systems", 1, "Systems of the exported model.", lower_bound=1
)


def main(_: list[str]) -> None:
    """Predict, export, or both."""
    if not _CHECKPOINT.value:
        raise UserError("expected --checkpoint=RUN, the model to predict with")
    if not (_EXPORT.value or (_INPUT.value and FLAGS.out)):
        raise UserError("expected --input=PATH and --out=FILE, or --export=FILE")
    if bool(FLAGS.out) > bool(_INPUT.value):
        raise UserError("expected --input=PATH, what to predict from")
    model = demetar.load(_CHECKPOINT.value, _seed(FLAGS.seed))
    print(f"model     {model!r}")
    if _EXPORT.value:
        export_model(model, pathlib.Path(_EXPORT.value))
    if _INPUT.value and FLAGS.out:
        predict_files(model, pathlib.Path(_INPUT.value), pathlib.Path(FLAGS.out))


def _seed(text: str | None) -> int | str | None:
    if text is None or text == MEAN:
        return text
    if not text.isdecimal() or len(text) > cli.MOST_DIGITS:
        raise UserError(f"expected --seed of a whole number or {MEAN}, found {text!r}")
    return int(text)


def export_model(model: Predictor, path: pathlib.Path) -> None:
    """Write the exported model, and say what it takes."""
    num_nodes = _NODES.value
    if num_nodes is None:
        if not _INPUT.value:
            raise UserError("expected --num_nodes with --export, or --input to read it")
        paths = prediction_inputs.find(pathlib.Path(_INPUT.value), model.task)
        first = next(_chunks(model, paths, 1), None)
        if first is None:
            raise UserError(
                f"expected at least one system in {_INPUT.value}, found none"
            )
        num_nodes = int(first.systems.n_node[0])
    header = export.export(model, path, num_nodes, _SYSTEMS.value)
    shapes = ", ".join(f"{own['name']} {own['shape']}" for own in header["inputs"])
    print(f"exported  {path}, for {shapes}")


def predict_files(model: Predictor, place: pathlib.Path, out: pathlib.Path) -> None:
    """Predict for every system of a file or folder, and write what comes."""
    steps = _STEPS.value
    if steps > 1:
        rollout.check(model.task)
    paths = prediction_inputs.find(place, model.task, out)
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
        for chunk in _chunks(model, paths, FLAGS.batch_size):
            values = _values(model, chunk, paths[chunk.file], steps)
            for name in values.keys() - model.units.keys():
                drifts.setdefault(name, []).append(values[name])
            writer.add(chunk.systems, values, chunk.file)
            num_systems += len(chunk.systems.n_node)
            bar.update(len(chunk.systems.n_node))
        if not num_systems:
            raise UserError(f"expected at least one system in {place}, found none")
    for line in rollout.describe(_joined(drifts), steps):
        print(line)
    units = ", ".join(f"{name} in {unit or '1'}" for name, unit in model.units.items())
    print(f"predicted {num_systems} systems in {out}: {units}")


def _joined(parts: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate(own) for name, own in sorted(parts.items())}


def _chunks(
    model: Predictor, paths: Sequence[pathlib.Path], size: int
) -> Iterator[Chunk]:
    frame = _FRAME.value
    settings = model.metadata.get("settings")
    if frame is None and isinstance(settings, dict):
        frame = settings.get("start_frame")
    return prediction_inputs.read(paths, model.task, size, frame)


def _values(
    model: Predictor, chunk: Chunk, path: pathlib.Path, steps: int
) -> dict[str, np.ndarray]:
    """The values of a chunk; of a rollout, those of every step, and drifts."""
    try:
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
    cli.run(main)
