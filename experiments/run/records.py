"""What a run leaves behind of itself: the parts of record.json and the test errors."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from demetar import files, predict
from demetar.distributed import launch
from demetar.train import checkpoint
from demetar.train.evaluation import Evaluation
from demetar.train.run import Run
from demetar.types import Head, TaskSpec
from experiments.protocols.settings import Settings
from experiments.run import cli, evaluation, run_files, statistics
from tools.command_line import Given

_ONE_UNIT = re.compile(r"\w+$")  # that needs no brackets when it is squared
_BRACKETED = re.compile(r"\((\w+)\)\^2")

# Flags that change nothing but where files lie and what computes.
PLACES = ("workdir", "data_dir", "config", "out", "cpu_devices", *launch.FLAGS)


def run_record(run: Run) -> dict[str, Any]:
    """What the record says of the training and its cost."""
    trainer, progress = run.trainer, run.progress
    dataset, settings = trainer.dataset, trainer.settings
    running_seconds = progress.seconds - progress.compile_seconds
    all_seconds = running_seconds + progress.between_seconds
    return {
        "best_epoch": progress.best_epoch,
        "compile_seconds": progress.compile_seconds,
        "data_share": progress.data_seconds / running_seconds,
        "device": cli.device(),
        "epochs": settings.epochs,
        "padding": dataset.padding(dataset.train_plan(settings.seeds[0], 0)),
        "num_compiles": max(trainer.programs.num_compiled, progress.num_compiles),
        "python_share": 1 - progress.call_seconds / all_seconds,
        "seeds": list(settings.seeds),
        "steps_per_second": trainer.schedule.num_steps / running_seconds,
        "valid_loss": progress.best_loss,
        "versions": cli.versions(),
        "wall_seconds": progress.seconds,
    }


def test_record(
    task: TaskSpec, by_head: Mapping[str, np.ndarray], errors: np.ndarray
) -> dict[str, Any]:
    """What the record says of the heads and the errors [R, D] of the test samples."""
    losses = errors.mean(axis=1)
    spread = float(losses.std(ddof=1)) if len(losses) > 1 else None
    return {
        "heads": [describe_head(head, task) for head in task.heads],
        "test_loss": losses.tolist(),
        "test_loss_by_head": {
            name: value.mean(axis=1, dtype=np.float64).tolist()
            for name, value in by_head.items()
        },
        "test_loss_interval": list(statistics.bootstrap_mean(errors)),
        "test_loss_mean": float(losses.mean()),
        "test_loss_std": spread,
        "unit": " and ".join(filter(None, map(error_unit, judging(task)))),
    }


def mean_record(
    task: TaskSpec, tested: Evaluation, n_node: np.ndarray
) -> dict[str, Any]:
    """What the record says of the mean of the seeds' predictions.

    Args:
      task: heads.
      tested: `Evaluation.mean` of the test set.
      n_node: [D] nodes of each test sample.

    Returns:
      'test_loss' and its 'test_loss_interval' as of the seeds; of heads that are not
      averaged 'test_errors' too.
    """
    errors = tested.overall(task)
    found: dict[str, Any] = {
        "test_loss": float(errors.mean()),
        "test_loss_interval": list(statistics.bootstrap_mean(errors)),
    }
    if task.judged_by:
        found["test_errors"] = errors_record(task, tested.measures, n_node)
    return found


def judging(task: TaskSpec) -> list[Head]:
    """The heads whose errors are averaged to that of a run: all, or the one of
    `TaskSpec.judged_by`.
    """
    return [head for head in task.heads if task.judged_by in ("", head.name)]


def errors_record(
    task: TaskSpec, measures: Mapping[str, Mapping[str, np.ndarray]], n_node: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Errors of each head in its own unit, per seed: of heads that are not averaged.

    Args:
      task: heads.
      measures: {'squared' | 'absolute': {head: [R, D]}} of the test samples.
      n_node: [D] nodes of each of them, all of whose components count alike.

    Returns:
      {head: {'unit', 'mae', 'rmse'}}, and of sums over nodes 'mae_per_node' and
      'rmse_per_node' too.
    """
    found: dict[str, dict[str, Any]] = {}
    for head in task.heads:
        absolute, squared = (
            np.asarray(measures[kind][head.name], np.float64)
            for kind in ("absolute", "squared")
        )
        is_total = head.kind == "graph_scalar"
        weights = np.ones(len(n_node)) if is_total else n_node
        own = {"unit": head.unit, **_means(absolute, squared, weights)}
        if head.extensive:
            shares = _means(absolute / n_node, squared / n_node**2, weights)
            own |= {f"{name}_per_node": value for name, value in shares.items()}
        found[head.name] = own
    return found


