"""Intermediate values of a forward pass, for pictures and tests.

    with capture.recording() as values:
        outputs = model.apply(params, key, graph, False)
    values["attention_0"]

The values are those that the pass used. Inside a jitted function, return them from it.
Tensor products are told in another list, since they are no arrays. If nobody records,
a model computes as if nothing here were there.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from demetar.types import Array

_values: contextvars.ContextVar[dict[str, Array] | None] = contextvars.ContextVar(
    "captured values", default=None
)


class Coupling(NamedTuple):
    """One path of a tensor product, first x second -> out, as irreps.

    Attributes:
      weights: module, name, first row and end of its learned weights; None if they are
        functions of the edge.
    """

    first: Any
    second: Any
    out: Any
    weights: tuple[str, str, int, int] | None = None


class Product(NamedTuple):
    """A tensor product that a model computes.

    Attributes:
      name: of the layer.
      inputs, outputs: channels of each irrep.
      couplings: its paths.
    """

    name: str
    inputs: Mapping[Any, int]
    outputs: Mapping[Any, int]
    couplings: Sequence[Coupling]


_products: contextvars.ContextVar[list[Product] | None] = contextvars.ContextVar(
    "tensor products", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[dict[str, Array]]:
    """Collect what the code within records: {name: array}."""
    values: dict[str, Array] = {}
    token = _values.set(values)
    try:
        yield values
    finally:
        _values.reset(token)


def is_recording() -> bool:
    """Whether somebody wants the values, those of every edge among them."""
    return _values.get() is not None


def record(name: str, value: Array) -> None:
    """Keep a value under a name if somebody is recording; else do nothing."""
    values = _values.get()
    if values is not None:
        values[name] = value


@contextlib.contextmanager
def recording_products() -> Iterator[list[Product]]:
    """Collect the tensor products that the code within computes, in their order."""
    products: list[Product] = []
    token = _products.set(products)
    try:
        yield products
    finally:
        _products.reset(token)


def record_product(
    name: str,
    inputs: Mapping[Any, int],
    outputs: Mapping[Any, int],
    couplings: Sequence[Coupling],
) -> None:
    """Keep what a tensor product couples if somebody asked for that."""
    products = _products.get()
    if products is not None:
        products.append(Product(name, dict(inputs), dict(outputs), list(couplings)))
