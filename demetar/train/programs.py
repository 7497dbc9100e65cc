"""Programs that are compiled on first use, and the time that they take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from demetar.distributed.placement import Placement
from demetar.train.program_cache import ProgramCache
from demetar.train.stopwatch import Stopwatch


class Programs:
    """The compiled programs of a run by name. Each accepts one set of shapes.

    Args:
      placement: of their arrays.
      cache: where they are kept between runs; None for nowhere.

    Attributes:
      stopwatch: counts 'compile_seconds' and 'call_seconds', waiting for the results
        included.
      num_compiled: programs of `call` so far.
      telling: gives a context in which a program is compiled, to tell a person.
    """

    def __init__(self, placement: Placement, cache: ProgramCache | None):
        self.stopwatch = Stopwatch()
        self.num_compiled = 0
        self.telling: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
        self._placement = placement
        self._cache = cache
        self._compiled: dict[str, Any] = {}

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, Any, Any],
        out_axis: int | None = None,
        donate: tuple[int, ...] = (),
    ) -> Any:
        """What `function(*args)` returns, by the program of that name.

        Args:
          name: of the program; that of `function` and of these shapes.
          function, args, out_axis, donate: of `Placement.compile`.
        """
        if name not in self._compiled:
            with self.stopwatch.timing("compile_seconds"), self.telling():
                self._compiled[name] = self.kept(
                    name,
                    args,
                    self._placement.devices,
                    lambda: self._placement.compile(function, args, out_axis, donate),
                )
            self.num_compiled += 1
        with self.stopwatch.timing("call_seconds"):
            return jax.block_until_ready(self._compiled[name](*args))

    def kept(
        self,
        name: str,
        args: Any,
        devices: Sequence[jax.Device],
        make: Callable[[], Any],
    ) -> Any:
        """What `make` compiles for `args` and `devices`, or the same from the cache."""
        return self._cache.get(name, args, devices, make) if self._cache else make()


def over_replicas(
    function: Callable[..., Any], axes: tuple[int, ...], num_replicas: int, on_cpu: bool
) -> Callable[..., Any]:
    """`function` of one replica, for all of them; results along axis 0.

    One after the other on a CPU, whose cores are busy with one and whose caches do
    not hold several, else side by side.

    Args:
      function: of one replica.
      axes: of the replicas R, for each argument.
      num_replicas: R.
      on_cpu: whether it runs on a CPU.
    """
    if num_replicas > 1 and not on_cpu:
        return jax.vmap(function, in_axes=axes)

    def in_turn(*args: Any) -> Any:
        replicas_first = tuple(
            jax.tree.map(lambda leaf, axis=axis: jnp.moveaxis(leaf, axis, 0), arg)
            for arg, axis in zip(args, axes, strict=True)
        )
        if num_replicas > 1:
            return jax.lax.map(lambda own: function(*own), replicas_first)
        own = jax.tree.map(lambda leaf: leaf[0], replicas_first)
        return jax.tree.map(lambda leaf: leaf[None], function(*own))

    return in_turn
