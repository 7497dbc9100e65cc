"""Where the arrays of a run lie, and how its programs are compiled for the devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from demetar.data.packing import Plan

AXIS = "data"  # of the mesh of devices

_EVERYWHERE = PartitionSpec()


class Placement:
    """One device, or the mesh axis `AXIS` over several, of one or more hosts.

    States, parameters and data lie on every device; the last axis of a plan's arrays,
    that of the slots, is spread over them.

    Attributes:
      devices, num_devices: of all hosts.
      on_cpu: whether they are cores of processors.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        self.devices = tuple(devices)
        self.num_devices = len(devices)
        self.on_cpu = devices[0].platform == "cpu"
        self._mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
        self._everywhere = NamedSharding(self._mesh, _EVERYWHERE)

    def compile(
        self,
        function: Callable[..., Any],
        args: tuple[Any, Any, Plan],
        out_axis: int | None = None,
        donate: tuple[int, ...] = (),
    ) -> Any:
        """The compiled `function(tree, arrays, rows)`, which sees one device's slots.

        Args:
          function: to compile.
          args: what it will be called with; only shapes and places matter.
          out_axis: of its outputs, along which those of the devices are joined; None
            where all devices have the same outputs. Every host gets the whole.
          donate: arguments whose memory it may use.
        """
        if self.num_devices == 1:
            return jax.jit(function, donate_argnums=donate).lower(*args).compile()
        rows = _sharded_axis(args[2]["weight"].ndim - 1)
        joined = _EVERYWHERE if out_axis is None else _sharded_axis(out_axis)
        shared = jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=(_EVERYWHERE, _EVERYWHERE, rows),
            out_specs=joined,
            check_vma=False,  # what is the same everywhere is said by hand
        )
        # A host that sees all devices takes the parts from where they are.
        places = None if jax.process_count() == 1 else self._everywhere
        jitted = jax.jit(shared, donate_argnums=donate, out_shardings=places)
        return jitted.lower(*args).compile()

    def everywhere(self, tree: Any) -> Any:
        """The tree on every device. All hosts give the same values."""
        if self.num_devices == 1:
            return jax.tree.map(jnp.asarray, tree)
        return jax.tree.map(self._copy, tree)

    def rows(self, plan: Plan) -> Any:
        """A plan's arrays, of which each device gets its slots, and each host these."""
        if self.num_devices == 1:
            return jax.device_put(plan)
        return {
            name: jax.make_array_from_callback(
                value.shape,
                NamedSharding(self._mesh, _sharded_axis(value.ndim - 1)),
                value.__getitem__,
            )
            for name, value in plan.items()
        }

    def here(self, tree: Any) -> Any:
        """Of a tree that is the same everywhere, the copy on this host's first device.

        A computation on it concerns no other device.
        """
        if self.num_devices == 1:
            return tree
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def _copy(self, leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            if leaf.sharding == self._everywhere:
                return leaf
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                bits = self._copy(np.asarray(jax.random.key_data(leaf)))
                found: jax.Array = jax.random.wrap_key_data(
                    bits, impl=jax.random.key_impl(leaf)
                )
                return found
        value = np.asarray(leaf)
        return jax.make_array_from_callback(
            value.shape, self._everywhere, value.__getitem__
        )


def _sharded_axis(axis: int) -> PartitionSpec:
    return PartitionSpec(*[None] * axis, AXIS)
