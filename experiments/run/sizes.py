"""Sizes of a model that a person asks for: refused before they take memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from demetar import files, models
from demetar.errors import UserError

# Integers that may be 0; all others are counts and sizes of at least 1.
_MAY_BE_ZERO = frozenset(
    {
        *("lmax", "lmax_hidden", "lmax_attributes", "num_basis", "num_frames"),
        *("node_layers", "edge_layers", "joint_layers", "max_edge_tokens"),
    }
)
# The largest number, by a part of the field's name; the first one that fits.
_MOST = {
    "lmax": 11,
    "layers": 1_000,
    "readout_steps": 1_000,
    "substeps": 2**20,
    "": 2**16,
}

# Arrays of the size of the parameters that a training holds: parameters, gradients, two
# moments, the best ones.
_COPIES = 5


def check_fields(model: str, fields: Mapping[str, Any]) -> None:
    """Refuse sizes below 1, absurd ones, and numbers that are not finite.

    What the integers of one's own model are is not known.

    Args:
      model: its name.
      fields: as a person set them, of the right types.

    Raises:
      UserError: names the field.
    """
    for name, value in fields.items():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, bool):
                continue
            if isinstance(item, int) and not models.own.is_own(model):
                least = 0 if name in _MAY_BE_ZERO else 1
                most = next(most for part, most in _MOST.items() if part in name)
                if not least <= item <= most:
                    raise UserError(
                        f"expected {model}.{name} from {least} to {most:,}, found "
                        f"{item}; give another --set {name}="
                    )
            elif isinstance(item, float) and not math.isfinite(item):
                raise UserError(
                    f"expected a finite {model}.{name}, found {item}; give another "
                    f"--set {name}="
                )


def check_model(
    init: Callable[[], Any], num_replicas: int, assignments: Sequence[str]
) -> None:
    """Refuse a model that cannot be built, or whose training no memory can hold.

    Nothing is computed and no memory taken.

    Args:
      init: makes its parameters.
      num_replicas: that are trained side by side.
      assignments: of --set, for the error.

    Raises:
      UserError: as above.
    """
    given = " ".join(f"--set={assignment}" for assignment in assignments)
    try:
        params = jax.eval_shape(init)
    except UserError:
        raise
    except Exception as error:
        if not assignments:
            raise  # no fault of a person
        reason = f"{type(error).__name__}: {files.one_line(error)[:200]}"
        raise UserError(
            f"the model cannot be built with {given} ({reason}); give other values"
        ) from None
    leaves = jax.tree.leaves(params)
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    needed, found = size * num_replicas * _COPIES, memory()
    if needed > found:
        asked = f"--num_seeds={num_replicas} {given}".strip()
        raise UserError(
            f"a model of {count:,} parameters takes {needed / 2**30:,.0f} GiB to "
            f"train, found {found / 2**30:,.1f} GiB of memory; {asked}: ask for less"
        )


def memory() -> int:
    """Bytes of memory of the first device: all of it, whoever uses it now."""
    device = jax.local_devices()[0]
    told = device.memory_stats() if device.platform != "cpu" else None
    if told and "bytes_limit" in told:
        return int(told["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
