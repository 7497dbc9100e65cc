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


MOLECULE_TASK = TaskSpec(
    name="golden molecules",
    heads=(Head("energy", "graph_scalar"),),
    scalars=tuple(f"{s}_{power}" for s in "HCNOF" for power in range(3)),
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


def _egnn_molecule_names() -> dict[str, str]:
    names = {"egnn/embedding": "embedding"}
    names |= _mlp("egnn/node_decoder", "node_dec")
    names |= _mlp("egnn/decoder_energy", "graph_dec")
    for layer in range(4):
        theirs = f"gcl_{layer}"
        names[f"egnn/edge_linear_{layer}"] = f"{theirs}.edge_mlp.0"
        names[f"egnn/edge_linear_{layer}_1"] = f"{theirs}.edge_mlp.2"
        names[f"egnn/attention_{layer}"] = f"{theirs}.att_mlp.0"
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
    predict: Callable[[Any], jax.Array]  # positions [N, 3], or a scalar per graph [G]
    prediction: np.ndarray


@dataclasses.dataclass
class TrainedCase(Case):
    """A golden file with the gradients of a loss."""

    targets: np.ndarray
    expected_loss: float
    gradients: dict[tuple[str, str], np.ndarray]

    def loss(self, params: Any) -> jax.Array:
        return jnp.mean((self.predict(params) - self.targets) ** 2)


def lookup(params: Any, path: tuple[str, str]) -> np.ndarray:
    return params[path[0]][path[1]]


def load(name: str, shared_dir: pathlib.Path) -> TrainedCase:
    """The case of a model, with every weight of the file placed in our tree."""
    stem = {"radial_field": "rf"}.get(name, name)
    data = _read(shared_dir, f"{stem}_nbody.npz")
    graph, bucket = _graph(data)
    model = models.build(name, TASK)
    template = model.init(jax.random.key(0), graph, bucket, False)
    params, gradients = _place(template, CASES[name](), data)

    def predict(params):
        output = model.apply(params, None, graph, bucket, False)["position"][:, 0]
        return data["positions"] + output

    return TrainedCase(
        params,
        jax.jit(predict),
        data["prediction"],
        data["targets"],
        float(data["loss"]),
        gradients,
    )


def load_molecules(shared_dir: pathlib.Path) -> Case:
    """EGNN on 8 molecules of QM9, with every weight of the file placed in our tree."""
    data = _read(shared_dir, "egnn_qm9.npz")
    graph, bucket = _molecules(data)
    fields = {
        "num_layers": 4,
        "attention": True,
        "node_attributes": True,
        "node_inputs": ("all",),
    }
    model = models.build("egnn", MOLECULE_TASK, fields)
    template = model.init(jax.random.key(0), graph, bucket, False)
    params, _ = _place(template, _egnn_molecule_names(), data)

    def predict(params):
        energies = model.apply(params, None, graph, bucket, False)["energy"]
        return energies[: len(data["prediction"]), 0]

    return Case(params, jax.jit(predict), data["prediction"])


def _read(shared_dir: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    with np.load(shared_dir / "golden" / name) as file:
        return {key: file[key] for key in file.files}


def _place(
    template: Any, names: dict[str, str], data: dict[str, np.ndarray]
) -> tuple[Any, dict[tuple[str, str], np.ndarray]]:
    """The file's weights in our tree, each placed and each leaf filled; gradients."""
    params = hk.data_structures.to_mutable_dict(template)
    gradients = {}
    placed = set()
    for ours, theirs in names.items():
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
    assert len(placed) == len(jax.tree.leaves(params))
    return params, gradients


def _molecules(data: dict[str, np.ndarray]) -> tuple[graphs.Graph, Bucket]:
    """The file's molecules as complete graphs, and one padding node."""
    real = data["atomic_numbers"] > 0  # [G, M]
    sizes = real.sum(axis=1)
    starts = np.cumsum(sizes) - sizes
    pairs = [graphs.complete_edges(size) for size in sizes]
    senders, receivers = (
        np.concatenate([pair[end] + s for pair, s in zip(pairs, starts, strict=True)])
        for end in (0, 1)
    )
    num_nodes, num_edges = int(sizes.sum()), len(senders)
    pad = [(0, 1), (0, 0)]  # the padding graph is one node
    graph = graphs.Graph(
        nodes=Nodes(
            np.pad(data["positions"][real], pad),
            np.pad(data["node_features"][real.ravel()], pad),
            np.zeros((num_nodes + 1, 0, 3)),
        ),
        edges=np.zeros((num_edges, 0)),
        senders=senders,
        receivers=receivers,
        n_node=np.array([*sizes, 1]),
        n_edge=np.array([*(sizes * (sizes - 1)), 0]),
        globals=None,
    )
    return graph, Bucket(num_nodes + 1, num_edges, len(sizes) + 1)


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
