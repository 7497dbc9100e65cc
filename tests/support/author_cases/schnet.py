"""SchNet against its authors' code and against that of PyTorch-Geometric."""

import numpy as np

from tests.support import author_molecules, authors


def _load_original(data: authors.Data) -> authors.Loaded:
    config = authors.config(data)
    weights = author_molecules.Weights(data, "SchNet/")

    def layer(name: str) -> dict[str, np.ndarray]:
        return {"w": weights(f"{name}/W"), "b": weights(f"{name}/b")}

    embedding = weights("atom_embedding/embeddings/W")[author_molecules.NUMBERS]
    layers = {
        "embedding": {"w": embedding},
        "readout_energy/linear_0": layer("Dense"),
        "readout_energy/linear_1": layer("Dense_1"),
    }
    for index in range(config["n_interactions"]):
        theirs = f"interaction_{index}"
        layers |= {
            f"filters_{index}/linear_0": layer(f"{theirs}/SchNetFilter/Dense"),
            f"filters_{index}/linear_1": layer(f"{theirs}/SchNetFilter/Dense_1"),
            f"atoms_{index}": {"w": weights(f"{theirs}/CFConv/in2fac/W")},
            f"output_{index}/linear_0": layer(f"{theirs}/CFConv/fac2out"),
            f"output_{index}/linear_1": layer(f"{theirs}/Dense"),
        }
    assert not weights("atomref/embeddings/W").any()
    weights.assert_all_read()
    # The basis is that of the defaults.
    assert (config["centers"], config["cutoff"], config["gamma"]) == (300, 30.0, 10.0)
    fields = {
        "hidden_size": config["n_basis"],
        "num_layers": config["n_interactions"],
    }
    return author_molecules.loaded("schnet", fields, data, layers)


def _load_pyg(data: authors.Data) -> authors.Loaded:
    config = authors.config(data)
    weights = author_molecules.Weights(data)
    embedding = weights("embedding.weight")[author_molecules.NUMBERS]
    layers = {
        "embedding": {"w": embedding},
        "readout_energy/linear_0": weights.torch("lin1"),
        "readout_energy/linear_1": weights.torch("lin2"),
    }
    for index in range(config["num_interactions"]):
        theirs = f"interactions.{index}"
        layers |= {
            f"filters_{index}/linear_0": weights.torch(f"{theirs}.mlp.0"),
            f"filters_{index}/linear_1": weights.torch(f"{theirs}.mlp.2"),
            f"atoms_{index}": weights.torch(f"{theirs}.conv.lin1"),
            f"output_{index}/linear_0": weights.torch(f"{theirs}.conv.lin2"),
            f"output_{index}/linear_1": weights.torch(f"{theirs}.lin"),
        }
    centres = weights("distance_expansion.offset")
    assert np.allclose(centres, config["step"] * np.arange(config["num_gaussians"]))
    weights.assert_all_read()
    fields = {
        "hidden_size": config["hidden_channels"],
        "num_layers": config["num_interactions"],
        "basis_step": config["step"],
        "basis_extent": config["cutoff"],
        "basis_gamma": config["gamma"],
        "cutoff": config["cutoff"],
        "activate_filters": False,
    }
    return author_molecules.loaded("schnet", fields, data, layers)


CASES = (
    authors.Case("schnet", "schnet", _load_original),
    authors.Case("schnet", "schnet_pyg", _load_pyg),
)
