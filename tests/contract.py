"""The promises that every registered model keeps, as functions that assert them.

The systems are small and their sizes distinct primes, so that a swapped axis fails.
Parameters are disturbed before any check: some models start close to the identity, and
a promise about a function that does nothing is worth nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from demetar import geometry, graphs, models
from demetar.data import base as data
from demetar.train import loop, losses
from demetar.types import Batch, Bucket, Head, Nodes, TaskSpec, VectorInput

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
BROKEN = 1e-2  # the least error of what is not equivariant
SIZES = (5, 3, 7, 2)
SMALL: Mapping[str, Any] = {
    "hidden_size": 11,
    "hidden_units": 13,
    "num_layers": 2,
    "joint_layers": 1,
    "radial_sizes": (7,),
    "num_basis": 5,
    "hidden_irreps": "8x0e+4x1o+4x2e",
    "embedding_irreps": "5x0e+3x1o",
    "layer_irreps": ("7x0e+2x0o+5x1o+3x1e",) * 2,
}

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


@dataclasses.dataclass(frozen=True)
class System:
    """One charged system: positions [n, 3], velocities [n, 3], charges [n]."""

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray


def random_system(size: int, seed: int) -> System:
    """Moving particles with unequal charges, no two at one place."""
    generator = np.random.default_rng([size, seed])
    return System(
        generator.normal(size=(size, 3)) * 1.7,
        generator.normal(size=(size, 3)),
        generator.uniform(0.5, 1.5, size) * generator.choice([-1.0, 1.0], size),
    )


def systems(sizes: Sequence[int] = SIZES, seed: int = 0) -> list[System]:
    return [random_system(size, seed + index) for index, size in enumerate(sizes)]


def make_samples(members: Sequence[System], dtype: str) -> data.Samples:
    """Complete graphs of the systems; the targets move along the velocities."""
    pairs = [graphs.complete_edges(len(system.charges)) for system in members]
    products = [
        system.charges[senders] * system.charges[receivers]
        for system, (senders, receivers) in zip(members, pairs, strict=True)
    ]
    positions = np.concatenate([system.positions for system in members])
    velocities = np.concatenate([system.velocities for system in members])
    samples = data.Samples(
        nodes=Nodes(
            positions,
            np.concatenate([system.charges for system in members])[:, None],
            velocities[:, None],
        ),
        edges=np.concatenate(products)[:, None],
        senders=np.concatenate([senders for senders, _ in pairs]),
        receivers=np.concatenate([receivers for _, receivers in pairs]),
        n_node=np.array([len(system.charges) for system in members], np.int32),
        n_edge=np.array([len(values) for values in products], np.int32),
        targets={"position": (positions + 1.5 * velocities)[:, None]},
    )
    return data.to_dtype(samples, dtype)


def make_batch(
    members: Sequence[System], dtype: str = "float32", extra: int = 0
) -> Batch:
    """One ragged batch of the systems with `extra` more slots, nodes and edges."""
    samples = make_samples(members, dtype)
    bucket = Bucket(
        int(samples.n_node.sum()) + 1 + extra,
        int(samples.n_edge.sum()) + 2 * extra,
        len(members) + 1 + extra,
    )
    return _only_batch(data.RaggedPacking(samples, bucket, ["position"]), len(members))


def regular_batch(members: Sequence[System], dtype: str = "float32") -> Batch:
    """One batch of equal systems on the fast path."""
    samples = make_samples(members, dtype)
    size = samples.common_size()
    assert size is not None
    return _only_batch(data.RegularPacking(samples, len(members), size), len(members))


def _only_batch(packing: data.Packing, count: int) -> Batch:
    plan = packing.plan(np.arange(count))
    assert len(plan["weight"]) == 1
    arrays = jax.tree.map(jnp.asarray, packing.arrays())
    return packing.assemble(arrays, {name: value[0] for name, value in plan.items()})


def assert_not_degenerate(batch: Batch) -> None:
    """Real edges, no self-loops, unequal charges, moving particles."""
    mask = np.asarray(graphs.edge_mask(batch.graph, batch.bucket))
    senders, receivers = (
        np.asarray(ends)[mask] for ends in (batch.graph.senders, batch.graph.receivers)
    )
    nodes = jax.tree.map(np.asarray, batch.graph.nodes)
    real = np.asarray(graphs.node_mask(batch.graph, batch.bucket))
    assert len(senders) >= 20
    assert (senders != receivers).all()
    assert (np.diff(receivers) >= 0).all()
    assert len(np.unique(nodes.scalars[real])) == real.sum()
    assert (np.linalg.norm(nodes.vectors[real], axis=-1) > 0.1).all()


@dataclasses.dataclass
class Subject:
    """A model under test: `displacements(batch)` gives its outputs for real nodes."""

    name: str
    dtype: str = "float32"
    fields: Mapping[str, Any] | None = None
    task: TaskSpec = TASK

    def __post_init__(self) -> None:
        own = models.fields(self.name)
        small = {name: value for name, value in SMALL.items() if name in own}
        self.small = {**small, **(self.fields or {})}
        self.model = models.build(self.name, self.task, self.small)
        self.traces = 0

        def apply(params: Any, graph: Any, bucket: Bucket) -> Any:
            self.traces += 1
            return self.model.apply(params, jax.random.key(0), graph, bucket, False)

        self.apply = jax.jit(apply, static_argnums=2)

    @functools.cached_property
    def params(self) -> Any:
        """Initial parameters, disturbed."""
        batch = make_batch(systems(), self.dtype)
        init = jax.jit(self.model.init, static_argnums=(2, 3))
        params = init(jax.random.key(3), batch.graph, batch.bucket, True)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(5), len(leaves))
        noisy = [
            leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(tree, noisy)

    def outputs(self, batch: Batch) -> dict[str, jax.Array]:
        return self.apply(self.params, batch.graph, batch.bucket)

    def displacements(self, batch: Batch) -> np.ndarray:
        """Outputs of the vector head at the real nodes, [n, K, 3]."""
        mask = np.asarray(graphs.node_mask(batch.graph, batch.bucket))
        return np.asarray(self.outputs(batch)["position"])[mask]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the size of the predicted displacement."""
    size = np.sqrt(np.mean(np.square(expected)))
    assert size > 1e-3, "the model predicts no displacement"
    return float(np.max(np.abs(found - expected)) / size)


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


