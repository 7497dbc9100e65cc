"""Equiformer against its authors' code in PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from demetar.models import equiformer
from demetar.nn import depthwise, steerable
from tests.support import author_energies, authors

SCALAR = steerable.SCALAR
SPECIES = (1, 6, 7, 8, 9)
NAME = "equiformer"


def load(data: authors.Data) -> authors.Loaded:
    config = authors.config(data)
    fields = {
        "hidden_irreps": config["irreps"],
        "num_layers": config["num_layers"],
        "num_heads": config["num_heads"],
        "expansion": 3,
        "feature_size": int(config["feature"].split("x")[0]),
        "num_basis": config["basis"],
        "radial_sizes": tuple(config["fc_neurons"]),
    }
    return author_energies.load(
        NAME,
        data,
        fields,
        lambda start: Placement(data, config).params(),
        (data["atomic_numbers"][:, None] == np.array(SPECIES)).astype(float),
        np.bincount(data["batch"]),
        ("prediction", "grad_positions"),
        radial_extent=config["max_radius"],
        average_neighbors=config["avg_degree"],
    )


class Placement:
    """Their weights under our names."""

    def __init__(self, data, config):
        self.data, self.config = data, config
        self.hidden = dict(steerable.parse_channels(config["irreps"]))
        self.feature = dict(steerable.parse_channels(config["feature"]))
        wide = steerable.parse_channels(config["mlp_mid"])
        self.wide, self.gated_wide = dict(wide), dict(steerable.gated_channels(wide))
        self.found: dict = {}

        # The product of features with harmonics, whose irreps are the same.
        paths = depthwise.find_paths(self.hidden, self.hidden, self.hidden)
        sizes = [self.hidden[path.first] for path in paths]
        self.ends = np.repeat([path.out.l for path in paths], sizes)
        # The sign of e3nn 0.4.4's coefficients over e3nn-jax's.
        signs = [
            -1 if sorted(irrep.l for irrep in path) == [1, 2, 2] else 1
            for path in paths
        ]
        self.signs = np.repeat(signs, sizes)
        self.products = {ir: int(np.sum(self.ends == ir.l)) for ir in self.hidden}

    def params(self):
        species = {SCALAR: len(SPECIES)}
        self.linear("embedding", "atom_embed.atom_type_lin", species, self.hidden)
        self.place_basis()
        self.place_degree()
        for layer in range(self.config["num_layers"]):
            self.place_attention(layer)
            self.place_feed_forward(layer)
        self.norm("norm", "norm", self.feature)
        self.place_head()
        return self.found

    def get(self, name):
        return self.data[f"param/{name}"]

    def put(self, module, **arrays):
        name = f"{NAME}/{module}" if module else NAME
        self.found.setdefault(name, {}).update(arrays)

    def weights(self, theirs, inputs, outputs):
        """{irrep: [C, C']} of a flat tensor of theirs, input by input."""
        flat, start, found = self.get(f"{theirs}.tp.weight"), 0, {}
        for irrep in (irrep for irrep in inputs if irrep in outputs):
            shape = (inputs[irrep], outputs[irrep])
            stop = start + shape[0] * shape[1]
            found[irrep] = flat[start:stop].reshape(shape)
            start = stop
        assert start == len(flat)
        return found

    def linear(self, ours, theirs, inputs, outputs, with_bias=True):
        weights = self.weights(theirs, inputs, outputs)
        self.put(ours, **{f"w_{irrep}": weight for irrep, weight in weights.items()})
        if with_bias:
            self.put(ours, b_0e=self.get(f"{theirs}.bias.0"))

    def place_basis(self):
        mean, std = self.get("rbf.mean"), self.get("rbf.std")
        factor, shift = self.get("rbf.weight"), self.get("rbf.bias")
        self.put("basis", mean=mean, width=std, factor=factor, shift=shift)

    def radial(self, ours, theirs, columns, scale):
        """A radial network; theirs takes 3.14159 for pi in the basis that it reads."""
        sizes = self.config["fc_neurons"]
        for index in range(len(sizes)):
            weight = self.get(f"{theirs}.net.{3 * index}.weight").T
            if index == 0:
                weight = weight * np.sqrt(np.pi / 3.14159)
            bias = self.get(f"{theirs}.net.{3 * index}.bias")
            self.put(f"{ours}/linear_{index}", w=weight, b=bias)
            norm = f"{theirs}.net.{3 * index + 1}"
            offset = self.get(f"{norm}.bias")
            self.put(
                f"{ours}/norm_{index}", scale=self.get(f"{norm}.weight"), offset=offset
            )
        weight = self.get(f"{theirs}.net.{3 * len(sizes)}.weight").T[:, columns]
        bias = self.get(f"{theirs}.offset")[columns]
        self.put(f"{ours}/linear_{len(sizes)}", w=weight * scale, b=bias * scale)

    def place_degree(self):
        """Couplings of the learned constant, which is a scalar; others are of zeros."""
        num = self.hidden[SCALAR]
        constant = self.get("edge_deg_embed.exp.tp.weight")
        constant = constant + self.get("edge_deg_embed.exp.bias.0")
        count = num * len(self.hidden)  # the first of all couplings
        scale = np.tile(constant, len(self.hidden))
        self.radial("degree_radial", "edge_deg_embed.rad", slice(count), scale)
        weights = self.weights("edge_deg_embed.proj", self.products, self.hidden)
        self.put("degree_linear", **{f"w_{ir}": w[:num] for ir, w in weights.items()})
        self.put("", degree_bias=self.get("edge_deg_embed.proj.bias.0"))

    def place_attention(self, layer):
        theirs = f"blocks.{layer}.ga"
        hidden = self.hidden
        self.norm(f"norm_{layer}_0", f"blocks.{layer}.norm_1", hidden)
        self.linear(f"senders_{layer}", f"{theirs}.merge_src", hidden, hidden)
        self.linear(f"receivers_{layer}", f"{theirs}.merge_dst", hidden, hidden, False)
        radial = f"{theirs}.sep_act.dtp_rad"
        self.radial(f"radial_{layer}", radial, slice(None), self.signs)
        self.place_message(layer, theirs)
        # The weights of their second product, whose columns are our rows.
        internal = self.get(f"{theirs}.sep_value.dtp.tp.weight") * self.signs
        weights = self.weights(f"{theirs}.sep_value.lin", self.products, hidden)
        for irrep, weight in weights.items():
            rows = internal[self.ends == irrep.l][:, None]
            self.put(f"value_{layer}", **{f"w_{irrep}": weight * rows})
        self.put(f"value_{layer}", b_0e=self.get(f"{theirs}.sep_value.lin.bias.0"))
        self.linear(f"projection_{layer}", f"{theirs}.proj", hidden, hidden)
        dot = self.get(f"{theirs}.alpha_dot")[0]
        self.put("", **{f"attention_{layer}": dot * self.score_ratio()})

    def score_ratio(self):
        """Their constant of the activation in the scores over ours."""
        activation = equiformer.smooth_leaky_relu(0.2)
        scaled = steerable.normalized(activation, jnp.dtype("float64"))
        one = jnp.ones(())
        ours = float(scaled(one) / activation(one))
        return self.config["normalize2mom_official"]["SmoothLeakyReLU"] / ours

    def place_message(self, layer, theirs):
        """One map of ours is the scores' and the values' side by side."""
        gated = steerable.gated_channels(self.hidden)
        weights = self.weights(f"{theirs}.sep_act.lin", self.products, gated)
        scores = self.get(f"{theirs}.sep_alpha.tp.weight")
        scores = scores.reshape(-1, self.hidden[SCALAR])
        weights[SCALAR] = np.concatenate([scores, weights[SCALAR]], axis=1)
        biases = [
            self.get(f"{theirs}.{name}.bias.0") for name in ("sep_alpha", "sep_act.lin")
        ]
        arrays = {f"w_{irrep}": weight for irrep, weight in weights.items()}
        self.put(f"message_{layer}", b_0e=np.concatenate(biases), **arrays)

    def place_feed_forward(self, layer):
        theirs = f"blocks.{layer}"
        last = layer == self.config["num_layers"] - 1
        outputs = self.feature if last else self.hidden
        self.norm(f"norm_{layer}_1", f"{theirs}.norm_2", self.hidden)
        name = f"feed_forward_{layer}"
        self.linear(f"{name}_0", f"{theirs}.ffn.fctp_1", self.hidden, self.gated_wide)
        self.linear(f"{name}_1", f"{theirs}.ffn.fctp_2", self.wide, outputs)
        if last:
            self.linear("shortcut", f"{theirs}.ffn_shortcut", self.hidden, outputs)

    def norm(self, ours, theirs, channels):
        weight, start = self.get(f"{theirs}.affine_weight"), 0
        for irrep, num in channels.items():
            self.put(ours, **{f"scale_{irrep}": weight[start : start + num]})
            start += num
        self.put(ours, offset=self.get(f"{theirs}.affine_bias"))

    def place_head(self):
        """Theirs scales the SiLU, and divides the sum over atoms."""
        size = self.feature[SCALAR]
        silu = steerable.normalized(jax.nn.silu, jnp.dtype("float64"))
        one = jnp.ones(())
        scale = float(silu(one) / jax.nn.silu(one))
        atoms = np.sqrt(self.config["avg_num_nodes"])
        first = self.get("head.0.tp.weight").reshape(size, size)
        self.put("readout_energy/linear_0", w=first, b=self.get("head.0.bias.0"))
        second = self.get("head.2.tp.weight").reshape(size, 1) * scale / atoms
        bias = self.get("head.2.bias.0") / atoms
        self.put("readout_energy/linear_1", w=second, b=bias)


CASES = [
    authors.Case(NAME, "equiformer", load),
    authors.Case(NAME, "equiformer_natural_parity", load, slow=True),
]
