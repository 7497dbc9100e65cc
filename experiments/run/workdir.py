"""The work directory of a run: one id in every file, one process that writes.

Nothing in it is believed that carries another id; see `run_files.run_id`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from demetar import files, locks, models, places
from demetar.data.dataset import Dataset
from demetar.distributed import processes
from demetar.errors import UserError
from demetar.train import checkpoint, writers
from demetar.types import Head, TaskSpec, VectorInput
from experiments.run import run_files
from experiments.run.run_files import RUN_ID

CONFIG_FILE = "config.json"
LAST, BEST = "last.npz", "best.npz"
IDENTITY = "identity"  # of the data: splits, frames, units and all
SOURCE = "model_source"  # SHA-256 of the source of a model of one's own
ANOTHER = "choose another --workdir"
_MADE_ANEW = "remove it, and the same command writes it anew"
_MOST_LISTED = 10  # of settings that differ
_MOST_SHOWN = 100  # characters of one

# What a data set must share with the task of a checkpoint. Sizes and statistics are its
# own: a model that was trained on 5 bodies is at home on 20.
_TASK_FIELDS: Mapping[str, str] = {
    "scalars": "the node inputs",
    "vectors": "the vectors",
    "edge_features": "the edge features",
    "heads": "the targets",
    "length_unit": "the length unit",
    "connectivity": "the connectivity",
    "num_neighbors": "the number of neighbours",
}


def make_config(settings: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """All that decides the numbers of a run: what its id is made of.

    This is the one place where the identity of the data enters, and that of a model
    that is not of the registry.
    """
    config = {
        **settings,
        "fingerprint": dataset.fingerprint,
        IDENTITY: dataset.identity,
    }
    if models.own.is_own(settings["model"]):
        config[SOURCE] = models.own.source_hash(settings["model"])
    return config


def place(path: str | pathlib.Path) -> pathlib.Path:
    """The path of a work directory as it was given, but without '..'.

    With them it is missing until all folders before them are made, and then it is not.
    """
    path = pathlib.Path(path)
    return places.settled(path) if ".." in path.parts else path


def model_folder(model: str) -> str:
    """The name of a model as that of a folder: 'module:Class' as 'module.Class'."""
    return model.replace(":", ".")


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a work directory holds of a run.

    Attributes:
      record: of the finished run; None if it is to be begun or continued.
      earlier: record of the same run with fewer epochs, which is continued, or of one
        that lacks files, which are written anew; or None.
    """

    record: dict[str, Any] | None = None
    earlier: dict[str, Any] | None = None


def check(folder: pathlib.Path, config: Mapping[str, Any], task: TaskSpec) -> Standing:
    """What a work directory holds of a run.

    Args:
      folder: it need not exist.
      config: of the run.
      task: of its data set.

    Raises:
      UserError: it belongs to another run or holds a file of one, a file is damaged,
        or it is no directory that can be read.
    """
    check_task(folder / BEST, task)
    found = _read_config(folder)
    if found is None:
        return Standing()
    config = json.loads(json.dumps(config))
    _check_config(folder, found, config)
    run_id = found.get(RUN_ID, "")
    path = folder / run_files.RECORD_FILE
    if not path.exists() and not run_id:
        raise UserError(
            f"{folder} holds an unfinished run of an earlier release, whose files "
            f"name no run; {ANOTHER}, or finish it with that release"
        )
    for name in (LAST, BEST):
        if (folder / name).exists():
            checkpoint.check_run(folder / name, run_id)
    if not path.exists():
        return Standing()
    record = run_files.read_record(path)
    _check_record(path, record, found)
    if record["epochs"] < config["epochs"]:
        _check_extensible(folder, run_id)
        return Standing(earlier=record)
    run_files.read_errors(folder, record, _MADE_ANEW)
    _check_mean(path, record)
    missing = lacking(folder) if run_id else []
    if missing and config["epochs"]:
        _check_restorable(folder, missing)
    return Standing(earlier=record) if missing else Standing(record)


