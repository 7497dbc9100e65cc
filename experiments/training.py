"""What the training commands share: flags, settings, the run itself, its record.

A command reads its own flags and data, and hands over a `Job`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from absl import flags

from demetar import models
from demetar.data import base as data
from demetar.errors import UserError
from demetar.train import checkpoint, equivariance, hosts, loop, optim, writers
from demetar.train.program_cache import ProgramCache
from demetar.train.run import Run
from demetar.train.trainer import Trainer
from demetar.types import Array, Batch, TaskSpec
from experiments import common, processes, protocols, records, transfer

T = TypeVar("T")

# The least value of each number that has one.
LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "eval_every": 1,
    "num_seeds": 1,
    "seed": 0,
    "warmup_epochs": 0,
    "weight_decay": 0,
    "clip_norm": 0,
    "average_decay": 0,
    "clip_each": 0,
    "num_bodies": 2,
    "num_neighbors": 1,
}

RUN_FLAGS = ("seed", "num_seeds", "dtype", "target", "augment")  # with defaults

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", None, f"Model to train: {', '.join(models.REGISTRY)}. Required."
)
flags.DEFINE_integer(
    "num_train",
    None,
    "Training samples: the first of the whole set. Default: the protocol's.",
)
flags.DEFINE_string(
    "protocol", "paper", "Named settings of the model: paper, or tuned where there is."
)
flags.DEFINE_integer("batch_size", None, "Graphs per batch. Default: the protocol's.")
flags.DEFINE_integer("epochs", None, "Passes over the data. Default: the protocol's.")
flags.DEFINE_float("learning_rate", None, "Highest rate. Default: the protocol's.")
flags.DEFINE_enum(
    "schedule", None, optim.SCHEDULES, "Of the rate. Default: the protocol's."
)
flags.DEFINE_enum("optimizer", None, optim.OPTIMIZERS, "Default: the protocol's.")
flags.DEFINE_float("weight_decay", None, "Default: the protocol's.")
flags.DEFINE_integer("warmup_epochs", None, "Linear warm-up. Default: the protocol's.")
flags.DEFINE_float(
    "clip_norm", None, "Bound on the gradient's norm, 0: none. Default: the protocol's."
)
flags.DEFINE_float(
    "average_decay",
    None,
    "Decay of the moving average of the parameters that is evaluated, 0: none. "
    "Default: the protocol's.",
)
flags.DEFINE_enum(
    "loss", None, loop.LOSSES, "Per graph: the error, or log(error + floor) / 2."
)
flags.DEFINE_float("loss_floor", None, "Of --loss=log. Default: the protocol's.")
flags.DEFINE_float(
    "clip_each",
    None,
    "Bound on the norm of each graph's gradient, 0: none. Default: the protocol's.",
)
flags.DEFINE_multi_string(
    "phase",
    None,
    "How the run begins: EPOCHS:field=value,... of the model, or loss_floor=value. "
    "Repeatable; an empty one stands for none. Default: the protocol's.",
)
flags.DEFINE_enum(
    "augment", "none", loop.AUGMENTATIONS, "For models that are not equivariant."
)
flags.DEFINE_integer("eval_every", None, "Epochs between evaluations on valid.")
flags.DEFINE_integer("seed", 1, "Seed of initialisation and order of the data.")
flags.DEFINE_integer(
    "num_seeds", 1, "Replicas with seeds seed, seed + 1, ... in one compiled program."
)
flags.DEFINE_multi_string(
    "set", [], "field=value of the model, e.g. --set hidden_size=32. Repeatable."
)
flags.DEFINE_string(
    "workdir", None, "Work directory. Default: runs/DATASET/MODEL, changes appended."
)
flags.DEFINE_bool(
    "compile_cache", False, "Keep compiled programs in ~/.cache/demetar/programs."
)
flags.DEFINE_enum("dtype", "float32", ("float32", "float64"), "Of the training.")
flags.DEFINE_integer(
    "cpu_devices",
    None,
    "Devices to make of a processor's cores; they share each batch. Default: one per "
    f"core, at most {processes.MOST_CORES}; 1 with --coordinator.",
    lower_bound=1,
)
flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, for a run of several processes, of which each is given "
    f"the same flags; or {processes.CLUSTER}: as Slurm, Open MPI, Kubernetes or a TPU "
    "pod say in their environment.",
)
flags.DEFINE_integer("num_processes", None, "Of the run, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Of this process, from 0; 0 writes.")


# `draw(task, batch, predictions, writer, epoch)` makes pictures of a test batch.
Draw: TypeAlias = Callable[
    [TaskSpec, Batch, Mapping[str, Array], writers.RunWriter, int], None
]


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that a command was asked for.

    Attributes:
      module: of the command.
      settings: all of them, as `resolve` gives them and the data fill them in.
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
    workdir = pathlib.Path(FLAGS.workdir or default_workdir(settings, job.changed))
    config = {**settings, "fingerprint": dataset.fingerprint}
    hosts.check_same(config)
    model = models.build(settings["model"], dataset.task, settings["fields"])
    if hosts.from_main(lambda: find_record(job, model, workdir, config)):
        return 0
    trainer = Trainer(
        model,
        dataset,
        *training_settings(settings, dataset),
        make_phases(settings, dataset),
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


def resolve(
    protocol: protocols.Protocol, own_flags: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All settings of the run, and those that depart from the protocol.

    Args:
      protocol: whose values the flags of the same names replace.
      own_flags: names of the command's other flags that are settings.
    """
    settings: dict[str, Any] = dataclasses.asdict(protocol)
    del settings["source"]
    changed = {}
    for name in settings:
        value = getattr(FLAGS, name, None)
        if name == "phase" and value is not None:
            value = tuple(filter(None, value))
        if value is not None and value != settings[name]:
            changed[name] = settings[name] = value
    fields = models.parse_fields(FLAGS.model, FLAGS.set)
    fields = models.check_fields(FLAGS.model, fields)
    changed |= fields
    settings["fields"] = {**protocol.fields, **fields}
    for name in (*own_flags, *RUN_FLAGS):
        settings[name] = getattr(FLAGS, name)
        if settings[name] != FLAGS[name].default:
            changed[name] = settings[name]
    check_ranges(settings)
    for text in settings["phase"]:
        protocols.parse_phase(FLAGS.model, text)  # refuses a malformed one
    for name in ("model", "protocol"):
        settings[name] = getattr(FLAGS, name)
    return settings, changed


