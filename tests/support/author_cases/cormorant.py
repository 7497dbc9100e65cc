"""Cormorant against risilab/cormorant, whose features and weights are complex.

A complex channel a + ib is three real ones, a, b and a + b. All products go channel by
channel, and of a product the real part is aa' - bb' and the imaginary part
(a + b)(a' + b') - aa' - bb', linear maps of the three products. What follows a product
is a linear map, so every complex network of C channels is a real one of 3 C.

Their components belong to m = -l to l, and ours are real combinations of them. In ours,
a coupling is theirs times a factor, which is 1, -1, i or -i.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from demetar import models
from demetar.models import cormorant
from demetar.nn import steerable
from demetar.nn.steerable import SCALAR, Irrep
from demetar.types import Head, TaskSpec
from tests.support import author_weights, authors, plain_steerable

TASK = TaskSpec(
    name="golden molecules",
    heads=(Head("energy", "graph_scalar"),),
    scalars=tuple(f"{s}_{power}" for s in "HCNOF" for power in range(3)),
)
SPECIES = (1, 6, 7, 8, 9)
DIFFERENCE_STEP = 2e-4  # of the file's gradient


class Source(NamedTuple):
    """Channels that a layer mixes: their real and imaginary parts from our rows."""

    real: np.ndarray  # [rows, C]
    imaginary: np.ndarray  # [rows, C]


def load(data: authors.Data) -> authors.Loaded:
    """Complete graphs: a scalar of each molecule."""
    config = authors.config(data)
    sizes = np.bincount(data["batch"])
    graph = authors.ragged_graph(
        data["positions"], scalars(data), *authors.complete_edges(sizes), sizes
    )
    frequencies, powers = config["basis_set"]
    fields = {
        "hidden_size": 3 * config["num_channels"],
        "lmax": config["maxl"],
        "num_layers": config["num_cg_levels"],
        "num_frequencies": frequencies + 1,
        "num_powers": powers + 1,
        "hard_cutoff": config["hard_cut_rad"],
        "soft_cutoff": config["soft_cut_rad"],
        "soft_width": config["soft_cut_width"],
    }
    model = models.build("cormorant", TASK, fields)
    placement = author_weights.Placement(model, graph, data)
    Weights(placement, config).place()

    output = authors.graph_outputs(model, graph, "energy", len(sizes))
    return authors.Loaded(
        placement.finish(),
        output,
        data["positions"],
        data["prediction"],
        data["grad_positions"],
        difference_step=DIFFERENCE_STEP,
    )


def scalars(data: authors.Data) -> np.ndarray:
    """One-hot species times powers of Z / 9: [N, 15]."""
    numbers = data["atomic_numbers"][:, None]
    species = (numbers == np.array(SPECIES)).astype(float)
    config = authors.config(data)
    powers = (numbers / config["charge_scale"]) ** np.arange(config["charge_power"] + 1)
    return (species[:, :, None] * powers[:, None]).reshape(len(numbers), -1)


class Weights:
    """Places the weights of a file, layer by layer."""

    def __init__(self, placement: author_weights.Placement, config: Any):
        self.placement = placement
        self.config = config
        self.channels = config["num_channels"]
        self.lmax = config["maxl"]
        self.layers = range(config["num_cg_levels"])
        same, none = np.eye(self.channels), np.zeros((self.channels,) * 2)
        self.kept = Source(stack(same, none, none), stack(none, same, none))
        self.product = Source(stack(same, -same, none), stack(-same, -same, same))

    def place(self) -> None:
        """All of them."""
        self._place_input()
        irreps = [SCALAR]
        for layer in self.layers:
            self._place_pairs(layer, irreps)
            self._place_nodes(layer, irreps)
            irreps = [steerable.natural_irrep(l) for l in range(self.lmax + 1)]
        self._place_readout()

    def _waves(self, ours: str, theirs: str) -> None:
        rows = [
            self.placement.take(f"{theirs}.{leaf}").ravel()
            for leaf in ("scales", "phases")
        ]
        self.placement.put("", f"waves_{ours}", np.stack(rows))

    def _place_input(self) -> None:
        self._waves("input", "input_func_atom.rad_filts.0")
        self.placement.linear("input_filters", "input_func_atom.rad_filts.0.linear.0")
        network = "input_func_atom.mlps.0.linear"
        self.placement.linear("input/linear_0", f"{network}.0")
        for leaf, name in (("w", "weight"), ("b", "bias")):
            value = self.placement.take(f"{network}.1.{name}").T  # [..., 2 C]
            triple = triples(value[..., ::2], value[..., 1::2])
            self.placement.put("input/linear_1", leaf, triple)

    def _place_pairs(self, layer: int, irreps: list[Irrep]) -> None:
        """The network of the pairs: of the layer before, products, radial functions."""
        self._waves(str(layer), f"rad_funcs.rad_funcs.{layer}")
        level = f"cormorant_cg.edge_levels.{layer}"
        for part, leaf in (("radius", "rad"), ("width", "width")):
            value = self.placement.take(f"{level}.mask_layer.soft_cut_{leaf}").ravel()
            value = np.tile(value / self.config[f"soft_cut_{leaf}"], 3)
            self.placement.put("", f"scale_{part}_{layer}", value)
        both = np.eye(2 * math.prod(size + 1 for size in self.config["basis_set"]))
        radial = Source(both[:, ::2], both[:, 1::2])
        for degree in range(self.lmax + 1):
            irrep = steerable.natural_irrep(degree)
            sources = [self.kept] if layer else []
            if irrep in irreps:
                sources.extend([self.product] * len(irreps))
            weights = self._complex(f"{level}.cat_mix.mix_reps.weights.{degree}")
            rows = self._mixed([*sources, radial], weights)
            self.placement.put(f"edges_{layer}_{irrep}", "w", rows)

    def _place_nodes(self, layer: int, irreps: list[Irrep]) -> None:
        """The mixing of neighbours, features and squares by degree."""
        all_irreps = [steerable.natural_irrep(l) for l in range(self.lmax + 1)]
        name = f"cormorant_cg.atom_levels.{layer}.cat_mix.mix_reps.weights"
        for out in all_irreps:
            weights = self._complex(f"{name}.{out.l}")
            size = weights.shape[1] // self.channels
            blocks = iter(np.split(weights, size, axis=1))
            received = {
                (b, a): next(blocks) * factor(a.l, b.l, out.l) * swapped(a, b, out)
                for a, b in _pairs(all_irreps, irreps, out)
            }
            own = [next(blocks)] if out in irreps else []
            squares: dict[Any, np.ndarray] = {}
            for a, b in _pairs(irreps, irreps, out):
                block = next(blocks) * factor(a.l, b.l, out.l)
                if a.l > b.l:
                    a, b, block = b, a, block * swapped(a, b, out)
                squares[a, b] = squares.get((a, b), 0) + block
            ours = [
                *(received[pair] for pair in _pairs(irreps, all_irreps, out)),
                *own,
                *(
                    squares[a, b]
                    for a, b in _pairs(irreps, irreps, out)
                    if cormorant.is_new_square((a, b, out))
                ),
            ]
            sources = [self.product] * len(ours)
            if own:
                sources[len(received)] = self.kept
            rows = self._mixed(sources, np.concatenate(ours, axis=1))
            self.placement.put(f"mix_{layer}", f"w_{out}", rows)

    def _place_readout(self) -> None:
        """Of theirs, scalars (a, b) and (aa - bb, aa + bb) of each degree."""
        weight = self.placement.take("output_layer_atom.mlp1.linear.0.weight")
        shape = (len(weight), self.lmax + 2, len(self.layers), self.channels, 2)
        groups = np.moveaxis(weight.reshape(shape), 0, -1)  # [degrees, L, C, 2, out]
        groups = np.moveaxis(groups, 3, 0)  # [2, degrees, L, C, out]
        none = np.zeros(groups.shape[3:])
        rows = []
        for layer in self.layers:
            rows.append(stack(*groups[:, 0, layer], none))
            for degree in range(self.lmax + 1):
                difference, total = groups[:, degree + 1, layer]
                rows.append(stack(total + difference, total - difference, none))
        network = "output_layer_atom.mlp1.linear"
        self.placement.put("node_decoder/linear_0", "w", np.concatenate(rows))
        bias = self.placement.take(f"{network}.0.bias")
        self.placement.put("node_decoder/linear_0", "b", bias)
        self.placement.linear("node_decoder/linear_1", f"{network}.1")
        last = "output_layer_atom.mlp2.linear"
        self.placement.mlp("decoder_energy", f"{last}.0", f"{last}.1")

    def _complex(self, name: str) -> np.ndarray:
        """A matrix [C', C]."""
        value = self.placement.take(name)
        return value[..., 0] + 1j * value[..., 1]

    def _mixed(self, sources: list[Source], weights: np.ndarray) -> np.ndarray:
        """Our matrix [rows, 3 C'] of theirs [C', C] on the channels of the sources."""
        sizes = [source.real.shape[1] for source in sources]
        parts = np.split(weights.T, np.cumsum(sizes), axis=0)
        assert not parts.pop().size
        rows = []
        for source, part in zip(sources, parts, strict=True):
            real = source.real @ part.real - source.imaginary @ part.imag
            imaginary = source.real @ part.imag + source.imaginary @ part.real
            rows.append(triples(real, imaginary))
        return np.concatenate(rows)


def stack(*blocks: np.ndarray) -> np.ndarray:
    """Blocks of rows, one below the other."""
    return np.concatenate(blocks)


def triples(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """The three channels of complex ones, along the last axis."""
    return np.concatenate([real, imaginary, real + imaginary], axis=-1)


def _pairs(
    first: list[Irrep], second: list[Irrep], out: Irrep
) -> list[tuple[Irrep, Irrep]]:
    """Those that couple to `out`, in their order and in ours."""
    return [
        (a, b)
        for a, b in itertools.product(first, second)
        if abs(a.l - b.l) <= out.l <= a.l + b.l
    ]


def swapped(first: Irrep, second: Irrep, out: Irrep) -> int:
    """What our coupling is multiplied by where its arguments change places."""
    return (-1) ** (first.l + second.l + out.l)


@functools.cache
def factor(first: int, second: int, out: int) -> complex:
    """Their coupling in terms of ours, with their harmonics conjugate."""
    generator = np.random.default_rng(0)
    a, b = (generator.normal(size=2 * degree + 1) for degree in (first, second))
    theirs = couple_orders(basis(first) @ a, basis(second) @ b, out)
    irreps = (steerable.natural_irrep(degree) for degree in (first, second, out))
    expected = basis(out) @ plain_steerable.couple(a, b, *irreps)
    found = complex(np.vdot(expected, theirs) / np.vdot(expected, expected))
    rounded = complex(round(found.real), round(found.imag))
    assert abs(found - rounded) < 1e-12 and abs(rounded) == 1
    return rounded


@functools.cache
def basis(degree: int) -> np.ndarray:
    """Their components of our real ones: [2l + 1, 2l + 1]."""
    if degree == 0:
        return np.eye(1)
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(20, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    irrep = steerable.natural_irrep(degree)
    ours = [plain_steerable.harmonics(vector, degree)[irrep] for vector in vectors]
    theirs = [harmonic(degree, vector) for vector in vectors]
    scale = math.sqrt(4 * math.pi)
    found = scale * np.linalg.lstsq(np.array(ours), np.array(theirs), rcond=None)[0].T
    assert np.abs(found @ found.conj().T - np.eye(2 * degree + 1)).max() < 1e-12
    return found


def harmonic(degree: int, vector: np.ndarray) -> np.ndarray:
    """Conjugate harmonics of orders -l to l, by products with those of degree 1."""
    x, y, z = vector
    root = math.sqrt(2)
    first = np.array([(x + 1j * y) / root, z, (-x + 1j * y) / root])
    first = first * math.sqrt(3 / (4 * math.pi))
    value = first
    for l in range(2, degree + 1):
        scale = math.sqrt(4 * math.pi * (2 * l + 1) / (3 * (2 * l - 1)))
        value = couple_orders(value, first, l) * scale / coefficient(l - 1, 0, 1, 0, l)
    return value


def couple_orders(first: np.ndarray, second: np.ndarray, out: int) -> np.ndarray:
    """The Clebsch-Gordan product of components of orders -l to l."""
    a, b = len(first) // 2, len(second) // 2
    total = np.zeros(2 * out + 1, complex)
    for m, n in itertools.product(range(-a, a + 1), range(-b, b + 1)):
        if abs(m + n) <= out:
            weight = coefficient(a, m, b, n, out)
            total[m + n + out] += weight * first[m + a] * second[n + b]
    return total


def coefficient(a: int, m: int, b: int, n: int, c: int) -> float:
    """<a m b n | c m + n> by Racah's formula."""
    f, o = math.factorial, m + n
    square = (2 * c + 1) * f(a + b - c) * f(a - b + c) * f(b + c - a) / f(a + b + c + 1)
    for l, order in ((a, m), (b, n), (c, o)):
        square *= f(l + order) * f(l - order)
    total = 0.0
    for k in range(a + b - c + 1):
        rest = (a + b - c - k, a - m - k, b + n - k, c - b + m + k, c - a - n + k)
        if min(rest) >= 0:
            total += (-1) ** k / (f(k) * math.prod(map(f, rest)))
    return math.sqrt(square) * total


CASES = [authors.Case("cormorant", "cormorant", load)]
