"""Equiformer in e3nn's layers for PyTorch: what the benchmark compares ours with.

The function of `demetar.models.equiformer` for energies of molecules, with parities of
harmonics and the same weights. Of e3nn are `o3.SphericalHarmonics`, `o3.Linear`,
`o3.TensorProduct` (depth-wise, 'uvu', with weights per edge by `shared_weights=False`)
and `nn.Gate`, whose code e3nn generates for the irreps and compiles. Of PyTorch are the
radial networks, the layer norm of scalars, gathers by `index_select` and sums by
`index_add`. The norm of vectors and tensors and the softmax over neighbours, which e3nn
does not have, are written out.

It is to be a fair opponent. Linear maps of the nodes come before the gather, as in
ours; and what XLA leaves out of ours by itself, vectors and tensors of the last block
that no energy depends on, is left out here by hand.

Source: Liao, Smidt 2023, arXiv 2206.11990, section 4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from demetar.errors import UserError
from demetar.models import equiformer
from demetar.nn import mlp, steerable
from experiments.benchmark import torch_side

torch = torch_side.torch
nn = torch.nn
Module: Any = nn.Module

try:
    import e3nn
    import e3nn.nn
    from e3nn import o3
    from e3nn.math import normalize2mom
except ImportError as error:
    raise UserError(torch_side.missing("e3nn", error)) from None


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a network, as the fields of `demetar.models.equiformer.Equiformer`.

    Attributes:
      num_species: elements.
      extent, average_neighbors: of the task.
      hidden_irreps, num_layers, num_heads, expansion, feature_size, num_basis,
        radial_sizes, negative_slope: as there.
    """

    num_species: int
    extent: float
    average_neighbors: float
    hidden_irreps: str
    num_layers: int
    feature_size: int
    num_basis: int
    radial_sizes: tuple[int, ...]
    num_heads: int = 4
    expansion: int = 3
    negative_slope: float = 0.2


@dataclasses.dataclass(frozen=True)
class Molecules:
    """What stays as it is while atoms move.

    Attributes:
      species: [N, S] one-hot.
      senders, receivers: [E].
      graph_of_node: [N].
      num_graphs: of the batch.
    """

    species: Any
    senders: Any
    receivers: Any
    graph_of_node: Any
    num_graphs: int


class Basis(Module):
    """Normal densities of a scaled length, whose means and widths are trained."""

    def __init__(self, config: Config):
        super().__init__()
        self.extent = config.extent
        self.mean = nn.Parameter(torch.rand(1, config.num_basis))
        self.width = nn.Parameter(torch.rand(1, config.num_basis) + 0.1)
        self.factor = nn.Parameter(torch.ones(1, 1))
        self.shift = nn.Parameter(torch.zeros(1, 1))

    def forward(self, lengths: Any) -> Any:
        """[E] -> [E, B]."""
        width = self.width.abs() + 1e-5
        scaled = self.factor * (lengths[:, None] / self.extent) + self.shift
        density = torch.exp(-0.5 * ((scaled - self.mean) / width).square())
        return density / (math.sqrt(2.0 * math.pi) * width)


def radial(config: Config, num_outputs: int) -> Any:
    """A perceptron of the basis with norms: [E, B] -> [E, num_outputs]."""
    layers, num_inputs = [], config.num_basis
    for size in config.radial_sizes:
        layers += [nn.Linear(num_inputs, size), nn.LayerNorm(size), nn.SiLU()]
        num_inputs = size
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))


def depthwise(irreps: Any, harmonics: Any, kept: Any, weighted: bool) -> Any:
    """All couplings of the channels with the harmonics to irreps that are kept.

    Args:
      irreps: of the features.
      harmonics: one of each degree.
      kept: irreps of which the outputs may be.
      weighted: whether there is a weight per edge, channel and coupling.
    """
    wanted = {irrep for _, irrep in kept}
    ends: list[tuple[int, Any]] = []
    couplings = []
    for first, (num, irrep) in enumerate(irreps):
        for second, (_, harmonic) in enumerate(harmonics):
            for out in (out for out in irrep * harmonic if out in wanted):
                couplings.append((first, second, len(ends)))
                ends.append((num, out))
    outputs, places, _ = o3.Irreps(ends).sort()
    return o3.TensorProduct(
        irreps,
        harmonics,
        outputs,
        [(a, b, places[end], "uvu", weighted) for a, b, end in couplings],
        shared_weights=not weighted,
        internal_weights=False,
    )


def gate(irreps: Any) -> Any:
    """SiLU of the scalars, other irreps times sigmoids of more scalars."""
    scalars, gated = irreps[:1], irreps[1:]
    if not gated:
        return e3nn.nn.Activation(scalars, [nn.functional.silu])
    return e3nn.nn.Gate(
        scalars,
        [nn.functional.silu],
        o3.Irreps([(gated.num_irreps, "0e")]),
        [torch.sigmoid],
        gated,
    )


