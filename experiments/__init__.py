"""The commands: one short program per kind of data, and the report on their records."""

# First of all, so that a faulty jax is refused before anything else can go wrong.
from demetar import __version__ as __version__
