"""TorchMD-NET's equivariant transformer against its authors' code."""

import numpy as np

from tests.support import author_molecules, authors


def _per_head(layer: dict[str, np.ndarray], num_heads: int) -> dict[str, np.ndarray]:
    """A layer of 3 values per head, of which theirs has the heads outermost.

    Theirs are those for scalars, for the sender's vectors and for directions; ours has
    the scalars last.
    """
    found = {}
    for name, leaf in layer.items():
        heads = leaf.reshape(*leaf.shape[:-1], num_heads, 3, -1)
        kinds = np.moveaxis(heads, -2, 0)[[1, 2, 0]]
        found[name] = np.moveaxis(kinds, 0, -3).reshape(leaf.shape)
    return found


def _backwards(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A layer of 3 outputs in the opposite order."""
    return {
        name: np.concatenate(np.split(leaf, 3, axis=-1)[::-1], axis=-1)
        for name, leaf in layer.items()
    }


def load(data: authors.Data) -> authors.Loaded:
    """A golden file of the equivariant transformer."""
    config = authors.config(data)
    weights = author_molecules.Weights(data)
    numbers, heads = author_molecules.NUMBERS, config["num_heads"]
    model = "representation_model"

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": weights(f"{name}.weight"), "offset": weights(f"{name}.bias")}

    embeddings = [
        weights(f"{model}.{name}.weight")[numbers]
        for name in ("embedding", "neighbor_embedding.embedding")
    ]
    layers = {
        "embedding": {"w": embeddings[0]},
        "neighbor_embedding": {"w": embeddings[1]},
        "neighbor_filter": weights.torch(f"{model}.neighbor_embedding.distance_proj"),
        "combine": weights.torch(f"{model}.neighbor_embedding.combine"),
        "output_norm": norm(f"{model}.out_norm"),
    }
    for index in range(config["num_layers"]):
        theirs = f"{model}.attention_layers.{index}"
        values = weights.torch(f"{theirs}.v_proj")
        value_filters = weights.torch(f"{theirs}.dv_proj")
        layers |= {
            f"norm_{index}": norm(f"{theirs}.layernorm"),
            f"queries_{index}": weights.torch(f"{theirs}.q_proj"),
            f"keys_{index}": weights.torch(f"{theirs}.k_proj"),
            f"values_{index}": _per_head(values, heads),
            f"vectors_{index}": weights.torch(f"{theirs}.vec_proj"),
            f"output_{index}": _backwards(weights.torch(f"{theirs}.o_proj")),
            f"attend_{index}/key_filters": weights.torch(f"{theirs}.dk_proj"),
            f"attend_{index}/value_filters": _per_head(value_filters, heads),
        }
    for name, index in (("gated", 0), ("readout_energy", 1)):
        theirs = f"output_model.output_network.{index}"
        layers |= {
            f"{name}/norms": weights.torch(f"{theirs}.vec1_proj"),
            f"{name}/vectors": weights.torch(f"{theirs}.vec2_proj"),
            f"{name}/linear_0": weights.torch(f"{theirs}.update_net.layers.0"),
            f"{name}/linear_1": weights.torch(f"{theirs}.update_net.layers.2"),
        }
    # The basis has the centres and widths of the start, which are not trained.
    num_basis, start = config["num_rbf"], np.exp(-5.0)
    centres = weights(f"{model}.distance_expansion.means")
    assert np.array_equal(centres, np.linspace(start, 1, num_basis))
    beta = (2 / num_basis * (1 - start)) ** -2
    assert np.allclose(weights(f"{model}.distance_expansion.betas"), beta, rtol=1e-14)
    assert (weights("mean"), weights("std")) == (0, 1)
    weights.assert_all_read()
    fields = {
        "num_heads": heads,
        "head_size": config["embedding_dimension"] // heads,
        "num_layers": config["num_layers"],
        "num_basis": num_basis,
        "cutoff": config["cutoff_upper"],
        "vector_cutoff": config["vector_cutoff"],
        "self_loops": config["self_loops"],
        "node_inputs": ("all",),
    }
    return author_molecules.loaded("torchmd_et", fields, data, layers)


CASES = tuple(
    authors.Case("torchmd_et", stem, load)
    for stem in (
        "torchmd_et",
        "torchmd_et_no_second_norms",
        "torchmd_et_paper_attention_cutoff",
    )
)
