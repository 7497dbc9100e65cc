"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from demetar.errors import UserError
from demetar.settings import NOT_NEGATIVE, TRAINING, Bounds, setting
from demetar.train.loop import global_norm
from demetar.train.muon import muon
from demetar.types import Params

SCHEDULE_FREE = "schedule_free"
OPTIMIZERS = ("adam", "adamw", "amsgrad", "muon", SCHEDULE_FREE)
SCHEDULES = ("constant", "cosine", "steps")
RECENT = 50  # norms that an adaptive bound looks back on
FIRST_NORM = 3_000.0  # what stands for the norm before the first step
STEPS = {0.8: 0.1, 0.9: 0.1}  # share of the run, and by what the rate is multiplied


@dataclasses.dataclass(frozen=True)
class Settings:
    """An optimiser: Adam with weight decay, AdamW (arXiv 1711.05101), AMSGrad (Reddi,
    Kale, Kumar 2018, arXiv 1904.09237), Muon (Jordan et al. 2024), or AdamW without
    a schedule (Defazio et al. 2024, arXiv 2405.15682).
    """

    optimizer: str = setting(
        "adam",
        "adam and amsgrad add the weight decay to the gradient, as in PyTorch's Adam; "
        "adamw and muon apply it to the parameters. muon makes the steps of matrices "
        "orthogonal and has adam's for all else. schedule_free is adamw with an "
        "average of its own, for --schedule=constant and no other average.",
        TRAINING,
        choices=OPTIMIZERS,
    )
    learning_rate: float = setting(
        5e-4, "The highest learning rate.", TRAINING, Bounds(above=0)
    )
    schedule: str = setting(
        "constant",
        "Course of the learning rate: constant, a cosine to zero at the last step, or "
        "in steps: a tenth after 80 % of the run and again after 90 %.",
        TRAINING,
        choices=SCHEDULES,
    )
    warmup_epochs: int = setting(
        0,
        "Epochs over which the learning rate rises linearly from zero.",
        TRAINING,
        NOT_NEGATIVE,
    )
    weight_decay: float = setting(
        0.0, "Coefficient of the weight decay.", TRAINING, NOT_NEGATIVE
    )
    clip_norm: float = setting(
        0.0,
        "Largest norm of the gradient of a batch, beyond which it is scaled down; 0 "
        "for no limit.",
        TRAINING,
        NOT_NEGATIVE,
    )
    adaptive_clip: bool = setting(
        False,
        f"Scale down the gradient of a batch beyond 1.5 times the mean of the last "
        f"{RECENT} norms and 2 of their deviations.",
        TRAINING,
    )


class RecentNorms(NamedTuple):
    """The state of `clip_by_recent_norms`.

    Attributes:
      norms: [RECENT] of the latest gradients, each within its bound.
      step: how many there were, the first entry counted.
    """

    norms: jax.Array
    step: jax.Array


def clip_by_recent_norms() -> optax.GradientTransformation:
    """Bounds the norm of a gradient by those before it: 1.5 mean + 2 deviations.

    Source: Hoogeboom, Satorras, Vignac, Welling 2022, arXiv 2203.17003, the authors'
    code.
    """

    def init(params: Any) -> RecentNorms:
        norms = jnp.zeros(RECENT).at[0].set(FIRST_NORM)
        return RecentNorms(norms, jnp.int32(1))

    def update(gradients: Any, state: RecentNorms, params: Any = None) -> Any:
        known = jnp.arange(RECENT) < state.step
        bound = 1.5 * jnp.mean(state.norms, where=known)
        bound += 2 * jnp.std(state.norms, where=known)
        norm = global_norm(gradients)
        factor = jnp.minimum(1, bound / jnp.maximum(norm, 1e-12))
        kept = jnp.minimum(norm, bound).astype(state.norms.dtype)
        norms = state.norms.at[state.step % RECENT].set(kept)
        clipped = jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, gradients)
        return clipped, RecentNorms(norms, state.step + 1)

    return optax.GradientTransformation(init, update)


def needs_shapes(settings: Settings) -> bool:
    """Whether the optimiser treats parameters as matrices, not each number alike."""
    return settings.optimizer == "muon"


def evaluated(settings: Settings, params: Params, state: Any) -> Params:
    """The parameters that an optimiser is to be judged by.

    They are those of the last update, but for 'schedule_free', which trains beside the
    average that it is for.

    Args:
      settings: of the optimiser.
      params, state: after an update; of replicas, both have a leading axis.
    """
    if settings.optimizer != SCHEDULE_FREE:
        return params
    found: Params = jax.vmap(contrib.schedule_free_eval_params)(state[-1], params)
    return found


def check(settings: Settings, average_decay: float) -> None:
    """Refuse a schedule or an average beside those of 'schedule_free'.

    Raises:
      UserError: there is one.
    """
    if settings.optimizer != SCHEDULE_FREE:
        return
    if settings.schedule != "constant" or average_decay:
        raise UserError(
            f"--optimizer={SCHEDULE_FREE} has an average of its own and no schedule: "
            f"give --schedule=constant --average_decay=0, found "
            f"--schedule={settings.schedule} --average_decay={average_decay:g}"
        )


def learning_rate(
    settings: Settings, num_steps: int, steps_per_epoch: int = 1
) -> optax.Schedule:
    """The learning rate of each step of `num_steps`."""
    peak, warmup = settings.learning_rate, settings.warmup_epochs * steps_per_epoch
    if settings.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, max(num_steps - warmup, 1))
    elif settings.schedule == "steps":
        boundaries = {round(at * num_steps) - warmup: by for at, by in STEPS.items()}
        main = optax.piecewise_constant_schedule(peak, boundaries)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), main], [warmup]
    )


def make(
    settings: Settings, num_steps: int, steps_per_epoch: int = 1
) -> optax.GradientTransformation:
    """The optimiser of a run of `num_steps` updates."""
    parts = []
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.adaptive_clip:
        parts.append(clip_by_recent_norms())
    rate = learning_rate(settings, num_steps, steps_per_epoch)
    decay = settings.weight_decay
    if settings.optimizer == "muon":
        parts.append(muon(rate, decay))
        return optax.chain(*parts)
    if settings.optimizer == SCHEDULE_FREE:
        inner = optax.adamw(rate, b1=0.0, weight_decay=decay)
        parts.append(contrib.schedule_free(inner, rate))
        return optax.chain(*parts)
    if settings.optimizer != "adamw" and decay:
        parts.append(optax.add_decayed_weights(decay))
    is_amsgrad = settings.optimizer == "amsgrad"
    parts.append(optax.scale_by_amsgrad() if is_amsgrad else optax.scale_by_adam())
    if settings.optimizer == "adamw" and decay:
        parts.append(optax.add_decayed_weights(decay))
    parts.append(optax.scale_by_learning_rate(rate))
    return optax.chain(*parts)