def lacking(folder: pathlib.Path) -> list[str]:
    """The results that a finished run should have and has not; [] of an unfinished one.

    A run without epochs has no checkpoints.
    """
    path = folder / run_files.RECORD_FILE
    if not path.exists():
        return []
    names = [run_files.ERRORS_FILE]
    if files.read_json(path, non_finite="null").get("epochs"):
        names.append(BEST)
    return [name for name in names if not (folder / name).exists()]


def _check_restorable(folder: pathlib.Path, missing: list[str]) -> None:
    if not (folder / LAST).exists():
        raise UserError(
            f"{folder} lacks {' and '.join(missing)}, and has no {LAST} to write it "
            f"anew from; restore it from a copy, or remove {run_files.RECORD_FILE} "
            "there, and the same command trains anew"
        )


def _read_config(folder: pathlib.Path) -> dict[str, Any] | None:
    """The config.json of a run; None in a folder that is free."""
    path = folder / CONFIG_FILE
    try:
        if path.exists():
            found = files.read_json(path, ANOTHER)
            run_files.check_id(path, found, found)
            return found
        others = list(folder.iterdir()) if folder.exists() else []
    except OSError as error:
        reason = places.not_a_folder(folder, error)
        raise UserError(f"cannot read {path}: {reason}; {ANOTHER}") from None
    names = [other.name for other in others if not files.is_temporary(other)]
    if {*names} - {locks.FILE}:
        raise UserError(
            f"{folder} holds files but no {CONFIG_FILE} of a run; {ANOTHER}"
        )
    return None


