"""The precision of what jax computes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
from jax import experimental

from demetar.errors import UserError

DTYPES = ("float32", "float64")


def precision(dtype: str) -> AbstractContextManager[Any]:
    """A context in which jax knows 'float64', or 'float32' alone.

    Raises:
      UserError: the dtype is another one.
    """
    if dtype not in DTYPES:
        raise UserError(f"expected a dtype of {', '.join(DTYPES)}, found {dtype!r}")
    # Releases before 0.8 have it elsewhere.
    home: Any = jax if hasattr(jax, "enable_x64") else experimental
    context: AbstractContextManager[Any] = home.enable_x64(dtype == "float64")
    return context
