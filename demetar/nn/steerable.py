"""Steerable features and the tensor product with an attribute.

Features are kept component-major, one array [2l + 1, X, C] per irrep, so that mixing
channels is one large matrix product. The attribute has one channel and one array
[2l + 1, X] per irrep. e3nn-jax supplies the coupling coefficients.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import e3nn_jax as e3nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import graphs
from demetar.errors import UserError
from demetar.nn import capture, inputs, mlp
from demetar.types import Graph, Nodes, TaskSpec

Irrep: TypeAlias = e3nn.Irrep
Irreps: TypeAlias = e3nn.Irreps
Features = dict[Irrep, jax.Array]  # {irrep: [2l + 1, X, C]}
Attribute = dict[Irrep, jax.Array]  # {irrep: [2l + 1, X]}
Channels = Mapping[Irrep, int]


class Path(NamedTuple):
    """One coupling first x second -> out, of features with an attribute."""

    first: Irrep
    second: Irrep
    out: Irrep


SCALAR = Irrep("0e")
PSEUDOSCALAR = Irrep("0o")
VECTOR = Irrep("1o")


def parse_channels(irreps: str) -> Channels:
    """Channels per irrep of a text such as '32x0e+16x1o'.

    Raises:
      UserError: the text does not parse.
    """
    try:
        parsed = Irreps(irreps).regroup()
    except ValueError as error:
        raise UserError(
            f"{irreps!r} is not a sum of irreps as '32x0e+16x1o'"
        ) from error
    return {irrep: num for num, irrep in parsed}


def natural_irrep(degree: int) -> Irrep:
    """The irrep of spherical harmonics of that degree: parity (-1)^l."""
    return Irrep(degree, (-1) ** degree)


def natural_attribute(harmonics: Mapping[int, jax.Array]) -> Attribute:
    """Harmonics {l: [2l + 1, X]} as an attribute."""
    return {natural_irrep(degree): value for degree, value in harmonics.items()}


def even_irrep(irrep: Irrep) -> Irrep:
    """The irrep of the same degree whose parity is even."""
    return Irrep(irrep.l, 1)


def even_features(features: Features) -> Features:
    """Features as if all of them were even, so that all products are allowed.

    Rotations are kept, reflections are not. Irreps of one degree come to stand side by
    side, in their order.
    """
    return concatenate([{even_irrep(irrep): features[irrep]} for irrep in features])


def natural_paths(lmax: int, lmax_attribute: int) -> int:
    """Number of couplings l1 x l2 -> l3 of natural irreps, l1 and l3 up to lmax."""
    degrees = [natural_irrep(degree) for degree in range(lmax + 1)]
    attribute = [natural_irrep(degree) for degree in range(lmax_attribute + 1)]
    return sum(out in a * b for a in degrees for b in attribute for out in degrees)


def concatenate(parts: Sequence[Features]) -> Features:
    """Features side by side, irrep by irrep, in the order of the parts."""
    irreps = sorted({irrep for part in parts for irrep in part})
    return {
        irrep: jnp.concatenate([part[irrep] for part in parts if irrep in part], -1)
        for irrep in irreps
    }


def input_features(nodes: Nodes, task: TaskSpec, names: Sequence[str]) -> Features:
    """What steerable models start from: invariants and the vectors by their parity.

    Args:
      nodes: inputs of the batch.
      task: names of the scalars, names and parities of the vectors.
      names: the invariants, as `inputs.invariants` takes them.

    Returns:
      Scalars [1, N, S], polar vectors (1o) and axial vectors (1e) [3, N, V], those
      kinds that the task has.
    """
    features = {SCALAR: jnp.asarray(inputs.invariants(nodes, task, names))[None]}
    for parity in (-1, 1):
        columns = [i for i, v in enumerate(task.vectors) if v.parity == parity]
        if columns:
            vectors = jnp.asarray(nodes.vectors)[:, np.array(columns)]  # [N, V, 3]
            features[Irrep(1, parity)] = vectors.transpose(2, 0, 1)
    return features


def couple(
    features: jax.Array, attribute: jax.Array, irreps: Sequence[Irrep]
) -> jax.Array:
    """One coupling of every channel with the attribute.

    Args:
      features: [2 l1 + 1, X, C] of irrep `irreps[0]`.
      attribute: [2 l2 + 1, X] of irrep `irreps[1]`.
      irreps: the two irreps and the third that they couple to.

    Returns:
      [2 l3 + 1, X, C], normalised so that components keep their variance where those of
      both inputs are independent with variance 1.
    """
    first, second, out = irreps
    if SCALAR in (first, second):  # the coupling with a scalar is a multiplication
        return features * attribute[..., None]
    coefficients = e3nn.clebsch_gordan(first.l, second.l, out.l) * out.dim**0.5
    coefficients = jnp.asarray(np.asarray(coefficients), features.dtype)
    matrices = jnp.einsum("ijk,jx->ikx", coefficients, attribute)[..., None]
    return jnp.sum(matrices * features[:, None], axis=0)


class Linear(hk.Module):
    """Mixes the channels of each irrep, with a bias for the scalars alone.

    Weights are drawn as e3nn draws them, normal with variance 1 / inputs, unless
    another start is asked for. Irreps that the inputs do not have are absent from the
    outputs.
    """

    def __init__(
        self,
        channels: Channels,
        with_bias: bool = True,
        w_init: mlp.Initializer | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.channels = channels
        self.with_bias = with_bias
        self.w_init = w_init

    def __call__(self, features: Features) -> Features:
        """{irrep: [2l + 1, X, C]} -> {irrep: [2l + 1, X, channels[irrep]]}."""
        outputs = {}
        for irrep in sorted(set(features) & set(self.channels)):
            values = features[irrep]
            w = self.weight(irrep, values.shape[-1], values.dtype)
            outputs[irrep] = self.biased(irrep, mlp.matmul(values, w))
        return outputs

    def weight(self, irrep: Irrep, num_inputs: int, dtype: jnp.dtype) -> jax.Array:
        """[num_inputs, channels[irrep]]."""
        init = self.w_init or hk.initializers.VarianceScaling(1.0, "fan_in", "normal")
        shape = (num_inputs, self.channels[irrep])
        return hk.get_parameter(f"w_{irrep}", shape, dtype, init)

    def biased(self, irrep: Irrep, values: jax.Array) -> jax.Array:
        """[2l + 1, X, channels[irrep]] with the bias if it has one."""
        if not (self.with_bias and irrep == SCALAR):
            return values
        shape = values.shape[-1:]
        return values + hk.get_parameter(f"b_{irrep}", shape, values.dtype, jnp.zeros)


class TensorProduct(hk.Module):
    """Fully connected tensor product of features with an attribute.

    Source: the O3TensorProduct of SEGNN (arXiv 2110.02905, section 3.1). One weight
    [sum of input channels over paths, output channels] per output irrep, drawn as
    PyTorch draws a linear layer, and a bias for the scalars. A path is a pair (input
    irrep, attribute irrep) that couples to the output irrep.

    A path mixes channels where the feature has fewer components: before the coupling,
    in one matrix product for all paths of an input irrep, or after it, path by path.
    """

    def __init__(self, channels: Channels, name: str | None = None):
        super().__init__(name=name)
        self.channels = {irrep: num for irrep, num in channels.items() if num}

    def __call__(self, inputs: Features, attribute: Attribute) -> Features:
        """Features [2l + 1, X, C] and attribute [2l + 1, X] -> features."""
        sizes = {irrep: values.shape[-1] for irrep, values in inputs.items()}
        blocks, terms = self._parameters(sizes, attribute)
        before = {path: w for path, w in blocks.items() if path.first.l <= path.out.l}
        for first in sorted({path.first for path in before}):
            paths = [path for path in before if path.first == first]
            w = _side_by_side([before[path] for path in paths])
            mixed = mlp.matmul(inputs[first], w)
            self._add_couplings(terms, mixed, paths, attribute)
        for out in self.channels:
            for path in (p for p in blocks if p.out == out and p not in before):
                coupled = couple(inputs[path.first], attribute[path.second], path)
                # Or XLA's CPU code couples anew for every output channel.
                coupled = jax.lax.optimization_barrier(coupled)
                terms[out].append(mlp.matmul(coupled, blocks[path]))
        return {out: functools.reduce(operator.add, terms[out]) for out in terms}

    def _add_couplings(
        self,
        terms: dict[Irrep, list[jax.Array]],
        mixed: jax.Array,
        paths: Sequence[Path],
        attribute: Attribute,
    ) -> None:
        """Couple what was mixed for each path [2l + 1, X, sum of C'], side by side."""
        sizes = [self.channels[path.out] for path in paths]
        parts = jax.lax.split(mixed, sizes, mixed.ndim - 1)
        for path, part in zip(paths, parts, strict=True):
            terms[path.out].append(couple(part, attribute[path.second], path))

    @hk.transparent
    def _parameters(
        self, sizes: Channels, attribute: Attribute
    ) -> tuple[dict[Path, jax.Array], dict[Irrep, list[jax.Array]]]:
        """The block of weights of each path, and the bias as a first term."""
        dtype = next(iter(attribute.values())).dtype
        blocks: dict[Path, jax.Array] = {}
        couplings: list[capture.Coupling] = []
        terms: dict[Irrep, list[jax.Array]] = {out: [] for out in self.channels}
        for out, num in self.channels.items():
            paths = [
                Path(first, second, out)
                for first in sorted(sizes)
                for second in sorted(attribute)
                if out in first * second
            ]
            num_inputs = sum(sizes[path.first] for path in paths)
            init = mlp.uniform_fan_in(num_inputs)
            w = hk.get_parameter(f"w_{out}", (num_inputs, num), dtype, init)
            if out == SCALAR:
                terms[out].append(hk.get_parameter(f"b_{out}", (num,), dtype, init))
            row = 0
            for path in paths:
                stop = row + sizes[path.first]
                blocks[path] = w[row:stop]
                place = (self.module_name, f"w_{out}", row, stop)
                couplings.append(capture.Coupling(*path, place))
                row = stop
        capture.record_product(self.module_name, sizes, self.channels, couplings)
        return blocks, terms


class EdgeTensorProduct(TensorProduct):
    """Tensor product on concat(h_i, h_j, e_ij) for each edge from j to i.

    The product is linear in the features, so the channels are mixed at N nodes, then
    gathered, then coupled with the attribute of the edge: the same function as
    `TensorProduct` on the concatenation, with the same parameters.
    """

    def __call__(  # type: ignore[override]
        self, nodes: Features, edges: Features, attribute: Attribute, graph: Graph
    ) -> Features:
        """Nodes [2l + 1, N, C], edges [2l + 1, E, F] -> features [2l + 1, E, C']."""
        sizes = {
            irrep: 2 * _num_channels(nodes, irrep) + _num_channels(edges, irrep)
            for irrep in {*nodes, *edges}
        }
        blocks, terms = self._parameters(sizes, attribute)
        for first in sorted(sizes):
            paths = [path for path in blocks if path.first == first]
            if paths:
                w = _side_by_side([blocks[path] for path in paths])
                mixed = _mix_at_nodes(nodes.get(first), edges.get(first), w, graph)
                self._add_couplings(terms, mixed, paths, attribute)
        return {out: functools.reduce(operator.add, terms[out]) for out in terms}


def _side_by_side(blocks: Sequence[jax.Array]) -> jax.Array:
    """Weights [C, C'] of several paths as one matrix."""
    return jnp.concatenate(blocks, axis=-1)


def _num_channels(features: Features, irrep: Irrep) -> int:
    return features[irrep].shape[-1] if irrep in features else 0


def _mix_at_nodes(
    nodes: jax.Array | None, edges: jax.Array | None, w: jax.Array, graph: Graph
) -> jax.Array:
    """concat(h_i, h_j, e_ij) w for one irrep: [2l + 1, E, C']."""
    terms = []
    start = 0
    if nodes is not None:
        channels = nodes.shape[-1]
        start = 2 * channels
        receivers = mlp.matmul(nodes, w[:channels])
        senders = mlp.matmul(nodes, w[channels:start])
        terms.append(graphs.gather_receivers(receivers, graph))
        terms.append(graphs.gather_senders(senders, graph))
    if edges is not None:
        terms.append(mlp.matmul(edges, w[start:]))
    return functools.reduce(operator.add, terms)


def gated_channels(channels: Channels) -> Channels:
    """Channels that `gate` turns into `channels`: one more scalar per gated irrep."""
    num_gates = sum(num for irrep, num in channels.items() if irrep.l)
    return {**channels, SCALAR: channels.get(SCALAR, 0) + num_gates}


def gate(
    features: Features,
    gate_fn: mlp.Activation = mlp.sigmoid,
    even_fn: mlp.Activation = mlp.silu,
    odd_fn: mlp.Activation = jnp.tanh,
) -> Features:
    """Activations of scalars and pseudoscalars, other irreps times those of scalars.

    The last scalars are the gates. The activations are scaled to keep the second
    moment of a standard normal input, as e3nn does.

    Args:
      features: of the channels that `gated_channels` gives.
      gate_fn: activation of the gates.
      even_fn: activation of the other scalars.
      odd_fn: activation of pseudoscalars, an odd function.
    """
    dtype = features[SCALAR].dtype
    gated = sorted(irrep for irrep in features if irrep.l)
    sizes = [features[irrep].shape[-1] for irrep in gated]
    rest = features[SCALAR].shape[-1] - sum(sizes)
    scalars, *gates = jax.lax.split(features[SCALAR], [rest, *sizes], 2)
    outputs = {SCALAR: normalized(even_fn, dtype)(scalars)}
    if PSEUDOSCALAR in features:  # an odd function, or a reflection would be noticed
        outputs[PSEUDOSCALAR] = normalized(odd_fn, dtype)(features[PSEUDOSCALAR])
    for irrep, values in zip(gated, gates, strict=True):
        outputs[irrep] = features[irrep] * normalized(gate_fn, dtype)(values)
    return outputs


@functools.cache
def normalized(activation: mlp.Activation, dtype: jnp.dtype) -> mlp.Activation:
    """The activation over the root mean square that it gives a standard normal input.

    e3nn-jax integrates over a million points; a model asks in every layer.
    """
    del dtype  # the precision in which e3nn-jax integrates
    found: mlp.Activation = e3nn.normalize_function(activation)
    return found
