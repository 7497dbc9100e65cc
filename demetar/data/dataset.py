"""A task with its samples and splits, and the identity of what they hold.

The order of the training samples is a function of (seed, epoch).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar import files, heads
from demetar.data.packing import Packing, Plan
from demetar.types import TaskSpec


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A task with its samples, splits and batches.

    Attributes:
      task: what the models need to know.
      packing: how samples become batches.
      splits: {'train' | 'valid' | 'test': [D'] sample numbers}.
      fingerprint: SHA-256 of the data as they were read.
      identity: of `identify`, of everything that decides the numbers.
    """

    task: TaskSpec
    packing: Packing
    splits: Mapping[str, np.ndarray]
    fingerprint: str
    identity: str = ""

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
        return self.packing.plan(generator.permutation(self.splits["train"]))

    def plan(self, split: str) -> Plan:
        """The samples of a split, packed from their own order."""
        return self.packing.plan(self.splits[split])

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
