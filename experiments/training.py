"""What the training commands share: the run itself and its record.

A command reads its own flags and data, and hands over a `Job`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from absl import flags

from demetar import models
from demetar.data import base as data
from demetar.errors import UserError
from demetar.train import checkpoint, equivariance, hosts, writers
from demetar.train.program_cache import ProgramCache
from demetar.train.run import Run
from demetar.train.trainer import Trainer
from demetar.types import Array, Batch, TaskSpec
from experiments import common, options, processes, records, transfer

T = TypeVar("T")

FLAGS = flags.FLAGS

# `draw(task, batch, predictions, writer, epoch)` makes pictures of a test batch.
Draw: TypeAlias = Callable[
    [TaskSpec, Batch, Mapping[str, Array], writers.RunWriter, int], None
]


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that a command was asked for.

    Attributes:
      module: of the command.
      settings: all of them, as `options.resolve` gives them and the data fill them in.
      changed: those that depart from the protocol.
      protocol: its description.
      dataset, place: the data, and where a person finds them.
      draw: pictures at the end.
      others: data sets that the trained model is evaluated on too, by name.
    """

    module: str
    settings: dict[str, Any]
    changed: dict[str, Any]
    protocol: str
    dataset: data.Dataset
    place: pathlib.Path
    draw: Draw | None = None
    others: Mapping[str, data.Dataset] = dataclasses.field(default_factory=dict)


def prepare() -> None:
    """What comes before the data are read.

    Raises:
      UserError: no model is named, or an unknown one, or other processes of the run
        do not come.
    """
    if not FLAGS.model:
        raise UserError(f"expected --model, one of {', '.join(models.REGISTRY)}")
    models.model_class(FLAGS.model)
    jax.config.update("jax_enable_x64", FLAGS.dtype == "float64")
    if FLAGS.coordinator is None or FLAGS.cpu_devices is not None:
        processes.use_cores(FLAGS.cpu_devices)
    processes.start(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)


def load(read: Callable[[], T]) -> T:
    """What `read` reads; where there are several processes, the main one goes first.

    So files that are made on first use are made once.
    """
    return hosts.main_first(read)


def run(job: Job) -> int:
    """Train, or continue, or tell that the run is finished."""
    settings, dataset = job.settings, job.dataset
    workdir = pathlib.Path(
        FLAGS.workdir or options.default_workdir(settings, job.changed)
    )
    config = {**settings, "fingerprint": dataset.fingerprint}
    hosts.check_same(config)
    model = models.build(settings["model"], dataset.task, settings["fields"])
    if hosts.from_main(lambda: find_record(job, model, workdir, config)):
        return 0
    trainer = Trainer(
        model,
        dataset,
        *options.training_settings(settings, dataset),
        options.make_phases(settings, dataset),
        cache=program_cache(config, dataset.task) if FLAGS.compile_cache else None,
    )
    run = Run.start(trainer, workdir / "last.npz")
    hosts.from_main(lambda: common.claim_workdir(workdir, config))
    print(introduce(job, run, workdir), flush=True)
    signals = common.StopSignal()
    with make_writer(job, run, workdir, config) as writer, signals.listening():

        def save_best() -> None:
            if hosts.is_main():
                write_best(workdir, run, settings, dataset)

        if not run.fit(writer.evaluation, save_best, signals):
            print(f"saved in {workdir}; the same command continues")
            return common.SIGNALLED + (signals.number or 0)
        tested = trainer.evaluate(run.best, trainer.dataset.plan("test"))
        asked = (job, run, model, workdir, config)
        hosts.from_main(lambda: finish(*asked, tested, writer))
    return 0


def find_record(
    job: Job, model: Any, workdir: pathlib.Path, config: dict[str, Any]
) -> bool:
    """Whether the work directory holds the record of this run; then tell of it.

    Raises:
      UserError: it belongs to another run.
    """
    common.check_task(workdir / "best.npz", job.dataset.task)
    common.check_workdir(workdir, config)
    record_path = workdir / "record.json"
    if not record_path.exists():
        return False
    record = json.loads(record_path.read_text())
    if job.others:
        best = checkpoint.load_model(workdir / "best.npz").params
        transfer.add(record, model, best, job.dataset.task, job.others)
        checkpoint.write_json(record_path, record)
    print(f"already finished: {records.describe(record)}\nrecord: {record_path}")
    return True


