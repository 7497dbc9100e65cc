"""The Equiformer in e3nn's layers with the weights of ours: every one finds its place.

`tests/e3nn_equiformer_test.py` holds the network to the authors' and to ours with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from demetar.types import Params
from experiments.benchmark import e3nn_equiformer, torch_side

torch = torch_side.torch


def make(config: e3nn_equiformer.Config, params: Params) -> e3nn_equiformer.Equiformer:
    """The network with the parameters of ours.

    Raises:
      ValueError: a parameter of the network is left without a value.
    """
    dtype = getattr(torch, str(next(iter(jax.tree.leaves(params))).dtype))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # of the coefficients in e3nn's code
    try:
        model = e3nn_equiformer.of(config)
    finally:
        torch.set_default_dtype(before)
    count = 0
    with torch.no_grad():
        for tensor, module, leaf, scale in _places(model):
            value = np.array(params[f"equiformer/{module}".rstrip("/")][leaf])
            # The gates of what is left out come last.
            tensor.copy_(scale * torch.tensor(value)[..., : tensor.shape[-1]])
            count += tensor.numel()
    expected = torch_side.num_params(model)
    if count != expected:
        raise ValueError(f"placed {count} of {expected} parameters")
    return model


Places = Iterator[tuple[Any, str, str, float]]  # tensor, module and leaf of ours, scale


def _places(model: e3nn_equiformer.Equiformer) -> Places:
    """A view of every parameter, and where it comes from."""
    yield from _dense(model.embedding, "embedding", "_0e")
    for name in ("mean", "width", "factor", "shift"):
        yield getattr(model.basis, name), "basis", name, 1.0
    yield from _radial(model.degree_radial, "degree_radial")
    yield from _linear(model.degree_linear, "degree_linear")
    yield model.degree_bias, "", "degree_bias", 1.0
    for index, layer in enumerate(model.layers):
        yield from _block(layer, index)
    yield from _norm(model.norm, "norm", "scale_0e")
    for index in range(2):
        yield from _dense(model.readout[2 * index], f"readout_energy/linear_{index}")


def _block(layer: e3nn_equiformer.Block, index: int) -> Places:
    for number, norm in enumerate((layer.norm_0, layer.norm_1)):
        name = f"norm_{index}_{number}"
        yield from _norm(norm.scalars, name, "scale_0e")
        for scale, irrep in zip(norm.scales, norm.irreps, strict=True):
            yield scale, name, f"scale_{irrep}", 1.0
    yield from _radial(layer.radial, f"radial_{index}")
    for name in ("senders", "receivers", "message", "value", "projection"):
        yield from _linear(getattr(layer, name), f"{name}_{index}")
    yield layer.attention, "", f"attention_{index}", 1.0
    for number, linear in enumerate((layer.first, layer.second)):
        yield from _linear(linear, f"feed_forward_{index}_{number}")
    if not isinstance(layer.shortcut, torch.nn.Identity):
        yield from _linear(layer.shortcut, "shortcut")


def _linear(linear: Any, module: str) -> Places:
    """Of e3nn, which divides by the root of the number of inputs."""
    start = 0
    for path in (path for path in linear.instructions if path.i_in >= 0):  # no bias
        stop = start + math.prod(path.path_shape)
        view = linear.weight[start:stop].view(path.path_shape)
        irrep = linear.irreps_in[path.i_in].ir
        yield view, module, f"w_{irrep}", 1 / path.path_weight
        start = stop
    if linear.bias.numel():
        yield linear.bias, module, "b_0e", 1.0


def _dense(linear: Any, module: str, suffix: str = "") -> Places:
    yield linear.weight.T, module, f"w{suffix}", 1.0
    yield linear.bias, module, f"b{suffix}", 1.0


def _norm(norm: Any, module: str, scale: str) -> Places:
    yield norm.weight, module, scale, 1.0
    yield norm.bias, module, "offset", 1.0


def _radial(network: Any, module: str) -> Places:
    for index in range(0, len(network), 3):
        yield from _dense(network[index], f"{module}/linear_{index // 3}")
        if index + 1 < len(network):
            yield from _norm(network[index + 1], f"{module}/norm_{index // 3}", "scale")
