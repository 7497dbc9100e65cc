"""SE(3)-Transformer of the comparison code of EGNN, against its `se3_dynamics`."""

from __future__ import annotations

import numpy as np

from tests.support import authors
from tests.support.author_kernels import Placement, load

HIDDEN = [0, 1, 2]


def place(placement: Placement, num_layers: int, size: int) -> None:
    """All weights of a file, layer by layer."""
    sources = {0: 1, 1: 1}
    for layer in range(num_layers):
        theirs = f"Gblock.{2 * layer}.GMAB"
        placement.kernels(
            f"kernels_{layer}",
            [(f"{theirs}.v", HIDDEN), (f"{theirs}.k", list(sources))],
            sources,
        )
        queries = {
            degree: placement.take(f"{theirs}.q.transform.{degree}")
            for degree in sources
        }
        placement.mixes(f"queries_{layer}", queries)
        for degree in HIDDEN:
            placement.norm(
                f"nonlinearity_{layer}/norm_{placement.irrep(degree)}",
                f"Gblock.{2 * layer + 1}.transform.{degree}.0",
            )
        sources = dict.fromkeys(HIDDEN, size)
    placement.convolution("output", f"Gblock.{2 * num_layers}", sources, [1])
    (scale,) = placement.take("scalar_trick")
    placement.tree["se3_transformer"] = {"output_scale": np.array(scale)}


def _load(data: authors.Data) -> authors.Loaded:
    return load("se3_transformer", data, place)


CASES = [
    authors.Case("se3_transformer", "se3_transformer", _load),
    authors.Case("se3_transformer", "se3_transformer_shared_radial", _load, slow=True),
]
