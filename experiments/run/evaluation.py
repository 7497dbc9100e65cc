"""A trained model on other data sets than its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax

from demetar.data.dataset import Dataset
from demetar.train import equivariance, loop, optim
from demetar.train.trainer import Trainer
from demetar.types import Params, TaskSpec
from experiments.run import cli, statistics


def add(
    record: dict[str, Any],
    model: hk.Transformed,
    params: Params,
    task: TaskSpec,
    others: Mapping[str, Dataset],
) -> None:
    """Put the evaluations on other data sets that a record lacks in its list `eval`.

    Each names the data set and its fingerprint, with `loss` per seed, `loss_mean`,
    `interval` and `delta_eq` as of the model's own test set, in the record's unit.

    Args:
      record: of the training.
      model: built for `task`.
      params: [R, ...] of every seed.
      task: what the model was trained on.
      others: data sets with the same inputs and targets, by name.
    """
    if not others:
        return
    entries = record.setdefault("eval", [])
    known = {(entry["dataset"], entry["fingerprint"]) for entry in entries}
    for name, dataset in others.items():
        if (name, dataset.fingerprint) not in known:
            found = _evaluate(model, params, task, dataset, f"testing on {name}")
            entries.append({"dataset": name, **found})


def _evaluate(
    model: hk.Transformed,
    params: Params,
    task: TaskSpec,
    dataset: Dataset,
    purpose: str,
) -> dict[str, Any]:
    # What the model knows of its task, as the extent of its radial basis and what was
    # subtracted from its targets, stays.
    dataset = dataset.under(task)
    seeds = tuple(range(len(jax.tree.leaves(params)[0])))
    settings = loop.Settings(epochs=1, seeds=seeds)
    devices = jax.local_devices()  # the main process alone evaluates
    trainer = Trainer(model, dataset, settings, optim.Settings(), devices=devices)
    plan, testing = trainer.dataset.plan("test"), cli.progress_of_calls(purpose)
    errors = trainer.evaluator.evaluate(params, plan, testing).overall(task)
    delta = equivariance.rotation_errors(model, dataset, params)
    return {
        "fingerprint": dataset.fingerprint,
        "loss": errors.mean(axis=1).tolist(),
        "loss_mean": float(errors.mean()),
        "interval": list(statistics.bootstrap_mean(errors)),
        "delta_eq": {name: float(value.mean()) for name, value in delta.items()},
    }


def describe(entry: Mapping[str, Any]) -> str:
    """One line with the result of an evaluation."""
    return f"on {entry['dataset']}: {told(entry['loss_mean'], entry['interval'])}"


def told(error: float | None, interval: Sequence[float | None], more: str = "") -> str:
    """How a test error is told: with what belongs behind it, and its interval."""
    low, high = map(number, interval)
    return f"test error {number(error)}{more}, 95 % interval {low} to {high}"


def number(value: float | None) -> str:
    """A number of a record, whose JSON has None for one that is not finite."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.5f}" if value >= 1e-3 else f"{value:.3g}"
