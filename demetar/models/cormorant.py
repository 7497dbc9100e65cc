"""Cormorant: covariant networks of Clebsch-Gordan products.

Source: Anderson, Hy, Kondor 2019, arXiv 1906.04015, section 4; the networks before and
after the layers, and their sizes, from the authors' code.

Differs from the authors' code: features and weights are real, where theirs are complex.
The class of functions is the same: a complex channel a + ib is three real ones, a, b
and a + b, of whose products the complex product is a linear map, and a linear map
follows every product. A network of theirs with C channels is so one of ours with 3 C,
and their weights placed like that give their outputs to 1e-15 and the differences that
their gradient was made of to 2e-11; a network of ours is one of theirs without
imaginary parts. By width they are not the same: C real channels are half the numbers of
C complex ones.

Products of a feature with itself are taken once if both orders are the same, and not
at all if they vanish. Harmonics point from the sender, theirs are the conjugate
ones, which is the same up to signs of weights. A node and itself are a pair without a
direction, N rows behind those of the edges; the gradient is finite there, where theirs
is not a number. Weights start as in a linear layer of e3nn or PyTorch; theirs start
uniform in +-10 / inputs, and normal with deviation 1 / inputs in the network of the
pairs. The learned cutoffs are in units of where they start. Edge features, where a task
has them, stand beside the radial functions.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import ClassVar, NamedTuple

import e3nn_jax as e3nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture, inputs, mlp, readout, steerable
from demetar.nn.steerable import SCALAR, Attribute, Features, Irrep
from demetar.types import Array, Bucket, Graph

LEAST_WIDTH = 1e-8


@dataclasses.dataclass
class Cormorant(base.Model):
    """Layers whose only nonlinearity is the product of features with each other.

    All couplings are there, those that change parity included, so features of a degree
    are vectors and pseudovectors at once: rotations are kept, reflections are not.

    Attributes:
      hidden_size: channels of each degree.
      lmax: highest degree of features and harmonics.
      num_layers: Clebsch-Gordan layers.
      num_frequencies: sines and cosines in the radial functions.
      num_powers: inverse powers of the distance that multiply them.
      hard_cutoff: the nodes start from neighbours that are closer.
      soft_cutoff, soft_width: where and how steeply edges fade, in the layers at the
        start, from which both are learned. All three in the length unit of the data,
        the defaults in Angstrom.
      decoder_size: hidden layers of the perceptrons before and after the sum over the
        nodes.
      summed_size: channels of that sum.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "SE(3)"
    supports: ClassVar[frozenset[str]] = readout.SCALAR_KINDS
    small = {
        "hidden_size": 11,
        "lmax": 1,
        "num_layers": 2,
        "num_frequencies": 2,
        "num_powers": 2,
        "hard_cutoff": 3.0,
        "soft_cutoff": 3.0,
        "soft_width": 1.0,
        "decoder_size": 13,
        "summed_size": 7,
    }

    hidden_size: int = 16
    lmax: int = 3
    num_layers: int = 4
    num_frequencies: int = 4
    num_powers: int = 4
    hard_cutoff: float = 1.73
    soft_cutoff: float = 1.73
    soft_width: float = 0.2
    decoder_size: int = 256
    summed_size: int = 64
    node_inputs: tuple[str, ...] = (inputs.ALL,)

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        if self.lmax < 0:
            raise UserError(f"cormorant needs lmax >= 0, found {self.lmax}")
        vectors = geometry.edge_vectors(graph)
        attribute = solid_harmonics(vectors, self.lmax)
        pairs = Pairs(
            _with_selves(geometry.safe_norm(vectors, keepdims=True), graph.bucket),
            _with_selves(graph.edges, graph.bucket),
            _there(graph),
        )
        nodes: Features = {SCALAR: self._input(pairs, graph)[None]}
        network: dict[Irrep, jax.Array] = {}
        invariants = []
        for layer in range(self.num_layers):
            network = self._pair_network(layer, network, nodes, pairs, graph)
            nodes = self._layer(layer, nodes, network, attribute, graph)
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
            squares = [jnp.sum(jnp.square(values), axis=0) for values in nodes.values()]
            invariants.extend([nodes[SCALAR][0], *squares])
        return readout.summed_heads(
            self.task,
            jnp.concatenate(invariants, axis=-1),
            [self.decoder_size, self.summed_size],
            self.decoder_size,
            jax.nn.leaky_relu,
            graph,
        )

    @hk.transparent
    def _radial(self, name: str, pairs: Pairs) -> jax.Array:
        """sin(2 pi k r + phase) / r^n, and the features: [P, R].

        k and phase are learned; 0 if r is 0.
        """
        count = self.num_frequencies
        frequencies = [*range(count), *range(count)]
        phases = [0.0] * count + [math.pi / 2] * count  # sines, then cosines
        phases[0] = math.pi / 2  # the sine of k = 0 vanishes
        start = hk.initializers.Constant(np.array([frequencies, phases]))
        dtype = pairs.lengths.dtype
        waves = hk.get_parameter(f"waves_{name}", (2, 2 * count), dtype, start)
        apart = pairs.lengths > 0
        lengths = jnp.where(apart, pairs.lengths, 1)  # [P, 1]
        sines = jnp.sin(2 * jnp.pi * waves[0] * lengths + waves[1])  # [P, 2K]
        decays = lengths ** -jnp.arange(self.num_powers, dtype=dtype)  # [P, n]
        values = (sines[:, :, None] * decays[:, None]).reshape(len(lengths), -1)
        return jnp.concatenate([jnp.where(apart, values, 0), pairs.features], axis=-1)

    @hk.transparent
    def _mask(self, name: str, lengths: Array) -> jax.Array:
        """A learned smooth step of the distance for each channel: [P, C]."""
        radius, width = (
            start
            * jnp.abs(
                hk.get_parameter(
                    f"scale_{part}_{name}", (self.hidden_size,), lengths.dtype, jnp.ones
                )
            )
            for part, start in (
                ("radius", self.soft_cutoff),
                ("width", self.soft_width),
            )
        )
        return jax.nn.sigmoid((radius - lengths) / jnp.maximum(width, LEAST_WIDTH))

    @hk.transparent
    def _input(self, pairs: Pairs, graph: Graph) -> jax.Array:
        """Invariants, and those of the neighbours by distance, mixed: [N, C]."""
        scalars = inputs.invariants(graph.nodes, self.task, self.node_inputs)  # [N, S]
        soft = jax.nn.sigmoid((self.soft_cutoff - pairs.lengths) / self.soft_width)
        mask = jnp.where(pairs.lengths < self.hard_cutoff, soft, 0)  # [P, 1]
        filters = mlp.Linear(scalars.shape[-1], name="input_filters")
        filtered = jnp.multiply(filters(self._radial("input", pairs)), mask)
        of_edges, of_selves = _split(filtered, graph.bucket)
        messages = graphs.gather_senders(scalars, graph) * of_edges
        received = graphs.sum_to_receivers(messages, graph)
        received = received + scalars * of_selves
        sizes = [self.decoder_size, self.hidden_size]
        network = mlp.MLP(sizes, jax.nn.leaky_relu, name="input")
        return network(jnp.concatenate([received, scalars], axis=-1))

    @hk.transparent
    def _pair_network(
        self,
        layer: int,
        before: dict[Irrep, jax.Array],
        nodes: Features,
        pairs: Pairs,
        graph: Graph,
    ) -> dict[Irrep, jax.Array]:
        """One scalar per degree and channel, g of section 4: {irrep: [P, C]}.

        Mixes those of the layer before, the inner products of both ends and the radial
        functions.
        """
        products = [_inner_products(values, graph) for values in nodes.values()]
        radial = self._radial(str(layer), pairs)
        mask = self._mask(str(layer), pairs.lengths) * pairs.there
        outputs = {}
        for degree in range(self.lmax + 1):
            irrep = steerable.natural_irrep(degree)
            given = [before[irrep]] if irrep in before else []
            if irrep in nodes:
                given.extend(products)
            mix = mlp.Linear(
                self.hidden_size, with_bias=False, name=f"edges_{layer}_{irrep}"
            )
            outputs[irrep] = mask * mix(jnp.concatenate([*given, radial], axis=-1))
        return outputs

    @hk.transparent
    def _layer(
        self,
        layer: int,
        nodes: Features,
        network: dict[Irrep, jax.Array],
        attribute: Attribute,
        graph: Graph,
    ) -> Features:
        """Neighbours, the features and their squares, mixed by degree: section 4."""
        parts: dict[Irrep, list[jax.Array]] = {}
        senders = {
            irrep: graphs.gather_senders(values, graph)
            for irrep, values in nodes.items()
        }
        for path in couplings(senders, attribute, self.lmax):
            first, second, out = path
            of_edges, of_selves = _split(network[second], graph.bucket)
            messages = steerable.couple(senders[first], attribute[second], path)
            received = graphs.sum_to_receivers(messages * of_edges, graph)
            if second == SCALAR:  # the other harmonics of a node with itself are 0
                received = received + nodes[first] * of_selves
            parts.setdefault(out, []).append(received)
        for irrep, values in nodes.items():
            parts.setdefault(irrep, []).append(values)
        for path in couplings(nodes, nodes, self.lmax):
            if is_new_square(path):
                values = couple_channels(nodes[path[0]], nodes[path[1]], path)
                parts.setdefault(path[2], []).append(values)
        joined = {irrep: jnp.concatenate(parts[irrep], -1) for irrep in sorted(parts)}
        channels = {irrep: self.hidden_size for irrep in joined}
        mix = steerable.Linear(channels, with_bias=False, name=f"mix_{layer}")
        return mix(joined)


