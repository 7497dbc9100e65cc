"""Shapes of given bond graphs that a denoiser draws from noise.

The steps are those of `generation.sampler`; atoms and bonds stay as they are.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from demetar.data.bonds import Progress, silent
from demetar.data.packing import make_packing
from demetar.data.samples import Samples, to_dtype
from demetar.generation import conformer_noise, noising, sampler
from demetar.types import Array, Graph, Params


@dataclasses.dataclass(frozen=True, eq=False)
class ShapeSampler(sampler.Sampler):
    """Draws shapes with a denoiser of `conformer_graphs.make_task`."""

    def draw_shapes(
        self, params: Params, samples: Samples, seed: int, progress: Progress = silent
    ) -> list[np.ndarray]:
        """One shape of each graph.

        A shape depends on the number of its graph, the seed, its bond graph and the
        parameters alone, not on the batches that it is drawn in.

        Args:
          params: of the model.
          samples: complete graphs, whose positions are no matter.
          seed: of all noise.
          progress: tells of the compiled calls.

        Returns:
          Positions [n, 3] in Å of each, with NaN if the denoiser did not stay finite.
        """
        samples = to_dtype(samples, self.dtype)
        packing = make_packing(samples, self.task, self.batch_size)
        count = len(samples.n_node)
        batches = sampler.batches_of(packing)
        return self.values(params, batches, np.arange(count), seed, progress)

    def bare(self, graph: Graph) -> Graph:
        return conformer_noise.shape_of(graph)

    def told(self, graph: Graph, values: Array, times: Array) -> Graph:
        shape = self.bare(graph)
        noisy = noising.with_values(shape, values, times, self.schedule)
        return conformer_noise.with_shape(graph, noisy)

    def noise_of(self, outputs: dict[str, Array]) -> jax.Array:
        return jnp.asarray(outputs[conformer_noise.POSITIONS])[:, 0]