class Norm(Module):
    """Each irrep over the root mean square of its components, times a weight."""

    def __init__(self, irreps: Any):
        super().__init__()
        self.scalars = nn.LayerNorm(irreps[0].mul)
        self.irreps = [irrep for _, irrep in irreps[1:]]
        self.shapes = [(num, irrep.dim) for num, irrep in irreps[1:]]
        self.scales = nn.ParameterList(torch.ones(num) for num, _ in self.shapes)

    def forward(self, features: Any) -> Any:
        """[N, dimension] to the same."""
        sizes = [num * dim for num, dim in self.shapes]
        rest = features.shape[1] - sum(sizes)
        scalars, *others = features.split([rest, *sizes], dim=1)
        outputs = [self.scalars(scalars)]
        for (num, dim), scale, values in zip(
            self.shapes, self.scales, others, strict=True
        ):
            square = values.square().mean(dim=1, keepdim=True)
            values = values * torch.rsqrt(square + 1e-5)
            scaled = values.view(-1, num, dim) * scale[:, None]
            outputs.append(scaled.view(-1, num * dim))
        return torch.cat(outputs, dim=1)


def received(values: Any, receivers: Any, num_nodes: int) -> Any:
    """Sums over the edges that end at each node: [E, C] -> [N, C]."""
    zeros = values.new_zeros(num_nodes, values.shape[1])
    return zeros.index_add(0, receivers, values)


