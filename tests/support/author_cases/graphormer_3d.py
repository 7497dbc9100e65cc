"""Graphormer-3D against its authors' code."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from demetar.types import Head
from tests.support import author_molecules, authors

SPECIES = dataclasses.replace(
    author_molecules.TASK, species=author_molecules.TASK.scalars
)
VECTORS = dataclasses.replace(SPECIES, heads=(Head("force", "node_vector"),))
# They take 3.14159 for pi. The layers that read the Gaussians absorb the difference.
GAUSSIAN = math.sqrt(math.pi / 3.14159)


def _scaled(layer: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    return {**layer, "w": layer["w"] * factor}


def _layers(data: authors.Data) -> dict[str, dict[str, np.ndarray]]:
    """All weights by our names."""
    config = authors.config(data)
    weights = author_molecules.Weights(data)
    numbers, num_types = author_molecules.NUMBERS, config["atom_types"]

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": weights(f"{name}.weight"), "offset": weights(f"{name}.bias")}

    def of_pair(name: str) -> np.ndarray:
        table = weights(f"gbf.{name}.weight").reshape(num_types, num_types)
        return table[numbers][:, numbers]

    embedding = weights("atom_encoder.weight")[numbers]
    embedding = embedding + weights("tag_encoder.weight")[1]
    found = {
        "": {
            "factors": of_pair("mul") - 1,
            "shifts": of_pair("bias"),
            "means": weights("gbf.means.weight")[0],
            "widths": weights("gbf.stds.weight")[0],
        },
        "embedding": {"w": embedding},
        "centrality": _scaled(weights.torch("edge_proj"), GAUSSIAN),
        "bias/linear_0": _scaled(weights.torch("bias_proj.layer1"), GAUSSIAN),
        "bias/linear_1": weights.torch("bias_proj.layer2"),
        "norm": norm("final_ln"),
    }
    for index in range(config["layers"]):
        theirs, ours = f"layers.{index}", f"layer_{index}"
        attention = f"{theirs}.self_attn"
        found |= {
            f"{ours}/norm_0": norm(f"{theirs}.self_attn_layer_norm"),
            f"{ours}/norm_1": norm(f"{theirs}.final_layer_norm"),
            f"{ours}/attention/query_key_value": weights.torch(f"{attention}.in_proj"),
            f"{ours}/attention/output": weights.torch(f"{attention}.out_proj"),
            f"{ours}/feed_forward_0": weights.torch(f"{theirs}.fc1"),
            f"{ours}/feed_forward_1": weights.torch(f"{theirs}.fc2"),
        }
    if "param/engergy_proj.layer1.weight" in data:
        found |= _energy(weights)
    else:
        found |= _vectors(weights)
    weights.assert_all_read()
    return found


def _energy(weights: author_molecules.Weights) -> dict[str, dict[str, np.ndarray]]:
    """A perceptron, times the factor of the tag."""
    factor = weights("energe_agg_factor.weight")[1]
    last = weights.torch("engergy_proj.layer2")
    return {
        "readout_energy/linear_0": weights.torch("engergy_proj.layer1"),
        "readout_energy/linear_1": {leaf: last[leaf] * factor for leaf in last},
    }


def _vectors(weights: author_molecules.Weights) -> dict[str, dict[str, np.ndarray]]:
    """The last attention; one map for each of x, y and z, or one if they are equal."""
    parts = [weights.torch(f"node_proc.{part}_proj") for part in "qkv"]
    maps = [weights.torch(f"node_proc.force_proj{number}") for number in (1, 2, 3)]
    name = "readout_force"
    found = {
        f"{name}/query_key_values": {
            leaf: np.concatenate([part[leaf] for part in parts], axis=-1)
            for leaf in ("w", "b")
        }
    }
    first = maps[0]["w"]
    if all(np.array_equal(own["w"], first) and not own["b"].any() for own in maps):
        return found | {f"{name}/map": {"w": first}}
    return found | {
        f"{name}/map_{axis}": own for axis, own in zip("xyz", maps, strict=True)
    }


def load(data: authors.Data) -> authors.Loaded:
    """A golden file of energies or of vectors."""
    config = authors.config(data)
    fields = {
        "hidden_size": config["embed_dim"],
        "num_layers": config["layers"],
        "num_blocks": config["blocks"],
        "num_heads": config["attention_heads"],
        "feed_forward_size": config["ffn_embed_dim"],
        "num_basis": config["num_kernel"],
        "node_inputs": ("all",),
    }
    layers = _layers(data)
    senders, receivers = authors.complete_edges(data["n_node"])
    data = {**data, "senders": senders, "receivers": receivers}
    if "readout_energy/linear_0" in layers:
        return author_molecules.loaded("graphormer_3d", fields, data, layers, SPECIES)
    tied = "readout_force/map" in layers
    model = "graphormer_3d" if tied else "graphormer_3d_untied"
    loaded = author_molecules.loaded(model, fields, data, layers, VECTORS)
    weights = np.sin(np.arange(loaded.expected.size)).reshape(loaded.expected.shape)

    def loss(output: jax.Array) -> jax.Array:
        return jnp.sum(output * weights)

    return dataclasses.replace(loaded, loss=loss)


CASES = (
    authors.Case("graphormer_3d", "graphormer_3d", load),
    authors.Case("graphormer_3d", "graphormer_3d_tied", load, slow=True),
    authors.Case("graphormer_3d_untied", "graphormer_3d_untied", load, slow=True),
)
