"""A task with its samples and splits, and the identity of what they hold.

The order of the training samples is a function of (seed, epoch). So is the noise of a
task that removes noise; in evaluations it is one of the sample alone.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demetar import files, heads
from demetar.data.packing import Packing, Plan
from demetar.types import Array, Batch, TaskSpec

# `corrupt(keys, batch)` gives the batch that a model sees and its targets; `keys` [G]
# are random, one for each graph.
Corrupt = Callable[[jax.Array, Batch], Batch]
DRAW = "draw"  # array of a plan: which noise of its sample a slot gets


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A task with its samples, splits and batches.

    Attributes:
      task: what the models need to know.
      packing: how samples become batches.
      splits: {'train' | 'valid' | 'test': [D'] sample numbers}.
      fingerprint: SHA-256 of the data as they were read.
      identity: of `identify`, of everything that decides the numbers.
      corrupt: what a batch goes through before a model sees it, if anything.
    """

    task: TaskSpec
    packing: Packing
    splits: Mapping[str, np.ndarray]
    fingerprint: str
    identity: str = ""
    corrupt: Corrupt | None = None

    def composition(self) -> np.ndarray:
        """Number of nodes of each species in each sample, [D, Z] float64."""
        samples = self.packing.samples
        return heads.composition(self.task, samples.nodes.scalars, samples.n_node)

    def under(self, task: TaskSpec) -> Dataset:
        """The same samples with targets less what another task knows of them.

        Args:
          task: of the same inputs and targets; that of a trained model.
        """
        counts = self.composition()
        samples = self.packing.samples
        values = heads.absolute_all(self.task, samples.targets, counts)
        targets = {
            name: residuals.astype(samples.targets[name].dtype)
            for name, residuals in heads.residual_all(task, values, counts).items()
        }
        packing = copy.copy(self.packing)
        packing.samples = dataclasses.replace(samples, targets=targets)
        return dataclasses.replace(self, task=task, packing=packing)

    def train_plan(self, seed: int, epoch: int) -> Plan:
        """The training samples in the order of (seed, epoch)."""
        generator = np.random.default_rng([seed, epoch])
        plan = self.packing.plan(generator.permutation(self.splits["train"]))
        if self.corrupt is None:
            return plan
        draw = generator.integers(1, 2**31)  # 0 is that of evaluations
        return {**plan, DRAW: np.full_like(plan["sample"], draw)}

    def plan(self, split: str) -> Plan:
        """The samples of a split, packed from their own order."""
        return self.packing.plan(self.splits[split])

    def batch(self, arrays: Any, row: Mapping[str, Array]) -> Batch:
        """The batch of one row of a plan, as a model sees it. Pure, as
        `Packing.assemble`.

        What a graph goes through depends on its sample and its draw, not on its slot.
        """
        batch = self.packing.assemble(arrays, row)
        return batch if self.corrupt is None else self.corrupt(keys(row), batch)

    def padding(self, plan: Plan) -> dict[str, float]:
        """The share of nodes and edges of a plan's batches that is padding."""
        bucket, samples = self.packing.bucket, self.packing.samples
        members = plan["sample"][plan["weight"] > 0]
        num_buckets = plan["weight"].size // bucket.num_graphs
        room = {"nodes": bucket.max_nodes, "edges": bucket.max_edges}
        counts = {"nodes": samples.n_node, "edges": samples.n_edge}
        return {
            name: 1 - float(counts[name][members].sum()) / (size * num_buckets)
            if size
            else 0.0
            for name, size in room.items()
        }


def keys(row: Mapping[str, Array]) -> jax.Array:
    """The random keys [G] of the graphs of one row of a plan, by sample and draw."""

    def one(sample: Array, draw: Array) -> jax.Array:
        return jax.random.fold_in(jax.random.key(draw), sample)

    samples = jnp.asarray(row["sample"])
    draws = jnp.asarray(row.get(DRAW, jnp.zeros_like(samples)))
    found: jax.Array = jax.vmap(one)(samples, draws)
    return found


def identify(
    fingerprint: str, settings: Mapping[str, Any], splits: Mapping[str, np.ndarray]
) -> str:
    """SHA-256 of everything that decides the numbers of a data set.

    Two data sets of one identity have the same samples, targets and splits.

    Args:
      fingerprint: SHA-256 of the source as it was read.
      settings: how it was read, as JSON can hold it: target, frames, units, graphs,
        names, dtype. The size of a batch is not among them.
      splits: {'train' | 'valid' | 'test': [D'] rows of the source}.
    """
    content = {
        "fingerprint": fingerprint,
        "settings": settings,
        "splits": {
            name: files.array_hash(rows, "<i8") for name, rows in splits.items()
        },
    }
    return files.json_hash(content)
