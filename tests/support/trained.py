"""Small models that were not trained, in checkpoints as a run leaves them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from demetar import models
from demetar.data.batch import make_batch
from demetar.train import checkpoint
from demetar.types import Head, TaskSpec, VectorInput

SMALL: Mapping[str, Any] = {"hidden_size": 4, "num_layers": 1}

BODIES = TaskSpec(
    "bodies",
    heads=(
        Head("position", "node_vector", base="positions", unit="m"),
        Head("velocity", "node_vector", base="velocity", unit="m / s", scale=0.5),
    ),
    scalars=("charge",),
    vectors=(VectorInput("velocity"),),
    edge_features=("charge_product",),
    length_unit="m",
)
# The energy of the atoms is large, that of their bonds small.
MOLECULES = TaskSpec(
    "molecules",
    heads=(
        Head(
            *("energy", "graph_scalar"),
            unit="eV",
            mean=-3.0,
            scale=1e-3,
            error="absolute",
            extensive=True,
            offsets=(-13.6, -1030.5, -2042.25),
        ),
    ),
    scalars=("H", "C", "O"),
    species=("H", "C", "O"),
    length_unit="Å",
    average_neighbors=3.0,
    radial_extent=4.0,
)


def bodies(sizes: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    """Inputs of `BODIES`, a list of systems each."""
    generator = np.random.default_rng(seed)
    return {
        "positions": [2 * generator.normal(size=(size, 3)) for size in sizes],
        "velocities": [generator.normal(size=(size, 3)) for size in sizes],
        "charges": [generator.choice([-1.0, 1.0], size) for size in sizes],
    }


def molecules(
    sizes: tuple[int, ...], seed: int = 0, species: Sequence[int | str] = (1, 6, 8)
) -> dict[str, Any]:
    """Inputs of `MOLECULES`, or of other species: chains with about bonds."""
    generator = np.random.default_rng(seed)
    steps = [generator.normal(size=(size, 3)) for size in sizes]
    return {
        "positions": [np.cumsum(own * 0.7, axis=0) for own in steps],
        "species": [generator.choice(species, size) for size in sizes],
    }


def make(
    model: str,
    task: TaskSpec,
    num_seeds: int = 1,
    fields: Mapping[str, Any] = SMALL,
) -> checkpoint.ModelCheckpoint:
    """A model with parameters that NumPy drew: nothing is compiled."""
    known = models.fields(model)
    fields = {name: value for name, value in fields.items() if name in known}
    net = models.build(model, task, fields)
    inputs = molecules((3,), species=task.species) if task.species else bodies((4,))
    batch = make_batch(task, **inputs)
    shapes = jax.eval_shape(
        lambda key: net.init(key, batch.graph, True), jax.random.key(0)
    )
    generator = np.random.default_rng(5)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        size = 0.3 / np.sqrt(np.prod(leaf.shape[:-1]))
        values = generator.normal(size=(num_seeds, *leaf.shape)) * size
        return values.astype(leaf.dtype)

    params = jax.tree.map(draw, shapes)
    metadata = {"settings": {"seed": 7, "num_seeds": num_seeds}}
    return checkpoint.ModelCheckpoint(model, fields, task, params, metadata)


def save(folder: pathlib.Path, *args: Any, **kwargs: Any) -> pathlib.Path:
    """The work directory of `make(*args, **kwargs)`."""
    folder.mkdir(parents=True)
    checkpoint.save_model(folder / "best.npz", make(*args, **kwargs))
    return folder
