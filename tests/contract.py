"""The promises that every registered model keeps, as functions that assert them.

The systems are small and their sizes distinct primes, so that a swapped axis fails.
Parameters are disturbed before any check: some models start close to the identity, and
a promise about a function that does nothing is worth nothing. Models with vector heads
move charged particles; the others predict a scalar of molecules.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from demetar import connectivity, graphs, models
from demetar.data.packing import Packing, RaggedPacking, RegularPacking
from demetar.data.samples import Samples, to_dtype
from demetar.train import losses
from demetar.types import Array, Batch, Bucket, Head, Nodes, TaskSpec, VectorInput

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
BROKEN = 1e-2  # the least error of what is not equivariant
SIZES = (5, 3, 7, 2)
# Room for SIZES twice: most checks share it, and so one compilation.
BUCKET = Bucket(2 * 17 + 1, 2 * 70, 9)
SMALL: Mapping[str, Any] = {
    "hidden_size": 11,
    "hidden_units": 13,
    "num_layers": 2,
    "joint_layers": 1,
    "radial_sizes": (7,),
    "num_basis": 5,
    "basis_step": 1.0,
    "basis_extent": 6.0,
    "basis_gamma": 0.5,
    "edge_sizes": (7,),
    "num_readout_steps": 3,
    "readout_size": 13,
    "kernel_sizes": (7,),
    "kernel_rank": 5,
    "num_frequencies": 2,
    "num_powers": 2,
    "hard_cutoff": 3.0,
    "soft_cutoff": 3.0,
    "soft_width": 1.0,
    "decoder_size": 13,
    "summed_size": 7,
    "hidden_irreps": "8x0e+4x1o+4x2e",
    "embedding_irreps": "5x0e+3x1o",
    "num_substeps": 3,
    "eval_substeps": 5,
    "layer_irreps": ("7x0e+2x0o+5x1o+3x1e",) * 2,
}
SMALL_OF: Mapping[str, Mapping[str, Any]] = {"cormorant": {"lmax": 1}}
# What molecules ask of a model that N-body does not.
SMALL_MOLECULAR: Mapping[str, Any] = {
    "node_inputs": ("all",),
    "species_inputs": ("all",),
    "attention": True,
    "node_attributes": True,
    "read_positions": False,
    "instance_norm": True,
    "bond_tokens": True,
}

BREAK_ROTATIONS = ("octahedral", "T(3)", "S(n)")
SYMMETRIES = ("E(3)", "SE(3)", *BREAK_ROTATIONS)

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


def home_task(name: str) -> TaskSpec:
    """What a model is tried on: N-body if it has vector heads, else molecules."""
    return TASK if "node_vector" in models.model_class(name).supports else MOLECULES


@dataclasses.dataclass(frozen=True)
class System:
    """One charged system: positions [n, 3], velocities [n, 3], charges [n]."""

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray

    @property
    def species(self) -> np.ndarray:
        """The same system as a molecule: one of five species by charge, [n, 5]."""
        return np.eye(5)[np.digitize(self.charges, (-1.0, 0.0, 0.8, 1.2))]


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


def make_samples(
    members: Sequence[System], dtype: str, task: TaskSpec = TASK
) -> Samples:
    """Complete graphs of the systems; the targets move along the velocities.

    Molecules have species, no vectors and no edge features unless the task names one;
    the target is their size.
    """
    pairs = [connectivity.complete_edges(len(system.charges)) for system in members]
    products = [
        system.charges[senders] * system.charges[receivers]
        for system, (senders, receivers) in zip(members, pairs, strict=True)
    ]
    positions = np.concatenate([system.positions for system in members])
    velocities = np.concatenate([system.velocities for system in members])
    charges = np.concatenate([system.charges for system in members])
    nodes = Nodes(positions, charges[:, None], velocities[:, None])
    edges = np.concatenate(products)[:, None]
    targets = {"position": (positions + 1.5 * velocities)[:, None]}
    if not task.vectors:
        species = np.concatenate([system.species for system in members])
        nodes = Nodes(positions, species, velocities[:, None][:, :0])
        edges = edges[:, : len(task.edge_features)]
        spreads = [[system.positions.std()] for system in members]
        targets = {"energy": np.array(spreads)}
    samples = Samples(
        nodes=nodes,
        edges=edges,
        senders=np.concatenate([senders for senders, _ in pairs]),
        receivers=np.concatenate([receivers for _, receivers in pairs]),
        n_node=np.array([len(system.charges) for system in members], np.int32),
        n_edge=np.array([len(values) for values in products], np.int32),
        targets=targets,
    )
    return to_dtype(samples, dtype)


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
    return _only_batch(RaggedPacking(samples, bucket, node_targets), len(members))


def regular_batch(
    members: Sequence[System], dtype: str = "float32", task: TaskSpec = TASK
) -> Batch:
    """One batch of equal systems on the fast path."""
    samples = make_samples(members, dtype, task)
    size = samples.common_size()
    assert size is not None
    return _only_batch(RegularPacking(samples, len(members), size), len(members))


def float64_batch(regular: bool) -> Batch:
    """Three systems: of one size on the fast path, or of several sizes."""
    if regular:
        return regular_batch(systems((5, 5, 5)), "float64")
    return make_batch(systems((5, 3, 2)), "float64")


def _only_batch(packing: Packing, count: int) -> Batch:
    plan = packing.plan(np.arange(count))
    assert len(plan["weight"]) == 1
    row = {name: value[0] for name, value in plan.items()}
    # With NumPy's arrays nothing is compiled to assemble them.
    return jax.tree.map(jnp.asarray, packing.assemble(packing.arrays(), row))


def assert_not_degenerate(batch: Batch) -> None:
    """Real edges, no self-loops, unequal charges and moving particles, or species."""
    mask = np.asarray(graphs.edge_mask(batch.graph))
    senders, receivers = (
        np.asarray(ends)[mask] for ends in (batch.graph.senders, batch.graph.receivers)
    )
    nodes = jax.tree.map(np.asarray, batch.graph.nodes)
    real = np.asarray(graphs.node_mask(batch.graph))
    assert len(senders) >= 20
    assert (senders != receivers).all()
    assert (np.diff(receivers) >= 0).all()
    kinds = len(np.unique(nodes.scalars[real], axis=0))
    if not nodes.vectors.shape[1]:
        assert kinds == nodes.scalars.shape[1]
        return
    assert kinds == real.sum()
    assert (np.linalg.norm(nodes.vectors[real], axis=-1) > 0.1).all()


def quick_params(model: hk.Transformed, batch: Batch) -> Any:
    """Parameters of a model, drawn with NumPy and far from any special value.

    To compile the initialisers takes longer than everything else about a small model.
    They are called without it here, and a slow test runs them.
    """
    shapes = jax.eval_shape(
        lambda key: model.init(key, batch.graph, True), jax.random.key(0)
    )
    generator = np.random.default_rng(5)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = generator.normal(size=leaf.shape)
        if len(leaf.shape) > 1:
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1].key.startswith("scale"):
            values = 1 + 0.1 * values
        else:
            values *= 0.2
        return values.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def initializers(
    name: str, fields: Mapping[str, Any], task: TaskSpec = TASK
) -> dict[str, Any]:
    """What each parameter of a model is drawn by, without drawing it."""
    found: dict[str, Any] = {}

    def note(
        create: Any, shape: Any, dtype: Any, init: Any, context: hk.GetterContext
    ) -> Any:
        found[context.full_name.partition("/")[2]] = init
        return create(shape, dtype, init)

    batch = make_batch(systems((2,)), task=task)

    def run() -> None:
        with hk.custom_creator(note):
            model = models.model_class(name)(task, **fields)
            model(batch.graph, True)

    jax.eval_shape(hk.transform(run).init, jax.random.key(0))
    return found


@dataclasses.dataclass
class Subject:
    """A model under test: `displacements(batch)` gives its outputs without padding."""

    name: str
    dtype: str = "float32"
    fields: Mapping[str, Any] | None = None
    task: TaskSpec = TASK

    def __post_init__(self) -> None:
        own = models.fields(self.name)
        wanted = SMALL if self.task.vectors else {**SMALL, **SMALL_MOLECULAR}
        small = {name: value for name, value in wanted.items() if name in own}
        small |= SMALL_OF.get(self.name, {})
        self.small = {**small, **(self.fields or {})}
        self.model = models.build(self.name, self.task, self.small)
        self.traces = 0

        def apply(params: Any, graph: Any) -> Any:
            self.traces += 1
            return self.model.apply(params, jax.random.key(0), graph, False)

        self.apply = jax.jit(apply)
        self.loss_and_gradients = jax.jit(
            jax.value_and_grad(self._loss, argnums=(0, 1))
        )

    @functools.cached_property
    def params(self) -> Any:
        return quick_params(self.model, self.batch(systems(), None))

    def batch(self, members: Sequence[System], bucket: Bucket | None = BUCKET) -> Batch:
        """A ragged batch of the systems as the task has them."""
        return make_batch(members, self.dtype, bucket=bucket, task=self.task)

    def _loss(self, flat_params: jax.Array, nodes: Nodes, batch: Batch) -> jax.Array:
        params = jax.flatten_util.ravel_pytree(self.params)[1](flat_params)
        graph = dataclasses.replace(batch.graph, nodes=nodes)
        outputs = self.model.apply(params, None, graph, True)
        predictions = losses.predict(self.task, outputs, nodes)
        errors = losses.sample_errors(self.task, predictions, batch)
        return losses.mean_loss(errors, batch.weights)

    def outputs(self, batch: Batch) -> dict[str, jax.Array]:
        return self.apply(self.params, batch.graph)

    def displacements(self, batch: Batch) -> np.ndarray:
        """Outputs of the vector head at the real nodes, [n, K, 3].

        Or those of the scalar head for the real graphs, [g, T].
        """
        head = self.task.heads[0]
        mask = np.asarray(batch.weights) > 0
        if head.kind == "node_vector":
            mask = np.asarray(graphs.node_mask(batch.graph))
        return np.asarray(self.outputs(batch)[head.name])[mask]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the size of the predicted displacement."""
    size = np.sqrt(np.mean(np.square(expected)))
    assert size > 1e-3, "the model predicts nothing"
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
    batch = subject.batch(members)
    assert_not_degenerate(batch)
    found = subject.displacements(subject.batch(moved(members, matrix, shift)))
    expected = subject.displacements(batch)
    if expected.ndim == 3:
        expected = np.einsum("ij,nkj->nki", matrix, expected)
    return relative_error(found, expected)


