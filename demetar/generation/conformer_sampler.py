"""Shapes of given bond graphs that a denoiser draws from noise.

The steps are those of `generation.sampler`; atoms and bonds stay as they are.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from demetar.data.packing import make_packing
from demetar.data.samples import Samples, to_dtype
from demetar.generation import conformer_noise, noising, sampler, states
from demetar.generation.sampler import ToDraw
from demetar.types import Array, Graph, Params


@dataclasses.dataclass(frozen=True, eq=False)
class ShapeSampler(sampler.Sampler):
    """Draws shapes with a denoiser of `conformer_graphs.make_task`."""

    def groups(self, samples: Samples) -> list[list[ToDraw]]:
        """The batches that the devices draw at a time.

        Args:
          samples: complete graphs, whose positions are no matter.
        """
        packing = make_packing(
            to_dtype(samples, self.dtype), self.task, self.batch_size
        )
        return self._groups(sampler.batches_of(packing))

    def shapes(
        self, params: Params, group: list[ToDraw], seed: int
    ) -> dict[int, np.ndarray]:
        """The shapes of some graphs by their numbers, [n, 3] in Å.

        A shape depends on the number of its graph, the seed, its bond graph and the
        parameters alone, not on the batches that it is drawn in. It has NaN if the
        denoiser did not stay finite.

        Args:
          params: of the model.
          group: of `groups`.
          seed: of all noise.
        """
        members = np.concatenate([batch.members for batch in group]).tolist()
        count = 1 + max(int(batch.slots.max()) for batch in group)
        drawn = self.values(params, group, np.arange(count), seed)
        return {member: drawn[member] for member in members}

    def bare(self, graph: Graph) -> Graph:
        return conformer_noise.shape_of(graph)

    def told(self, graph: Graph, values: Array, times: Array) -> Graph:
        shape = self.bare(graph)
        noisy = noising.with_values(shape, values, times, self.schedule)
        return conformer_noise.with_shape(graph, noisy)

    def noise_of(self, outputs: dict[str, Array]) -> jax.Array:
        return jnp.asarray(outputs[states.POSITIONS])[:, 0]
