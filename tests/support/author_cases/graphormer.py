"""Graphormer against the first release of its authors' code."""

import dataclasses

import numpy as np

from demetar.data import bonds
from tests.support import author_molecules, authors

TASK = dataclasses.replace(author_molecules.TASK, edge_features=bonds.TYPES)
NUM_DEGREES = 7
NUM_DISTANCES = 11


def _layers(
    data: authors.Data, prefix: str, config: dict[str, int]
) -> dict[str, dict[str, np.ndarray]]:
    """Weights or gradients by our names: theirs have rows for padding and more."""
    shaped = {
        key.replace(prefix, "param/", 1): value
        for key, value in data.items()
        if key.startswith(prefix)
    }
    weights = author_molecules.Weights(shaped)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": weights(f"{name}.weight"), "offset": weights(f"{name}.bias")}

    def beside(*names: str) -> dict[str, np.ndarray]:
        parts = [weights.torch(name) for name in names]
        return {
            leaf: np.concatenate([part[leaf] for part in parts], axis=-1)
            for leaf in parts[0]
        }

    heads, num_types = config["num_heads"], len(bonds.TYPES)
    degrees = slice(1, 1 + NUM_DEGREES)  # row 0 is padding
    distances = weights("rel_pos_encoder.weight")
    matrices = weights("edge_dis_encoder.weight").reshape(-1, heads, heads)
    found = {
        "": {
            "graph_token": weights("graph_token.weight")[0],
            "virtual_distance": weights("graph_token_virtual_distance.weight")[0],
            "in_degrees": weights("in_degree_encoder.weight")[degrees],
            "out_degrees": weights("out_degree_encoder.weight")[degrees],
            "distances": np.concatenate([distances[1:NUM_DISTANCES], distances[-1:]]),
            # A feature is stored as 1 more than its code, which they count from 2.
            "bonds": weights("edge_encoder.weight")[4 : 4 + num_types],
            "hops": matrices[: config["multi_hop_max_dist"]],
        },
        "embedding": {"w": weights("atom_encoder.weight")[2:7]},
        "norm": norm("final_ln"),
        "readout_energy": weights.torch("downstream_out_proj"),
    }
    for index in range(config["n_layers"]):
        theirs, ours = f"layers.{index}", f"layer_{index}"
        attention = f"{theirs}.self_attention"
        found |= {
            f"{ours}/norm_0": norm(f"{attention}_norm"),
            f"{ours}/norm_1": norm(f"{theirs}.ffn_norm"),
            f"{ours}/attention/query_key_value": beside(
                *(f"{attention}.linear_{part}" for part in "qkv")
            ),
            f"{ours}/attention/output": weights.torch(f"{attention}.output_layer"),
            f"{ours}/feed_forward_0": weights.torch(f"{theirs}.ffn.layer1"),
            f"{ours}/feed_forward_1": weights.torch(f"{theirs}.ffn.layer2"),
        }
    weights.assert_all_read()
    return found


def load(data: authors.Data) -> authors.Loaded:
    """The golden file, of graphs without positions."""
    config = authors.config(data)
    still = np.zeros((len(data["atomic_numbers"]), 3))
    graphs = {**data, "positions": still, "gradient": still}
    fields = {
        "hidden_size": config["hidden_dim"],
        "num_layers": config["n_layers"],
        "num_heads": config["num_heads"],
        "feed_forward_size": config["ffn_dim"],
        "num_degrees": NUM_DEGREES,
        "num_distances": NUM_DISTANCES,
        "max_hops": config["multi_hop_max_dist"],
        "pooling": "token",
    }
    types = np.arange(len(bonds.TYPES)) + 1
    edges = (data["bond_types"][:, None] == types).astype(np.float64)
    layers = _layers(data, "param/", config)
    loaded = author_molecules.loaded("graphormer", fields, graphs, layers, TASK, edges)
    gradients = _layers(data, "grad/", config)
    scope = next(iter(loaded.params)).split("/")[0]
    by_weight = {f"{scope}/{key}".rstrip("/"): leaf for key, leaf in gradients.items()}
    return dataclasses.replace(loaded, weight_gradient=by_weight)


CASES = (authors.Case("graphormer", "graphormer", load),)
