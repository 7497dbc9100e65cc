"""What the training commands share: the run itself and its record.

A command reads its own flags and data, and hands over a `Job`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import haiku as hk
import jax

from demetar import models
from demetar.data.dataset import Dataset
from demetar.distributed import launch, processes
from demetar.errors import UserError
from demetar.train import checkpoint, equivariance, progress, writers
from demetar.train.evaluation import Evaluation
from demetar.train.program_cache import ProgramCache
from demetar.train.run import Run
from demetar.train.trainer import Trainer
from demetar.types import Array, Batch, TaskSpec
from experiments.protocols.settings import Replicas, Settings, describe
from experiments.run import (
    cli,
    evaluation,
    figures,
    options,
    records,
    repeat,
    run_files,
    sizes,
    workdir,
)
from tools.command_line import Given

T = TypeVar("T")

# `draw(task, batch, predictions, writer, epoch)` makes pictures of a test batch.
Draw: TypeAlias = Callable[
    [TaskSpec, Batch, Mapping[str, Array], writers.RunWriter, int], None
]


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that a command was asked for.

    Attributes:
      module: of the command.
      given: the flags.
      settings: all of them, those that the data settle among them.
      changed: those that depart from the protocol.
      dataset, place: the data, and where a person finds them.
      draw: pictures at the end.
      others: data sets that the trained model is evaluated on too, by name.
    """

    module: str
    given: Given
    settings: Settings
    changed: Mapping[str, Any]
    dataset: Dataset
    place: pathlib.Path
    draw: Draw | None = None
    others: Mapping[str, Dataset] = dataclasses.field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """The protocol and what departs from it, in one line."""
        return describe(self.settings.protocol, self.changed)

    @property
    def folder(self) -> pathlib.Path:
        """The work directory."""
        output = self.given.read(options.Output)
        chosen = output.workdir or options.default_workdir(self.settings, self.changed)
        return workdir.place(chosen)

    @property
    def command(self) -> str:
        """The command line that repeats the run."""
        return records.command(self.module, self.given, self.settings, self.changed)


def prepare(given: Given) -> None:
    """What comes before the data are read.

    Args:
      given: the flags.

    Raises:
      UserError: no model is named, or an unknown one, or other processes of the run
        do not come.
    """
    if not given.get("model"):
        raise UserError(
            f"expected --model, one of {', '.join(models.REGISTRY)}, or your own as "
            f"{models.own.FORM}"
        )
    models.check_name(given["model"])
    jax.config.update("jax_enable_x64", given.read(Replicas).dtype == "float64")
    # By default GPUs and TPUs round the factors of float32 products to some 10 bits:
    # symmetries would then hold to 1e-3.
    jax.config.update("jax_default_matmul_precision", "highest")
    told = given.read(options.Processes)
    launch.keep_memory()
    if told.coordinator is None or told.cpu_devices is not None:
        launch.use_cores(told.cpu_devices)
    launch.start(told.coordinator, told.num_processes, told.process_id)
    # A module of one's own may compute when it is imported, so the above comes first.
    models.model_class(given["model"])


def load(read: Callable[[], T]) -> T:
    """What `read` reads; if there are several processes, the main one goes first.

    So files that are made on first use are made once.
    """
    return processes.main_first(read)


def run(job: Job) -> int:
    """Train, or continue, or tell that the run is finished."""
    settings, dataset = job.settings, job.dataset
    output = job.given.read(options.Output)
    folder = job.folder
    config = workdir.make_config(settings.config(), dataset)
    processes.check_same(config)
    model = models.build(settings.model, dataset.task, settings.fields)
    note = repeat.note(job.given, dataset.fingerprint)
    if note:
        print(note)

    def tell() -> bool:
        return tell_record(job, model, folder, config)

    if not job.others and processes.from_main(tell):  # it writes nothing: no lock
        return 0
    with workdir.locked(folder):
        # Again: the process that held it may have come to the end.
        if processes.from_main(tell):
            return 0
        cache = program_cache(config, dataset.task) if output.compile_cache else None
        try:
            return train(job, model, folder, config, cache)
        except jax.errors.JaxRuntimeError as error:
            if cache is None or not cache.discard_loaded():
                raise
            raise UserError(
                f"a compiled program that was kept does not run ({str(error)[:90]!r}); "
                "it is removed, and the same command compiles it anew"
            ) from None


