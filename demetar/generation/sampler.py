"""Molecules that a denoiser draws from noise, step by step.

    z_s ~ N(z_t / a - s^2 epsilon(z_t) / (a sigma_t), (s sigma_s / sigma_t)^2)

with a = alpha_t / alpha_s and s^2 = sigma_t^2 - a^2 sigma_s^2, from t = T to 1, and
last x ~ N((z_0 - sigma_0 epsilon(z_0)) / alpha_0, (sigma_0 / alpha_0)^2). Source:
Hoogeboom, Satorras, Vignac, Welling 2022, arXiv 2203.17003, algorithm 2 and section
3.3; the same as Ho, Jain, Abbeel 2020, arXiv 2006.11239, for any schedule.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from demetar import graphs
from demetar.data.bonds import Progress, silent
from demetar.data.packing import Packing, make_packing
from demetar.data.samples import to_dtype
from demetar.distributed.placement import AXIS
from demetar.errors import UserError
from demetar.generation import dataset, noising, states
from demetar.generation.schedule import Schedule
from demetar.generation.structures import Structures
from demetar.types import Array, Graph, Params, TaskSpec

STEPS_PER_CALL = 50  # of one compiled program, so that a person hears of them in time
BYTES_PER_NUMBER = 8 * 6  # of what is drawn: as the device, the host and a file have it


class Kernel(NamedTuple):
    """The factors of one step from t to t - 1, each [T + 1]; row 0 is the last one."""

    keep: np.ndarray  # of z_t
    denoise: np.ndarray  # of the predicted noise, which is subtracted
    spread: np.ndarray  # of fresh noise


def kernel(schedule: Schedule) -> Kernel:
    """The factors of all steps, float64."""
    alphas, sigmas = schedule.alphas, schedule.sigmas
    ratio = alphas[1:] / alphas[:-1]
    between = np.square(sigmas[1:]) - np.square(ratio * sigmas[:-1])
    last = sigmas[0] / alphas[0]
    return Kernel(
        keep=np.append(1 / alphas[0], 1 / ratio),
        denoise=np.append(last, between / (ratio * sigmas[1:])),
        spread=np.append(last, np.sqrt(between) * sigmas[:-1] / sigmas[1:]),
    )


def sizes_like(n_node: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Numbers of atoms drawn from those of known molecules: [count]."""
    drawn: np.ndarray = np.random.default_rng([seed, 1]).choice(n_node, count)
    return drawn


def check_memory(count: int, num_atoms: int, task: TaskSpec, memory: float) -> None:
    """Refuse more molecules than fit, before anything is drawn.

    Args:
      count: of the molecules.
      num_atoms: of the largest one.
      task: of the denoiser.
      memory: that there is, in bytes.

    Raises:
      UserError: they would need more.
    """
    each = num_atoms * (len(task.scalars) + 2) * BYTES_PER_NUMBER
    if count * each > memory:
        raise UserError(
            f"expected a --num_samples that fits the memory of {memory / 1e9:.1f} GB, "
            f"found {count:,}, which need up to {count * each / 1e9:.1f} GB; ask for "
            f"at most {int(memory / each):,}, several times with other --sample_seed"
        )


class ToDraw(NamedTuple):
    """Molecules that one device draws at a time.

    Attributes:
      members: their numbers, in the order of the slots.
      slots: [G] the molecule of each slot; those of padding are of no matter.
      graph: without any molecules yet.
    """

    members: np.ndarray
    slots: np.ndarray
    graph: Graph