class Pairs(NamedTuple):
    """The edges and behind them every node with itself, P = E + N rows."""

    lengths: jax.Array  # [P, 1]
    features: jax.Array  # [P, F] of the edges, 0 for a node with itself
    there: jax.Array  # [P, 1] 0 for padding edges, else 1


def solid_harmonics(vectors: Array, lmax: int) -> Attribute:
    """Harmonics of vectors [E, 3] times r^l, whose squares sum to r^(2 l)."""
    harmonics = geometry.spherical_harmonics(vectors, lmax, solid=True)
    return {
        steerable.natural_irrep(l): value * math.sqrt(4 * math.pi / (2 * l + 1))
        for l, value in harmonics.items()
    }


def _with_selves(edges: Array, bucket: Bucket) -> jax.Array:
    """Values of edges [E, C], and zeros for the nodes with themselves: [P, C]."""
    return jnp.pad(jnp.asarray(edges), ((0, bucket.max_nodes), (0, 0)))


def _there(graph: Graph) -> jax.Array:
    """0 for padding edges, 1 for other pairs: [P, 1].

    All padding edges end at one node. Layer by layer the square of their sum would grow
    beyond any float, and 0 times infinity is the gradient of what does not count.
    """
    edges = graphs.edge_mask(graph)[:, None].astype(graph.nodes.positions.dtype)
    return jnp.pad(edges, ((0, graph.bucket.max_nodes), (0, 0)), constant_values=1)


