"""The commands: one short program per kind of data, and the report on their records."""

# First of all, so that neither an interrupt nor a faulty jax goes wrong elsewhere.
import tools as tools  # isort: skip
from demetar import __version__ as __version__
