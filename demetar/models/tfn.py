"""Tensor field network.

Source: Thomas et al. 2018, arXiv 1802.08219, section 4; with the choices that the
comparison of Satorras et al. 2021, arXiv 2102.09844, appendix C, made for N-body.

Differs from the paper: as in that comparison, the kernels mix channels, messages are
averaged, the self-interaction reads the node before the convolution, and the
nonlinearity acts on normalised norms. Each pair of degrees has its own radial network,
unless `shared_radial` is on. Beside the distances they read the edge features, unless
`read_edges` is off as in the comparison.

Differs from the authors' code: with the fields of the protocol 'paper' it is the same
function (to 1e-14, gradients by positions included, against vgsatorras/egnn e9ca6c0).
They hold the harmonics constant in gradients by positions, which are then off by as
much as their size, and compute them in float32, which changes outputs by 1e-7 of their
size. Their nodes without neighbours have the output zero, ours the self-interaction.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from demetar.models import base
from demetar.nn import capture, kernels, readout
from demetar.types import Array, Graph


@dataclasses.dataclass
class TFN(base.Model):
    """Point convolutions with learned radial functions, and norm nonlinearities.

    The defaults have 134,192 parameters on N-body, the comparison 127,024.

    Attributes:
      hidden_size: channels of each degree.
      lmax: highest degree of the features.
      num_layers: point convolutions, the last of which makes the outputs.
      radial_size: hidden channels of the radial functions.
      num_basis: Gaussians of the distance that they read; 0: the distance itself.
      read_edges: whether they read the edge features too.
      shared_radial: whether the radial functions of a layer share their hidden layers.
      node_inputs: invariants that the nodes start from, beside the vectors.
    """

    symmetry: ClassVar[str] = "SE(3)"
    supports: ClassVar[frozenset[str]] = readout.KINDS
    small = {"hidden_size": 11, "num_layers": 2, "num_basis": 5}

    hidden_size: int = 16
    lmax: int = 1
    num_layers: int = 4
    radial_size: int = 32
    num_basis: int = 16
    read_edges: bool = True
    shared_radial: bool = False
    node_inputs: tuple[str, ...] = ("charge",)

    def __call__(self, graph: Graph, is_training: bool) -> dict[str, Array]:
        kernels.check_degrees("tfn", self.lmax)
        steering = kernels.steer(
            graph, self.task, self.lmax, self.num_basis, self.read_edges
        )
        hidden = kernels.hidden_channels(self.lmax, self.hidden_size)
        last = kernels.output_channels(self.task, self.hidden_size)

        def convolve(
            channels: kernels.Channels, name: str, nodes: kernels.Features
        ) -> kernels.Features:
            layer = kernels.PointConvolution(
                channels, self.radial_size, self.shared_radial, name=name
            )
            return layer(nodes, steering, graph)

        nodes = kernels.input_features(graph.nodes, self.task, self.node_inputs)
        for layer in range(self.num_layers - 1):
            nodes = convolve(hidden, f"convolution_{layer}", nodes)
            nodes = kernels.NormNonlinearity(mixes=True, name=f"nonlinearity_{layer}")(
                nodes
            )
            for irrep, values in nodes.items():
                capture.record(f"features_{layer}_{irrep}", values)
        outputs = convolve(last, "output", nodes)
        return kernels.output_heads(self.task, outputs, graph)