def batches_of(packing: Packing) -> list[ToDraw]:
    """All samples of a packing, to be drawn."""
    plan = packing.plan(np.arange(len(packing.samples.n_node)))
    arrays = packing.arrays()
    rows = [
        dict(zip(plan, row, strict=True)) for row in zip(*plan.values(), strict=True)
    ]
    return [
        ToDraw(
            row["sample"][row["weight"] > 0],
            row["sample"],
            packing.assemble(arrays, row).graph,
        )
        for row in rows
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Draws molecules with a denoiser.

    A molecule depends on its number, the seed, its size and the parameters alone, not
    on the batches that it is drawn in.

    Attributes:
      model: of `models.build` for the task.
      task: of `states.make_task`.
      schedule: that the model was trained with.
      batch_size: molecules at a time, on average.
      dtype: of the computation.
    """

    model: hk.Transformed
    task: TaskSpec
    schedule: Schedule
    batch_size: int = 64
    dtype: str = "float32"

    def draw(
        self,
        params: Params,
        n_node: np.ndarray,
        seed: int,
        progress: Progress = silent,
        *,
        numbers: np.ndarray | None = None,
        turn: np.ndarray | None = None,
    ) -> Structures:
        """One molecule for each number of atoms.

        Args:
          params: of the model.
          n_node: [M].
          seed: of all noise.
          progress: tells of the compiled calls.
          numbers: [M] of the molecules; None for 0, 1, ...
          turn: [3, 3] what all noise of positions is turned by; None for nothing.

        Returns:
          The molecules, with NaN if the denoiser did not stay finite.
        """
        numbers = np.arange(len(n_node)) if numbers is None else numbers
        batches = self._batches(n_node)
        return self._structures(
            self.values(params, batches, numbers, seed, progress, turn=turn)
        )

    def values(
        self,
        params: Params,
        batches: list[ToDraw],
        numbers: np.ndarray,
        seed: int,
        progress: Progress = silent,
        *,
        turn: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """What is drawn of each molecule of some batches, [n, 3 + F].

        Args:
          params, seed, progress, turn: of `draw`.
          batches: of `batches_of`.
          numbers: [M] of the molecules.
        """
        drawn: list[np.ndarray] = [np.zeros(0)] * len(numbers)
        groups = self._groups(batches)

        def all_states() -> Iterator[tuple[list[ToDraw], np.ndarray]]:
            for group in groups:
                for _, values in self._walk(params, group, numbers, seed, turn):
                    yield group, values

        total = len(groups) * (1 + self._num_calls)
        for group, values in progress(all_states(), "drawing", total):
            for batch, own in zip(group, values, strict=True):
                parts = _parts(own, batch.graph)
                for member, part in zip(batch.members, parts, strict=False):
                    drawn[member] = part  # the last one stays
        return drawn

    def film(
        self, params: Params, size: int, number: int, seed: int, num_frames: int
    ) -> list[tuple[int, Structures]]:
        """One molecule on its way from noise: (t, the molecule then), t falling to 0.

        Args:
          params, seed: of `draw`.
          size, number: of the molecule, as `draw` has them.
          num_frames: about as many, of calls of `STEPS_PER_CALL` steps.
        """
        (group,) = self._groups(self._batches(np.array([size])))
        walk = self._walk(params, group, np.array([number]), seed, None)
        seen = [(time, _parts(own[0], group[0].graph)[:1]) for time, own in walk]
        kept = np.unique(np.linspace(0, len(seen) - 1, num_frames).round().astype(int))
        return [(seen[one][0], self._structures(seen[one][1])) for one in kept]

    def bare(self, graph: Graph) -> Graph:
        """The graph without what has no noise, as `noising` takes it."""
        return graph

    def told(self, graph: Graph, values: Array, times: Array) -> Graph:
        """What the model sees of values [N, 3 + F] at the times [G]."""
        return noising.with_values(graph, values, times, self.schedule)

    def noise_of(self, outputs: dict[str, Array]) -> jax.Array:
        """The noise [N, 3 + F] that the model predicts."""
        return noising.as_noise(outputs)

    def _batches(self, n_node: np.ndarray) -> list[ToDraw]:
        """The batches of molecules with these numbers of atoms."""
        total = int(n_node.sum())
        samples = dataset.complete_samples(
            np.zeros((total, 3)), np.zeros((total, len(self.task.scalars))), n_node
        )
        samples = to_dtype(samples, self.dtype)
        packing = make_packing(samples, self.task, self.batch_size)
        return batches_of(packing)

    def _groups(self, batches: list[ToDraw]) -> list[list[ToDraw]]:
        """Batches that the devices draw at a time; the last may have empty ones."""
        count = len(self._devices)
        empty = batches[-1]._replace(members=np.zeros(0, int))
        padded = batches + [empty] * (-len(batches) % count)
        return [padded[first : first + count] for first in range(0, len(padded), count)]

    @functools.cached_property
    def _devices(self) -> list[jax.Device]:
        return list(jax.local_devices())

    def _walk(
        self,
        params: Params,
        group: list[ToDraw],
        numbers: np.ndarray,
        seed: int,
        turn: np.ndarray | None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The time with positions and features [devices, N, 3 + F], from noise on."""
        last, calls = self.schedule.num_steps, self._num_calls
        graph = jax.tree.map(lambda *own: np.stack(own), *(own.graph for own in group))
        known = jnp.asarray(numbers[np.stack([own.slots for own in group])])
        fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))
        keys = fold(jax.random.key(seed), known)
        matrix = jnp.asarray(np.eye(3) if turn is None else turn, self.dtype)
        first = jax.vmap(_fresh, (0, None, 0, None))
        values = first(keys, last + 1, self.bare(graph), matrix)
        yield last, np.asarray(values)
        length = math.ceil((last + 1) / calls)
        times = np.arange(last, last - calls * length, -1, dtype=np.int32)
        for call in range(calls):
            own = times[call * length : (call + 1) * length]
            values = self._steps(params, graph, values, keys, matrix, own)
            yield max(int(own[-1]) - 1, 0), np.asarray(values)

    @property
    def _num_calls(self) -> int:
        return math.ceil((self.schedule.num_steps + 1) / STEPS_PER_CALL)

    @functools.cached_property
    def _steps(self) -> Callable[..., jax.Array]:
        """Some steps, one after the other, as one program of all devices."""
        factors = Kernel(*(own.astype(self.dtype) for own in kernel(self.schedule)))

        def steps(
            params: Params,
            graph: Graph,
            values: Array,
            keys: jax.Array,
            turn: Array,
            times: Array,
        ) -> jax.Array:
            mask, bare = graphs.node_mask(graph)[:, None], self.bare(graph)

            def step(values: jax.Array, time: Any) -> tuple[jax.Array, None]:
                row = jnp.maximum(time, 0)
                keep, denoise, spread = (jnp.asarray(own)[row] for own in factors)
                at = jnp.full(graph.bucket.num_graphs, row)
                told = self.told(graph, values, at)
                noise = self.noise_of(self.model.apply(params, None, told, False))
                moved = keep * values - denoise * noise
                moved = moved + spread * _fresh(keys, row, bare, turn)
                moved = noising.centred(jnp.where(mask, moved, 0), graph)
                return jnp.where(time >= 0, moved, values), None

            return jax.lax.scan(step, jnp.asarray(values), times)[0]

        def of_device(params: Params, *args: Any) -> jax.Array:
            graph, values, keys = jax.tree.map(lambda leaf: leaf[0], args[:3])
            return steps(params, graph, values, keys, *args[3:])[None]

        if len(self._devices) == 1:
            return jax.jit(of_device)
        shared, own = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.shard_map(
            of_device,
            mesh=jax.sharding.Mesh(np.array(self._devices), (AXIS,)),
            in_specs=(shared, own, own, own, shared, shared),
            out_specs=own,
            check_vma=False,
        )
        return jax.jit(mapped)

    def _structures(self, parts: Sequence[np.ndarray]) -> Structures:
        """Molecules of positions and features [n, 3 + F]."""
        values = np.concatenate(parts).astype(np.float64)
        return Structures(
            states.decode(values[:, 3:], states.species_of(self.task)),
            values[:, :3],
            np.array([len(part) for part in parts]),
        )


def _fresh(keys: jax.Array, time: Array | int, graph: Graph, turn: Array) -> jax.Array:
    """Noise of one time, its positions turned: [N, 3 + F]."""
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, time)
    noise = noising.draw_noise(own, graph)
    return jnp.concatenate([noise[:, :3] @ turn.T, noise[:, 3:]], axis=1)


def _parts(values: Array, graph: Graph) -> list[np.ndarray]:
    """Values of the atoms [N, 3 + F] of each graph."""
    return np.split(np.asarray(values), np.cumsum(graph.n_node)[:-1])
