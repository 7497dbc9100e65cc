"""EGNN, GNN and Radial Field against vgsatorras/egnn.

On N-body the files have the gradient of a loss by every weight.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demetar import connectivity, models
from demetar.types import Bucket, Graph, Head, Nodes, TaskSpec, VectorInput
from tests.support import author_weights, authors

NUM_LAYERS = 4
BODIES = TaskSpec(
    name="golden bodies",
    heads=(Head("position", "node_vector", base="positions"),),
    scalars=("charge",),
    vectors=(VectorInput("velocity"),),
    edge_features=("charge_product",),
)
MOLECULES = TaskSpec(
    name="golden molecules",
    heads=(Head("energy", "graph_scalar"),),
    scalars=tuple(f"{s}_{power}" for s in "HCNOF" for power in range(3)),
)
MOLECULE_FIELDS = {
    "num_layers": NUM_LAYERS,
    "attention": True,
    "node_attributes": True,
    "node_inputs": ("all",),
}


def load_bodies(data: authors.Data, model_name: str) -> authors.Loaded:
    """8 graphs of 5 charged particles: their positions."""
    graph = bodies(data)
    model = models.build(model_name, BODIES)

    def placed(prefix: str) -> author_weights.Params:
        placement = author_weights.Placement(model, graph, data, (prefix,))
        PLACE[model_name](placement)
        return placement.finish()

    def output(params: Any, positions: jax.Array) -> jax.Array:
        moved = authors.with_positions(graph, positions)
        shift = model.apply(params, None, moved, False)["position"][:, 0]
        return positions + shift

    def loss(output: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(output - data["targets"]))

    # PyTorch has no gradient of weights that the loss does not read.
    names = [key.removeprefix("param/") for key in data if key.startswith("param/")]
    zeros = {f"grad/{name}": np.zeros_like(data[f"param/{name}"]) for name in names}
    data = {**zeros, **data}
    return authors.Loaded(
        placed("param/"),
        output,
        data["positions"],
        data["prediction"],
        loss=loss,
        weight_gradient=placed("grad/"),
    )


def load_molecules(data: authors.Data) -> authors.Loaded:
    """8 molecules of QM9: no moving coordinates, attention, a scalar of each."""
    graph = molecules(data)
    model = models.build("egnn", MOLECULES, MOLECULE_FIELDS)
    placement = author_weights.Placement(model, graph, data)
    placement.linear("embedding", "embedding")
    for layer in range(NUM_LAYERS):
        theirs = _place_edges(placement, layer)
        placement.linear(f"attention_{layer}", f"{theirs}.att_mlp.0")
        _place_mlp(placement, f"node_mlp_{layer}", f"{theirs}.node_mlp")
    _place_mlp(placement, "node_decoder", "node_dec")
    _place_mlp(placement, "decoder_energy", "graph_dec")

    output = authors.graph_outputs(model, graph, "energy", len(data["prediction"]))
    real = data["atomic_numbers"] > 0
    return authors.Loaded(
        placement.finish(), output, data["positions"][real], data["prediction"]
    )


def bodies(data: authors.Data) -> Graph:
    """The file's graphs with edges in the order of a regular bucket."""
    num_graphs, size = 8, 5
    senders, receivers = connectivity.complete_edges(size)
    offsets = np.arange(num_graphs)[:, None] * size
    senders, receivers = (senders + offsets).ravel(), (receivers + offsets).ravel()
    num_nodes, num_edges = num_graphs * size, len(senders)
    products = np.full((num_nodes, num_nodes), np.nan)
    products[data["receivers"], data["senders"]] = data["edge_attr"][:, 0]
    return Graph(
        nodes=Nodes(data["positions"], data["charges"], data["velocities"][:, None]),
        edges=products[receivers, senders][:, None],
        senders=senders,
        receivers=receivers,
        n_node=np.full(num_graphs, size),
        n_edge=np.full(num_graphs, size * (size - 1)),
        globals=None,
        bucket=Bucket(num_nodes, num_edges, num_graphs, size),
    )


def molecules(data: authors.Data) -> Graph:
    """The file's molecules as complete graphs."""
    real = data["atomic_numbers"] > 0  # [G, M]
    sizes = real.sum(axis=1)
    senders, receivers = authors.complete_edges(sizes)
    return authors.ragged_graph(
        data["positions"][real],
        data["node_features"][real.ravel()],
        senders,
        receivers,
        sizes,
    )


def _place_mlp(placement: author_weights.Placement, ours: str, theirs: str) -> None:
    placement.mlp(ours, f"{theirs}.0", f"{theirs}.2")


def _place_edges(placement: author_weights.Placement, layer: int) -> str:
    """The network of the edges; returns the layer's name in the file."""
    placement.linear(f"edge_linear_{layer}", f"gcl_{layer}.edge_mlp.0")
    placement.linear(f"edge_linear_{layer}_1", f"gcl_{layer}.edge_mlp.2")
    return f"gcl_{layer}"


def _place_egnn(placement: author_weights.Placement) -> None:
    placement.linear("embedding", "embedding")
    for layer in range(NUM_LAYERS):
        theirs = _place_edges(placement, layer)
        placement.linear(f"coordinate_linear_{layer}", f"{theirs}.coord_mlp.0")
        placement.linear(f"coordinate_linear_{layer}_1", f"{theirs}.coord_mlp.2")
        _place_mlp(placement, f"velocity_mlp_{layer}", f"{theirs}.coord_mlp_vel")
        _place_mlp(placement, f"node_mlp_{layer}", f"{theirs}.node_mlp")


def _place_gnn(placement: author_weights.Placement) -> None:
    placement.linear("embedding", "embedding.0")
    _place_mlp(placement, "decoder_position", "decoder")
    for layer in range(NUM_LAYERS):
        theirs = f"gcl_{layer}"
        placement.linear(f"edge_linear_{layer}", f"{theirs}.edge_mlp.0")
        placement.linear(f"edge_mlp_{layer}/linear_0", f"{theirs}.edge_mlp.2")
        _place_mlp(placement, f"node_mlp_{layer}", f"{theirs}.node_mlp")


def _place_radial_field(placement: author_weights.Placement) -> None:
    for layer in range(NUM_LAYERS):
        theirs = f"gcl_{layer}"
        placement.linear(f"radial_linear_{layer}", f"{theirs}.phi.0")
        placement.linear(f"radial_linear_{layer}_1", f"{theirs}.phi.2")
        _place_mlp(placement, f"velocity_mlp_{layer}", f"{theirs}.coord_mlp_vel")


PLACE = {"egnn": _place_egnn, "gnn": _place_gnn, "radial_field": _place_radial_field}

CASES = [
    *(
        authors.Case(
            name, f"{stem}_nbody", functools.partial(load_bodies, model_name=name)
        )
        for name, stem in (("egnn", "egnn"), ("gnn", "gnn"), ("radial_field", "rf"))
    ),
    authors.Case("egnn", "egnn_qm9", load_molecules),
]