def train(
    job: Job,
    model: hk.Transformed,
    folder: pathlib.Path,
    config: dict[str, Any],
    cache: ProgramCache | None,
) -> int:
    """Begin or continue the run of a work directory that this process holds."""
    settings, dataset = job.settings, job.dataset
    trainer = Trainer(
        model,
        dataset,
        *settings.training(),
        options.make_phases(settings, dataset),
        cache=cache,
    )
    trainer.programs.telling = (
        progress.compiling if processes.is_main() else contextlib.nullcontext
    )
    assignments = job.given.read(options.Choice).set
    if assignments or job.given.fields or settings.replicas.num_seeds > 1:
        sizes.check_model(
            trainer.first_params, settings.replicas.num_seeds, assignments
        )
    run = Run.start(trainer, folder / workdir.LAST, run_files.run_id(config))
    print(introduce(job, run, folder), flush=True)
    processes.from_main(lambda: workdir.claim(folder, config))
    signals = cli.StopSignal()
    told = f"saved in {folder}; the same command continues"
    with make_writer(job, run, folder, config) as writer, signals.listening():
        trainer.programs.telling = writer.compiling

        def save_best() -> None:
            if processes.is_main():
                writer.sync()
                write_best(folder, run, config, dataset)

        every = job.given.read(options.Output).figure_every
        told_of = figures.telling(writer, model, run, every)
        finished = run.fit(told_of, save_best, signals)
        if finished:
            if not (folder / workdir.BEST).exists():
                save_best()  # of a run that came to its end before
            plan = trainer.dataset.plan("test")
            testing = cli.progress_of_calls("testing")
            tested = trainer.evaluator.evaluate(run.best, plan, testing)
            asked = (job, run, model, folder, config)
            told = processes.from_main(lambda: finish(*asked, tested, writer))
    print(told)  # below the progress line
    return 0 if finished else cli.SIGNALLED + (signals.number or 0)


def tell_record(
    job: Job, model: hk.Transformed, folder: pathlib.Path, config: dict[str, Any]
) -> bool:
    """Whether the work directory holds the record of this run; then tell of it.

    Raises:
      UserError: it belongs to another run.
    """
    record = workdir.check(folder, config, job.dataset.task).record
    if record is None:
        return False
    path = folder / run_files.RECORD_FILE
    if job.others:
        best = checkpoint.load_model(folder / workdir.BEST).params
        evaluation.add(record, model, best, job.dataset.task, job.others)
        records.write(path, record)
    print(f"already finished: {records.describe(record)}\nrecord: {path}")
    return True


def introduce(job: Job, run: Run, folder: pathlib.Path) -> str:
    """The first lines of a run."""
    dataset = job.dataset
    lines = [
        f"model     {job.settings.model}, {records.num_params(run):,} parameters",
        f"data      {job.place}, {len(dataset.splits['train']):,} training samples, "
        f"{dataset.task.name}, fingerprint {dataset.fingerprint[:12]}",
        f"protocol  {job.protocol}",
        f"workdir   {folder}, run {run.run_id[: checkpoint.ID_DIGITS]}",
        f"start     {beginning(run, folder)}",
    ]
    target = records.describe_targets(dataset.task)
    if target:
        lines.insert(2, f"target    {target}")
    if run.trainer.placement.num_devices > 1:
        lines.append(f"devices   {cli.device()}; they share each batch")
    return "\n".join(lines)


def beginning(run: Run, folder: pathlib.Path) -> str:
    """Whether a start begins or continues the run, and from where."""
    epochs = run.trainer.settings.epochs
    if run.is_saved:
        part = ", within an interval" if run.progress.rows else ""
        if run.progress.epoch and not (folder / writers.METRICS_FILE).exists():
            part += f"; {writers.METRICS_FILE} is missing, its lines begin here"
        missing = workdir.lacking(folder) if run.progress.epoch == epochs else []
        if missing:
            part += f"; writes what is missing: {', '.join(missing)}"
        return f"continues after epoch {run.progress.epoch} of {epochs}{part}"
    lost = workdir.lost_progress(folder) if processes.is_main() else []
    if not lost:
        return f"begins at epoch 0 of {epochs}"
    return (
        f"begins at epoch 0 of {epochs}, from nothing: {folder} has {', '.join(lost)} "
        f"of an earlier start but no {workdir.LAST}; they are replaced"
    )


