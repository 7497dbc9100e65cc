"""Kernels of tensor field networks: linear maps between features, steered by an edge.

The kernel from degree k to degree l is a sum over couplings,

    W^{lk}(x) = sum_J phi_J^{lk}(|x|) sum_m Y_Jm(x / |x|) Q_Jm^{lk},

with J from |k - l| to k + l, where phi is a learned radial function with one value per
pair of channels.

Source: Thomas et al. 2018, arXiv 1802.08219, section 4; in this form Fuchs et al. 2020,
arXiv 2006.10503, equation 8.

All couplings are there, those that change parity included, so kernels commute with
rotations but not with reflections. Features stand under the irreps of the harmonics.
Coupling coefficients have norm 1, harmonics the mean square 1 / 4 pi over the sphere,
and weights start as in the code of Satorras et al. 2021, arXiv 2102.09844.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import e3nn_jax as e3nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import geometry, graphs
from demetar.errors import UserError
from demetar.nn import attention, capture, inputs, mlp, radial, readout, steerable
from demetar.types import Array, Graph, Nodes, TaskSpec

Channels = steerable.Channels
Features = steerable.Features
Irrep = steerable.Irrep
EdgeFeatures = dict[Irrep, jax.Array]  # {irrep: [E, 2l + 1, C]}, edges first

# {degree out: [E, 2k + 1, J, C] of each degree in}
Mixed = dict[Irrep, list[jax.Array]]

# As PyTorch's kaiming_uniform_ draws weights [..., inputs, outputs].
KAIMING_UNIFORM = hk.initializers.VarianceScaling(
    2.0, "fan_in", "uniform", fan_in_axes=(-2,)
)


class Steering(NamedTuple):
    """What all kernels of a network read of the edges.

    Attributes:
      radial: [E, R] what radial functions read: distances and edge features.
      bases: {l: [E, 2l + 1, P]} the sums over m of the kernels into degree l. P runs
        over k, the components of k, and J.
    """

    radial: jax.Array
    bases: dict[int, jax.Array]


def check_degrees(model: str, lmax: int) -> None:
    """Vectors go in and come out.

    Raises:
      UserError: lmax is below 1.
    """
    if lmax < 1:
        raise UserError(f"{model} needs lmax >= 1 (vectors in and out), found {lmax}")


def hidden_channels(lmax: int, num_channels: int) -> Channels:
    """As many channels of each degree up to lmax."""
    return {steerable.natural_irrep(l): num_channels for l in range(lmax + 1)}


def input_features(nodes: Nodes, task: TaskSpec, names: tuple[str, ...]) -> Features:
    """Invariants [1, N, S] and all vectors [3, N, V], whatever their parity."""
    features = {steerable.SCALAR: inputs.invariants(nodes, task, names)[None]}
    if task.vectors:
        features[steerable.VECTOR] = jnp.transpose(nodes.vectors, (2, 0, 1))
    return features


def output_channels(task: TaskSpec, num_scalars: int) -> Channels:
    """Channels of which `output_heads` makes the heads of a task."""
    channels = {}
    if any(head.kind != "node_vector" for head in task.heads):
        channels[steerable.SCALAR] = num_scalars
    num_vectors = sum(h.size for h in task.heads if h.kind == "node_vector")
    if num_vectors:
        channels[steerable.VECTOR] = num_vectors
    return channels


def output_heads(task: TaskSpec, features: Features, graph: Graph) -> dict[str, Array]:
    """Heads of the features that have `output_channels`.

    The vectors are the heads themselves, in the order of the task; scalars go through
    a perceptron.

    Returns:
      {head: [N, K, 3] | [N, T] | [G, T]}.
    """
    outputs: dict[str, Array] = {}
    if steerable.SCALAR in features:
        scalars = features[steerable.SCALAR][0]
        outputs = readout.scalar_heads(task, scalars, graph)
    start = 0
    for head in task.heads:
        if head.kind == "node_vector":
            stop = start + head.size
            vectors = features[steerable.VECTOR][..., start:stop]  # [3, N, K]
            outputs[head.name] = jnp.transpose(vectors, (1, 2, 0))
            start = stop
    return outputs


def num_couplings(source: int, target: int) -> int:
    """Number of degrees J that couple degree `source` to degree `target`."""
    return 2 * min(source, target) + 1


@functools.cache
def _coupling_tensor(lmax: int, target: int) -> np.ndarray:
    """Coupling coefficients into a degree: [all harmonics up to 2 lmax, 2l + 1, P]."""
    blocks = []
    for source in range(lmax + 1):
        shape = ((2 * lmax + 1) ** 2, 2 * target + 1, 2 * source + 1)
        block = np.zeros((*shape, num_couplings(source, target)))
        for index in range(block.shape[-1]):
            degree = abs(source - target) + index
            coefficients = e3nn.clebsch_gordan(source, degree, target)
            block[degree**2 : (degree + 1) ** 2, ..., index] = np.transpose(
                np.asarray(coefficients), (1, 2, 0)
            )
        blocks.append(block.reshape(*shape[:2], -1))
    return np.concatenate(blocks, axis=-1)


def steer(
    graph: Graph, task: TaskSpec, lmax: int, num_basis: int, read_edges: bool
) -> Steering:
    """What kernels between degrees up to lmax read, made once for all layers.

    Args:
      graph: the batch.
      task: its `radial_extent` is what the basis spans.
      lmax: highest degree of the features; harmonics go up to twice that.
      num_basis: Gaussians of the distance; 0: radial functions read the distance.
      read_edges: whether they read the edge features too.
    """
    vectors = geometry.edge_vectors(graph)  # [E, 3]
    lengths = geometry.safe_norm(vectors)  # [E]
    edges = graph.edges if read_edges else graph.edges[:, :0]
    if num_basis:
        values = radial.edge_inputs(
            lengths, edges, radial.gaussian, num_basis, task.radial_extent
        )
    else:
        values = jnp.concatenate([lengths[:, None], edges], axis=-1)
    harmonics = geometry.spherical_harmonics(vectors, 2 * lmax)
    stacked = jnp.concatenate([harmonics[l] for l in range(2 * lmax + 1)])  # [Y, E]
    bases = {
        target: jnp.einsum(
            "ye,ykp->ekp",
            stacked,
            jnp.asarray(_coupling_tensor(lmax, target), stacked.dtype),
        )
        for target in range(lmax + 1)
    }
    return Steering(values, bases)


class RadialHidden(hk.Module):
    """Hidden layers of several radial networks side by side.

    Each has two of them with layer normalisation and ReLU. The weights of all networks
    are stacked, so that a layer is one product however many networks there are.
    """

    def __init__(self, num_networks: int, size: int, name: str | None = None):
        super().__init__(name=name)
        self.num_networks = num_networks
        self.size = size

    def __call__(self, values: Array) -> list[Array]:
        """[E, R] -> [E, size] for each network."""
        outputs: Array = values
        for index, equation in enumerate(("er,prh->peh", "per,prh->peh")):
            num_inputs = outputs.shape[-1]
            shape = (self.num_networks, num_inputs, self.size)
            w = hk.get_parameter(f"w_{index}", shape, values.dtype, KAIMING_UNIFORM)
            b = hk.get_parameter(
                f"b_{index}",
                (self.num_networks, 1, self.size),
                values.dtype,
                mlp.uniform_fan_in(num_inputs),
            )
            norm = hk.LayerNorm(-1, True, True, param_axis=(0, 2), name=f"norm_{index}")
            outputs = jax.nn.relu(norm(jnp.einsum(equation, outputs, w) + b))
        # Unlike that of slices, the transpose of a split is one concatenation.
        return [part[0] for part in jax.lax.split(outputs, [1] * self.num_networks, 0)]


class Kernels(hk.Module):
    """Kernels applied to the features of the sending nodes: sum_k W^{lk}(x_ij) f_j^k.

    The outputs have several parts, as values and keys, side by side. Radial functions
    are the last layers of networks: one network per part and pair of degrees k, l,
    whose last layer is a matrix with columns in the order of channel in, coupling J,
    channel out; or, if `shared_radial`, one network for all, whose last layer is one
    matrix per degree k, with columns in the order of channel in, degree l, coupling J,
    part, channel out. The channels are mixed before the couplings, so that the
    couplings see the fewer ones.
    """

    def __init__(
        self,
        parts: Sequence[Channels],
        radial_size: int,
        shared_radial: bool,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.parts = parts
        self.radial_size = radial_size
        self.shared_radial = shared_radial
        irreps = sorted({irrep for part in parts for irrep in part})
        self.channels = {
            irrep: sum(part.get(irrep, 0) for part in parts) for irrep in irreps
        }

    def __call__(
        self, nodes: Features, steering: Steering, graph: Graph
    ) -> EdgeFeatures:
        """Node features of degrees 0, 1, ... without a gap -> [E, 2l + 1, C] each."""
        senders = {}
        for irrep, values in sorted(nodes.items()):
            rows = graphs.gather_senders(_rows(values), graph)
            shape = (graph.bucket.max_edges, irrep.dim, values.shape[-1])
            senders[irrep] = rows.reshape(shape)
        self._tell(nodes)
        mix = self._mix_shared if self.shared_radial else self._mix_separate
        mixed = mix(senders, steering.radial)
        outputs = {}
        for out in self.channels:
            blocks = [
                part.reshape(
                    graph.bucket.max_edges, math.prod(part.shape[1:3]), part.shape[3]
                )
                for part in mixed[out]
            ]
            stacked = jnp.concatenate(blocks, axis=1)  # [E, P, C]
            basis = steering.bases[out.l][..., : stacked.shape[1]]
            outputs[out] = jnp.einsum("emp,epc->emc", basis, stacked)
        return outputs

    def _tell(self, nodes: Features) -> None:
        """Let a picture know which degrees J couple k to l."""
        couplings = [
            capture.Coupling(source, steerable.natural_irrep(degree), out)
            for source in sorted(nodes)
            for out in self.channels
            for degree in range(abs(source.l - out.l), source.l + out.l + 1)
        ]
        sizes = {irrep: values.shape[-1] for irrep, values in nodes.items()}
        capture.record_product(self.module_name, sizes, self.channels, couplings)

    @hk.transparent
    def _mix_shared(self, senders: EdgeFeatures, values: Array) -> Mixed:
        """With one network: one matrix product per edge and degree in."""
        (hidden,) = RadialHidden(1, self.radial_size, name="radial")(values)
        mixed: Mixed = {out: [] for out in self.channels}
        for irrep, sent in senders.items():
            shapes = {
                out: (num_couplings(irrep.l, out.l), num)
                for out, num in self.channels.items()
            }
            sizes = [math.prod(shape) for shape in shapes.values()]
            products = _mix(sent, hidden, sum(sizes), f"radial_{irrep}")
            parts = jax.lax.split(products, sizes, 2)
            for (out, shape), part in zip(shapes.items(), parts, strict=True):
                mixed[out].append(part.reshape(*part.shape[:2], *shape))
        return mixed

    @hk.transparent
    def _mix_separate(self, senders: EdgeFeatures, values: Array) -> Mixed:
        """With one network per part and pair of degrees.

        Their weights are many times larger than what they make, and are not joined.
        """
        pairs = [
            (irrep, out, part)
            for irrep in senders
            for out in self.channels
            for part, channels in enumerate(self.parts)
            if out in channels
        ]
        networks = RadialHidden(len(pairs), self.radial_size, name="radial")(values)
        blocks: dict[tuple[Irrep, Irrep], list[Array]] = {}
        for (irrep, out, part), hidden in zip(pairs, networks, strict=True):
            shape = (num_couplings(irrep.l, out.l), self.parts[part][out])
            name = f"radial_{part}_{irrep}_{out}"
            products = _mix(senders[irrep], hidden, math.prod(shape), name)
            block = products.reshape(*products.shape[:2], *shape)
            blocks.setdefault((irrep, out), []).append(block)
        mixed: Mixed = {out: [] for out in self.channels}
        for (_, out), parts in blocks.items():
            mixed[out].append(jnp.concatenate(parts, axis=-1))
        return mixed


def _mix(senders: Array, hidden: Array, num_outputs: int, name: str) -> jax.Array:
    """Channels mixed by radial functions: [E, 2k + 1, C] -> [E, 2k + 1, num_outputs].

    The functions are the last layer of a network with hidden values [E, H].
    """
    num_edges, _, num_inputs = senders.shape
    linear = mlp.Linear(num_inputs * num_outputs, w_init=KAIMING_UNIFORM, name=name)
    weights = linear(hidden).reshape(num_edges, num_inputs, num_outputs)
    return jnp.einsum("emc,eco->emo", senders, weights)


class PointConvolution(hk.Module):
    """Mean of the kernels over the neighbours, and a self-interaction.

    Source: as the module, and Satorras et al. 2021, arXiv 2102.09844, appendix C, for
    the mean and for a self-interaction that mixes the node's own channels.
    """

    def __init__(
        self,
        channels: Channels,
        radial_size: int,
        shared_radial: bool,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.channels = channels
        self.radial_size = radial_size
        self.shared_radial = shared_radial

    def __call__(self, nodes: Features, steering: Steering, graph: Graph) -> Features:
        """{irrep: [2l + 1, N, C]} -> {irrep: [2l + 1, N, channels[irrep]]}."""
        messages = Kernels(
            [self.channels], self.radial_size, self.shared_radial, name="kernels"
        )(nodes, steering, graph)
        own = steerable.Linear(self.channels, with_bias=False, name="self_interaction")(
            nodes
        )
        outputs = {}
        for irrep, values in messages.items():
            rows = values.reshape(graph.bucket.max_edges, irrep.dim * values.shape[-1])
            received = graphs.mean_to_receivers(rows, graph)
            outputs[irrep] = _components(received, irrep)
            if irrep in own:
                outputs[irrep] += own[irrep]
        return outputs


class NormNonlinearity(hk.Module):
    """ReLU(LN(|f|)) f / |f| for each degree, LN over the channels.

    Source: Fuchs et al. 2020, arXiv 2006.10503. A feature of norm zero stays zero, with
    zero gradient.

    Attributes:
      mixes: whether a linear layer mixes the channels of ReLU(LN(|f|)).
    """

    def __init__(self, mixes: bool, name: str | None = None):
        super().__init__(name=name)
        self.mixes = mixes

    def __call__(self, features: Features) -> Features:
        """{irrep: [2l + 1, N, C]} -> the same shapes."""
        outputs = {}
        for irrep, values in features.items():
            norms = geometry.safe_norm(values, axis=0)  # [N, C]
            scales: Array = jax.nn.relu(attention.layer_norm(norms, f"norm_{irrep}"))
            if self.mixes:
                scales = mlp.Linear(
                    norms.shape[-1], w_init=KAIMING_UNIFORM, name=f"linear_{irrep}"
                )(scales)
            outputs[irrep] = values * (scales / jnp.where(norms > 0, norms, 1.0))
        return outputs


def _rows(values: jax.Array) -> jax.Array:
    """[2l + 1, N, C] -> [N, (2l + 1) C], one row per node for a gather."""
    return jnp.swapaxes(values, 0, 1).reshape(values.shape[1], -1)


def _components(rows: jax.Array, irrep: Irrep) -> jax.Array:
    """[N, (2l + 1) C] -> [2l + 1, N, C]."""
    return jnp.swapaxes(rows.reshape(rows.shape[0], irrep.dim, -1), 0, 1)
