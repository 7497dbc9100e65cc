"""Golden cases: the authors' weights under our names."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import graphs, models
from demetar.types import Bucket, Head, Nodes, TaskSpec, VectorInput

NUM_GRAPHS, NUM_BODIES = 8, 5

TASK = TaskSpec(
    name="golden",
    heads=(Head("position", "node_vector", base="positions"),),
    scalars=("charge",),
    vectors=(VectorInput("velocity"),),
    edge_features=("charge_product",),
)


def _mlp(ours: str, theirs: str) -> dict[str, str]:
    """A two-layer torch Sequential as one of our MLPs."""
    return {f"{ours}/linear_0": f"{theirs}.0", f"{ours}/linear_1": f"{theirs}.2"}


def _egnn_names() -> dict[str, str]:
    names = {"egnn/embedding": "embedding"}
    for layer in range(4):
        theirs = f"gcl_{layer}"
        for ours, module in (
            ("edge_linear", "edge_mlp"),
            ("coordinate_linear", "coord_mlp"),
        ):
            names[f"egnn/{ours}_{layer}"] = f"{theirs}.{module}.0"
            names[f"egnn/{ours}_{layer}_1"] = f"{theirs}.{module}.2"
        names |= _mlp(f"egnn/velocity_mlp_{layer}", f"{theirs}.coord_mlp_vel")
        names |= _mlp(f"egnn/node_mlp_{layer}", f"{theirs}.node_mlp")
    return names


def _gnn_names() -> dict[str, str]:
    names = {"gnn/embedding": "embedding.0"}
    names |= _mlp("gnn/decoder_position", "decoder")
    for layer in range(4):
        names[f"gnn/edge_linear_{layer}"] = f"gcl_{layer}.edge_mlp.0"
        names[f"gnn/edge_mlp_{layer}/linear_0"] = f"gcl_{layer}.edge_mlp.2"
        names |= _mlp(f"gnn/node_mlp_{layer}", f"gcl_{layer}.node_mlp")
    return names


def _radial_field_names() -> dict[str, str]:
    names = {}
    for layer in range(4):
        ours, theirs = "radial_field/radial_linear", f"gcl_{layer}"
        names[f"{ours}_{layer}"] = f"{theirs}.phi.0"
        names[f"{ours}_{layer}_1"] = f"{theirs}.phi.2"
        names |= _mlp(f"radial_field/velocity_mlp_{layer}", f"{theirs}.coord_mlp_vel")
    return names


CASES: dict[str, Callable[[], dict[str, str]]] = {
    "egnn": _egnn_names,
    "gnn": _gnn_names,
    "radial_field": _radial_field_names,
}


@dataclasses.dataclass
class Case:
    """One golden file, ready to compare."""

    params: Any
    predict: Callable[[Any], jax.Array]  # positions [N, 3]
    prediction: np.ndarray
    targets: np.ndarray
    expected_loss: float
    gradients: dict[tuple[str, str], np.ndarray]

    def loss(self, params: Any) -> jax.Array:
        return jnp.mean((self.predict(params) - self.targets) ** 2)


def lookup(params: Any, path: tuple[str, str]) -> np.ndarray:
    return params[path[0]][path[1]]


def load(name: str, shared_dir: pathlib.Path) -> Case:
    """The case of a model, with every weight of the file placed in our tree."""
    stem = {"radial_field": "rf"}.get(name, name)
    with np.load(shared_dir / "golden" / f"{stem}_nbody.npz") as file:
        data = {key: file[key] for key in file.files}
    graph, bucket = _graph(data)
    model = models.build(name, TASK)
    template = model.init(jax.random.key(0), graph, bucket, False)
    params = hk.data_structures.to_mutable_dict(template)
    gradients = {}
    placed = set()
    for ours, theirs in CASES[name]().items():
        for leaf, suffix in (("w", "weight"), ("b", "bias")):
            key = f"param/{theirs}.{suffix}"
            if key not in data:
                continue
            value = data[key].T
            assert params[ours][leaf].shape == value.shape, (ours, leaf)
            params[ours][leaf] = jnp.asarray(value)
            placed.add(key)
            if f"grad/{theirs}.{suffix}" in data:
                gradients[ours, leaf] = data[f"grad/{theirs}.{suffix}"].T
    assert placed == {key for key in data if key.startswith("param/")}

    def predict(params):
        output = model.apply(params, None, graph, bucket, False)["position"][:, 0]
        return data["positions"] + output

    return Case(
        params,
        jax.jit(predict),
        data["prediction"],
        data["targets"],
        float(data["loss"]),
        gradients,
    )


def _graph(data: dict[str, np.ndarray]) -> tuple[graphs.Graph, Bucket]:
    """The file's graphs in our edge order."""
    senders, receivers = graphs.complete_edges(NUM_BODIES)
    offsets = np.arange(NUM_GRAPHS)[:, None] * NUM_BODIES
    senders, receivers = (senders + offsets).ravel(), (receivers + offsets).ravel()
    theirs = {
        (int(i), int(j)): attr[0]
        for i, j, attr in zip(
            data["receivers"], data["senders"], data["edge_attr"], strict=True
        )
    }
    products = [theirs[int(i), int(j)] for i, j in zip(receivers, senders, strict=True)]
    num_nodes, num_edges = NUM_GRAPHS * NUM_BODIES, len(senders)
    graph = graphs.Graph(
        nodes=Nodes(data["positions"], data["charges"], data["velocities"][:, None]),
        edges=np.asarray(products)[:, None],
        senders=senders,
        receivers=receivers,
        n_node=np.full(NUM_GRAPHS, NUM_BODIES),
        n_edge=np.full(NUM_GRAPHS, NUM_BODIES * (NUM_BODIES - 1)),
        globals=None,
    )
    return graph, Bucket(num_nodes, num_edges, NUM_GRAPHS, NUM_BODIES)