def check_ranges(settings: dict[str, Any]) -> None:
    """Refuse numbers that no run can be made with."""
    for name, least in LEAST.items():
        value = settings.get(name)
        if value is not None and not least <= value < math.inf:  # nor NaN
            raise UserError(f"expected --{name} of at least {least}, found {value}")
    for name in ("learning_rate", "loss_floor"):
        if not 0 < settings[name] < math.inf:
            raise UserError(f"expected a --{name} above 0, found {settings[name]}")
    if settings["average_decay"] >= 1:
        raise UserError(
            f"expected an --average_decay below 1, found {settings['average_decay']}"
        )
    if settings["seed"] + settings["num_seeds"] > 2**31:
        raise UserError(f"expected --seed below 2^31, found {settings['seed']}")


def default_workdir(settings: dict[str, Any], changed: dict[str, Any]) -> pathlib.Path:
    """A folder of its own for every choice of settings, named by what was changed."""
    parts = [settings["model"]]
    if settings["protocol"] != "paper":
        parts.append(settings["protocol"])
    for name, value in sorted(changed.items()):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{name}={text.replace('/', '_')}")
    return (
        pathlib.Path("runs") / pathlib.Path(settings["dataset"]).name / "-".join(parts)
    )


def training_settings(
    settings: dict[str, Any], dataset: data.Dataset
) -> tuple[loop.Settings, optim.Settings]:
    """The settings as the trainer takes them."""
    seed, per_epoch = settings["seed"], len(dataset.plan("train")["weight"])
    run = loop.Settings(
        epochs=settings["epochs"],
        eval_every=settings["eval_every"],
        seeds=tuple(range(seed, seed + settings["num_seeds"])),
        augment=settings["augment"],
        average_decay=settings["average_decay"],
        loss=settings["loss"],
        loss_floor=settings["loss_floor"],
        clip_each=settings["clip_each"],
    )
    optimizer = optim.Settings(
        optimizer=settings["optimizer"],
        learning_rate=settings["learning_rate"],
        schedule=settings["schedule"],
        warmup_steps=settings["warmup_epochs"] * per_epoch,
        weight_decay=settings["weight_decay"],
        clip_norm=settings["clip_norm"],
    )
    return run, optimizer


def make_phases(settings: dict[str, Any], dataset: data.Dataset) -> list[loop.Phase]:
    """The phases that the run begins with, as the trainer takes them."""
    name, phases, end = settings["model"], [], 0
    for text in settings["phase"]:
        phase = protocols.parse_phase(name, text)
        end += phase.epochs
        fields = {**settings["fields"], **phase.fields}
        model = models.build(name, dataset.task, fields)
        phases.append(loop.Phase(end, model, phase.loss_floor))
    return phases


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
        **records.test_record(dataset.task.heads, by_head, errors),
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
