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

from demetar import graphs
from demetar.data.bonds import Progress, silent
from demetar.data.packing import make_packing
from demetar.data.samples import to_dtype
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
        drawn: list[np.ndarray] = [np.zeros(0)] * len(n_node)
        batches = self._batches(n_node)

        def states_of_all() -> Iterator[tuple[np.ndarray, Graph, np.ndarray]]:
            for members, graph, slots in batches:
                for _, values in self._walk(params, graph, numbers[slots], seed, turn):
                    yield members, graph, values

        total = len(batches) * (1 + self._num_calls)
        for members, graph, values in progress(states_of_all(), "drawing", total):
            for member, own in zip(members, _parts(values, graph), strict=False):
                drawn[member] = own  # the last one stays
        return self._structures(drawn)

    def film(
        self, params: Params, size: int, number: int, seed: int, num_frames: int
    ) -> list[tuple[int, Structures]]:
        """One molecule on its way from noise: (t, the molecule then), t falling to 0.

        Args:
          params, seed: of `draw`.
          size, number: of the molecule, as `draw` has them.
          num_frames: about as many, of calls of `STEPS_PER_CALL` steps.
        """
        ((_, graph, slots),) = self._batches(np.array([size]))
        numbers = np.full(len(slots), number)
        walk = self._walk(params, graph, numbers, seed, None)
        seen = [(time, _parts(values, graph)[:1]) for time, values in walk]
        kept = np.unique(np.linspace(0, len(seen) - 1, num_frames).round().astype(int))
        return [(seen[one][0], self._structures(seen[one][1])) for one in kept]

    def _batches(
        self, n_node: np.ndarray
    ) -> list[tuple[np.ndarray, Graph, np.ndarray]]:
        """Members, graph and the member of each slot of each batch."""
        total = int(n_node.sum())
        samples = dataset.complete_samples(
            np.zeros((total, 3)), np.zeros((total, len(self.task.scalars))), n_node
        )
        samples = to_dtype(samples, self.dtype)
        packing = make_packing(samples, self.task, self.batch_size)
        plan = packing.plan(np.arange(len(n_node)))
        arrays = packing.arrays()
        rows = [
            {name: value[index] for name, value in plan.items()}
            for index in range(len(plan["weight"]))
        ]
        return [
            (
                row["sample"][row["weight"] > 0],
                packing.assemble(arrays, row).graph,
                row["sample"],
            )
            for row in rows
        ]

    def _walk(
        self,
        params: Params,
        graph: Graph,
        numbers: np.ndarray,
        seed: int,
        turn: np.ndarray | None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """T with positions and features [N, 3 + F], from noise on."""
        last = self.schedule.num_steps
        key = jax.random.key(seed)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))
        turn = np.eye(3) if turn is None else turn
        matrix = jnp.asarray(turn, self.dtype)
        values = _fresh(keys, last + 1, graph, matrix)
        yield last, np.asarray(values)
        calls = self._num_calls
        length = math.ceil((last + 1) / calls)
        times = np.arange(last, last - calls * length, -1, dtype=np.int32)
        for call in range(calls):
            own = times[call * length : (call + 1) * length]
            values = self._steps(params, graph, values, keys, matrix, own)
            left = max(int(own[-1]) - 1, 0)
            yield left, np.asarray(values)

    @property
    def _num_calls(self) -> int:
        return math.ceil((self.schedule.num_steps + 1) / STEPS_PER_CALL)

    @functools.cached_property
    def _steps(self) -> Callable[..., jax.Array]:
        """Some steps, one after the other, as one compiled program."""
        factors = Kernel(*(own.astype(self.dtype) for own in kernel(self.schedule)))

        def steps(
            params: Params,
            graph: Graph,
            values: Array,
            keys: jax.Array,
            turn: Array,
            times: Array,
        ) -> jax.Array:
            mask = graphs.node_mask(graph)[:, None]

            def step(values: jax.Array, time: Any) -> tuple[jax.Array, None]:
                row = jnp.maximum(time, 0)
                keep, denoise, spread = (jnp.asarray(own)[row] for own in factors)
                at = jnp.full(graph.bucket.num_graphs, row)
                told = noising.with_values(graph, values, at, self.schedule)
                noise = noising.as_noise(self.model.apply(params, None, told, False))
                moved = keep * values - denoise * noise
                moved = moved + spread * _fresh(keys, row, graph, turn)
                moved = noising.centred(jnp.where(mask, moved, 0), graph)
                return jnp.where(time >= 0, moved, values), None

            return jax.lax.scan(step, jnp.asarray(values), times)[0]

        return jax.jit(steps)

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
