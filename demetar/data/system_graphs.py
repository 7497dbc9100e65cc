"""The graphs of systems that a person gives, joined as the task says.

They are built by the code that builds those of the training, from numbers in double
precision.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from demetar.data import bonds, edges
from demetar.data.samples import Samples, centred
from demetar.data.species import atomic_numbers_of, species_of
from demetar.data.systems import Systems
from demetar.errors import UserError
from demetar.types import Nodes, TaskSpec

_RADIUS = "radius"
_PRODUCT = "_product"


def to_samples(task: TaskSpec, systems: Systems) -> Samples:
    """The graphs of systems, joined as the task says, in double precision.

    They have no targets.

    Args:
      task: connectivity, cutoff and edge features.
      systems: of `parse`.

    Raises:
      UserError: there is no such connectivity or edge feature, or a system is too small
        for the number of neighbours.
    """
    n_node = systems.n_node
    samples = Samples(
        nodes=Nodes(systems.positions, systems.scalars, systems.vectors),
        edges=np.zeros((0, 0)),
        senders=None,
        receivers=None,
        n_node=n_node,
        n_edge=n_node,
        targets={},
    )
    samples = centred(samples, ())
    found = _join(task, systems, np.asarray(samples.nodes.positions))
    return dataclasses.replace(
        samples,
        edges=_edge_features(task, systems, found),
        senders=found.senders,
        receivers=found.receivers,
        n_edge=found.n_edge.astype(np.int32),
    )


def check_connectivity(task: TaskSpec) -> None:
    """Make sure that graphs of the task can be built from named inputs.

    Raises:
      UserError: they cannot, which says why.
    """
    kind = task.connectivity.partition(" ")[0]
    if kind not in ("complete", "knn", _RADIUS, "bonds"):
        raise UserError(
            f"graphs of connectivity {task.connectivity!r} cannot be built from "
            "positions; give make_batch graphs with their edges"
        )
    if (kind == "bonds" or has_bonds(task)) and not atomic_numbers_of(species_of(task)):
        raise UserError(
            f"the task {task.name!r} asks for bonds, which are found between elements "
            "alone; give make_batch graphs with their edges"
        )
    if not has_bonds(task):
        for name in task.edge_features:
            factor(task, name)


def has_bonds(task: TaskSpec) -> bool:
    """Whether the edges of a task know their bonds."""
    return task.edge_features == bonds.TYPES


def factor(task: TaskSpec, feature: str) -> str:
    """The scalar whose product an edge feature is.

    Raises:
      UserError: it is another feature.
    """
    name = feature.removesuffix(_PRODUCT)
    if name == feature or name not in task.scalars:
        raise UserError(
            f"the task {task.name!r} has the edge feature {feature!r}, which is no "
            f"product of a scalar (as 'charge{_PRODUCT}'); give make_batch graphs with "
            "their edges"
        )
    return name


def _join(task: TaskSpec, systems: Systems, centred: np.ndarray) -> edges.Edges:
    """The edges of all systems; their nearest ones by centred positions [A, 3]."""
    check_connectivity(task)
    n_node = systems.n_node
    if task.connectivity == "knn":
        degree, smallest = task.num_neighbors or 0, int(n_node.min())
        if smallest <= degree:
            raise UserError(
                f"expected more than {degree} nodes, the neighbours of each, found "
                f"{smallest} in system {int(n_node.argmin())} (from 0)"
            )
        return edges.nearest(centred, n_node, degree)
    bonded = task.connectivity == "bonds"
    radius = cutoff(task)
    types = _bond_types(systems) if bonded or has_bonds(task) else None
    if radius is None and types is None:
        return edges.complete(n_node)
    return edges.chosen(systems.positions, n_node, radius, types, bonded)


def cutoff(task: TaskSpec) -> float | None:
    """Of radius graphs; earlier releases wrote it in the connectivity alone."""
    kind, _, radius = task.connectivity.partition(" ")
    if kind != _RADIUS:
        return None
    return float(radius) if task.cutoff is None else task.cutoff


def _bond_types(systems: Systems) -> edges.BondTypes:
    assert systems.numbers is not None
    n_bonds, rows, _ = bonds.find(
        systems.n_node, systems.numbers, systems.positions, systems.smiles
    )
    return functools.partial(bonds.matrix, n_bonds, rows)


def _edge_features(task: TaskSpec, systems: Systems, found: edges.Edges) -> np.ndarray:
    """[E, F] in the order of the task."""
    if has_bonds(task):
        return bonds.features(found)
    if not task.edge_features:
        return np.zeros((int(found.n_edge.sum()), 0))
    senders, receivers = found.ends(systems.n_node)
    starts = np.repeat(np.cumsum(systems.n_node) - systems.n_node, found.n_edge)
    columns = [
        systems.scalars[starts + senders, column]
        * systems.scalars[starts + receivers, column]
        for column in (
            task.scalars.index(factor(task, name)) for name in task.edge_features
        )
    ]
    return np.stack(columns, axis=1)
