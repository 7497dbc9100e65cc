"""TFN of the comparison code of EGNN, against `n_body_system/se3_dynamics`."""

from __future__ import annotations

from tests.support import authors
from tests.support.author_kernels import Placement, load


def place(placement: Placement, num_layers: int, size: int) -> None:
    """All weights of a file, layer by layer."""
    sources, hidden = {0: 1, 1: 1}, {0: size, 1: size}
    for layer in range(num_layers - 1):
        placement.convolution(
            f"convolution_{layer}", f"block0.{2 * layer}", sources, [0, 1]
        )
        for degree in hidden:
            irrep = placement.irrep(degree)
            theirs = f"block0.{2 * layer + 1}.transform.{degree}"
            ours = f"nonlinearity_{layer}"
            placement.norm(f"{ours}/norm_{irrep}", f"{theirs}.0")
            placement.linear(f"{ours}/linear_{irrep}", f"{theirs}.2")
        sources = hidden
    placement.convolution("output", f"block0.{2 * (num_layers - 1)}", sources, [1])


def _load(data: authors.Data) -> authors.Loaded:
    return load("tfn", data, place)


CASES = [
    authors.Case("tfn", "tfn", _load),
    authors.Case("tfn", "tfn_shared_radial", _load, slow=True),
]