class Block(Module):
    """Graph attention and a gated feed-forward network, each with a norm before it.

    Attributes:
      kept: irreps after the attention: those that the outputs depend on.
    """

    def __init__(self, config: Config, outputs: Any, harmonics: Any, constant: float):
        super().__init__()
        hidden = o3.Irreps(config.hidden_irreps)
        last = outputs != hidden
        kept = self.kept = hidden[:1] if last else hidden
        self.config, self.constant = config, constant
        self.num_scores = num_scores = hidden[0].mul
        self.norm_0, self.norm_1 = Norm(hidden), Norm(kept)
        self.senders = o3.Linear(hidden, hidden, biases=True)
        self.receivers = o3.Linear(hidden, hidden)
        self.product = depthwise(hidden, harmonics, hidden, weighted=True)
        self.radial = radial(config, self.product.weight_numel)
        self.gate = gate(hidden)
        both = (o3.Irreps([(num_scores, "0e")]) + self.gate.irreps_in).simplify()
        paired = self.product.irreps_out.simplify()
        self.message = o3.Linear(paired, both, biases=True)
        self.attention = nn.Parameter(
            torch.randn(config.num_heads, num_scores // config.num_heads)
        )
        self.values = depthwise(self.gate.irreps_out, harmonics, kept, weighted=False)
        self.value = o3.Linear(self.values.irreps_out.simplify(), kept, biases=True)
        self.projection = o3.Linear(kept, kept, biases=True)
        wide = o3.Irreps([(config.expansion * num, irrep) for num, irrep in kept])
        self.wide_gate = gate(wide)
        self.first = o3.Linear(kept, self.wide_gate.irreps_in, biases=True)
        self.second = o3.Linear(wide, outputs, biases=True)
        self.shortcut = o3.Linear(kept, outputs, biases=True) if last else nn.Identity()

    def forward(self, nodes: Any, harmonics: Any, basis: Any, given: Molecules) -> Any:
        """Nodes [N, D], harmonics [E, (lmax + 1)^2], basis [E, B] -> [N, D']."""
        attended = self.attend(self.norm_0(nodes), harmonics, basis, given)
        nodes = nodes[:, : self.kept.dim] + attended
        wide = self.wide_gate(self.first(self.norm_1(nodes)))
        return self.shortcut(nodes) + self.second(wide)

    def attend(self, nodes: Any, harmonics: Any, basis: Any, given: Molecules) -> Any:
        """[N, D] -> [N, dimension of what is kept]."""
        pairs = self.senders(nodes).index_select(0, given.senders)
        pairs = pairs + self.receivers(nodes).index_select(0, given.receivers)
        coupled = self.product(pairs, harmonics, self.radial(basis))
        sizes = [self.num_scores, self.gate.irreps_in.dim]
        scalars, messages = self.message(coupled).split(sizes, dim=1)
        weights = self.softmax(self.scores(scalars), given.receivers, len(nodes))
        gated = self.gate(messages)
        values = self.weighted(self.value(self.values(gated, harmonics)), weights)
        return self.projection(received(values, given.receivers, len(nodes)))

    def scores(self, scalars: Any) -> Any:
        """[E, C] -> [E, H]."""
        slope = self.config.negative_slope
        bent = (1 + slope) / 2 + (1 - slope) / 2 * torch.tanh(0.5 * scalars)
        hidden = (self.constant * scalars * bent).view(-1, *self.attention.shape)
        return (hidden * self.attention).sum(dim=2)

    def softmax(self, scores: Any, receivers: Any, num_nodes: int) -> Any:
        """Over the edges that end at the same node: [E, H] to the same."""
        rows = receivers[:, None].expand_as(scores)
        lowest = scores.new_full((num_nodes, scores.shape[1]), -torch.inf)
        peaks = lowest.scatter_reduce(0, rows, scores.detach(), "amax")
        shifted = torch.exp(scores - peaks[receivers])
        total = received(shifted, receivers, num_nodes)
        return shifted / total.index_select(0, receivers)

    def weighted(self, values: Any, weights: Any) -> Any:
        """Heads share the channels of each irrep out: [E, D] times [E, H]."""
        heads = self.config.num_heads
        parts = values.split([num * irrep.dim for num, irrep in self.kept], dim=1)
        parts = [part.view(len(part), heads, -1) * weights[..., None] for part in parts]
        return torch.cat([part.flatten(1) for part in parts], dim=1)


class Equiformer(Module):
    """The network of `demetar.models.equiformer` with one head, an energy."""

    def __init__(self, config: Config, constants: Mapping[str, float]):
        super().__init__()
        hidden = o3.Irreps(config.hidden_irreps)
        if not hidden or any(irrep.p != (-1) ** irrep.l for _, irrep in hidden):
            raise ValueError(f"expected 0e, 1o, 2e, ..., found {hidden}")
        scalars, feature = hidden[0].mul, config.feature_size
        self.config = config
        harmonics = o3.Irreps.spherical_harmonics(hidden.lmax)
        self.directions = o3.SphericalHarmonics(
            harmonics, normalize=True, normalization="component"
        )
        self.embedding = nn.Linear(config.num_species, scalars)
        self.basis = Basis(config)
        self.degree = depthwise(hidden[:1], harmonics, hidden, weighted=True)
        self.degree_radial = radial(config, self.degree.weight_numel)
        self.degree_linear = o3.Linear(self.degree.irreps_out.simplify(), hidden)
        self.degree_bias = nn.Parameter(torch.zeros(scalars))
        ends = [*[hidden] * (config.num_layers - 1), o3.Irreps([(feature, "0e")])]
        self.layers = nn.ModuleList(
            Block(config, end, harmonics, constants["scores"]) for end in ends
        )
        self.norm = nn.LayerNorm(feature)
        self.readout = nn.Sequential(
            nn.Linear(feature, feature), nn.SiLU(), nn.Linear(feature, 1)
        )
        for module in self.modules():  # e3nn draws its constants, to 0.2 %
            if isinstance(module, normalize2mom):
                module.cst = constants[module.f.__name__]

    def forward(self, positions: Any, given: Molecules) -> Any:
        """Positions [N, 3] -> energies [G]."""
        senders = positions.index_select(0, given.senders)
        vectors = senders - positions.index_select(0, given.receivers)
        harmonics = self.directions(vectors)
        basis = self.basis(vectors.norm(dim=1))
        nodes = self.degrees(harmonics, basis, given)
        rest = nodes.shape[1] - self.embedding.out_features
        nodes = nodes + nn.functional.pad(self.embedding(given.species), (0, rest))
        for layer in self.layers:
            nodes = layer(nodes, harmonics, basis, given)
        values = self.readout(self.norm(nodes))
        return received(values, given.graph_of_node, given.num_graphs)[:, 0]

    def degrees(self, harmonics: Any, basis: Any, given: Molecules) -> Any:
        """The neighbourhood of each node [N, D]."""
        num_nodes, scalars = len(given.species), self.embedding.out_features
        ones = basis.new_ones(len(basis), scalars)
        values = self.degree(ones, harmonics, self.degree_radial(basis))
        summed = self.degree_linear(received(values, given.receivers, num_nodes))
        counts = received(ones[:, :1], given.receivers, num_nodes)
        rest = summed.shape[1] - scalars
        bias = nn.functional.pad(counts * self.degree_bias, (0, rest))
        return (summed + bias) / math.sqrt(self.config.average_neighbors)


def of(config: Config) -> Equiformer:
    """The network with weights of its own, and our constants of the activations."""
    return Equiformer(config, activation_constants(config.negative_slope))


def activation_constants(negative_slope: float) -> dict[str, float]:
    """What ours multiplies the activations by."""
    functions = {
        "silu": mlp.silu,
        "sigmoid": mlp.sigmoid,
        "scores": equiformer.smooth_leaky_relu(negative_slope),
    }
    one = jnp.ones(())
    return {
        name: float(steerable.normalized(function, one.dtype)(one) / function(one))
        for name, function in functions.items()
    }
