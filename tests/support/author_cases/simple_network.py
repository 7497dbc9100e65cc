"""The network of the e3nn tutorial against its authors' code in flax."""

from __future__ import annotations

import functools

import numpy as np

from demetar.nn import depthwise, steerable
from tests.support import author_energies, authors


def load(data: authors.Data, gate: str, norm_epsilon: float) -> authors.Loaded:
    config = authors.config(data)
    fields = {
        "embedding_irreps": f"{config['init_embed_dims']}x0e",
        "layer_irreps": tuple(config["output_irreps_per_layer"]),
        "lmax": config["sh_lmax"],
        "radial_sizes": (config["mlp_hidden_dims"],) * (config["mlp_num_layers"] - 1),
        "gate": gate,
        "norm_epsilon": norm_epsilon,
    }
    return author_energies.load(
        "simple_network",
        data,
        fields,
        lambda start: place(data, fields),
        np.eye(config["max_atomic_number"])[data["atomic_numbers"]],
        data["n_node"],
    )


def linear(data, name):
    """{out: weights [C, C']} of e3nn's linear layer, with its factors."""
    prefix = f"param/{name}/w["
    keys = [key for key in data if key.startswith(prefix)]
    keys.sort(key=lambda key: int(key[len(prefix) :].split("]")[0].split(",")[1]))
    blocks: dict = {}
    for key in keys:
        out = steerable.Irrep(key.split("x")[-1])
        blocks.setdefault(out, []).append(data[key] / np.sqrt(len(data[key])))
    return {out: np.concatenate(parts, axis=1) for out, parts in blocks.items()}


class Product:
    """The channels of their product of harmonics with nodes, and ours of those.

    Theirs couples harmonics with nodes, harmonics first. A coupling with its factors
    exchanged has the sign (-1)^(l1 + l2 + l3).

    Attributes:
      sizes: {irrep: channels of theirs}.
      rows: {irrep: the channel of theirs for each of ours}.
      columns: the radial weight of theirs for each of ours.
      signs: of our couplings over theirs.
    """

    def __init__(self, nodes, lmax, wanted):
        harmonics = [steerable.natural_irrep(l) for l in range(lmax + 1)]
        every = {ir for node in nodes for second in harmonics for ir in node * second}
        theirs = depthwise.find_paths(nodes, harmonics, every)
        theirs.sort(key=lambda path: (path.out, path.second, path.first))
        starts, start = {}, 0
        self.sizes = dict.fromkeys(sorted(every), 0)
        for path in theirs:
            starts[path] = (self.sizes[path.out], start)
            self.sizes[path.out] += nodes[path.first]
            start += nodes[path.first]
        ours = depthwise.find_paths(nodes, harmonics, wanted)
        self.rows: dict = {path.out: [] for path in ours}
        columns: list[int] = []
        signs: list[int] = []
        for path in ours:
            span = np.arange(nodes[path.first])
            row, column = starts[path]
            self.rows[path.out].extend(row + span)
            columns.extend(column + span)
            degrees = path.first.l + path.second.l + path.out.l
            signs.extend([(-1) ** degrees] * len(span))
        self.columns, self.signs = np.array(columns), np.array(signs)


def place(data, fields):
    """Their weights under our names."""
    embedding = data["param/AtomEmbedding_0/Embed_0/embedding"]
    zeros = np.zeros(embedding.shape[1])
    params: dict = {"simple_network/embedding": {"w_0e": embedding, "b_0e": zeros}}
    nodes = steerable.parse_channels(fields["embedding_irreps"])
    for layer, irreps in enumerate(fields["layer_irreps"]):
        wanted = {steerable.SCALAR, *steerable.parse_channels(irreps)}
        product = Product(nodes, fields["lmax"], wanted)
        theirs = f"SimpleNetworkLayer_{layer}"
        place_radial(data, params, layer, product)
        first = linear(data, f"{theirs}/Linear_0")
        first[steerable.SCALAR] = read_gates(first[steerable.SCALAR], product)
        params[f"simple_network/linear_{layer}_0"] = {
            f"w_{out}": first[out][rows] for out, rows in product.rows.items()
        }
        second = linear(data, f"{theirs}/Linear_1")
        params[f"simple_network/linear_{layer}_1"] = {
            f"w_{out}": weight for out, weight in second.items()
        }
        nodes = {out: weight.shape[1] for out, weight in second.items()}
    readout = linear(data, "readout/Linear_0")[steerable.SCALAR]
    params["simple_network/readout_energy_0"] = {"w": readout}
    return params


def read_gates(weight, product):
    """The columns of scalars without the gates of irreps that we do not make."""
    gated = {out: size for out, size in product.sizes.items() if out.l}
    column = weight.shape[1] - sum(gated.values())
    kept = list(range(column))
    for out, size in gated.items():
        if out in product.rows:
            kept.extend(range(column, column + size))
        column += size
    return weight[:, kept]


def place_radial(data, params, layer, product):
    theirs = f"param/SimpleNetworkLayer_{layer}/MLP_0"
    name = f"simple_network/radial_{layer}"
    params[f"{name}/linear_0"] = {
        "w": data[f"{theirs}/Dense_0/kernel"],
        "b": data[f"{theirs}/Dense_0/bias"],
    }
    params[f"{name}/norm_0"] = {
        "scale": data[f"{theirs}/LayerNorm_0/scale"],
        "offset": data[f"{theirs}/LayerNorm_0/bias"],
    }
    params[f"{name}/linear_1"] = {
        "w": data[f"{theirs}/Dense_1/kernel"][:, product.columns] * product.signs,
        "b": data[f"{theirs}/Dense_1/bias"][product.columns] * product.signs,
    }


CASES = [
    authors.Case(
        "simple_network",
        "simple_network",
        functools.partial(load, gate="e3nn", norm_epsilon=1e-6),
    ),
    authors.Case(
        "simple_network",
        "simple_network_silu_gate",
        functools.partial(load, gate="silu", norm_epsilon=1e-5),
    ),
]
