"""Small systems of which the contract makes batches.

Their sizes are distinct primes, so that a swapped axis fails. The same systems are
charged bodies that move, or molecules whose species follow from the charges.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from demetar.data import edges
from demetar.data.packing import Packing, RaggedPacking, RegularPacking, only_batch
from demetar.data.samples import Samples, to_dtype
from demetar.types import Batch, Bucket, Head, Nodes, TaskSpec, VectorInput

SIZES = (5, 3, 7, 2)
# Room for SIZES twice: most checks share it, and so one compilation.
BUCKET = Bucket(2 * 17 + 1, 2 * 70, 9)

NO_SHIFT = np.zeros(3)
SHIFT = np.array([1.3, -2.1, 0.7])
IDENTITY = np.eye(3)

TASK = TaskSpec(
    name="contract",
    heads=(Head("position", "node_vector", base="positions", unit="length"),),
    scalars=("charge",),
    vectors=(VectorInput("velocity"),),
    edge_features=("charge_product",),
    length_unit="length",
    radial_extent=6.0,
    average_neighbors=4.0,
)


MOLECULES = TaskSpec(
    name="molecules",
    heads=(Head("energy", "graph_scalar", unit="eV", mean=0.5, scale=2.0),),
    scalars=("H", "C", "N", "O", "F"),
    length_unit="angstrom",
    radial_extent=6.0,
    average_neighbors=4.0,
)

ATOMS = dataclasses.replace(
    MOLECULES, name="atoms", heads=(Head("size", "node_scalar", unit="angstrom"),)
)

CUTOFF = 5.0  # Å: some pairs of the systems are beyond it

# An energy and the forces that follow from it, on complete graphs.
POTENTIAL = dataclasses.replace(
    MOLECULES,
    name="potential",
    heads=(
        Head("energy", "graph_scalar", unit="eV", scale=2.0, extensive=True),
        Head("forces", "node_vector", unit="eV/Å", scale=3.0, gradient_of="energy"),
    ),
    length_unit="Å",
)
# The same on graphs of the pairs within a cutoff.
SHORT_RANGED = dataclasses.replace(
    POTENTIAL,
    name="short-ranged potential",
    connectivity=f"radius {CUTOFF:g}",
    radial_extent=CUTOFF,
    cutoff=CUTOFF,
)


@dataclasses.dataclass(frozen=True)
class System:
    """One charged system: positions [n, 3], velocities [n, 3], charges [n]."""

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray

    @property
    def species(self) -> np.ndarray:
        """The same system as a molecule: one of five species by charge, [n, 5]."""
        found: np.ndarray = np.eye(5)[np.digitize(self.charges, (-1.0, 0.0, 0.8, 1.2))]
        return found


def random_system(size: int, seed: int) -> System:
    """Moving particles with unequal charges, no two at one place."""
    generator = np.random.default_rng([size, seed])
    return System(
        generator.normal(size=(size, 3)) * 1.7,
        generator.normal(size=(size, 3)),
        generator.uniform(0.5, 1.5, size) * generator.choice([-1.0, 1.0], size),
    )


def systems(sizes: Sequence[int] = SIZES, seed: int = 0) -> list[System]:
    """Random systems of these sizes, each with a seed of its own."""
    return [random_system(size, seed + index) for index, size in enumerate(sizes)]


def make_samples(
    members: Sequence[System], dtype: str, task: TaskSpec = TASK
) -> Samples:
    """Graphs of the systems as the task joins them; targets move along the velocities.

    They are complete, or of the pairs within a cutoff. Molecules have species, no
    vectors and no edge features unless the task names one; targets are their spread,
    that of each atom from their centre, and vectors.
    """
    n_node = np.array([len(system.charges) for system in members], np.int32)
    positions = np.concatenate([system.positions for system in members])
    velocities = np.concatenate([system.velocities for system in members])
    charges = np.concatenate([system.charges for system in members])
    found = edges.complete(n_node)
    if task.cutoff is not None:
        found = edges.chosen(positions, n_node, task.cutoff)
    senders, receivers = (ends.astype(np.int32) for ends in found.ends(n_node))
    starts = np.repeat(np.cumsum(n_node) - n_node, found.n_edge)
    products = charges[starts + senders] * charges[starts + receivers]
    nodes = Nodes(positions, charges[:, None], velocities[:, None])
    features = products[:, None]
    targets = {"position": (positions + 1.5 * velocities)[:, None]}
    if not task.vectors:
        species = np.concatenate([system.species for system in members])
        nodes = Nodes(positions, species, velocities[:, None][:, :0])
        features = features[:, : len(task.edge_features)]
        targets = {
            "energy": np.array([[system.positions.std()] for system in members]),
            "forces": velocities[:, None],
            "size": np.concatenate([_from_center(one.positions) for one in members]),
        }
        names = {head.name for head in task.heads} & targets.keys()
        targets = {name: targets[name] for name in sorted(names)}
    samples = Samples(
        nodes=nodes,
        edges=features,
        senders=senders,
        receivers=receivers,
        n_node=n_node,
        n_edge=found.n_edge.astype(np.int32),
        targets=targets,
    )
    return to_dtype(samples, dtype)


def _from_center(positions: np.ndarray) -> np.ndarray:
    """Distances of particles [n, 3] from their centre, [n, 1]."""
    centred = positions - positions.mean(axis=0)
    distances: np.ndarray = np.linalg.norm(centred, axis=-1, keepdims=True)
    return distances


def make_batch(
    members: Sequence[System],
    dtype: str = "float32",
    extra: int = 0,
    bucket: Bucket | None = None,
    task: TaskSpec = TASK,
) -> Batch:
    """One ragged batch of the systems with `extra` more slots, nodes and edges.

    Or one of the size of `bucket`.
    """
    samples = make_samples(members, dtype, task)
    bucket = bucket or Bucket(
        int(samples.n_node.sum()) + 1 + extra,
        int(samples.n_edge.sum()) + 2 * extra,
        len(members) + 1 + extra,
    )
    node_targets = [head.name for head in task.heads if head.kind != "graph_scalar"]
    return _on_device(RaggedPacking(samples, bucket, node_targets))


def regular_batch(
    members: Sequence[System], dtype: str = "float32", task: TaskSpec = TASK
) -> Batch:
    """One batch of equal systems on the fast path."""
    samples = make_samples(members, dtype, task)
    size = samples.common_size()
    assert size is not None
    return _on_device(RegularPacking(samples, len(members), size))


def float64_batch(regular: bool) -> Batch:
    """Three systems: of one size on the fast path, or of several sizes."""
    if regular:
        return regular_batch(systems((5, 5, 5)), "float64")
    return make_batch(systems((5, 3, 2)), "float64")


def _on_device(packing: Packing) -> Batch:
    """The one batch of all samples."""
    batch: Batch = jax.tree.map(jnp.asarray, only_batch(packing))
    return batch


def moved(
    members: Sequence[System], matrix: np.ndarray, shift: np.ndarray
) -> list[System]:
    """The systems as seen from another frame."""
    return [
        dataclasses.replace(
            system,
            positions=system.positions @ matrix.T + shift,
            velocities=system.velocities @ matrix.T,
        )
        for system in members
    ]


def rotation() -> np.ndarray:
    """A rotation that mixes all axes: by 1.9 about a skew one."""
    x, y, z = np.array([2.0, -1.0, 2.0]) / 3
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: np.ndarray = np.eye(3) + np.sin(1.9) * cross
    turn = turn + (1 - np.cos(1.9)) * cross @ cross
    return turn


def octahedral_group() -> list[np.ndarray]:
    """The 48 permutations of the axes with signs."""
    return [
        np.diag(signs) @ np.eye(3)[list(order)]
        for signs in itertools.product((1.0, -1.0), repeat=3)
        for order in itertools.permutations(range(3))
    ]
