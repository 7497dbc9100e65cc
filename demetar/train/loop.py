"""The body of the training loop: the settings of a run and one update of one replica.

`make_update` gives a pure function of a state and a batch; `trainer` compiles many of
them into one call, and `run` makes the calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jax import flatten_util

from demetar import graphs
from demetar.distributed.placement import AXIS
from demetar.settings import (
    COUNT,
    MISSING,
    NOT_NEGATIVE,
    TRAINING,
    Bounds,
    setting,
)
from demetar.train import equivariance, losses
from demetar.types import Array, Batch, Params, TaskSpec, TrainState

AUGMENTATIONS = ("none", "rotation")
LOSS_TRANSFORMS = ("none", "log")
METRICS = ("loss", "gradient_norm", "update_norm")  # of one update
SUMS = (*METRICS, "updates", "graphs")  # of a call; the loss is summed over graphs
AVERAGE_WARMUP = 10  # the moving average forgets its start over this many updates


@dataclasses.dataclass(frozen=True)
class Settings:
    """A training.

    Attributes:
      seeds: one replica each; they share one program.
      max_steps_per_call: bound on the updates of one compiled call, so that a person
        hears of them in time and a signal is heeded.
      checkpoint_seconds: least time between two checkpoints.
    """

    epochs: int = setting(MISSING, "Passes over the training samples.", TRAINING, COUNT)
    eval_every: int = setting(
        5, "Epochs between evaluations on the validation samples.", TRAINING, COUNT
    )
    seeds: tuple[int, ...] = (1,)
    augment: str = setting(
        "none",
        "rotation: turn each training graph at random, for models that are not "
        "equivariant.",
        TRAINING,
        choices=AUGMENTATIONS,
    )
    average_decay: float = setting(
        0.0,
        "Decay of the moving average of the parameters that is evaluated in their "
        "place; 0 for no average.",
        TRAINING,
        Bounds(least=0, below=1),
    )
    loss_transform: str = setting(
        "none",
        "log: train on log(error + floor) / 2 of each graph, so that relative "
        "improvements weigh alike. What is reported is the error either way.",
        TRAINING,
        choices=LOSS_TRANSFORMS,
    )
    loss_floor: float = setting(
        1e-3,
        "The floor of --loss_transform=log, in the unit of the errors.",
        TRAINING,
        Bounds(above=0),
    )
    clip_each: float = setting(
        0.0,
        "Largest norm of the gradient of each graph by itself, before the mean over "
        "the batch, so that a few graphs cannot drown the rest; 0 for no limit. For "
        "graphs of equal size.",
        TRAINING,
        NOT_NEGATIVE,
    )
    max_steps_per_call: int = 256
    checkpoint_seconds: float = 20.0


@dataclasses.dataclass(frozen=True)
class Phase:
    """The beginning of a run, trained otherwise than its end.

    Attributes:
      end: epoch at which the next phase, or the run proper, begins.
      model: with the parameters of the run's model and another way to compute.
      loss_floor: in place of that of the settings; None for the same.
    """

    end: int
    model: hk.Transformed
    loss_floor: float | None = None


Update = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_update(
    model: hk.Transformed,
    task: TaskSpec,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    shared_slots: int = 0,
) -> Update:
    """The pure function that makes one update of one replica from one batch.

    Args:
      model, task, optimizer, settings: of the run.
      shared_slots: if the devices of the mesh axis `AXIS` have a share of each
        batch, the slots of the whole batch. They all make the same update, from the
        mean over all graphs. 0 if the batch is whole.

    Returns:
      `update(state, batch, slots)`, with the new state and `METRICS`; `slots` [G] are
      those of a share's graphs in the whole batch, and left out for a whole one.
    """
    gradient_fn = _make_gradient_fn(model, task, settings)
    if shared_slots:
        gradient_fn = over_shares(gradient_fn)

    def update(
        state: TrainState, batch: Batch, slots: Array | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        if settings.augment == "rotation":
            key, rotation_key = jax.random.split(key)
            whole = None if slots is None else (slots, shared_slots)
            rotations = equivariance.random_rotations(rotation_key, batch, whole)
            batch = equivariance.rotate(task, batch, rotations)
        loss, gradients = gradient_fn(state.params, key, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if settings.average_decay:
            decay = jnp.minimum(
                settings.average_decay,
                (1 + state.step) / (AVERAGE_WARMUP + state.step),
            )
            average = optax.incremental_update(params, average, 1 - decay)
        metrics = {
            "loss": loss,
            "gradient_norm": global_norm(gradients),
            "update_norm": global_norm(updates),
        }
        return TrainState(params, opt_state, state.step + 1, state.key, average), (
            metrics
        )

    return update


def _make_gradient_fn(
    model: hk.Transformed, task: TaskSpec, settings: Settings
) -> GradientFn:
    """The mean error of a batch, in its unit, and the gradient of the training loss."""

    def loss_fn(
        params: Params, key: Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        outputs = model.apply(params, key, batch.graph, True)
        predictions = losses.predict(task, outputs, batch.graph.nodes)
        reported = losses.sample_errors(task, predictions, batch)
        told = losses.mean_loss(task, reported, batch.weights)
        errors = losses.sample_errors(task, predictions, batch, losses.TRAINED)
        if settings.loss_transform == "log":
            errors = losses.log_errors(errors, settings.loss_floor)
        return losses.training_loss(task, errors, batch.weights), told

    def told_and_gradients(
        params: Params, key: Array, batch: Batch
    ) -> tuple[jax.Array, Params]:
        gradients, told = jax.grad(loss_fn, has_aux=True)(params, key, batch)
        return told, gradients

    if settings.clip_each:
        return clipped_each(told_and_gradients, settings.clip_each)
    return told_and_gradients


def global_norm(tree: Params) -> jax.Array:
    """The Euclidean norm of all leaves together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