def introduce(job: Job, run: Run, workdir: pathlib.Path) -> str:
    """The first lines of a run."""
    dataset = job.dataset
    lines = [
        f"model     {job.settings['model']}, {records.num_params(run):,} parameters",
        f"data      {job.place}, {len(dataset.splits['train']):,} training samples, "
        f"{dataset.task.name}, fingerprint {dataset.fingerprint[:12]}",
        f"protocol  {job.protocol}",
        f"workdir   {workdir}",
    ]
    target = records.describe_targets(dataset.task)
    if target:
        lines.insert(2, f"target    {target}")
    if run.trainer.placement.num_devices > 1:
        lines.append(f"devices   {common.device()}; they share each batch")
    return "\n".join(lines)


def make_writer(
    job: Job, run: Run, workdir: pathlib.Path, config: dict[str, Any]
) -> writers.RunWriter | writers.NoWriter:
    """What writes the metrics of the run, if this process does."""
    if not hosts.is_main():
        return writers.NoWriter()
    start, epochs = run.progress.epoch, job.settings["epochs"]
    return writers.RunWriter(
        workdir, epochs, start, records.command(job.module), config
    )


def program_cache(config: Mapping[str, Any], task: TaskSpec) -> ProgramCache:
    """The compiled programs of runs with these settings, whatever their seeds."""
    described = {name: value for name, value in config.items() if name != "seed"}
    folder = common.cache_dir() / "programs"
    return ProgramCache(folder, {"run": described, "task": task.to_json()})


def write_best(
    workdir: pathlib.Path,
    run: Run,
    settings: dict[str, Any],
    dataset: data.Dataset,
) -> None:
    """The model at the lowest validation loss, as a checkpoint that needs no flags."""
    best = checkpoint.ModelCheckpoint(
        model=settings["model"],
        fields=settings["fields"],
        task=dataset.task,
        params=run.best,
        metadata={
            "best_epoch": run.progress.best_epoch,
            "best_valid_loss": run.progress.best_loss,
            "settings": settings,
        },
    )
    checkpoint.save_model(workdir / "best.npz", best)


def finish(
    job: Job,
    run: Run,
    model: Any,
    workdir: pathlib.Path,
    config: dict[str, Any],
    tested: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
    writer: Any,
) -> None:
    """Write and tell the record, of the first and only look at the test set.

    Args:
      job, run, model, workdir, config: of the training.
      tested: what `Trainer.evaluate` says of the test set.
      writer: of metrics and pictures.
    """
    dataset, trainer = job.dataset, run.trainer
    by_head, predictions = tested
    errors = np.mean([value.astype(np.float64) for value in by_head.values()], axis=0)
    best = trainer.placement.here(run.best)
    record = {
        **job_record(job, config),
        **records.run_record(run),
        **records.test_record(dataset.task, by_head, errors),
        "num_params": records.num_params(run),
    }
    delta = equivariance.rotation_errors(model, dataset, best)
    record["delta_eq"] = {name: float(value.mean()) for name, value in delta.items()}
    if job.draw is not None:
        plan = trainer.dataset.plan("test")
        batch, first = trainer.first_batch(plan, predictions)
        job.draw(dataset.task, batch, first, writer, trainer.settings.epochs)
    losses = {name: record[name] for name in ("test_loss", "valid_loss")}
    writer.finish(losses)
    transfer.add(record, model, best, dataset.task, job.others)
    records.save_errors(workdir / "test_errors.npz", dataset.task.heads, errors)
    checkpoint.write_json(workdir / "record.json", record)
    print(f"{records.describe(record)}\nrecord: {workdir / 'record.json'}")


def job_record(job: Job, config: dict[str, Any]) -> dict[str, Any]:
    """What the record says of what was asked for."""
    settings = job.settings
    same = ("dataset", "fields", "model", "target")
    return {
        "command": records.command(job.module),
        "fingerprint": job.dataset.fingerprint,
        "protocol": job.protocol,
        "settings": config,
        **{name: settings[name] for name in same},
    }