def _means(
    absolute: np.ndarray, squared: np.ndarray, weights: np.ndarray
) -> dict[str, list[float]]:
    """Means [R] over samples [R, D] of some weights [D]."""
    return {
        "mae": np.average(absolute, axis=1, weights=weights).tolist(),
        "rmse": np.sqrt(np.average(squared, axis=1, weights=weights)).tolist(),
    }


def describe_errors(record: Mapping[str, Any]) -> str:
    """One line on the errors of each head, means over the seeds; '' without any."""
    told = []
    for name, own in record.get("test_errors", {}).items():
        values = {key: evaluation.number(np.mean(own[key])) for key in ("mae", "rmse")}
        unit = own["unit"] and f" {own['unit']}"
        told.append(f"{name} MAE {values['mae']}, RMSE {values['rmse']}{unit}")
    return "; ".join(told)


def describe_head(head: Head, task: TaskSpec) -> dict[str, Any]:
    """What the record says of a head; its offsets by species."""
    told = dataclasses.asdict(head)
    if head.offsets:
        told["offsets"] = dict(zip(task.species, head.offsets, strict=True))
    return told


def describe_targets(task: TaskSpec) -> str:
    """One line on what the graph scalars of a task are, and what is known of them."""
    return "; ".join(
        _describe_target(head, task)
        for head in task.heads
        if head.kind == "graph_scalar"
    )


def _describe_target(head: Head, task: TaskSpec) -> str:
    kind = "extensive, a sum over atoms" if head.extensive else "intensive"
    least = 1e-6 * head.scale  # what is smaller is the rounding of a fit
    by_species = zip(task.species, head.offsets, strict=bool(head.offsets))
    known = [
        f"{value:.6g} per {name}" for name, value in by_species if abs(value) > least
    ]
    if abs(head.mean) > least:
        known.append(f"the mean {head.mean:.6g}")
    unit = f" {head.unit}" if head.unit else ""
    per_atom = " per atom" if head.offsets else ""
    scale = f"the rest varies by {head.scale:.3g}{unit}{per_atom}"
    if task.judged_by:  # other heads have a say in the scale
        scale = f"in multiples of {head.scale:.4g}{unit}"
    return f"{head.name}, {kind}; subtracted: {', '.join(known) or 0}{unit}; {scale}"


def error_unit(head: Head) -> str:
    """The unit of a head's errors; '' if the head has none."""
    if head.error == "absolute" or not head.unit:
        return head.unit
    return f"{head.unit}^2" if _ONE_UNIT.match(head.unit) else f"({head.unit})^2"


def same_unit(unit: str) -> str:
    """A unit as this release writes it: earlier ones wrote '(m)^2' and '()^2'."""
    return _BRACKETED.sub(r"\1^2", unit).replace("()^2", "")


def save_errors(
    path: pathlib.Path, heads: Sequence[Head], errors: np.ndarray, run_id: str = ""
) -> None:
    """Errors [R, D] of the test samples, named by their kind, with the id of the run.

    The file is written atomically.
    """
    kinds = {head.error for head in heads}  # those that are averaged
    name = f"{kinds.pop()}_errors" if len(kinds) == 1 else "errors"
    content = io.BytesIO()
    arrays: dict[str, Any] = {name: errors}
    if run_id:
        arrays[run_files.RUN_ID] = np.array(run_id)
    np.savez(content, **arrays)
    checkpoint.write_bytes(path, content.getvalue())