def _check_config(
    folder: pathlib.Path, found: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    # Earlier releases had neither.
    left_out = {RUN_ID} if RUN_ID in found else {RUN_ID, IDENTITY}
    names = sorted({*found, *config} - left_out)
    changed = [name for name in names if found.get(name) != config.get(name)]
    if not changed or (changed == ["epochs"] and _grows(folder, found, config)):
        return
    if changed == [SOURCE]:
        raise UserError(
            f"the source of {config['model']} has changed since the run in {folder}; "
            f"put it back to continue that run, or {ANOTHER} to train what it is now"
        )
    told = [
        f"{name[:_MOST_SHOWN]} was {repr(found.get(name))[:_MOST_SHOWN]} and is now "
        f"{repr(config.get(name))[:_MOST_SHOWN]}"
        for name in changed[:_MOST_LISTED]
    ]
    if len(changed) > _MOST_LISTED:
        told.append(f"and {len(changed) - _MOST_LISTED} more")
    digits = checkpoint.ID_DIGITS
    ids = [str(found.get(RUN_ID, "without id")), run_files.run_id(config)]
    runs = f" (run {ids[0][:digits]}, expected {ids[1][:digits]})"
    raise UserError(
        f"{folder} belongs to another run: {'; '.join(told)}"
        f"{runs if ids[0] != ids[1] else ''}; {ANOTHER}, or give the "
        "command of that run to continue it"
    )


def _grows(
    folder: pathlib.Path, found: Mapping[str, Any], config: Mapping[str, Any]
) -> bool:
    """Whether a run of another length goes on as a longer one.

    Raises:
      UserError: it could not, because it is longer already or because its schedule
        depends on its length.
    """
    epochs = found.get("epochs")
    if type(epochs) is not int or epochs < 1 or RUN_ID not in found:
        return False
    if config["epochs"] < epochs:
        raise UserError(
            f"{folder} holds a run of {epochs} epochs already, more than "
            f"--epochs={config['epochs']}; give at least --epochs={epochs} to continue "
            f"it, or {ANOTHER}"
        )
    if not run_files.may_grow(config):
        raise UserError(
            f"{folder} holds a run of {epochs} epochs, which cannot go on to "
            f"{config['epochs']}: the learning rate of --schedule={config['schedule']} "
            f"depends on the length of the run; {ANOTHER} to train anew"
        )
    return True


def _check_record(
    path: pathlib.Path, record: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Make sure that a record is of the run of config.json, or a shorter one."""
    if record.get(RUN_ID) != config.get(RUN_ID):
        expected = config.get(RUN_ID) or "without id"
        raise checkpoint.foreign(path, record.get(RUN_ID), expected)
    settings = record["settings"]
    names = sorted({*settings, *config} - {RUN_ID, "epochs"})
    changed = [name for name in names if settings.get(name) != config.get(name)]
    epochs, most = record["epochs"], config["epochs"]
    is_part = epochs == most or (epochs < most and run_files.may_grow(config))
    if epochs != settings.get("epochs") or not is_part:
        changed.append("epochs")
    if changed:
        raise UserError(
            f"{path} is not of the run in {path.with_name(CONFIG_FILE)}: they differ "
            f"in {', '.join(changed)}; put back the record of this run, or {ANOTHER}"
        )


def _check_mean(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    losses, mean = record.get("test_loss"), record["test_loss_mean"]
    if not losses or mean is None or None in losses:
        return
    expected = math.fsum(losses) / len(losses)
    if not math.isclose(mean, expected, rel_tol=1e-6):
        raise UserError(
            f"{path} was altered: its test_loss_mean is {mean}, expected {expected}, "
            f"the mean of its test_loss; restore it, or {ANOTHER}"
        )


def _check_extensible(folder: pathlib.Path, run_id: str) -> None:
    if not run_id or not (folder / LAST).exists():
        reason = "has no last.npz to go on from" if run_id else "is of earlier releases"
        raise UserError(
            f"{folder} {reason}, so its run cannot be given more epochs; {ANOTHER}"
        )


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Hold the work directory: another start is told so and ends.

    The main process of several holds it for all.

    Raises:
      UserError: another process holds it, or it cannot be made.
    """
    held: list[locks.FolderLock] = []

    def acquire() -> None:
        lock = locks.acquire(folder, f"wait for its end, or {ANOTHER}")
        held.append(lock)
        if lock.earlier is not None:
            print(f"note      {lock.earlier} left {folder} without unlocking it")

    processes.from_main(acquire)
    try:
        yield
    finally:
        for lock in held:
            lock.release()


def claim(folder: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Mark a work directory that `check` has let pass as that of a run.

    Raises:
      UserError: it cannot be written.
    """
    path = folder / CONFIG_FILE
    content = {**config, RUN_ID: run_files.run_id(config)}
    if not path.exists() or files.read_json(path) != json.loads(json.dumps(content)):
        checkpoint.write_json(path, content)


def lost_progress(folder: pathlib.Path) -> list[str]:
    """Files of a run that was under way, in a folder without a last.npz."""
    if (folder / LAST).exists() or not folder.exists():
        return []
    metrics = folder / writers.METRICS_FILE
    names = [BEST] if (folder / BEST).exists() else []
    if metrics.exists() and metrics.stat().st_size:
        names.append(metrics.name)
    return names + sorted(path.name for path in folder.glob("events*"))[:1]


def check_task(path: pathlib.Path, task: TaskSpec) -> None:
    """Make sure that the model at `path`, if there is one, fits a data set.

    Raises:
      UserError: the data set has other inputs or targets than the model was trained
        with, or the checkpoint is damaged.
    """
    if not path.exists():
        return
    changed = task_differences(task, checkpoint.load_model(path).task, str(path))
    if changed:
        raise UserError(
            f"the data set {task.name!r} does not fit the trained model: it has "
            f"{changed}; give the data set of that model, or {ANOTHER}"
        )


def task_differences(task: TaskSpec, known: TaskSpec, knower: str) -> str:
    """What a data set has that `knower`, of the task `known`, does not; '' if nothing.

    Sizes and statistics may differ.
    """
    changed = [
        f"{what} {_listed(getattr(task, field))} where {knower} knows "
        f"{_listed(getattr(known, field))}"
        for field, what in _TASK_FIELDS.items()
        if _listed(getattr(task, field)) != _listed(getattr(known, field))
    ]
    return "; ".join(changed)


def _listed(values: Any) -> str:
    """Names, vectors or heads of a task as one text, without their statistics."""
    if values is None or isinstance(values, (str, int)):
        return repr(values)
    texts = [
        f"{value.name} ({value.size} {value.kind} from {value.base or 'zero'})"
        if isinstance(value, Head)
        else f"{value.name} (parity {value.parity:+d})"
        if isinstance(value, VectorInput)
        else value
        for value in values
    ]
    return ", ".join(texts) or "none"
