"""NequIP against its authors' code in PyTorch.

The authors' activations are scaled by e3nn's constants, ours by e3nn-jax's. The weights
that read what they make take the ratio.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from demetar.nn import depthwise, steerable
from tests.support import author_energies, authors

Irrep = steerable.Irrep
SCALAR = steerable.SCALAR
NAME = "nequip"


def load(data: authors.Data) -> authors.Loaded:
    config = authors.config(data)
    fields = {
        "hidden_size": config["num_features"],
        "lmax": config["l_max"],
        "parity": config["parity"],
        "num_layers": config["num_layers"],
        "num_basis": config["num_basis"],
        "radial_sizes": (config["invariant_neurons"],) * config["invariant_layers"],
        "cutoff": config["r_max"],
        "species_inputs": ("all",),
    }
    numbers = np.array(
        [{"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}[t] for t in config["types"]]
    )
    return author_energies.load(
        NAME,
        data,
        fields,
        lambda start: Placement(data, config).params(start),
        (data["atomic_numbers"][:, None] == numbers).astype(float),
        data["n_node"],
        average_neighbors=config["avg_num_neighbors"],
    )


class Placement:
    """Their weights under our names."""

    def __init__(self, data, config):
        self.data, self.config = data, config
        self.layout = config["layout"]
        constants = config["normalize2mom"]
        theirs = {
            "silu": constants["layer0_convnet.conv.fc.layer0.act"],
            "tanh": constants.get(
                "layer2_convnet.equivariant_nonlin.act_scalars.acts.1"
            ),
        }
        self.ratio = theirs["silu"] / ours_over(jax.nn.silu)
        self.odd_ratio = theirs["tanh"] and theirs["tanh"] / ours_over(jnp.tanh)

    def params(self, start):
        """A tree of the shapes of ours."""
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), start)
        roots = self.data["param/radial_basis.basis.bessel_weights"]
        params[NAME]["root_shifts"] = roots - np.pi * np.arange(1, len(roots) + 1)
        self.place_linear(params, "embedding", "chemical_embedding.linear", 0)
        for layer in range(self.config["num_layers"]):
            self.place_radial(params, layer)
            self.place_layer(params, layer)
        for index, name in enumerate(
            ("conv_to_output_hidden", "output_hidden_to_scalar")
        ):
            weight = self.blocks(f"{name}.linear")[SCALAR, SCALAR]
            factor = 1 if index else self.ratio
            params[f"{NAME}/readout_energy_{index}"]["w"] = weight * factor
        return params

    def blocks(self, name):
        """{(first, out): weights with their factor} of a flat tensor."""
        flat, start, found = self.data[f"param/{name}.weight"], 0, {}
        for entry in self.layout[name]:
            size = int(np.prod(entry["shape"]))
            weight = flat[start : start + size].reshape(entry["shape"])
            start += size
            first, out = Irrep(entry["first"]), Irrep(entry["out"])
            found[first, out] = weight * entry["path_weight"]
        assert start == len(flat)
        return found

    def scale(self, layer, irrep):
        """Their features after a layer over ours."""
        if layer < 0:
            return 1.0
        return self.odd_ratio if irrep == Irrep("0o") else self.ratio

    def place_linear(self, params, ours, theirs, layer):
        """Weights per irrep that read the features which layer `layer` starts from."""
        for (first, _), weight in self.blocks(theirs).items():
            scaled = weight * self.scale(layer - 1, first)
            params[f"{NAME}/{ours}"][f"w_{first}"] = scaled

    def place_radial(self, params, layer):
        """A perceptron whose last columns are the paths, in their order."""
        for index in range(self.config["invariant_layers"] + 1):
            weight = self.data[
                f"param/layer{layer}_convnet.conv.fc.layer{index}.weight"
            ]
            weight = weight / np.sqrt(len(weight)) * (self.ratio if index else 1)
            name = f"{NAME}/radial_{layer}_{index}"
            if index == self.config["invariant_layers"]:
                weight = weight[:, self.columns(layer)]
            assert weight.shape == params[name]["w_0e"].shape
            params[name]["w_0e"] = weight

    def paths(self, layer):
        """Our paths, and for each of theirs its first weight and its place by i_out."""
        entries = self.layout[f"layer{layer}_convnet.conv.tp"]
        size = self.config["num_features"]
        starts, places = {}, {}
        for index, entry in enumerate(entries):
            path = steerable.Path(
                *(Irrep(entry[key]) for key in ("first", "second", "out"))
            )
            starts[path] = index * size
            places[path] = entry["i_out"]
        rows: dict[steerable.Path, int] = {}
        for out in {path.out for path in places}:
            ordered = sorted(
                (p for p in places if p.out == out), key=places.__getitem__
            )
            rows |= {path: index * size for index, path in enumerate(ordered)}
        wanted = {path.out for path in places}
        if layer == self.config["num_layers"] - 1:
            wanted = {SCALAR}
        ours = depthwise.find_paths(
            {path.first for path in places}, {path.second for path in places}, wanted
        )
        return ours, starts, rows

    def columns(self, layer):
        ours, starts, _ = self.paths(layer)
        size = self.config["num_features"]
        return np.concatenate([starts[path] + np.arange(size) for path in ours])

    def place_layer(self, params, layer):
        theirs = f"layer{layer}_convnet.conv"
        self.place_linear(params, f"linear_{layer}_0", f"{theirs}.linear_1", layer)
        ours, _, rows = self.paths(layer)
        size = np.arange(self.config["num_features"])
        for (_, out), weight in self.blocks(f"{theirs}.linear_2").items():
            order = [rows[path] + size for path in ours if path.out == out]
            if order:
                weight = self.output_columns(layer, out, weight[np.concatenate(order)])
                self.fill(params, f"linear_{layer}_1", out, weight)
        for (first, out), weight in self.blocks(f"{theirs}.sc").items():
            weight = weight / np.sqrt(out.dim) * self.scale(layer - 1, first)
            # Our species begin with a 1 that theirs do not have.
            weight = np.pad(weight, ((0, 0), (1, 0), (0, 0)))
            weight = weight.reshape(-1, weight.shape[-1])
            weight = self.output_columns(layer, out, weight)
            self.fill(params, f"self_connection_{layer}", out, weight)

    def fill(self, params, name, out, weight):
        module = params[f"{NAME}/{name}"]
        if f"w_{out}" in module:
            assert module[f"w_{out}"].shape == weight.shape
            module[f"w_{out}"] = weight

    def output_columns(self, layer, out, weight):
        """Scalars with their gates in our order; no gates after the last layer."""
        if out != SCALAR:
            return weight
        size = self.config["num_features"]
        last = layer == self.config["num_layers"] - 1
        gated = self.layout[f"layer{layer}_convnet.equivariant_nonlin.irreps"][3]
        gated = [Irrep(part.split("x")[1]) for part in gated.split("+")]
        blocks = [weight[:, :size]]
        for irrep in [] if last else sorted(gated):
            start = (1 + gated.index(irrep)) * size
            blocks.append(weight[:, start : start + size])
        return np.concatenate(blocks, axis=1)


def ours_over(activation):
    """Our scaled activation over the plain one."""
    scaled = steerable.normalized(activation, jnp.dtype("float64"))
    one = jnp.ones(())
    return float(scaled(one) / activation(one))


CASES = [
    authors.Case(NAME, "nequip", load),
    authors.Case(NAME, "nequip_no_parity", load),
]