def make_writer(
    job: Job, run: Run, folder: pathlib.Path, config: dict[str, Any]
) -> writers.RunWriter | writers.NoWriter:
    """What writes the metrics of the run, if this process does."""
    if not processes.is_main():
        return writers.NoWriter()
    start, epochs = run.progress.epoch, config["epochs"]
    return writers.RunWriter(folder, epochs, start, job.command, config, run.run_id)


def program_cache(config: Mapping[str, Any], task: TaskSpec) -> ProgramCache:
    """The compiled programs of runs with these settings, whatever their seeds."""
    described = {name: value for name, value in config.items() if name != "seed"}
    folder = cli.cache_dir() / "programs"
    return ProgramCache(folder, {"run": described, "task": task.to_json()})


def write_best(
    folder: pathlib.Path, run: Run, config: dict[str, Any], dataset: Dataset
) -> None:
    """The model at the lowest validation loss, as a checkpoint that needs no flags."""
    apart = ("fingerprint", workdir.IDENTITY, workdir.SOURCE)
    settings = {name: value for name, value in config.items() if name not in apart}
    best = checkpoint.ModelCheckpoint(
        model=settings["model"],
        fields=settings["fields"],
        task=dataset.task,
        params=run.best,
        metadata={
            "best_epoch": run.progress.best_epoch,
            "best_valid_loss": run.progress.best_loss,
            "settings": settings,
            run_files.RUN_ID: run.run_id,
        },
        source=config.get(workdir.SOURCE, ""),
    )
    checkpoint.save_model(folder / workdir.BEST, best)


def finish(
    job: Job,
    run: Run,
    model: hk.Transformed,
    folder: pathlib.Path,
    config: dict[str, Any],
    tested: Evaluation,
    writer: Any,
) -> str:
    """Write the record, of the first and only look at the test set, and describe it.

    Args:
      job, run, model, folder, config: of the training.
      tested: what `Evaluator.evaluate` says of the test set.
      writer: of metrics and pictures.
    """
    dataset, trainer = job.dataset, run.trainer
    errors = tested.overall(dataset.task)
    best = trainer.placement.here(run.best)
    record = {
        **job_record(job, config),
        **records.run_record(run),
        **records.test_record(dataset.task, tested.errors, errors),
        "num_params": records.num_params(run),
        run_files.RUN_ID: run.run_id,
    }
    delta = equivariance.rotation_errors(model, dataset, best)
    n_node = dataset.packing.samples.n_node[dataset.splits["test"]]
    if dataset.task.judged_by:
        found = records.errors_record(dataset.task, tested.measures, n_node)
        record["test_errors"] = found
    if tested.mean is not None:
        told = records.mean_record(dataset.task, tested.mean, n_node)
        record[run_files.MEAN_OF_SEEDS] = told
    record["delta_eq"] = {name: float(value.mean()) for name, value in delta.items()}
    if job.draw is not None:
        plan = trainer.dataset.plan("test")
        batch, first = trainer.evaluator.first_batch(plan, tested.predictions)
        job.draw(dataset.task, batch, first, writer, trainer.settings.epochs)
    writer.finish({name: record[name] for name in ("test_loss", "valid_loss")})
    standing = workdir.check(folder, config, dataset.task)
    record |= records.inherited(standing.earlier or standing.record, record["epochs"])
    evaluation.add(record, model, best, dataset.task, job.others)
    errors_path = folder / run_files.ERRORS_FILE
    judging = records.judging(dataset.task)
    records.save_errors(errors_path, judging, errors, run.run_id)
    records.write(folder / run_files.RECORD_FILE, record)
    return f"{records.describe(record)}\nrecord: {folder / run_files.RECORD_FILE}"


def job_record(job: Job, config: dict[str, Any]) -> dict[str, Any]:
    """What the record says of what was asked for."""
    same = ("dataset", "fields", "model")
    targets = " and ".join(head.name for head in job.dataset.task.heads)
    return {
        "command": job.command,
        "fingerprint": job.dataset.fingerprint,
        "protocol": job.protocol,
        "settings": config,
        "target": config.get("target", targets),
        **{name: config[name] for name in same},
    }
