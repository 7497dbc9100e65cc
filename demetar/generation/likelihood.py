"""A bound on how likely a denoiser finds molecules, in nats.

    -log p(x, h) <= KL(q(z_T) || N(0, 1)) + L_1 + ... + L_T + L_0 - log p(N)

L_t = (SNR(t - 1) / SNR(t) - 1) |epsilon - prediction|^2 / 2 is taken at one random t
for each molecule, T times; L_0 is the likelihood of the positions given z_0 and of the
features rounded to the nearest species. p(N) is the share of training molecules with as
many atoms. Source: Hoogeboom, Satorras, Vignac, Welling 2022, arXiv 2203.17003, section
3.2 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import graphs
from demetar.data.bonds import Progress, silent
from demetar.data.dataset import Dataset, keys
from demetar.data.packing import in_sample_order
from demetar.generation import noising, states
from demetar.generation.noising import Noising
from demetar.generation.schedule import Schedule
from demetar.types import Array, Graph, Params

_TINY = 1e-10  # added to probabilities, so that their logarithms are finite


def bounds(
    model: hk.Transformed,
    dataset: Dataset,
    params: Params,
    split: str = "test",
    progress: Progress = silent,
) -> np.ndarray:
    """The bound of each molecule of a split, [D] in nats.

    Args:
      model, dataset: as trained.
      params: of the model.
      split: whose molecules.
      progress: tells of the batches.
    """
    noise = dataset.corrupt
    assert isinstance(noise, Noising)
    plan = dataset.plan(split)
    arrays = jax.tree.map(jnp.asarray, dataset.packing.arrays())
    size = len(states.species_of(dataset.task))

    @jax.jit
    def of_batch(params: Params, arrays: Any, row: Mapping[str, Array]) -> jax.Array:
        graph = dataset.packing.assemble(arrays, row).graph
        return bound(model, params, noise.schedule, graph, keys(row), size)

    rows = zip(*plan.values(), strict=True)
    found = [
        np.asarray(of_batch(params, arrays, dict(zip(plan, row, strict=True))))
        for row in progress(rows, "likelihood", len(plan["weight"]))
    ]
    own = np.asarray(in_sample_order(np.stack(found), plan), np.float64)
    counts = dataset.packing.samples.n_node
    known, asked = (counts[dataset.splits[name]] for name in ("train", split))
    return np.asarray(own + rarity(known, asked))


def rarity(known: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """-log p(N) of numbers of atoms [D], by those of known molecules.

    One that none of them has counts as if half a molecule had it.
    """
    counts = np.bincount(known, minlength=int(sizes.max()) + 1)
    shares = np.maximum(counts, 0.5) / len(known)
    found: np.ndarray = -np.log(shares)[sizes]
    return found


def bound(
    model: hk.Transformed,
    params: Params,
    schedule: Schedule,
    graph: Graph,
    keys: jax.Array,
    num_species: int,
) -> jax.Array:
    """The bound of each graph of clean molecules, without -log p(N): [G].

    Args:
      model, params: of the denoiser.
      schedule: of the noise.
      graph: at time 0, without noise.
      keys: [G] random.
      num_species: columns of the features that are species.
    """
    first, second = (
        jax.vmap(jax.random.fold_in, (0, None))(keys, part) for part in (0, 1)
    )
    times = noising.draw_times(first, 1, schedule)

    def errors(times: Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise = noising.draw_noise(keys, graph)
        told = noising.noisy(schedule, graph, times, noise)
        predicted = noising.as_noise(model.apply(params, None, told, False))
        return jnp.square(noise - predicted), noising.values_of(told)

    dtype = graph.nodes.positions.dtype
    weights = schedule.ratios[:-1] / schedule.ratios[1:] - 1  # [T], of t = 1, ...
    later, _ = errors(times, first)
    sums = 0.5 * _summed(later, graph)
    loss = schedule.num_steps * jnp.asarray(weights.astype(dtype))[times - 1] * sums
    last, values = errors(jnp.zeros_like(times), second)
    loss += prior(schedule, graph)
    loss += 0.5 * _summed(last[:, :3], graph) + constants(schedule, graph)
    loss += rounding(schedule, graph, values[:, 3:], num_species)
    return jnp.asarray(loss)


def prior(schedule: Schedule, graph: Graph) -> jax.Array:
    """KL divergence of z_T from standard normal numbers, [G].

    Positions without a mean have 3 (n - 1) dimensions.
    """
    alpha, sigma = float(schedule.alphas[-1]), float(schedule.sigmas[-1])
    values = noising.values_of(graph)
    each = -np.log(sigma) + 0.5 * (sigma**2 - 1)
    size = values.shape[1] - 3
    dimensions = 3 * (graph.n_node - 1) + size * graph.n_node
    sums = 0.5 * alpha**2 * _summed(jnp.square(values), graph)
    return jnp.asarray(sums + each * dimensions)


def constants(schedule: Schedule, graph: Graph) -> jax.Array:
    """What a normal density of the positions given z_0 is divided by, as a logarithm:
    [G].
    """
    spread = float(schedule.sigmas[0] / schedule.alphas[0])
    each = np.log(spread) + 0.5 * np.log(2 * np.pi)
    return jnp.asarray(3 * (graph.n_node - 1) * each, graph.nodes.positions.dtype)


def rounding(
    schedule: Schedule, graph: Graph, noisy: Array, num_species: int
) -> jax.Array:
    """-log of the probability that the features z_0 are rounded to the true ones, [G].

    Args:
      schedule: of the noise.
      graph: with the true features.
      noisy: [N, F] those of z_0.
      num_species: columns that are species; one of each row is the true one.
    """
    sigma = float(schedule.sigmas[0])
    clean = graph.nodes.scalars[:, :-1]

    def within_half(distances: Any, spread: float) -> jax.Array:
        upper, lower = (
            jax.scipy.stats.norm.cdf((distances + shift) / spread)
            for shift in (0.5, -0.5)
        )
        return jnp.log(upper - lower + _TINY)

    scale = states.NUMBER_SCALE
    off = scale * (clean[:, num_species:] - noisy[:, num_species:])  # [N, 1]
    found = within_half(off, scale * sigma)[:, 0]
    scale = states.SPECIES_SCALE
    columns = within_half(scale * noisy[:, :num_species] - 1, scale * sigma)
    chances = jax.nn.log_softmax(columns, axis=1)
    found += jnp.sum(scale * clean[:, :num_species] * chances, axis=1)
    return -_summed(found[:, None], graph)


def _summed(values: Array, graph: Graph) -> jax.Array:
    """Sum of values [N, F] over the atoms and columns of each graph, [G]."""
    values = jnp.where(graphs.node_mask(graph)[:, None], values, 0)
    return graphs.pool_sum(values.sum(axis=1, keepdims=True), graph)[:, 0]
