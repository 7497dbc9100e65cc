"""Intermediate values of a forward pass, for pictures and tests.

    with capture.recording() as values:
        outputs = model.apply(params, key, graph, False)
    values["attention_0"]

The values are those that the pass used. Inside a jitted function, return them from it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from demetar.types import Array

_values: contextvars.ContextVar[dict[str, Array] | None] = contextvars.ContextVar(
    "captured values", default=None
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
