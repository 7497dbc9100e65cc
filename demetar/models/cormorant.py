"""Cormorant: covariant networks of Clebsch-Gordan products.

Source: Anderson, Hy, Kondor 2019, arXiv 1906.04015, section 4; the networks before and
after the layers, and their sizes, from the authors' code.

Differs from the paper: features and weights are real, where the paper's are complex.
Products of a feature with itself are taken once where both orders are the same, and not
at all where they vanish. The radial functions are shared by all degrees before they are
mixed, and of inverse powers of the distance (r + 1) takes the place of r, so that
coincident points are harmless. Edge features, where a task has them, stand beside the
radial functions.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import ClassVar

import e3nn_jax as e3nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture, depthwise, inputs, mlp, readout, steerable
from demetar.nn.steerable import SCALAR, Attribute, Features, Irrep
from demetar.types import Array, Bucket


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
      soft_cutoff, soft_width: where and how steeply edges fade at the start; both are
        learned. In the length unit of the data, the defaults in Angstrom.
      decoder_size: hidden layers of the perceptrons before and after the sum over the
        nodes.
      summed_size: channels of that sum.
      node_inputs: invariants that the nodes start from.
    """

    symmetry: ClassVar[str] = "SE(3)"
    supports: ClassVar[frozenset[str]] = readout.SCALAR_KINDS

    hidden_size: int = 16
    lmax: int = 3
    num_layers: int = 4
    num_frequencies: int = 4
    num_powers: int = 4
    soft_cutoff: float = 1.73
    soft_width: float = 0.2
    decoder_size: int = 256
    summed_size: int = 64
    node_inputs: tuple[str, ...] = (inputs.ALL,)

    def __call__(
        self, graph: graphs.Graph, bucket: Bucket, is_training: bool
    ) -> dict[str, Array]:
        if self.lmax < 0:
            raise UserError(f"cormorant needs lmax >= 0, found {self.lmax}")
        vectors = geometry.edge_vectors(graph, bucket)
        lengths = geometry.safe_norm(vectors, keepdims=True)  # [E, 1]
        attribute = depthwise.harmonics(vectors, self.lmax)
        basis = jnp.concatenate([self._radial_basis(lengths), graph.edges], axis=-1)
        nodes: Features = {SCALAR: self._input(lengths, basis, graph, bucket)[None]}
        edges: dict[Irrep, jax.Array] = {}
        invariants = []
        for layer in range(self.num_layers):
            edges = self._edge_network(
                layer, edges, nodes, lengths, basis, graph, bucket
            )
            nodes = self._layer(layer, nodes, edges, attribute, graph, bucket)
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
            bucket,
        )

    @hk.transparent
    def _radial_basis(self, lengths: Array) -> jax.Array:
        """sin(2 pi k r + phase) / (r + 1)^n, k and phase learned: [E, R]."""
        count = self.num_frequencies

        # Sines of k = 1, 2, ... and cosines of k = 0, 1, ...
        frequencies = [*range(1, count + 1), *range(count)]
        phases = [0.0] * count + [math.pi / 2] * count
        start = hk.initializers.Constant(np.array([frequencies, phases]))
        waves = hk.get_parameter("waves", (2, 2 * count), lengths.dtype, start)
        sines = jnp.sin(2 * jnp.pi * waves[0] * lengths + waves[1])  # [E, 2K]
        powers = jnp.arange(self.num_powers, dtype=lengths.dtype)
        decays = (lengths + 1) ** -powers  # [E, P]
        return (sines[:, :, None] * decays[:, None]).reshape(len(lengths), -1)

    @hk.transparent
    def _mask(self, name: str, lengths: Array) -> jax.Array:
        """A learned smooth step of the distance for each channel: [E, C]."""
        radius, width = (
            start
            * hk.get_parameter(
                f"scale_{part}_{name}", (self.hidden_size,), lengths.dtype, jnp.ones
            )
            for part, start in (
                ("radius", self.soft_cutoff),
                ("width", self.soft_width),
            )
        )
        return jax.nn.sigmoid((radius - lengths) / width)

    @hk.transparent
    def _input(
        self, lengths: Array, basis: Array, graph: graphs.Graph, bucket: Bucket
    ) -> jax.Array:
        """Invariants, and those of the neighbours by distance, mixed: [N, C]."""
        size = self.hidden_size
        scalars = inputs.invariants(graph.nodes, self.task, self.node_inputs)
        sent = mlp.Linear(size, with_bias=False, name="input_senders")(scalars)
        filters = mlp.Linear(size, name="input_filters")(basis)
        filters = filters * self._mask("input", lengths)
        messages = graphs.gather_senders(sent, graph, bucket) * filters
        received = graphs.sum_to_receivers(messages, graph, bucket)
        network = mlp.MLP([self.decoder_size, size], jax.nn.leaky_relu, name="input")
        return network(jnp.concatenate([scalars, received], axis=-1))

    @hk.transparent
    def _edge_network(
        self,
        layer: int,
        edges: dict[Irrep, jax.Array],
        nodes: Features,
        lengths: Array,
        basis: Array,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> dict[Irrep, jax.Array]:
        """One scalar per degree and channel, g of section 4: {irrep: [E, C]}.

        Mixes those of the layer before, the inner products of both ends and the radial
        functions.
        """
        products = [
            jnp.sum(
                graphs.gather_receivers(values, graph, bucket)
                * graphs.gather_senders(values, graph, bucket),
                axis=0,
            )
            for values in nodes.values()
        ]  # [E, C] for each degree
        mask = self._mask(str(layer), lengths)
        shared = [*products, basis]
        outputs = {}
        for degree in range(self.lmax + 1):
            irrep = steerable.natural_irrep(degree)
            before = [edges[irrep]] if irrep in edges else []
            mix = mlp.Linear(
                self.hidden_size, with_bias=False, name=f"edges_{layer}_{irrep}"
            )
            outputs[irrep] = mask * mix(jnp.concatenate([*before, *shared], axis=-1))
        return outputs

    @hk.transparent
    def _layer(
        self,
        layer: int,
        nodes: Features,
        edges: dict[Irrep, jax.Array],
        attribute: Attribute,
        graph: graphs.Graph,
        bucket: Bucket,
    ) -> Features:
        """Neighbours, the features and their squares, mixed by degree: section 4."""
        parts: dict[Irrep, list[jax.Array]] = {}
        senders = {
            irrep: graphs.gather_senders(values, graph, bucket)
            for irrep, values in nodes.items()
        }
        for path in couplings(senders, attribute, self.lmax):
            first, second, out = path
            messages = steerable.couple(senders[first], attribute[second], path)
            messages = messages * edges[second]
            received = graphs.sum_to_receivers(messages, graph, bucket)
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
    return first.l < second.l or (first == second and out.l % 2 == 0)


def couple_channels(first: jax.Array, second: jax.Array, irreps: Path) -> jax.Array:
    """Each channel [2 l1 + 1, X, C] with its own [2 l2 + 1, X, C]: [2 l3 + 1, X, C].

    Normalised as `steerable.couple`.
    """
    a, b, out = irreps
    coefficients = np.asarray(e3nn.clebsch_gordan(a.l, b.l, out.l)) * out.dim**0.5
    return jnp.einsum(
        "ijk,ixc,jxc->kxc", jnp.asarray(coefficients, first.dtype), first, second
    )