GradientFn = Callable[[Params, Array, Batch], tuple[jax.Array, Params]]


def clipped_each(gradient_fn: GradientFn, bound: float) -> GradientFn:
    """Loss and gradient of a batch, the gradient of each graph clipped by its norm.

    A graph whose gradient is not finite counts as one whose gradient is zero: chaotic
    motions overflow, and would take the others with them.
    """

    def clipped(params: Params, key: Array, batch: Batch) -> tuple[jax.Array, Params]:
        def one(single: Batch) -> tuple[jax.Array, Params]:
            loss, gradients = gradient_fn(params, key, single)
            norm = global_norm(gradients)
            finite = jnp.isfinite(norm)
            factor = bound / jnp.maximum(jnp.where(finite, norm, 1), bound)
            return loss, jax.tree.map(
                lambda leaf: jnp.where(finite, leaf * factor, 0), gradients
            )

        weights = batch.weights / jnp.maximum(batch.weights.sum(), 1)  # [G]
        of_graphs, gradients = jax.vmap(one)(graphs.single_graphs(batch))
        return of_graphs @ weights, jax.tree.map(
            lambda leaf: jnp.tensordot(weights, leaf, axes=1), gradients
        )

    return clipped


def over_shares(gradient_fn: GradientFn) -> GradientFn:
    """Loss and gradient of a batch of which each device of `AXIS` has a share.

    The means over the graphs of the shares, weighed by their numbers of graphs, are
    added up: one sum over the devices per update.
    """

    def shared(params: Params, key: Array, batch: Batch) -> tuple[jax.Array, Params]:
        means = gradient_fn(params, key, batch)
        own = jnp.sum(batch.weights)
        share = own / jnp.maximum(jax.lax.psum(own, AXIS), 1)
        flat, restore = flatten_util.ravel_pytree(means)
        found: tuple[jax.Array, Params] = restore(jax.lax.psum(share * flat, AXIS))
        return found

    return shared