def write(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """A record as JSON with its checksum, atomically.

    It names its entries that are not finite.
    """
    made = ("not_finite", run_files.CHECKSUM)
    content = {name: value for name, value in record.items() if name not in made}
    bad = run_files.not_finite(content) or list(record.get("not_finite", []))
    if bad:
        content["not_finite"] = bad  # they are null
    content = checkpoint.to_json(content)
    content[run_files.CHECKSUM] = files.json_hash(content)
    checkpoint.write_json(path, content)


# What a longer run keeps of the record that it replaces.
_KEPT = (
    *("epochs", "best_epoch", "valid_loss", "test_loss", "test_loss_mean"),
    *("test_loss_interval", "test_loss_std", "wall_seconds", "steps_per_second"),
)


def inherited(record: Mapping[str, Any] | None, epochs: int) -> dict[str, Any]:
    """What a record takes from the one that it replaces.

    A longer run tells of the shorter ones before it; the same one, whose files were
    written anew, keeps that and its evaluations on other data sets.

    Args:
      record: that is replaced; None if there is none.
      epochs: of the run.
    """
    if record is None:
        return {}
    if record["epochs"] == epochs:
        return {name: record[name] for name in ("history", "eval") if name in record}
    own = {name: record[name] for name in _KEPT if name in record}
    return {"history": [*record.get("history", []), own]}


def typed_command(module: str) -> str:
    """The command line of this process, without the places of its files.

    So records can be compared, and published without the layout of a disk.
    """
    return shlex.join(["python", "-m", module, *_typed_arguments()])


def _typed_arguments() -> list[str]:
    arguments = []
    given = iter(sys.argv[1:])
    for argument in given:
        name, equals, _ = argument.lstrip("-").partition("=")
        if name not in PLACES:
            arguments.append(argument)
        elif not equals:
            next(given, None)  # its value
    return arguments


def command(
    module: str, given: Given, settings: Settings, changed: Mapping[str, Any]
) -> str:
    """The command line that repeats a run: as it was typed, but for places of files.

    What a file of settings said stands there as flags.

    Args:
      module: of the command.
      given: its flags.
      settings: of the run.
      changed: what departs from the protocol.
    """
    arguments = _typed_arguments()
    told = {"model": settings.model, "dataset": settings.dataset}
    told |= {"protocol": settings.protocol.name, **changed}
    for name in sorted(given.repeated & {*told}):
        value = told.pop(name)
        values = [value] if not isinstance(value, tuple) else value or ("",)
        arguments += [f"--{name}={item}" for item in values]
    for name in sorted(given.fields.keys() & told.keys()):
        value = told[name]
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        arguments.append(f"--set={name}={text}")
    return shlex.join(["python", "-m", module, *arguments])


def describe(record: Mapping[str, Any]) -> str:
    """One line with the result, and one for each other data set."""
    spread, unit = record["test_loss_std"], same_unit(record["unit"])
    over_seeds = "" if spread is None else f" ± {evaluation.number(spread)} over seeds"
    behind = unit and f" {unit}"
    error, interval = record["test_loss_mean"], record["test_loss_interval"]
    line = f"{record['model']}: {evaluation.told(error, interval, over_seeds + behind)}"
    elsewhere = [evaluation.describe(entry) for entry in record.get("eval", [])]
    bad = run_files.not_finite(record) or record.get("not_finite", [])
    warning = [f"not finite: {', '.join(map(str, bad))}"] if bad else []
    each = [f"errors    {describe_errors(record)}"] if "test_errors" in record else []
    own = record.get(run_files.MEAN_OF_SEEDS)
    mean = [_describe_mean(own, behind)] if own else []
    return "\n".join([line, *each, *mean, *elsewhere, *warning])


def _describe_mean(entry: Mapping[str, Any], behind: str) -> str:
    """One line on the mean of the seeds' predictions."""
    errors = describe_errors(entry)
    return (
        f"mean of the predictions of the seeds (--seed={predict.MEAN}): "
        f"{evaluation.told(entry['test_loss'], entry['test_loss_interval'], behind)}"
        f"{errors and f'; {errors}'}"
    )


def num_params(run: Run) -> int:
    """Parameters of one replica."""
    return sum(leaf[0].size for leaf in jax.tree.leaves(run.state.params))
