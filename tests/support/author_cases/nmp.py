"""NMP against its authors' code: every option of theirs that ours has."""

import dataclasses

import numpy as np

from tests.support import author_molecules, authors

# The authors' class 0 is no bond; ours is zero features.
NUM_CLASSES = 5
TASK = dataclasses.replace(
    author_molecules.TASK,
    edge_features=tuple(f"class {k}" for k in range(1, NUM_CLASSES)),
)


def _edge_network(
    weights: author_molecules.Weights, name: str, num_layers: int
) -> list[dict[str, np.ndarray]]:
    """Layers of an edge network that reads the length and classes 1 to 4.

    Theirs reads the classes 0 to 4 and the length, so the bias takes class 0.
    """
    layers = [
        {"w": weights(f"{name}/W{i}"), "b": weights(f"{name}/b{i}")}
        for i in range(num_layers)
    ]
    no_bond, *classes = layers[0]["w"][:NUM_CLASSES]
    length = layers[0]["w"][NUM_CLASSES]
    layers[0] = {
        "w": np.stack([length, *(row - no_bond for row in classes)]),
        "b": layers[0]["b"] + no_bond,
    }
    last = {"w": weights(f"{name}/output_W"), "b": weights(f"{name}/output_b")}
    return [*layers, last]


def _cell(weights: author_molecules.Weights) -> dict[str, np.ndarray]:
    """Gates to write, keep and show, and the candidate."""
    prefix = "Set2VecOutput/output_LSTMLoopAtt"
    gates = [(weights(f"{prefix}{g}m"), weights(f"{prefix}{g}b")) for g in "ifoc"]
    matrices, biases = zip(*gates, strict=True)
    return {"w": np.concatenate(matrices, axis=1), "b": np.concatenate(biases, 1)[0]}


def load(data: authors.Data) -> authors.Loaded:
    """A golden file of NMP. With one network what the second sends has weight 0."""
    config = authors.config(data)
    weights = author_molecules.Weights(data)
    one = config["restricted_to_one_edge_network"]
    directions = ("in",) if one else ("in", "out")
    width = len(directions) * config["node_dim"]
    unit = {name: weights(f"GRUUpdate/GRU_{name}") for name in ("w_z", "w_r", "w")}
    assert not any(matrix[width:].any() for matrix in unit.values())
    own = [weights(f"GRUUpdate/GRU_{name}") for name in ("u_z", "u_r")]
    layers = {
        "": {"message_bias": weights("EdgeNetwork/message_bias")[:width]},
        "update/received": {"w": np.concatenate(list(unit.values()), 1)[:width]},
        "update/states": {"w": np.concatenate(own, 1)},
        "update/reset_states": {"w": weights("GRUUpdate/GRU_u")},
        "members": {"w": weights("Set2VecOutput/att_W_1")[0, 0]},
        "query/gates": _cell(weights),
        "comparison/query": {"w": weights("Set2VecOutput/output_LSTMLoopAttatt_W_2")},
        "comparison/logits": {"w": weights("Set2VecOutput/output_LSTMLoopAttatt_V")},
        "readout_energy/linear_0": {
            "w": weights("Set2VecOutput/W0"),
            "b": weights("Set2VecOutput/b0"),
        },
        "readout_energy/linear_1": {
            "w": weights("Set2VecOutput/output_W"),
            "b": weights("Set2VecOutput/output_b"),
        },
    }
    if config["inner_prod"] == "dot":
        del layers["comparison/logits"]
    for direction in ("in", "out"):
        network = _edge_network(
            weights,
            f"EdgeNetwork/adj_{direction}_edge_nn",
            config["edge_num_layers"],
        )
        for index, layer in enumerate(network):
            if direction in directions:
                layers[f"edge_network_{direction}/linear_{index}"] = layer
    weights.assert_all_read()
    fields = {
        "hidden_size": config["node_dim"],
        "num_layers": config["num_propagation_steps"],
        "edge_sizes": (config["edge_hidden_dim"],) * config["edge_num_layers"],
        "one_network": one,
        "num_readout_steps": config["set2set_comps"],
        "dot_attention": config["inner_prod"] == "dot",
        "standard_cell": config["standard_cell"],
        "readout_size": config["hidden_dim"],
    }
    classes = np.arange(1, config["num_edge_class"])
    edges = (data["edge_class"][:, None] == classes).astype(np.float64)
    return author_molecules.loaded("nmp", fields, data, layers, TASK, edges)


CASES = tuple(
    authors.Case("nmp", stem, load)
    for stem in ("nmp", "nmp_dot", "nmp_one_network", "nmp_one_network_standard_cell")
)
