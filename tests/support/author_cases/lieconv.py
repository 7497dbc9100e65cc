"""LieConv over T(3) against mfinzi/LieConv.

After training, batch normalisation is one scale and one offset for each channel. Those
of the kernel's network follow a linear layer, which they are put into; the others are
our 'affine' norm.
"""

from __future__ import annotations

import functools

import numpy as np

from demetar import models
from demetar.types import Head, TaskSpec
from tests.support import author_weights, authors

TASK = TaskSpec(
    name="golden molecules",
    heads=(Head("energy", "graph_scalar"),),
    scalars=tuple(f"{s}_{power}" for s in "HCNOF" for power in range(3)),
)
BATCH_NORM_EPSILON = 1e-5
DISTANCE_SCALE = 0.2  # theirs of translations, in which their radius is


def load(data: authors.Data, norm: str) -> authors.Loaded:
    """Graphs that join all pairs of a molecule within the radius of the file."""
    config = authors.config(data)
    layers = range(config["num_layers"])
    (radius,) = {float(data[f"buffer/net.{layer + 1}.conv.r"]) for layer in layers}
    sizes = np.bincount(data["batch"])
    positions = data["positions"]
    senders, receivers = authors.complete_edges(sizes)
    lengths = np.linalg.norm(positions[senders] - positions[receivers], axis=-1)
    near = DISTANCE_SCALE * lengths < radius
    graph = authors.ragged_graph(
        positions, data["node_features"], senders[near], receivers[near], sizes
    )
    fields = {
        "hidden_size": config["k"],
        "num_layers": len(layers),
        "norm": norm,
        "kernel_sizes": tuple(config["weightnet"][1:-1]),
        "kernel_rank": config["weightnet"][-1],
    }
    model = models.build("lieconv", TASK, fields)
    arrays = {key: value for key, value in data.items() if not _is_count(key)}
    placement = author_weights.Placement(model, graph, arrays, ("param/", "buffer/"))
    placement.linear("embedding", "net.0.module")
    for layer in layers:
        _place_block(placement, layer, fields["kernel_rank"])
    last = len(layers) + 1
    _place_norm(placement, "norm", f"net.{last}")
    placement.linear("readout_energy", f"net.{last + 2}.module")

    output = authors.graph_outputs(model, graph, "energy", len(sizes))
    return authors.Loaded(
        placement.finish(),
        output,
        positions,
        data["prediction"],
        data["grad_positions"],
    )


def _is_count(key: str) -> bool:
    """Buffers that no output depends on, and the radius, which chose the edges."""
    return key.endswith((".num_batches_tracked", ".conv.r"))


def _place_block(
    placement: author_weights.Placement, layer: int, kernel_rank: int
) -> None:
    theirs = f"net.{layer + 1}"
    for step, position in enumerate((0, 3, 6)):
        _place_norm(placement, f"norm_{layer}_{step}", f"{theirs}.net.{position}")
    placement.linear(f"narrow_{layer}", f"{theirs}.net.2.module")
    placement.linear(f"widen_{layer}", f"{theirs}.net.8.module")
    network = f"{theirs}.conv.weightnet"
    normed = placement.has(f"{network}.1.running_mean")
    for step in range(3):
        position = step * (3 if normed else 2)
        weight, bias = (
            placement.take(f"{network}.{position}.module.{leaf}")
            for leaf in ("weight", "bias")
        )
        if normed:
            scale, offset = _batch_norm(placement, f"{network}.{position + 1}")
            weight, bias = weight * scale[:, None], bias * scale + offset
        placement.put(f"kernel_{layer}/linear_{step}", "w", weight.T)
        placement.put(f"kernel_{layer}/linear_{step}", "b", bias)
    # Their products have the kernel's axis last, ours first.
    weight = placement.take(f"{theirs}.conv.linear.weight")
    blocks = weight.reshape(len(weight), -1, kernel_rank)
    ordered = blocks.transpose(2, 1, 0).reshape(-1, len(weight))
    placement.put(f"convolution_{layer}", "w", ordered)
    bias = placement.take(f"{theirs}.conv.linear.bias")
    placement.put(f"convolution_{layer}", "b", bias)


def _place_norm(placement: author_weights.Placement, ours: str, theirs: str) -> None:
    if placement.has(f"{theirs}.ln.weight"):
        scale, offset = (placement.take(f"{theirs}.ln.{k}") for k in ("weight", "bias"))
    else:
        scale, offset = _batch_norm(placement, theirs)
    placement.put(ours, "scale", scale)
    placement.put(ours, "offset", offset)


def _batch_norm(
    placement: author_weights.Placement, theirs: str
) -> tuple[np.ndarray, np.ndarray]:
    """The scale and the offset that it has with the statistics of the training."""
    mean, variance, weight, bias = (
        placement.take(f"{theirs}.{leaf}")
        for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    scale = weight / np.sqrt(np.maximum(variance, BATCH_NORM_EPSILON))
    return scale, bias - mean * scale


CASES = [
    authors.Case("lieconv", "lieconv", functools.partial(load, norm="affine")),
    authors.Case(
        "lieconv", "lieconv_fixed_radius", functools.partial(load, norm="affine")
    ),
    authors.Case("lieconv", "lieconv_layernorm", functools.partial(load, norm="layer")),
]