def transformation_error(
    subject: Subject, matrix: np.ndarray, shift: np.ndarray
) -> float:
    """How far outputs of moved systems are from moved outputs."""
    members = systems()
    batch = make_batch(members, subject.dtype)
    assert_not_degenerate(batch)
    found = subject.displacements(
        make_batch(moved(members, matrix, shift), subject.dtype)
    )
    expected = np.einsum("ij,nkj->nki", matrix, subject.displacements(batch))
    return relative_error(found, expected)


def rotation() -> np.ndarray:
    """A rotation that mixes all axes."""
    with jax.enable_x64(True):
        return np.asarray(geometry.random_rotations(jax.random.key(7)), np.float64)


NO_SHIFT = np.zeros(3)
SHIFT = np.array([1.3, -2.1, 0.7])
IDENTITY = np.eye(3)


def assert_symmetry(subject: Subject) -> None:
    """Rotation, reflection, translation as the model states them."""
    symmetry = models.model_class(subject.name).symmetry
    tolerance = TOLERANCE[subject.dtype]
    turned = transformation_error(subject, rotation(), NO_SHIFT)
    if symmetry == "S(n)":
        assert turned > BROKEN, "an S(n) model should break rotations: negative control"
        return
    assert symmetry in ("E(3)", "SE(3)")
    assert turned < tolerance
    assert transformation_error(subject, IDENTITY, SHIFT) < tolerance
    if symmetry == "E(3)":
        assert transformation_error(subject, -rotation(), NO_SHIFT) < tolerance


def assert_permutation(subject: Subject) -> None:
    """Renumbering the particles of each system renumbers the outputs."""
    members = systems()
    generator = np.random.default_rng(11)
    orders = [generator.permutation(len(system.charges)) for system in members]
    permuted = [
        System(system.positions[order], system.velocities[order], system.charges[order])
        for system, order in zip(members, orders, strict=True)
    ]
    starts = np.cumsum([0, *(len(order) for order in orders)])[:-1]
    everywhere = np.concatenate(
        [order + start for order, start in zip(orders, starts, strict=True)]
    )
    expected = subject.displacements(make_batch(members, subject.dtype))[everywhere]
    found = subject.displacements(make_batch(permuted, subject.dtype))
    assert relative_error(found, expected) < TOLERANCE[subject.dtype]


