"""NequIP: an E(3) equivariant convolution network.

Source: Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky
2022, arXiv 2101.03164, methods section; its radial basis and cutoff are equations 7 and
8 of Gasteiger et al. 2020, arXiv 2003.03123.

With the weights of the authors' code, mir-group/nequip 0.6.1, the outputs are the same.

Differs from the authors' code: there is no cutoff unless one is asked for, and then the
Bessel functions span the distances of the task. Edge features stand beside the basis.
Nodes start from invariants and vectors; the self-connection is steered by (1, species
inputs), where the 1 adds nothing to the species of an atom, and the embedding has a
bias. Activations are scaled by e3nn-jax's constants, 0.2 % from e3nn's, which the next
linear map absorbs; linear maps hold the factor 1 / sqrt(inputs) that e3nn multiplies
its weights by. The last layer makes only what the heads read, vectors at `lmax` 0 too,
and vector heads read the vector inputs beside it. The scale and shift of each species
start from 1 and 0, and are always trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from demetar import geometry, pairs
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture, depthwise, inputs, radial, readout, steerable
from demetar.nn.steerable import SCALAR, VECTOR, Attribute, Channels, Features
from demetar.types import Array, Graph, Head


@dataclasses.dataclass
class Nequip(base.Model):
    """Interaction blocks: convolutions with learned radial functions and harmonics.

    The defaults have 154,507 parameters on N-body.

    Attributes:
      hidden_size: channels of every irrep.
      lmax: highest degree of the features and, from 1 on, of the harmonics.
      parity: features of both parities of each degree. Else all are taken for even, as
        the authors' code takes them, with all products: reflections are noticed.
      num_layers: interaction blocks.
      num_basis: Bessel functions.
      radial_sizes: hidden layers of the radial networks.
      cutoff: distance at which a polynomial envelope silences pairs, in the length unit
        of the data; None silences none.
      pooling: of the nodes for scalars of a graph: 'sum', 'mean', or 'target', the sum
        for extensive targets and the mean for others.
      node_inputs: invariants that the nodes start from.
      species_inputs: invariants that, beside 1, steer the self-connection, and that the
        scale and shift of a node's scalar outputs are linear in.
    """

    symmetry: ClassVar[str] = "E(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    fades_at_cutoff: ClassVar[bool] = True
    small = {
        "hidden_size": 11,
        "num_layers": 2,
        "num_basis": 5,
        "radial_sizes": (7,),
    }

    hidden_size: int = 30
    lmax: int = 1
    parity: bool = True
    num_layers: int = 4
    num_basis: int = 8
    radial_sizes: tuple[int, ...] = (64, 64)
    cutoff: float | None = None
    pooling: str = "target"
    node_inputs: tuple[str, ...] = ("charge", "|velocity|")
    species_inputs: tuple[str, ...] = ("charge",)

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        if not 0 <= self.lmax <= 3:
            raise UserError(f"nequip needs lmax from 0 to 3, found {self.lmax}")
        # Both edges of a pair have the same weights.
        edges, ways = pairs.ways(graph)
        attribute, radial_inputs = self._edge_inputs(edges)
        species = self._species(graph)  # [N, A]
        given = steerable.input_features(graph.nodes, self.task, self.node_inputs)
        if not self.parity:
            given = steerable.even_features(given)
        start = {irrep: self.hidden_size for irrep in given}
        nodes = steerable.Linear(start, name="embedding")(given)
        for layer in range(self.num_layers):
            channels = self._layer_channels(layer, nodes, attribute)
            gated = steerable.gated_channels(channels)
            nodes = steerable.gate(
                self._interaction(
                    layer, nodes, gated, attribute, radial_inputs, species, edges, ways
                ),
                jax.nn.silu,
            )
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        return self._heads(nodes, given, species, graph)

    @hk.transparent
    def _heads(
        self, nodes: Features, given: Features, species: Array, graph: Graph
    ) -> dict[str, Array]:
        """Two linear maps of the scalars, scaled and shifted; a map of the vectors."""

        def scaled(head: Head, values: Array) -> jax.Array:
            # Of the species alone if there are any.
            columns = jnp.asarray(species[:, 1:] if species.shape[1] > 1 else species)
            shape, dtype = (columns.shape[1], head.size), columns.dtype
            scale, shift = (
                columns
                @ hk.get_parameter(f"{name}_{head.name}", shape, dtype, jnp.zeros)
                for name in ("scale", "shift")
            )
            return (1 + scale) * values + shift

        vector = self._vector()
        vectors = [part[vector] for part in (nodes, given) if vector in part]
        joined = jnp.concatenate(vectors, axis=-1) if vectors else None
        hidden = (max(self.hidden_size // 2, 1),)
        return readout.vector_heads(self.task, joined) | readout.linear_heads(
            self.task, nodes[SCALAR][0], graph, self.pooling, hidden, scaled
        )

    def _vector(self) -> steerable.Irrep:
        """The irrep of vectors, which are even without parities."""
        return VECTOR if self.parity else steerable.even_irrep(VECTOR)

    @hk.transparent
    def _edge_inputs(self, graph: Graph) -> tuple[Attribute, jax.Array]:
        """Harmonics of the edges, and what the radial networks read: [E, R]."""
        vectors = geometry.edge_vectors(graph)
        lengths = geometry.safe_norm(vectors)  # [E]
        # The direction of the paper points from receiver to sender.
        attribute = depthwise.harmonics(-vectors, max(self.lmax, 1))
        if not self.parity:
            attribute = {steerable.even_irrep(ir): y for ir, y in attribute.items()}
        extent = self.task.radial_extent if self.cutoff is None else self.cutoff
        shape, dtype = (self.num_basis,), lengths.dtype
        roots = jnp.pi * jnp.arange(1, self.num_basis + 1, dtype=dtype)
        roots += hk.get_parameter("root_shifts", shape, dtype, jnp.zeros)
        basis = radial.rooted_bessel(lengths, roots, extent)
        values = jnp.concatenate([basis, graph.edges], axis=-1)
        if self.cutoff is not None:
            values = values * radial.polynomial_cutoff(lengths, self.cutoff)[:, None]
        return attribute, values

    def _species(self, graph: Graph) -> jax.Array:
        """(1, species inputs) of each node: [N, A]."""
        ones = jnp.ones_like(graph.nodes.positions[:, :1])
        if not self.species_inputs:
            return ones
        values = inputs.invariants(graph.nodes, self.task, self.species_inputs)
        return jnp.concatenate([ones, values], axis=-1)

    def _layer_channels(
        self, layer: int, nodes: Features, attribute: Attribute
    ) -> Channels:
        """Irreps after a layer: those that can be reached and that somebody reads."""
        degrees = range(self.lmax + 1)
        parities = (-1, 1) if self.parity else (1,)
        wanted = {steerable.Irrep(l, p) for l in degrees for p in parities}
        if layer == self.num_layers - 1:
            kinds = {head.kind for head in self.task.heads}
            wanted = {SCALAR, self._vector()} if "node_vector" in kinds else {SCALAR}
        paths = depthwise.find_paths(nodes, attribute, wanted)
        return {irrep: self.hidden_size for irrep in {path.out for path in paths}}

    @hk.transparent
    def _interaction(
        self,
        layer: int,
        nodes: Features,
        channels: Channels,
        attribute: Attribute,
        radial_inputs: jax.Array,
        species: Array,
        edges: Graph,
        ways: Sequence[pairs.Way],
    ) -> Features:
        """The convolution plus the self-connection, before the gate."""
        own = {
            irrep: (values[..., None] * species[:, None]).reshape(
                *values.shape[:2], -1
            )  # [2l + 1, N, C A]
            for irrep, values in nodes.items()
        }
        own = steerable.Linear(channels, False, name=f"self_connection_{layer}")(own)
        mixed = steerable.Linear(
            depthwise.channels_of(nodes), False, name=f"linear_{layer}_0"
        )(nodes)
        paths = depthwise.find_paths(nodes, attribute, channels)
        weights = self._radial_network(
            layer,
            radial_inputs,
            depthwise.num_weights(paths, depthwise.channels_of(mixed)),
        )
        # The sum over neighbours has the variance of one message.
        weights = weights / math.sqrt(self.task.average_neighbors)
        received = depthwise.convolve(mixed, attribute, paths, weights, edges, ways)
        received = steerable.Linear(channels, False, name=f"linear_{layer}_1")(received)
        return {
            irrep: values + own[irrep] if irrep in own else values
            for irrep, values in received.items()
        }

    @hk.transparent
    def _radial_network(
        self, layer: int, values: jax.Array, num_outputs: int
    ) -> jax.Array:
        """[E, R] -> [E, num_outputs]; without biases, so that zero stays zero."""
        activation = steerable.normalized(jax.nn.silu, values.dtype)
        for index, size in enumerate((*self.radial_sizes, num_outputs)):
            if index:
                values = activation(values)
            linear = steerable.Linear(
                {SCALAR: size}, False, name=f"radial_{layer}_{index}"
            )
            values = linear({SCALAR: values[None]})[SCALAR][0]
        return values
