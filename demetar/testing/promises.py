"""The promises of every model beside its symmetry.

Each is a function that raises `BrokenPromise`, or tells how well it is kept.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from demetar import models
from demetar.testing.batches import SIZES, random_system, regular_batch, systems
from demetar.testing.measure import relative_error, require, tell_small
from demetar.testing.subject import Subject
from demetar.train import checkpoint
from demetar.types import Array, Batch, Nodes, TaskSpec

MATTERS = 1e-4  # the least change of an output whose input has changed
LARGEST = 100.0  # output of initial parameters, in multiples of the scale


def assert_shapes(subject: Subject) -> str:
    """One output per head, of its shape, in the dtype of the inputs."""
    batch = subject.batch(systems())
    outputs = subject.outputs(batch)  # of the right shapes, or they would be refused
    for head in subject.task.heads:
        dtype = str(outputs[head.name].dtype)
        require(
            dtype == subject.dtype,
            f"outputs are {dtype}, expected {subject.dtype}, the dtype of the inputs",
        )
    leaves = jax.tree.leaves(subject.params)
    for leaf in leaves:
        require(
            leaf.dtype == subject.dtype,
            f"a parameter is {leaf.dtype}, expected {subject.dtype}, the dtype of the "
            "inputs",
        )
    return f"{sum(leaf.size for leaf in leaves):,} parameters"


def assert_alone(subject: Subject) -> str:
    """Padding and batch mates change nothing, nor does the fast path."""
    members = systems((5, 5, 5))
    alone = subject.displacements(subject.batch(members[:1]))
    found = subject.displacements(subject.batch([*members, random_system(7, 9)]))
    mates = relative_error(found[: len(alone)], alone)
    what = "padding or other graphs of the batch change the outputs"
    tell_small(mates, subject, what)
    # A regular batch has no padding.
    regular = subject.displacements(regular_batch(members, subject.dtype, subject.task))
    fast = relative_error(regular, found[: 3 * len(alone)])
    what = "a batch of equal graphs, which takes a faster path, has other outputs"
    tell_small(fast, subject, what)
    return tell_small(max(mates, fast), subject, what)


def assert_mates_change_nothing(subject: Subject) -> str:
    """As `assert_alone` in one bucket, and so with one compilation."""
    members = systems((5, 3, 7))
    alone = subject.displacements(subject.batch(members[:1]))
    together = subject.displacements(subject.batch(members))
    require(len(together) > len(alone) > 0, "there are no batch mates")
    error = relative_error(together[: len(alone)], alone)
    return tell_small(
        error, subject, "padding or other graphs of the batch change the outputs"
    )


def assert_finite(subject: Subject) -> str:
    """Values and gradients with padding, coincident points and single nodes."""
    twins = random_system(3, 4)
    twins.positions[1] = twins.positions[0]
    still = random_system(2, 5)
    still.velocities[:] = 0
    members = [twins, random_system(1, 6), still]
    batch = subject.batch(members)
    params, _ = jax.flatten_util.ravel_pytree(subject.params)
    loss, gradients = subject.loss_and_gradients(params, batch.graph.nodes, batch)
    require(np.isfinite(loss), f"the loss is {loss}")
    for what, part in zip(("parameters", "inputs"), gradients, strict=True):
        for leaf in jax.tree.leaves(part):
            require(
                np.isfinite(leaf).all(),
                f"gradients by the {what} are not finite if two points coincide, a "
                "particle rests or is alone; geometry.safe_norm has finite ones",
            )
    return "also where points coincide"


def assert_one_trace(subject: Subject) -> str:
    """Batches of one bucket share a compilation."""
    subject.outputs(subject.batch(systems()))
    before = subject.traces
    for seed in (20, 30):
        subject.outputs(subject.batch(systems((3, 5, 2), seed)))
    more = subject.traces - before
    require(
        before >= 1 and not more,
        f"batches of one size were compiled {more} times more: the program depends on "
        "values",
    )
    return "of three batches"


# --- Learning -----------------------------------------------------------------------


def assert_learns(subject: Subject) -> str:
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
    told = f"from {history[0]:.3g} to {history[-1]:.3g} in {len(history)} steps"
    require(np.isfinite(history).all(), f"the loss ends {told}")
    require(history[-1] < 0.9 * history[0], f"the loss does not fall: {told}")
    return told


def assert_initial_values(subject: Subject) -> str:
    """The model's own initialisers give finite parameters and moderate outputs."""
    batch = subject.batch(systems())
    params = jax.jit(subject.model.init, static_argnums=2)(
        jax.random.key(0), batch.graph, True
    )
    for leaf in jax.tree.leaves(params):
        require(np.isfinite(leaf).all(), "initial parameters are not finite")
    found = subject.real(subject.apply(params, batch.graph), batch)
    largest = float(np.abs(found).max())
    told = f"outputs up to {largest:.2g}"
    require(largest < LARGEST, f"{told}, expected less than {LARGEST:g}")
    return told


def assert_saves_and_loads(subject: Subject) -> str:
    """A checkpoint holds everything that the outputs are a function of."""
    replicas = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], subject.params)
    saved = checkpoint.ModelCheckpoint(
        subject.name, dict(subject.small), subject.task, replicas, {}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "best.npz"
        checkpoint.save_model(path, saved)
        loaded = checkpoint.load_model(path)
    fields = models.check_fields(subject.name, loaded.fields)
    require(fields == saved.fields, f"fields come back as {fields}")
    require(loaded.task == subject.task, f"the task comes back as {loaded.task}")
    same = jax.tree.map(np.array_equal, loaded.params, replicas)
    require(all(jax.tree.leaves(same)), "parameters come back changed")
    loaded.build()
    return "to the bit"


# --- Inputs -------------------------------------------------------------------------


def inputs_of(task: TaskSpec) -> tuple[str, ...]:
    """The inputs that a task gives."""
    if not task.vectors:
        return ("species", "position")
    return ("charge", "velocity", "position", "edge feature")


def assert_every_input_matters(subject: Subject) -> str:
    """A change of any input changes the output, but for those the model `ignores`."""
    ignored = models.model_class(subject.name).ignores
    read = [name for name in inputs_of(subject.task) if name not in ignored]
    assert_inputs_matter(subject, read)
    return ", ".join(read)


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
        require(
            relative_error(found, expected) > MATTERS,
            f"the {name} is not read; if that is meant, state ignores = "
            f"frozenset({{{name!r}}})",
        )


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
