"""SEGNN against RobDHess/Steerable-E3-GNN.

Its fully connected tensor products hold their weights in one flat array, block by
block of its instructions; the configuration of the file lists them.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import e3nn_jax as e3nn
import jax
import numpy as np

from demetar import models
from demetar.nn import steerable
from demetar.types import Head, TaskSpec, VectorInput
from tests.support import author_weights, authors

BODIES = TaskSpec(
    name="golden bodies",
    heads=(Head("position", "node_vector", base="positions"),),
    vectors=(VectorInput("velocity"),),
    edge_features=("charge_product",),
)
MOLECULES = TaskSpec(
    name="golden molecules",
    heads=(Head("energy", "graph_scalar"),),
    scalars=("H", "C", "N", "O", "F"),
)
SPECIES = (1, 6, 7, 8, 9)


def load_bodies(data: authors.Data) -> authors.Loaded:
    """Charged particles: the displacement of each."""
    senders, receivers = data["senders"], data["receivers"]
    charges = data["charges"]
    graph = authors.ragged_graph(
        data["positions"],
        np.zeros((len(charges), 0)),
        senders,
        receivers,
        np.full(len(charges) // 5, 5),
        edges=charges[senders] * charges[receivers],
        vectors=data["velocities"][:, None],
    )
    model = models.build("segnn", BODIES, fields(data))
    placement = author_weights.Placement(model, graph, data)
    params = place(placement, data, "position")

    def output(params: Any, positions: jax.Array) -> jax.Array:
        moved = authors.with_positions(graph, positions)
        displacements = model.apply(params, None, moved, False)["position"]
        return displacements[: len(positions), 0]

    return authors.Loaded(
        params,
        output,
        data["positions"],
        data["displacement"],
        data["grad_positions"] - 1,  # theirs is of position + displacement
    )


def load_molecules(data: authors.Data, squared_lengths: bool) -> authors.Loaded:
    """Molecules: a scalar of each."""
    species = data["atomic_numbers"][:, None] == np.array(SPECIES)
    graph = authors.ragged_graph(
        data["positions"],
        species.astype(float),
        data["senders"],
        data["receivers"],
        np.bincount(data["batch"]),
    )
    own = {
        **fields(data),
        "node_inputs": ("all",),
        "read_positions": False,
        "instance_norm": True,
        "component_harmonics": True,
        "squared_lengths": squared_lengths,
    }
    model = models.build("segnn", MOLECULES, own)
    placement = author_weights.Placement(model, graph, data)
    params = place(placement, data, "energy")

    def output(params: Any, positions: jax.Array) -> jax.Array:
        moved = authors.with_positions(graph, positions)
        energies = model.apply(params, None, moved, False)["energy"]
        return energies[: len(data["prediction"])]

    return authors.Loaded(
        params, output, data["positions"], data["prediction"], data["grad_positions"]
    )


def fields(data: authors.Data) -> dict[str, Any]:
    """The sizes of the file's network."""
    config = authors.config(data)
    parts = config["hidden_irreps"].split("+")
    lmax, lmax_attributes = len(parts) - 1, config["lmax_attr"]
    channels = int(parts[0].split("x")[0])
    paths = steerable.natural_paths(lmax, lmax_attributes)
    return {
        "hidden_units": int(channels * paths**0.5),
        "num_layers": config["layers"],
        "lmax_hidden": lmax,
        "lmax_attributes": lmax_attributes,
    }


def place(placement: author_weights.Placement, data: authors.Data, head: str) -> Any:
    """The file's weights in our tree."""
    names = {
        "embedding": "embedding_layer",
        "readout_0": "pre_pool1",
        f"readout_{head}": "pre_pool2",
    }
    layers = authors.config(data)["layers"]
    for layer, kind, step in itertools.product(
        range(layers), ("message", "update"), range(2)
    ):
        names[f"{kind}_{layer}_{step}"] = f"layers.{layer}.{kind}_layer_{step + 1}"
    instructions = authors.config(data)["instructions"]
    for ours, theirs in names.items():
        _place_product(placement, ours, theirs, instructions[theirs])
    if head == "energy":
        for layer in range(layers):
            _place_norm(placement, layer)
        for step in range(2):
            own, name = f"readout_energy_graph/linear_{step}", f"post_pool{step + 1}"
            weight, bias = (
                placement.take(f"{name}.{leaf}") for leaf in ("tp.weight", "biases")
            )
            placement.put(own, "w", weight.reshape(-1, len(bias)))
            placement.put(own, "b", bias)
    return placement.finish()


def _place_product(
    placement: author_weights.Placement, ours: str, theirs: str, instructions: Any
) -> None:
    """One tensor product: for each output, the blocks by input and attribute."""
    weights = placement.take(f"{theirs}.tp.weight")
    blocks: dict[str, dict[Any, list[np.ndarray]]] = {}
    start = 0
    for _, _, _, rows, first, second, out, columns in instructions:
        block = weights[start : start + rows * columns].reshape(rows, columns)
        start += rows * columns
        path = (e3nn.Irrep(first), e3nn.Irrep(second))
        blocks.setdefault(out, {}).setdefault(path, []).append(block)
    assert start == len(weights)
    for out, paths in blocks.items():
        ordered = [block for path in sorted(paths) for block in paths[path]]
        placement.put(ours, f"w_{out}", np.concatenate(ordered))
    if placement.has(f"{theirs}.biases"):
        placement.put(ours, "b_0e", placement.take(f"{theirs}.biases"))


def _place_norm(placement: author_weights.Placement, layer: int) -> None:
    theirs = f"layers.{layer}.feature_norm"
    scales = placement.take(f"{theirs}.weight").reshape(3, -1)
    for irrep, scale in zip(("0e", "1o", "2e"), scales, strict=True):
        placement.put(f"norm_{layer}", f"scale_{irrep}", scale)
    placement.put(f"norm_{layer}", "offset", placement.take(f"{theirs}.bias"))


CASES = [
    authors.Case("segnn", "segnn", load_bodies),
    authors.Case("segnn", "segnn_l2", load_bodies, slow=True),
    authors.Case(
        "segnn",
        "segnn_qm9",
        functools.partial(load_molecules, squared_lengths=True),
        slow=True,
    ),
    authors.Case(
        "segnn",
        "segnn_qm9_length",
        functools.partial(load_molecules, squared_lengths=False),
        slow=True,
    ),
]
