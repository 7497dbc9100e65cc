"""Data sets: one file each, and the batches that all of them make."""

from demetar.data.pyg import from_pyg

__all__ = ["from_pyg"]
