"""Noise that is added to the shape of a molecule, and asked back of a model.

    x_t = alpha_t x_0 + sigma_t epsilon,  alpha_t^2 + sigma_t^2 = 1

alpha_t^2 is the product of 1 - beta over the steps up to t, and beta rises as a sigmoid
from 1e-7 to 2e-3 in 5,000 steps: the schedule of GeoDiff (Xu et al. 2022, arXiv
2203.02923, appendix). Atoms and bonds have no noise. The noise has no mean over a
molecule.

Differs from GeoDiff: it reads x_t / alpha_t and no time, here a model reads x_t and the
time t / T of its molecule as a scalar of every atom. GeoDiff's loss weighs a noise of
long pairs twice and one of short pairs five times, here all numbers of the noise count
alike. GeoDiff predicts a scalar per pair of atoms and turns these into vectors by the
chain rule, the sum over pairs of s_ij (x_i - x_j) / d_ij. Here the model's own vectors
are the noise; or, by the same chain rule, the negative gradient of its scalar.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from demetar.generation import noising
from demetar.generation.schedule import Schedule
from demetar.generation.states import POSITIONS
from demetar.types import Array, Batch, Graph, Head

LEAST_BETA, MOST_BETA = 1e-7, 2e-3
STEPS = 5_000  # of the betas above; of other numbers the noise at the end is the same
_REACH = 6.0  # the sigmoid's argument goes from -6 to 6
VECTORS, GRADIENT = SCORES = ("vectors", "gradient")
POTENTIAL = "potential"  # the scalar whose negative gradient the noise is


def sigmoid(num_steps: int) -> Schedule:
    """GeoDiff's schedule. Level 0 has the noise of its first step, 2e-3 Å."""
    rise = 1 / (1 + np.exp(-np.linspace(-_REACH, _REACH, num_steps + 1)))
    betas = LEAST_BETA + (MOST_BETA - LEAST_BETA) * rise
    squares = np.cumprod((1 - betas) ** ((STEPS + 1) / (num_steps + 1)))
    return Schedule(num_steps, np.sqrt(squares), np.sqrt(1 - squares))


def thinned(schedule: Schedule, num_steps: int) -> Schedule:
    """Some levels of a schedule, both ends among them, evenly spaced.

    Sampling in fewer steps than a model was trained with: Nichol, Dhariwal 2021, arXiv
    2102.09672, section 4. The time of a level is what it is, to the rounding of its
    number.
    """
    rows = np.linspace(0, schedule.num_steps, num_steps + 1).round().astype(int)
    return Schedule(num_steps, schedule.alphas[rows], schedule.sigmas[rows])


def heads(score: str) -> tuple[Head, ...]:
    """What a denoiser of shapes predicts.

    Args:
      score: `VECTORS`, or `GRADIENT` for that of a scalar, which is not trained itself.
    """
    if score == VECTORS:
        return (Head(POSITIONS, "node_vector", zero_mean=True),)
    return (
        Head(POTENTIAL, "graph_scalar", extensive=True, weight=0.0),
        Head(POSITIONS, "node_vector", gradient_of=POTENTIAL),
    )


def shape_of(graph: Graph) -> Graph:
    """The graph of what has noise, as `noising` takes it: positions and the time."""
    nodes = graph.nodes._replace(scalars=graph.nodes.scalars[..., -1:])
    return dataclasses.replace(graph, nodes=nodes)


def with_shape(graph: Graph, shape: Graph) -> Graph:
    """The graph with positions and time of `shape`."""
    kept = graph.nodes.scalars[..., :-1]
    scalars = jnp.concatenate([kept, shape.nodes.scalars], axis=-1)
    nodes = graph.nodes._replace(positions=shape.nodes.positions, scalars=scalars)
    return dataclasses.replace(graph, nodes=nodes)


@dataclasses.dataclass(frozen=True, eq=False)
class ShapeNoising:
    """Replaces shapes by noisy ones, and the targets by the noise.

    Attributes:
      schedule: of the noise.
      score: one of `SCORES`.
    """

    schedule: Schedule
    score: str = VECTORS

    def __call__(self, keys: jax.Array, batch: Batch) -> Batch:
        """Every graph at a time of its own, uniform in 0, ..., T.

        Args:
          keys: [G] random, one per graph: its time and noise depend on it alone.
          batch: of clean shapes.
        """
        times = noising.draw_times(keys, 0, self.schedule)
        shape = shape_of(batch.graph)
        noise = noising.draw_noise(keys, shape)  # [N, 3]
        noisy = noising.noisy(self.schedule, shape, times, noise)
        targets: dict[str, Array] = {POSITIONS: noise[:, None]}
        if self.score == GRADIENT:
            targets[POTENTIAL] = jnp.zeros((len(batch.weights), 1), noise.dtype)
        graph = with_shape(batch.graph, noisy)
        return dataclasses.replace(batch, graph=graph, targets=targets)