def rotation() -> np.ndarray:
    """A rotation that mixes all axes: by 1.9 about a skew one."""
    x, y, z = np.array([2.0, -1.0, 2.0]) / 3
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(1.9) * cross + (1 - np.cos(1.9)) * cross @ cross


def octahedral_group() -> list[np.ndarray]:
    """The 48 permutations of the axes with signs."""
    return [
        np.diag(signs) @ np.eye(3)[list(order)]
        for signs in itertools.product((1.0, -1.0), repeat=3)
        for order in itertools.permutations(range(3))
    ]


NO_SHIFT = np.zeros(3)
SHIFT = np.array([1.3, -2.1, 0.7])
IDENTITY = np.eye(3)


def assert_symmetry(subject: Subject) -> None:
    """Rotation, reflection, translation as the model states them."""
    symmetry = models.model_class(subject.name).symmetry
    assert symmetry in SYMMETRIES
    tolerance = TOLERANCE[subject.dtype]
    turned = transformation_error(subject, rotation(), NO_SHIFT)
    if symmetry != "S(n)":
        assert transformation_error(subject, IDENTITY, SHIFT) < tolerance
    if symmetry == "octahedral":
        for matrix in octahedral_group():
            assert transformation_error(subject, matrix, NO_SHIFT) < tolerance
    if symmetry in BREAK_ROTATIONS:
        assert turned > BROKEN, "it should break rotations: negative control"
        return
    assert turned < tolerance
    if symmetry == "E(3)":
        assert transformation_error(subject, -rotation(), NO_SHIFT) < tolerance


