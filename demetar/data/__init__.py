"""Data sets: one file each, and the batches that all of them make."""
