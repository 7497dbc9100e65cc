"""What transcriptions of the models of molecules share."""

import dataclasses

import jax
import numpy as np

from demetar import testing
from demetar.types import Head
from tests.support import plain_steerable

TOLERANCE = 1e-10
BATCH_SIZES = (3, 2)
# With a scalar per edge, so that a transcription covers it.
TASK = dataclasses.replace(
    testing.MOLECULES,
    heads=(
        Head("energy", "graph_scalar", size=2),
        Head("charge", "node_scalar"),
    ),
    edge_features=("bond",),
)
GRAPH_TASK = dataclasses.replace(TASK, heads=TASK.heads[:1])


class Case:
    """A model in float64 with all that a pass recorded; parameters by short names."""

    def __init__(self, name, fields, task=TASK):
        self.subject = testing.Subject(name, "float64", fields, task)
        members = testing.systems(BATCH_SIZES)
        self.batch = testing.make_batch(members, "float64", extra=1, task=task)
        outputs, self.recorded = plain_steerable.forward(self.subject, self.batch)
        self.outputs = {name: np.asarray(value) for name, value in outputs.items()}
        params = jax.tree.map(np.asarray, self.subject.params)
        scope = next(iter(params)).split("/")[0]
        self.params = {
            key.removeprefix(f"{scope}/"): value for key, value in params.items()
        }
        self.positions = np.asarray(self.batch.graph.nodes.positions)
        self.scalars = np.asarray(self.batch.graph.nodes.scalars)
        self.edges = np.asarray(self.batch.graph.edges)
        self.neighbors = plain_steerable.neighbors(self.batch)
        self.nodes = range(sum(BATCH_SIZES))
        assert sorted(self.neighbors) == list(self.nodes)

    def members(self):
        """The nodes of each graph."""
        starts = np.cumsum([0, *BATCH_SIZES])
        return [range(a, b) for a, b in zip(starts, starts[1:], strict=False)]

    def edge(self, i, j, edge):
        """Vector from j to i, and the features of the edge."""
        return self.positions[i] - self.positions[j], self.edges[edge]


def assert_close(found, expected):
    assert np.shape(found) == np.shape(expected)
    assert testing.relative_error(np.asarray(found), np.array(expected)) < TOLERANCE


def energies(subject, params=None):
    """Of real graphs, with the subject's own parameters unless given."""
    batch = subject.batch(testing.systems())
    params = subject.params if params is None else params
    return np.asarray(subject.apply(params, batch.graph)["energy"])[
        : len(testing.SIZES)
    ]


def assert_not_idle(monkeypatch, subject, module, part, replacement):
    """Taking a part out changes the energies."""
    expected = energies(subject)
    monkeypatch.setattr(module, part, replacement)
    broken = testing.Subject(subject.name, fields=subject.small, task=subject.task)
    assert testing.relative_error(energies(broken, subject.params), expected) > 1e-3


def assert_layers_read(subject, *layers):
    """Weights of a layer at zero change the energies; layers may be prefixes."""
    expected = energies(subject)
    for layer in layers:
        touched = [key for key in subject.params if f"/{layer}" in key]
        assert touched, layer
        zeros = {
            key: jax.tree.map(np.zeros_like, subject.params[key]) for key in touched
        }
        found = energies(subject, {**subject.params, **zeros})
        assert testing.relative_error(found, expected) > 1e-4, layer
