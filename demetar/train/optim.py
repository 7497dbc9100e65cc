"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import dataclasses

import optax

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "steps")
STEPS = {0.8: 0.1, 0.9: 0.1}  # share of the run, and by what the rate is multiplied


@dataclasses.dataclass(frozen=True)
class Settings:
    """An optimiser.

    Attributes:
      optimizer: 'adam' adds weight decay to the gradient, as PyTorch's Adam does;
        'adamw' decouples it (Loshchilov & Hutter 2019, arXiv 1711.05101).
      learning_rate: the highest.
      schedule: 'constant', 'cosine' to zero at the last step, or 'steps': a tenth of
        the rate after 80 % of the run and again after 90 %.
      warmup_steps: steps of linear warm-up from zero.
      weight_decay: coefficient.
      clip_norm: bound on the global norm of the gradient; 0 for none.
    """

    optimizer: str = "adam"
    learning_rate: float = 5e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0


def learning_rate(settings: Settings, num_steps: int) -> optax.Schedule:
    """The learning rate of each step of `num_steps`."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
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


def make(settings: Settings, num_steps: int) -> optax.GradientTransformation:
    """The optimiser of a run of `num_steps` updates."""
    parts = []
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.optimizer == "adam" and settings.weight_decay:
        parts.append(optax.add_decayed_weights(settings.weight_decay))
    parts.append(optax.scale_by_adam())
    if settings.optimizer == "adamw" and settings.weight_decay:
        parts.append(optax.add_decayed_weights(settings.weight_decay))
    parts.append(optax.scale_by_learning_rate(learning_rate(settings, num_steps)))
    return optax.chain(*parts)
