"""Pictures of the inside of a model in TensorBoard while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax

from demetar.data import capacity
from demetar.data.batch import of_samples
from demetar.data.dataset import Dataset
from demetar.train import writers
from demetar.train.run import Run
from demetar.types import Batch, Params
from demetar.visual import attention, glyphs, layout, symmetry
from demetar.visual.inside import Recorder

Tell = Callable[[dict[str, Any]], None]


def telling(
    writer: writers.RunWriter | writers.NoWriter,
    model: hk.Transformed,
    run: Run,
    every: int,
) -> Tell:
    """What a run calls at each evaluation: the metrics, and pictures now and then.

    Args:
      writer: of the run.
      model, run: what is trained.
      every: evaluations between two sets of pictures; 0 for none.
    """
    if not every or isinstance(writer, writers.NoWriter):
        return writer.evaluation
    dataset = run.trainer.dataset
    recorder = Recorder(model, dataset.task)
    batch = first_system(dataset)

    def tell(metrics: dict[str, Any]) -> None:
        writer.evaluation(metrics)
        epoch = int(metrics["epoch"])
        # Counted from the first epoch, so that a run that was continued draws the same.
        number = -(-epoch // run.trainer.settings.eval_every)
        if number % every == 0:
            draw(writer, recorder, _first_replica(run), batch, epoch)

    return tell


def first_system(dataset: Dataset, split: str = "valid") -> Batch:
    """The first sample of a split in a batch of its own, in the dtype of the data."""
    sample = capacity.alone(dataset.packing.samples, int(dataset.splits[split][0]))
    return of_samples(sample, dataset.task, str(sample.nodes.positions.dtype))


def _first_replica(run: Run) -> Params:
    params = run.trainer.evaluated_params(run.state)
    found: Params = jax.tree.map(
        lambda leaf: leaf[0], jax.device_get(run.trainer.placement.here(params))
    )
    return found


def draw(
    writer: writers.RunWriter,
    recorder: Recorder,
    params: Params,
    batch: Batch,
    epoch: int,
) -> None:
    """Features and attention, if the model records them, and errors of symmetries."""
    task = recorder.task
    inside = recorder(params, batch)
    own = layout.of_nodes(task, batch.graph.nodes, len(inside.positions))
    title = f"epoch {epoch}, first validation sample"
    if inside.layers:
        writer.figure("inside/glyphs", glyphs.figure(inside, own, title), epoch)
    if inside.attention:
        found = attention.find(inside, own, task.name)
        writer.figure("inside/attention", attention.figure(found, own, title), epoch)
    errors = symmetry.errors(recorder, params, batch)
    writer.figure("inside/equivariance", symmetry.figure(errors, title), epoch)
