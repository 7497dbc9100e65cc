"""RDKit, an optional package, which says nothing on stderr meanwhile."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from demetar.errors import UserError

INSTALL = "python -m pip install '.[generation]'"


def is_available() -> bool:
    """Whether RDKit is installed."""
    return importlib.util.find_spec("rdkit") is not None


def version(purpose: str) -> str:
    """The version of RDKit.

    Args:
      purpose: what it is needed for.

    Raises:
      UserError: it is not installed.
    """
    try:
        from rdkit import rdBase
    except ImportError:
        raise UserError(
            f"expected RDKit for {purpose}, found none; install it with {INSTALL}"
        ) from None
    return str(rdBase.rdkitVersion)


@contextlib.contextmanager
def chem(purpose: str) -> Iterator[Any]:
    """RDKit's module of molecules.

    Args:
      purpose: of `version`.

    Raises:
      UserError: it is not installed.
    """
    version(purpose)
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        yield Chem
