"""Training: losses, optimisers, the loop, checkpoints and what a person watches."""

from demetar.train.losses import predict

__all__ = ["predict"]