def assert_permutation(subject: Subject) -> None:
    """Renumbering the particles of each system renumbers outputs of nodes alone."""
    members = systems()
    generator = np.random.default_rng(11)
    orders = [generator.permutation(len(system.charges)) for system in members]
    permuted = [
        System(system.positions[order], system.velocities[order], system.charges[order])
        for system, order in zip(members, orders, strict=True)
    ]
    expected = subject.displacements(subject.batch(members))
    if expected.ndim == 3:
        starts = np.cumsum([0, *(len(order) for order in orders)])[:-1]
        expected = expected[
            np.concatenate(
                [order + start for order, start in zip(orders, starts, strict=True)]
            )
        ]
    found = subject.displacements(subject.batch(permuted))
    assert relative_error(found, expected) < TOLERANCE[subject.dtype]


def assert_shapes(subject: Subject) -> None:
    """One output per head, of its shape, in the dtype of the inputs."""
    batch = subject.batch(systems())
    outputs = subject.outputs(batch)
    assert set(outputs) == {head.name for head in subject.task.heads}
    for head in subject.task.heads:
        expected = {
            "node_vector": (batch.graph.bucket.max_nodes, head.size, 3),
            "graph_scalar": (batch.graph.bucket.num_graphs, head.size),
        }
        assert outputs[head.name].shape == expected[head.kind]
        assert outputs[head.name].dtype == subject.dtype
    for leaf in jax.tree.leaves(subject.params):
        assert leaf.dtype == subject.dtype


