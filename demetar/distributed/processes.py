"""What several processes of one run agree on.

All of them run the same Python, and call the functions of this module in the same
order. Process 0, the main one, alone reads and writes the work directory. With one
process every function here is a plain call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from demetar.errors import UserError

T = TypeVar("T")

_HEAD = 8  # bytes that tell a length
_PART_BYTES = 2**16


def num_processes() -> int:
    """Processes of this run. Asks for no device if there is but one."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes."""
    return num_processes() == 1 or jax.process_index() == 0


def from_main(function: Callable[[], Any]) -> Any:
    """What `function` returns on the main process, the only one that calls it.

    Args:
      function: returns JSON data.

    Raises:
      UserError: the main process raised one. So do all.
    """
    if num_processes() == 1:
        return function()
    told = {}
    if is_main():
        try:
            told = {"value": function()}
        except UserError as error:
            told = {"error": str(error)}
    told = json.loads(_broadcast(json.dumps(told).encode()))
    if "error" in told:
        raise UserError(told["error"])
    return told["value"]


def tree_from_main(tree: T) -> T:
    """A tree of arrays of the same shapes as the main process has it."""
    if num_processes() == 1:
        return tree

    leaves, structure = jax.tree.flatten(tree)
    arrays = [
        np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for leaf in leaves
    ]
    content = _broadcast(b"".join(array.tobytes() for array in arrays))
    start, found = 0, []
    for leaf, array in zip(leaves, arrays, strict=True):
        flat = np.frombuffer(content, array.dtype, array.size, start)
        start += array.nbytes
        own = jnp.array(flat.reshape(array.shape))
        if _is_key(leaf):
            own = jax.random.wrap_key_data(own, impl=jax.random.key_impl(leaf))
        found.append(own)
    result: T = jax.tree.unflatten(structure, found)
    return result


def main_first(function: Callable[[], T]) -> T:
    """`function()` on the main process, then on the others, who find its files.

    Raises:
      UserError: `function` raised one on the main process: the others do not call it.
    """
    done: list[T] = []
    from_main(lambda: done.append(function()))
    return done[0] if done else function()


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    if num_processes() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array([flag])).any())


def check_same(what: dict[str, Any]) -> None:
    """Make sure that all processes were asked for the same.

    Args:
      what: JSON data by name.

    Raises:
      UserError: a process differs from the main one, in all processes.
    """
    if num_processes() == 1:
        return
    own = json.loads(json.dumps(what))
    expected = from_main(lambda: own)
    changed = [
        f"{name} is {own.get(name)!r} and not {expected.get(name)!r}"
        for name in sorted({*own, *expected})
        if own.get(name) != expected.get(name)
    ]
    if any_process(bool(changed)):
        found = "; ".join(changed) or "another process differs from process 0"
        raise UserError(
            f"expected the same command and data in every process, found in process "
            f"{jax.process_index()}: {found}; start all with the same flags but "
            "--process_id"
        )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _broadcast(content: bytes) -> bytes:
    """What the main process has. Parts of one size, so that one program sends all."""
    parts, size, sent = [], -1, 0
    while size < 0 or sent < size + _HEAD:
        own = len(content).to_bytes(_HEAD, "big") + content
        part = np.zeros(_PART_BYTES, np.uint8)
        here = np.frombuffer(own[sent : sent + _PART_BYTES], np.uint8)
        part[: len(here)] = here
        found = np.asarray(multihost_utils.broadcast_one_to_all(part))
        parts.append(found.astype(np.uint8).tobytes())
        size = int.from_bytes(parts[0][:_HEAD], "big")
        sent += _PART_BYTES
    return b"".join(parts)[_HEAD : _HEAD + size]
