"""How far a model is from keeping a promise."""

from __future__ import annotations

import jax
import numpy as np

from demetar import graphs
from demetar.testing.batches import moved, systems
from demetar.testing.subject import Subject
from demetar.types import Batch

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
BROKEN = 1e-2  # the least error of what is not equivariant


class BrokenPromise(AssertionError):
    """A model does not keep what it promises. The message is one line."""


def require(condition: object, message: str) -> None:
    """Raise `BrokenPromise` with the message unless the condition holds."""
    if not condition:
        raise BrokenPromise(message)


def assert_not_degenerate(batch: Batch) -> None:
    """Real edges, no self-loops, unequal charges and moving particles, or species."""
    mask = np.asarray(graphs.edge_mask(batch.graph))
    senders, receivers = (
        np.asarray(ends)[mask] for ends in (batch.graph.senders, batch.graph.receivers)
    )
    nodes = jax.tree.map(np.asarray, batch.graph.nodes)
    real = np.asarray(graphs.node_mask(batch.graph))
    require(len(senders) >= 20, f"the batch has {len(senders)} edges")
    require((senders != receivers).all(), "the batch has loops")
    require((np.diff(receivers) >= 0).all(), "the edges are not sorted")
    kinds = len(np.unique(nodes.scalars[real], axis=0))
    if not nodes.vectors.shape[1]:
        require(kinds == nodes.scalars.shape[1], "a species is missing")
        return
    require(kinds == real.sum(), "two particles are equal")
    speeds = np.linalg.norm(nodes.vectors[real], axis=-1)
    require((speeds > 0.1).all(), "a particle rests")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the size of the predicted displacement."""
    size = np.sqrt(np.mean(np.square(expected)))
    require(size > 1e-3, f"the outputs are {size:.1g} in size: it predicts nothing")
    return float(np.max(np.abs(found - expected)) / size)


def transformation_error(
    subject: Subject, matrix: np.ndarray, shift: np.ndarray
) -> float:
    """How far outputs of moved systems are from moved outputs."""
    members = systems()
    batch = subject.batch(members)
    assert_not_degenerate(batch)
    found = subject.displacements(subject.batch(moved(members, matrix, shift)))
    expected = subject.displacements(batch)
    if expected.ndim == 3:
        expected = np.einsum("ij,nkj->nki", matrix, expected)
    return relative_error(found, expected)


def tell_small(error: float, subject: Subject, what: str) -> str:
    """Tell a relative error that is small enough.

    Raises:
      BrokenPromise: it is not, or no number.
    """
    most = TOLERANCE[subject.dtype]
    told = f"relative error {error:.1e}, at most {most:.0e}"
    require(error < most, f"{what}: {told}")
    return told