def assert_alone(subject: Subject) -> None:
    """Padding and batch mates change nothing, nor does the fast path."""
    members = systems((5, 5, 5))
    alone = subject.displacements(subject.batch(members[:1]))
    tolerance = TOLERANCE[subject.dtype]
    found = subject.displacements(subject.batch([*members, random_system(7, 9)]))
    assert relative_error(found[: len(alone)], alone) < tolerance
    # A regular batch has no padding.
    regular = subject.displacements(regular_batch(members, subject.dtype, subject.task))
    assert relative_error(regular, found[: 3 * len(alone)]) < tolerance


def assert_mates_change_nothing(subject: Subject) -> None:
    """As `assert_alone` in one bucket, and so with one compilation."""
    members = systems((5, 3, 7))
    alone = subject.displacements(subject.batch(members[:1]))
    together = subject.displacements(subject.batch(members))
    assert len(together) > len(alone) > 0
    error = relative_error(together[: len(alone)], alone)
    assert error < TOLERANCE[subject.dtype]


def assert_finite(subject: Subject) -> None:
    """Values and gradients with padding, coincident points and single nodes."""
    twins = random_system(3, 4)
    twins.positions[1] = twins.positions[0]
    still = random_system(2, 5)
    still.velocities[:] = 0
    members = [twins, random_system(1, 6), still]
    batch = subject.batch(members)
    params, _ = jax.flatten_util.ravel_pytree(subject.params)
    results = subject.loss_and_gradients(params, batch.graph.nodes, batch)
    for leaf in jax.tree.leaves(results):
        assert np.isfinite(leaf).all()


def assert_one_trace(subject: Subject) -> None:
    """Batches of one bucket share a compilation."""
    subject.outputs(subject.batch(systems()))
    before = subject.traces
    for seed in (20, 30):
        subject.outputs(subject.batch(systems((3, 5, 2), seed)))
    assert subject.traces == before >= 1


def assert_learns(subject: Subject) -> None:
    """The loss falls on 8 samples."""
    batch = subject.batch(systems(2 * SIZES))
    optimizer = optax.adam(5e-3)
    params, _ = jax.flatten_util.ravel_pytree(subject.params)
    state = optimizer.init(params)
    history = []
    for _ in range(40):
        loss, (gradients, _) = subject.loss_and_gradients(
            params, batch.graph.nodes, batch
        )
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(params, updates)
        history.append(float(loss))
    assert np.isfinite(history).all()
    assert history[-1] < 0.9 * history[0]


def assert_inputs_matter(subject: Subject, inputs: Sequence[str]) -> None:
    """A change of any of the named inputs changes the output."""
    members = systems()
    batch = subject.batch(members)
    nodes = batch.graph.nodes
    charge = members[0].charges[1]
    changes: dict[str, Callable[[], Batch]] = {
        "charge": lambda: _changed_charge(subject, charge + 0.3),
        "species": lambda: _changed_charge(subject, -charge),
        "velocity": lambda: _with_nodes(
            batch, nodes._replace(vectors=_raised(nodes.vectors))
        ),
        "position": lambda: _with_nodes(
            batch, nodes._replace(positions=_raised(nodes.positions))
        ),
        "edge feature": lambda: dataclasses.replace(
            batch,
            graph=dataclasses.replace(batch.graph, edges=_raised(batch.graph.edges)),
        ),
    }
    expected = subject.displacements(batch)
    for name in inputs:
        found = subject.displacements(changes[name]())
        assert relative_error(found, expected) > 1e-4, f"{name} is not read"


def _raised(values: Array) -> jax.Array:
    """The values with those of the second row a little larger."""
    return jnp.asarray(values).at[1].add(0.3)


def _changed_charge(subject: Subject, charge: float) -> Batch:
    """Another charge, or species, of one particle."""
    members = systems()
    charges = members[0].charges.copy()
    charges[1] = charge
    changed = dataclasses.replace(members[0], charges=charges)
    return subject.batch([changed, *members[1:]])


def _with_nodes(batch: Batch, nodes: Nodes) -> Batch:
    return dataclasses.replace(
        batch, graph=dataclasses.replace(batch.graph, nodes=nodes)
    )