def _split(pairs: jax.Array, bucket: Bucket) -> tuple[jax.Array, jax.Array]:
    """Values of pairs [P, C] as those of the edges [E, C] and of the nodes [N, C]."""
    return pairs[: bucket.max_edges], pairs[bucket.max_edges :]


def _inner_products(values: jax.Array, graph: Graph) -> jax.Array:
    """Of both ends of each pair, channel by channel: [2l + 1, N, C] -> [P, C]."""
    receivers = graphs.gather_receivers(values, graph)
    products = receivers * graphs.gather_senders(values, graph)
    return jnp.concatenate([products, jnp.square(values)], axis=-2).sum(axis=0)


Path = tuple[Irrep, Irrep, Irrep]


def couplings(
    first: Features | Attribute, second: Features | Attribute, lmax: int
) -> list[Path]:
    """All couplings of degrees to degrees up to lmax, whatever their parity."""
    return [
        (a, b, steerable.natural_irrep(degree))
        for a, b in itertools.product(sorted(first), sorted(second))
        for degree in range(abs(a.l - b.l), min(a.l + b.l, lmax) + 1)
    ]


def is_new_square(path: Path) -> bool:
    """Whether a product of features with themselves is neither 0 nor another's copy.

    Channels multiply channels of their own number, so the order of two degrees changes
    a sign at most; of one degree, couplings to odd degrees are antisymmetric.
    """
    first, second, out = path
    found: bool = first.l < second.l or (first == second and out.l % 2 == 0)
    return found


def couple_channels(first: jax.Array, second: jax.Array, irreps: Path) -> jax.Array:
    """Each channel [2 l1 + 1, X, C] with its own [2 l2 + 1, X, C]: [2 l3 + 1, X, C].

    Normalised as `steerable.couple`.
    """
    a, b, out = irreps
    coefficients = np.asarray(e3nn.clebsch_gordan(a.l, b.l, out.l)) * out.dim**0.5
    return jnp.einsum(
        "ijk,ixc,jxc->kxc", jnp.asarray(coefficients, first.dtype), first, second
    )
