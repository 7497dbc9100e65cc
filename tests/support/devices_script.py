"""Trains small models on the devices of one process or of several, and saves what came.

    python devices_script.py SETTINGS OUT [COORDINATOR NUM_PROCESSES PROCESS_ID]

SETTINGS is JSON: {LABEL: arguments of `train`}. OUT.npz gets parameters, loss curves
and test errors by label.
"""

import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from demetar import models, testing
from demetar.data import molecules, qm9
from demetar.data.dataset import Dataset
from demetar.data.packing import make_packing
from demetar.distributed import processes
from demetar.train import loop, optim
from demetar.train.run import Run
from demetar.train.trainer import Trainer
from tests import qm9_test

ADAM = optim.Settings(learning_rate=3e-3, clip_norm=1.0)
FIELDS = {"hidden_size": 6, "num_layers": 1}


def bodies(dtype: str, sizes: tuple[int, ...] = (5,)) -> Dataset:
    """Charged systems; neither they nor the devices divide the batch size."""
    samples = testing.make_samples(testing.systems(sizes * (60 // len(sizes))), dtype)
    noise = np.random.default_rng(0).normal(size=samples.targets["position"].shape)
    samples.targets["position"] += noise.astype(dtype)
    splits = {
        "train": np.arange(45),
        "valid": np.arange(45, 52),
        "test": np.arange(52, 60),
    }
    packing = make_packing(samples, testing.TASK, 10)
    return Dataset(testing.TASK, packing, splits, "")


def some_molecules(dtype: str) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder) / "molecules.npz"
        molecules.write(place, qm9_test.make_molecules(60))
        settings = qm9.Settings(
            target="gap", split="random", batch_size=10, dtype=dtype
        )
        return qm9.load(molecules.read(place), settings)


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "bodies": bodies,
    "mixed": functools.partial(bodies, sizes=(3, 7, 2, 5, 1)),
    "molecules": some_molecules,
}


def train(
    kind: str, dtype: str, num_devices: int | None, name: str = "egnn", **settings: Any
) -> dict:
    """Parameters, losses and test errors of 50 updates or a few more."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    dataset = DATASETS[kind](dtype)
    fields: dict[str, Any] = dict(FIELDS) if name == "egnn" else {}
    if kind == "molecules":
        fields["node_inputs"] = dataset.task.scalars
    model = models.build(name, dataset.task, fields)
    per_epoch = len(dataset.train_plan(1, 0)["weight"])
    run_settings = loop.Settings(
        epochs=-(-50 // per_epoch), eval_every=2, checkpoint_seconds=1e9, **settings
    )
    devices = jax.devices()[:num_devices]
    trainer = Trainer(model, dataset, run_settings, ADAM, devices=devices)
    curve: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(trainer, pathlib.Path(folder) / "last.npz")
        assert run.fit(curve.append, lambda: None, lambda: False)
    errors = trainer.evaluator.evaluate(run.best, trainer.dataset.plan("test")).errors
    leaves = jax.tree.leaves(trainer.placement.here(run.state.params))
    return {
        "params": np.concatenate([np.ravel(leaf) for leaf in leaves]),
        "train_loss": np.array([metrics["train_loss"] for metrics in curve]),
        "valid_loss": np.array([metrics["valid_loss"] for metrics in curve]),
        "errors": next(iter(errors.values())),
        "steps": np.array(curve[-1]["step"]),
    }


def main(settings: str, out: str, *others: str) -> None:
    if others:
        coordinator, count, number = others
        jax.distributed.initialize(coordinator, int(count), int(number))
    found = {
        f"{label} {key}": value
        for label, arguments in json.loads(settings).items()
        for key, value in train(**arguments).items()
    }
    if processes.is_main():
        np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