def assert_shapes(subject: Subject) -> None:
    """One output per head, of its shape, in the dtype of the inputs."""
    batch = make_batch(systems(), subject.dtype)
    outputs = subject.outputs(batch)
    assert set(outputs) == {head.name for head in subject.task.heads}
    for head in subject.task.heads:
        assert outputs[head.name].shape == (batch.bucket.max_nodes, head.size, 3)
        assert outputs[head.name].dtype == subject.dtype
    for leaf in jax.tree.leaves(subject.params):
        assert leaf.dtype == subject.dtype


def assert_alone(subject: Subject) -> None:
    """Padding and batch mates change nothing, nor does the fast path."""
    members = systems((5, 5, 5))
    alone = subject.displacements(make_batch(members[:1], subject.dtype))
    tolerance = TOLERANCE[subject.dtype]
    together = make_batch([*members, random_system(7, 9)], subject.dtype, extra=3)
    found = subject.displacements(together)
    assert relative_error(found[:5], alone) < tolerance
    regular = subject.displacements(regular_batch(members, subject.dtype))
    assert relative_error(regular, found[:15]) < tolerance


def assert_finite(subject: Subject) -> None:
    """Values and gradients with padding, coincident points and single nodes."""
    twins = random_system(3, 4)
    twins.positions[1] = twins.positions[0]
    still = random_system(2, 5)
    still.velocities[:] = 0
    batch = make_batch([twins, random_system(1, 6), still], subject.dtype, extra=2)

    def loss(params: Any, nodes: Nodes) -> jax.Array:
        graph = batch.graph._replace(nodes=nodes)
        outputs = subject.model.apply(params, None, graph, batch.bucket, True)
        predictions = losses.predict(subject.task, outputs, nodes)
        errors = losses.squared_errors(subject.task, predictions, batch)
        return losses.mean_loss(errors, batch.weights)

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        subject.params, batch.graph.nodes
    )
    for leaf in jax.tree.leaves((value, gradients)):
        assert bool(jnp.isfinite(leaf).all())


def assert_one_trace(subject: Subject) -> None:
    """Batches of one bucket share a compilation."""
    before = subject.traces
    for seed in (20, 30):
        subject.outputs(make_batch(systems((3, 5, 2), seed), subject.dtype))
    assert subject.traces == before + 1


def assert_learns(subject: Subject) -> None:
    """The loss falls on 8 samples."""
    batch = make_batch(systems((5, 3, 7, 2, 5, 3, 7, 2)))
    optimizer = optax.adam(3e-3)
    update = loop.make_update(subject.model, subject.task, optimizer, 0.0)
    params = subject.params

    @jax.jit
    def train(state: Any) -> jax.Array:
        step = lambda state, _: update(state, batch)  # noqa: E731
        return jax.lax.scan(step, state, None, length=40)[1]["loss"]

    key = jax.random.key(0)
    state = loop.TrainState(params, optimizer.init(params), jnp.int32(0), key, {})
    history = np.asarray(train(state))
    assert np.isfinite(history).all()
    assert history[-1] < 0.9 * history[0]


def assert_inputs_matter(subject: Subject, inputs: Sequence[str]) -> None:
    """A change of a charge, a velocity or an edge feature changes the output."""
    members = systems()
    batch = make_batch(members, subject.dtype)
    nodes = batch.graph.nodes
    changes: dict[str, Callable[[], Batch]] = {
        "charge": lambda: _changed_charge(members, subject.dtype),
        "velocity": lambda: _with_nodes(
            batch, nodes._replace(vectors=nodes.vectors.at[1].add(0.3))
        ),
        "position": lambda: _with_nodes(
            batch, nodes._replace(positions=nodes.positions.at[1].add(0.3))
        ),
        "edge feature": lambda: dataclasses.replace(
            batch, graph=batch.graph._replace(edges=batch.graph.edges.at[1].add(0.3))
        ),
    }
    expected = subject.displacements(batch)
    for name in inputs:
        found = subject.displacements(changes[name]())
        assert relative_error(found, expected) > 1e-4, f"{name} is not read"


def _changed_charge(members: Sequence[System], dtype: str) -> Batch:
    charges = members[0].charges.copy()
    charges[1] += 0.3
    changed = dataclasses.replace(members[0], charges=charges)
    return make_batch([changed, *members[1:]], dtype)


def _with_nodes(batch: Batch, nodes: Nodes) -> Batch:
    return dataclasses.replace(batch, graph=batch.graph._replace(nodes=nodes))
